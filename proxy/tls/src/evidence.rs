//! What a peer proved itself with, kept for as long as its connection is open: a bundle changes, a leaf expires, and
//! then the peer is judged again by the same rules as in the handshake.

use std::time::SystemTime;

use rustls::{
    CommonState, Side,
    pki_types::{CertificateDer, UnixTime},
};

use crate::{
    Identity, Refusal, certificate,
    mesh::Peer,
    verifier::Judge as _,
    verify::{Shown, Usage},
};

/// The certificates that a peer showed in its handshake.
#[derive(Debug, Clone)]
pub struct Evidence {
    end_entity: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    usage: Usage,
    /// When each of them expires, the first one first.
    expiries: Vec<SystemTime>,
}

impl Evidence {
    /// What the peer of `connection`, which is its side `peer`, has shown; `None` if it showed nothing.
    pub fn of(connection: &CommonState, peer: Side) -> Option<Self> {
        let shown = connection.peer_certificates()?;
        let mut expiries: Vec<_> = shown
            .iter()
            .filter_map(|der| certificate::system_time(certificate::parse(der).ok()?.validity().not_after))
            .collect();
        expiries.sort_unstable();
        let (end_entity, intermediates) = shown.split_first()?;
        Some(Self {
            end_entity: end_entity.clone().into_owned(),
            intermediates: intermediates.iter().map(|der| der.clone().into_owned()).collect(),
            usage: match peer {
                Side::Client => Usage::Client,
                Side::Server => Usage::Server,
            },
            expiries,
        })
    }

    /// When the next of the certificates expires that has not at `now`. It may be one that the chain does not need.
    pub fn next_expiry(&self, now: SystemTime) -> Option<SystemTime> {
        self.expiries.iter().copied().find(|expiry| *expiry >= now)
    }

    /// Judges the peer again, at `now` and by the bundle in force: a connection whose peer fails this is to be closed.
    ///
    /// # Errors
    /// If a handshake with the same certificates would be refused now.
    pub fn judge(&self, identity: &Identity, now: UnixTime) -> Result<(), Refusal> {
        let judge = Peer { identity: identity.clone(), expected: None };
        let Self { end_entity, intermediates, usage, .. } = self;
        judge.judge(&Shown { end_entity, intermediates, now, usage: *usage })
    }
}
