//! A certificate with its key, and the file that holds both: one file, so that they cannot part. Behind them in it are
//! the certificates that this one replaced, without their keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use outrigger_core::rotation::Signer;
use outrigger_process::files;
use rcgen::{CertificateParams, Issuer, KeyPair, PublicKeyData};
use rustls::{
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem, pem::PemObject},
    server::ParsedCertificate,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{hash, profile::Validity};

/// The last line of a certificate.
const CERTIFICATE_END: &str = "-----END CERTIFICATE-----";

/// Why the authority's state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("{path} cannot be read or written")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not a certificate with its key, or not the one that was signed.
    #[error(
        "{path} is damaged ({defect}); restore a backup into a fresh directory: outrigger restore BACKUP --state-dir DIR"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How it shows.
        defect: String,
    },
    /// The root was made for another trust domain than the settings name.
    #[error(
        "{path} is the root of {found}, but the settings say trust_domain = \"{wanted}\"; set it back, or start with \
         another state directory"
    )]
    TrustDomain {
        /// The root's file.
        path: PathBuf,
        /// The URI in it.
        found: String,
        /// What the settings say.
        wanted: String,
    },
    /// The store knows a root, and it is not this one; or it knows none, and this one is of a rotation that it does not
    /// know. Proxies that joined would be locked out without a word.
    #[error(
        "{path} is not the root that this store's proxies joined under; restore store and keys from one backup, or move \
         both away to start anew (every proxy then has to join again)"
    )]
    AnotherRoot {
        /// The root's file.
        path: PathBuf,
    },
    /// The store names a rotation under way, and a part of it is gone.
    #[error("{path} is missing, and the store says that it is in use; restore it from a backup")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// What the store keeps of the authorities.
    #[error(
        "the stored state of the authorities cannot be read; use the version that wrote it, or restore a backup"
    )]
    State(#[source] serde_json::Error),
    /// The root has run out.
    #[error("the certificate in {path} has expired; nothing can be issued under it")]
    Expired {
        /// The root's file.
        path: PathBuf,
    },
    /// A certificate cannot be made.
    #[error("a certificate cannot be made")]
    Sign(#[from] rcgen::Error),
    /// A key cannot be made.
    #[error("a key cannot be made")]
    Key(#[from] outrigger_tls::InvalidKey),
    /// What was made is not an SVID: a defect of ours.
    #[error("the certificate that was made cannot be used")]
    Svid(#[from] outrigger_tls::InvalidSvid),
}

/// A certificate with its key.
pub(super) struct Pair {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) validity: Validity,
    key: KeyPair,
    /// Of other keys, and had not expired when this one was made. The newest first.
    replaced: Vec<(CertificateDer<'static>, Signer)>,
}

impl Pair {
    /// Makes one that signs itself.
    pub(super) fn self_signed(params: &CertificateParams, validity: Validity) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, validity, key, replaced: Vec::new() })
    }

    /// Makes one that `issuer` signs, for `key`.
    pub(super) fn signed_by(
        issuer: &Self,
        params: &CertificateParams,
        validity: Validity,
        key: KeyPair,
    ) -> Result<Self, rcgen::Error> {
        let certificate = issuer.sign(params, &key)?;
        Ok(Self { certificate, validity, key, replaced: Vec::new() })
    }

    /// Signs a certificate for somebody's public key.
    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)?;
        Ok(params.signed_by(key, &issuer)?.der().clone())
    }

    /// The public key as it stands in the certificate (SubjectPublicKeyInfo).
    pub(super) fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// As chains are judged by it.
    pub(super) fn signer(&self) -> Signer {
        Signer { key: hash(&self.spki()), until: self.validity.not_after }
    }

    /// Those that it replaced.
    pub(super) fn replaced(&self) -> impl Iterator<Item = Signer> {
        self.replaced.iter().map(|(_, signer)| *signer)
    }

    /// Takes the place of `previous`, whose certificate is good until it expires.
    pub(super) fn replace(&mut self, previous: &Self, now: SystemTime) {
        let own = (previous.certificate.clone(), previous.signer());
        let all = std::iter::once(own).chain(previous.replaced.iter().cloned());
        self.replaced = all.filter(|(_, signer)| signer.until >= now).collect();
    }

    /// A copy of the key, for the next certificate of the same one.
    pub(super) fn copy_key(&self) -> Result<KeyPair, rcgen::Error> {
        KeyPair::try_from(self.key.serialized_der())
    }

    /// Writes all into one private file, whole or not at all.
    pub(super) fn save(&self, path: &Path) -> Result<(), AuthorityError> {
        let mut text = format!("{}{}", certificate_pem(&self.certificate), self.key.serialize_pem());
        text.extend(self.replaced.iter().map(|(certificate, _)| certificate_pem(certificate)));
        files::write_atomic(path, text.as_bytes(), 0o600)
            .map_err(|source| AuthorityError::Io { path: path.to_owned(), source })
    }

    /// Reads what [`Self::save`] wrote, and holds each certificate in it to the signature of `issuer`, or to its own
    /// without one; `None` when there is no such file.
    pub(super) fn load(path: &Path, issuer: Option<&Self>) -> Result<Option<Self>, AuthorityError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AuthorityError::Io { path: path.to_owned(), source }),
        };
        let damaged =
            |defect: &str| AuthorityError::Damaged { path: path.to_owned(), defect: defect.to_owned() };
        let mut certificates = CertificateDer::pem_slice_iter(&text);
        let certificate = certificates
            .next()
            .unwrap_or(Err(pem::Error::NoItemsFound))
            .map_err(|error: pem::Error| damaged(&format!("no certificate: {}", in_words(&error))))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text)
            .map_err(|error| damaged(&format!("no key: {}", in_words(&error))))?;
        let key =
            KeyPair::try_from(key.secret_pkcs8_der()).map_err(|_bad_key| damaged("the key is malformed"))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|_bad| damaged("the certificate is malformed"))?;
        let validity =
            validity_of(&parsed).ok_or_else(|| damaged("the certificate's dates are malformed"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(damaged("the key is not the certificate's"));
        }
        let issuer = issuer.map_or(&certificate, |issuer| &issuer.certificate);
        if !is_signed_by(&certificate, issuer) {
            return Err(damaged("the certificate does not match its signature"));
        }
        let mut replaced = Vec::new();
        for certificate in certificates {
            let read = certificate.ok().and_then(|certificate| Some((signer_of(&certificate)?, certificate)));
            let (signer, certificate) = read.ok_or_else(|| damaged("a replaced certificate is malformed"))?;
            if !is_signed_by(&certificate, issuer) {
                return Err(damaged("a replaced certificate does not match its signature"));
            }
            replaced.push((certificate, signer));
        }
        // One whose first line is damaged is no certificate to the reader of PEM, but text that it passes over.
        if String::from_utf8_lossy(&text).matches(CERTIFICATE_END).count() != 1 + replaced.len() {
            return Err(damaged("a replaced certificate is malformed"));
        }
        Ok(Some(Self { certificate, validity, key, replaced }))
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// The reader of PEM shows the bytes that it stumbled over.
fn in_words(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section in it does not end",
        pem::Error::IllegalSectionStart { .. } => "a section in it begins with a malformed line",
        pem::Error::Base64Decode(_) => "what is in it is not base64",
        pem::Error::NoItemsFound => "there is none in it",
        _ => "it is not PEM",
    }
}

/// The first URI of the subject's alternative names.
pub(super) fn uri_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

/// Whether `certificate` is, bit for bit, what the key of `issuer` signed. What is around the part that is signed is held
/// to the reader of every peer, which is stricter than the one here.
fn is_signed_by(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    if ParsedCertificate::try_from(certificate).is_err() {
        return false;
    }
    let (Ok((_, certificate)), Ok((_, issuer))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(issuer))
    else {
        return false;
    };
    certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

fn signer_of(certificate: &CertificateDer<'_>) -> Option<Signer> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Signer { key: hash(parsed.public_key().raw), until: validity_of(&parsed)?.not_after })
}

fn validity_of(certificate: &X509Certificate<'_>) -> Option<Validity> {
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    let validity = certificate.validity();
    Some(Validity { not_before: at(validity.not_before)?, not_after: at(validity.not_after)? })
}

/// One certificate as PEM.
pub(super) fn certificate_pem(der: &[u8]) -> String {
    use base64::Engine as _;

    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(CERTIFICATE_END);
    pem.push('\n');
    pem
}
