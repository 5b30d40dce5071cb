//! The proof of an identity: certificate chain and key.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use outrigger_core::model::{InvalidName, SpiffeId};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    sign::CertifiedKey,
};

use crate::{
    Bundle, InvalidCertificate, Key, certificate,
    certificate::sha256,
    provider,
    verify::{Shown, Usage},
};

/// Why chain and key are not an SVID.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSvid {
    /// No certificate at all.
    #[error("the chain holds no certificate")]
    Empty,
    /// One that cannot be read.
    #[error("certificate {index} of the chain cannot be read")]
    Certificate {
        /// Which, from 0.
        index: usize,
        /// Why.
        source: InvalidCertificate,
    },
    /// None or several; counted.
    #[error("the certificate has {0} URI names; an SVID has exactly one")]
    UriNames(usize),
    /// Not one of ours.
    #[error("the certificate's URI is not an identity of the mesh")]
    Id(#[source] InvalidName),
    /// Key and certificate do not belong together.
    #[error("the key is not the certificate's")]
    KeyMismatch,
    /// The key cannot sign.
    #[error("the key cannot be used")]
    Key(#[source] rustls::Error),
    /// A date no clock can show.
    #[error("the certificate's validity is out of range")]
    Validity,
}

/// An X.509 SVID: a leaf with exactly one URI name, the chain above it, and the key. Its chain was not verified: the
/// holder believes whom it got it from, and peers verify for themselves.
#[derive(Debug, Clone)]
pub struct Svid {
    id: SpiffeId,
    key: Key,
    not_before: SystemTime,
    not_after: SystemTime,
    certified: Arc<CertifiedKey>,
    /// Once they are known.
    authorities: Arc<OnceLock<Vec<[u8; 32]>>>,
}

impl Svid {
    /// Puts a chain (DER, leaf first) and its key together.
    ///
    /// # Errors
    /// If the leaf has not exactly one URI name that is an identity, a certificate cannot be read, or the key is not
    /// the leaf's.
    pub fn from_parts(chain_der: Vec<Vec<u8>>, key: Key) -> Result<Self, InvalidSvid> {
        for (index, der) in chain_der.iter().enumerate() {
            certificate::parse(der).map_err(|source| InvalidSvid::Certificate { index, source })?;
        }
        let leaf_der = chain_der.first().ok_or(InvalidSvid::Empty)?;
        let unreadable = |source| InvalidSvid::Certificate { index: 0, source };
        let leaf = certificate::parse(leaf_der).map_err(unreadable)?;
        let id = match certificate::uri_names(&leaf).map_err(unreadable)?.as_slice() {
            [uri] => uri.parse().map_err(InvalidSvid::Id)?,
            several => return Err(InvalidSvid::UriNames(several.len())),
        };
        let time = |time| certificate::system_time(time).ok_or(InvalidSvid::Validity);
        let not_before = time(leaf.validity().not_before)?;
        let not_after = time(leaf.validity().not_after)?;
        let signer = provider()
            .key_provider
            .load_private_key(PrivateKeyDer::from(key.pkcs8().clone_key()))
            .map_err(InvalidSvid::Key)?;
        let chain = chain_der.into_iter().map(CertificateDer::from).collect();
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(|_mismatch| InvalidSvid::KeyMismatch)?;
        Ok(Self {
            id,
            key,
            not_before,
            not_after,
            certified: Arc::new(certified),
            authorities: Arc::default(),
        })
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// From when it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it is valid at `now`.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Those who signed it, from its issuer to the root: SHA-256 of each public key (SubjectPublicKeyInfo). Empty while
    /// no `bundle` that this was asked for has vouched for it.
    pub fn authorities(&self, bundle: &Bundle) -> &[[u8; 32]] {
        if let Some(known) = self.authorities.get() {
            return known;
        }
        let Some((end_entity, intermediates)) = self.chain().split_first() else { return &[] };
        let shown = Shown { end_entity, intermediates, now: UnixTime::now(), usage: Usage::Client };
        match bundle.verify(&shown) {
            // Who signed a workload's certificate does not change with the bundle.
            Ok(signers) => self.authorities.get_or_init(|| signers.iter().map(sha256).collect()),
            Err(_unknown) => &[],
        }
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}
