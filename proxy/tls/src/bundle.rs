//! The authorities of a trust domain.

use std::sync::Arc;

use outrigger_core::model::{Outgoing, TrustBundle, TrustDomain};
use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::{
    InvalidCertificate, PeerRejected, certificate,
    certificate::sha256,
    verify::{self, Shown, Signers},
};

/// More authorities than a mesh needs in the middle of a rotation; more would make a stranger's handshake costly.
const MAX_AUTHORITIES: usize = 16;

/// Why certificates are not a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBundle {
    /// Nobody to trust.
    #[error("the bundle holds no authority")]
    Empty,
    /// Too many.
    #[error("the bundle holds {0} authorities; at most 16 are taken")]
    TooMany(usize),
    /// One that cannot be read.
    #[error("authority {index} of the bundle cannot be read")]
    Certificate {
        /// Which, from 0.
        index: usize,
        /// Why.
        source: InvalidCertificate,
    },
    /// A leaf where an authority belongs.
    #[error("certificate {0} of the bundle is not an authority")]
    NotAuthority(usize),
}

/// The roots accepted for one trust domain, ready for verification.
#[derive(Debug, Clone)]
pub struct Bundle {
    trust_domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    sequence: u64,
    outgoing: Arc<Outgoing>,
}

impl Bundle {
    /// Reads the authorities (DER).
    ///
    /// # Errors
    /// If there is none, there are more than 16, or one is not a certificate of an authority.
    pub fn new(
        trust_domain: TrustDomain,
        authorities_der: Vec<Vec<u8>>,
        sequence: u64,
    ) -> Result<Self, InvalidBundle> {
        match authorities_der.len() {
            0 => return Err(InvalidBundle::Empty),
            count if count > MAX_AUTHORITIES => return Err(InvalidBundle::TooMany(count)),
            _ => {}
        }
        let authorities: Vec<_> = authorities_der.into_iter().map(CertificateDer::from).collect();
        let mut anchors = Vec::with_capacity(authorities.len());
        for (index, authority) in authorities.iter().enumerate() {
            let unreadable = |source| InvalidBundle::Certificate { index, source };
            if !certificate::parse(authority).map_err(unreadable)?.is_ca() {
                return Err(InvalidBundle::NotAuthority(index));
            }
            let anchor = webpki::anchor_from_trusted_cert(authority)
                .map_err(|_malformed| unreadable(InvalidCertificate))?;
            anchors.push(anchor.to_owned());
        }
        Ok(Self { trust_domain, authorities, anchors, sequence, outgoing: Arc::default() })
    }

    /// For whom.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, DER.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// Grows with every change.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The same, with these on their way out.
    #[must_use]
    pub fn with_outgoing(self, outgoing: Outgoing) -> Self {
        Self { outgoing: Arc::new(outgoing), ..self }
    }

    /// Those who are on their way out.
    pub fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    /// Builds a chain from what was shown to one of the roots, through nobody who is revoked.
    pub(crate) fn verify(&self, shown: &Shown<'_>) -> Result<Signers, PeerRejected> {
        let signers = verify::chain(&self.anchors, shown)?;
        let revoked = &self.outgoing.revoked;
        // Hashed only where there is something to compare with: this is in every handshake.
        if !revoked.is_empty() && signers.iter().any(|key| revoked.contains(&sha256(key))) {
            return Err(PeerRejected::Revoked);
        }
        Ok(signers)
    }
}

impl TryFrom<&TrustBundle> for Bundle {
    type Error = InvalidBundle;

    fn try_from(bundle: &TrustBundle) -> Result<Self, InvalidBundle> {
        Self::new(bundle.trust_domain.clone(), bundle.x509_authorities.clone(), bundle.sequence)
            .map(|made| made.with_outgoing(bundle.outgoing.clone()))
    }
}

impl From<&Bundle> for TrustBundle {
    fn from(bundle: &Bundle) -> Self {
        Self {
            trust_domain: bundle.trust_domain.clone(),
            x509_authorities: bundle.authorities.iter().map(|der| der.to_vec()).collect(),
            sequence: bundle.sequence,
            outgoing: Outgoing::clone(&bundle.outgoing),
        }
    }
}
