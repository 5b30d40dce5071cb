//! A private key.

use std::{fmt, sync::Arc};

use outrigger_core::model::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;

/// A key that is not P-256 in PKCS#8, or that could not be made or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidKey(&'static str);

/// A P-256 private key. Cheap to clone; never shown.
#[derive(Clone)]
pub struct Key(Arc<KeyPair>);

impl Key {
    /// Makes a new key from the system's randomness.
    ///
    /// # Errors
    /// If the system gives none.
    pub fn generate() -> Result<Self, InvalidKey> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(|pair| Self(Arc::new(pair)))
            .map_err(|_no_entropy| InvalidKey("the system could not make a key"))
    }

    /// Reads PKCS#8 PEM.
    ///
    /// # Errors
    /// If it is anything else than a P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidKey> {
        // The cause is not kept: parsers quote what they could not read.
        KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
            .map(|pair| Self(Arc::new(pair)))
            .map_err(|_unreadable| InvalidKey("not a P-256 private key in PKCS#8 PEM"))
    }

    /// Writes PKCS#8 PEM. The result is secret.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A certificate signing request (PKCS#10, DER) that proves possession of the key and names `id`.
    ///
    /// # Errors
    /// If the signature cannot be made.
    pub fn csr_der(&self, id: &SpiffeId) -> Result<Vec<u8>, InvalidKey> {
        let failed = |_cause| InvalidKey("the signing request could not be made");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(failed)?)];
        let request = params.serialize_request(&*self.0).map_err(failed)?;
        Ok(request.der().to_vec())
    }

    /// The same without a name: whoever joins does not know its own yet, and learns it from the answer.
    ///
    /// # Errors
    /// If the signature cannot be made.
    pub fn anonymous_csr_der(&self) -> Result<Vec<u8>, InvalidKey> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let failed = |_cause| InvalidKey("the signing request could not be made");
        Ok(params.serialize_request(&*self.0).map_err(failed)?.der().to_vec())
    }

    /// The public half, as SubjectPublicKeyInfo in DER.
    pub fn public_key_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// The pair, for signing certificates with rcgen.
    pub fn pair(&self) -> &KeyPair {
        &self.0
    }

    pub(crate) fn pkcs8(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.0.serialized_der())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(<redacted>)")
    }
}
