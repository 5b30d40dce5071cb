//! What many lines say alike: of a connection, of an endpoint, of an edge. The first of them puts it together, and the
//! others copy it. It is kept by what it describes, and goes with it.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use outrigger_core::model::SpiffeId;

use crate::telemetry::Role;

/// Fields of lines, as the log writes them. A process has one log, and that has one format.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Fields(OnceLock<Box<[u8]>>);

impl Fields {
    /// As they are written; `write` does that, once.
    pub(super) fn get(&self, write: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        self.0.get_or_init(|| {
            let mut fields = Vec::new();
            write(&mut fields);
            fields.into_boxed_slice()
        })
    }
}

/// Who is on one side of requests, and where.
#[derive(Debug)]
pub(crate) struct Party {
    pub(super) role: Role,
    pub(super) address: SocketAddr,
    /// `None`: not known, or not asked.
    pub(super) identity: Option<SpiffeId>,
    pub(super) fields: Fields,
}

impl Party {
    /// Whoever asks.
    pub(crate) fn downstream(address: SocketAddr, identity: Option<SpiffeId>) -> Arc<Self> {
        Self::new(Role::Downstream, address, identity)
    }

    /// Whoever answers.
    pub(crate) fn upstream(address: SocketAddr, identity: Option<SpiffeId>) -> Arc<Self> {
        Self::new(Role::Upstream, address, identity)
    }

    /// Whether it is known who that is.
    pub(crate) fn is_known(&self) -> bool {
        self.identity.is_some()
    }

    fn new(role: Role, address: SocketAddr, identity: Option<SpiffeId>) -> Arc<Self> {
        Arc::new(Self { role, address, identity, fields: Fields::default() })
    }
}
