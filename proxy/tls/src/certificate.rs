//! What is read out of one certificate. Its bytes come from a stranger: every defect is an error.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, ParsedExtension, X509Certificate};

/// A certificate that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed X.509 certificate in DER")]
pub struct InvalidCertificate;

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// The SHA-256 of a certificate's SubjectPublicKeyInfo: what a join token pins.
///
/// # Errors
/// If `der` is not a certificate.
pub fn spki_sha256(der: &[u8]) -> Result<[u8; 32], InvalidCertificate> {
    Ok(sha256(parse(der)?.public_key().raw))
}

/// Reads exactly one certificate, with nothing behind it.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, InvalidCertificate> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(InvalidCertificate),
    }
}

/// Whether `der` is signed by its own key, as a root is: one changed bit of what is signed, and it is not.
pub(crate) fn is_self_signed(der: &[u8]) -> bool {
    parse(der).is_ok_and(|certificate| certificate.verify_signature(None).is_ok())
}

/// Every URI among the subject's alternative names. A name or an extension that cannot be read is an error, so that
/// nothing hides behind a defect.
pub(crate) fn uri_names<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<Vec<&'a str>, InvalidCertificate> {
    let mut names = None;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            // Twice the same extension is forbidden by RFC 5280, 4.2; which one counts would be a matter of taste.
            ParsedExtension::SubjectAlternativeName(_) if names.is_some() => return Err(InvalidCertificate),
            ParsedExtension::SubjectAlternativeName(found) => names = Some(&found.general_names),
            ParsedExtension::ParseError { .. } => return Err(InvalidCertificate),
            _ => {}
        }
    }
    let mut uris = Vec::new();
    for name in names.into_iter().flatten() {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(InvalidCertificate),
            _ => {}
        }
    }
    Ok(uris)
}

/// A certificate's time as the system counts it.
pub(crate) fn system_time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}
