//! Certificate requests: the public key is taken, everything else is at most compared.

use aws_lc_rs::digest;
use outrigger_core::model::SpiffeId;
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::ParsedExtension,
    prelude::{FromDer, GeneralName},
};

/// Largest request accepted, bytes; one of ours has about 200.
const MAX: usize = 8 * 1024;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It is not PKCS#10, or has bytes to spare.
    #[error("the certificate request is malformed")]
    Malformed,
    /// Whoever sent it does not hold the key.
    #[error("the certificate request is not signed by its own key")]
    Signature,
    /// Its key is not ECDSA P-256.
    #[error("the certificate request's key is not ECDSA P-256")]
    Algorithm,
    /// It asks for another name than the caller proved.
    #[error("the certificate request names '{0}'")]
    AnotherName(String),
}

/// A request whose sender proved to hold the key.
#[derive(Debug, Clone)]
pub struct Csr {
    key: SubjectPublicKeyInfo,
    key_hash: [u8; 32],
    /// Names asked for, as text.
    names: Vec<String>,
}

impl Csr {
    /// Parses `der` and checks its signature.
    ///
    /// # Errors
    /// Malformed, not signed by its own key, or not P-256.
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX {
            return Err(CsrError::Malformed);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_bad| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let spki = request.certification_request_info.subject_pki.raw;
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_unknown| CsrError::Algorithm)?;
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(CsrError::Algorithm);
        }
        request.verify_signature().map_err(|_bad| CsrError::Signature)?;
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(asked) = extension {
                names.extend(asked.general_names.iter().map(|name| match name {
                    GeneralName::URI(uri) => (*uri).to_owned(),
                    other => other.to_string(),
                }));
            }
        }
        let mut key_hash = [0; 32];
        key_hash.copy_from_slice(digest::digest(&digest::SHA256, spki).as_ref());
        Ok(Self { key, key_hash, names })
    }

    /// The public key.
    pub(super) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }

    /// sha256 of the public key, as SubjectPublicKeyInfo.
    pub fn key_hash(&self) -> &[u8; 32] {
        &self.key_hash
    }

    /// Checks that the request asks for no other name than `id`. It need not ask for any: its names are never used.
    ///
    /// # Errors
    /// It does.
    pub fn names_only(&self, id: &SpiffeId) -> Result<(), CsrError> {
        match self.names.iter().find(|name| name.as_str() != id.as_str()) {
            Some(other) => Err(CsrError::AnotherName(other.chars().take(256).collect())),
            None => Ok(()),
        }
    }
}
