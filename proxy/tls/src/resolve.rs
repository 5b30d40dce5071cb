//! What we show: the SVID in force at the time of the handshake.

use std::sync::Arc;

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::Identity;

/// Shows the SVID's chain.
#[derive(Debug)]
pub(crate) struct Current(pub(crate) Identity);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.svid()?.certified()))
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.svid()?.certified()))
    }

    fn has_certs(&self) -> bool {
        self.0.svid().is_some()
    }
}

/// Shows the SVID's chain and the roots above it, for peers that know no more than a root's hash.
#[derive(Debug)]
pub(crate) struct CurrentWithRoots(pub(crate) Identity);

impl ResolvesServerCert for CurrentWithRoots {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let svid = self.0.svid()?;
        let mut chain = svid.chain().to_vec();
        for root in self.0.bundle().iter().flat_map(|bundle| bundle.authorities()) {
            if !chain.contains(root) {
                chain.push(root.clone());
            }
        }
        Some(Arc::new(CertifiedKey::new(chain, Arc::clone(&svid.certified().key))))
    }
}
