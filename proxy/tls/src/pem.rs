//! Certificates as PEM text.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// The last line of a certificate.
const END: &str = "-----END CERTIFICATE-----";

/// Text that holds no readable certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a list of certificates in PEM")]
pub(crate) struct InvalidPem;

/// Writes certificates one after the other.
pub(crate) fn encode<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while let Some((line, tail)) = rest.split_at_checked(64) {
            text.push_str(line);
            text.push('\n');
            rest = tail;
        }
        if !rest.is_empty() {
            text.push_str(rest);
            text.push('\n');
        }
        text.push_str(END);
        text.push('\n');
    }
    text
}

/// Reads every certificate of `text`, at least one. One whose first line is damaged is an error, too: the reader of PEM
/// would pass over it.
pub(crate) fn decode(text: &str) -> Result<Vec<Vec<u8>>, InvalidPem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes())
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect();
    match found {
        Ok(certificates) if !certificates.is_empty() && text.matches(END).count() == certificates.len() => {
            Ok(certificates)
        }
        Ok(_) | Err(_) => Err(InvalidPem),
    }
}
