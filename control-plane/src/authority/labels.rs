//! A workload's labels, in its certificate: given by its join token, copied at each renewal, and read from the
//! certificate that the handshake verified. Two workloads of one identity can thus have different labels, and nothing
//! has to be looked up or cleaned away.
//!
//! The extension is ours alone and not critical: its value is a UTF8String with a JSON object of strings.

use std::collections::BTreeMap;

use outrigger_tls::grpc::Peer;
use rcgen::CustomExtension;
use x509_parser::{
    der_parser::asn1_rs::Utf8String,
    prelude::{FromDer, X509Certificate},
};

/// Below `2.25`, where everybody may number for themselves (ITU-T X.667).
const OID: [u64; 3] = [2, 25, 6_104_311_874_260_937_745];

/// The extension that carries `labels`; `None` without any.
pub(super) fn extension(labels: &BTreeMap<String, String>) -> Option<CustomExtension> {
    if labels.is_empty() {
        return None;
    }
    // Serialising a map of strings to memory cannot fail.
    let text = serde_json::to_vec(labels).unwrap_or_default();
    Some(CustomExtension::from_oid_content(&OID, utf8_string(&text)))
}

/// The labels of whoever shows this certificate; none when it has none, or something else in their place.
pub fn of(peer: &Peer) -> BTreeMap<String, String> {
    peer.certificate.as_ref().and_then(|certificate| read(certificate)).unwrap_or_default()
}

/// The same for a certificate at hand, DER.
pub fn read(certificate: &[u8]) -> Option<BTreeMap<String, String>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let carries =
        |oid: &x509_parser::der_parser::asn1_rs::Oid<'_>| oid.iter().is_some_and(|arcs| arcs.eq(OID));
    let extension = certificate.extensions().iter().find(|extension| carries(&extension.oid))?;
    let (_, text) = Utf8String::from_der(extension.value).ok()?;
    serde_json::from_str(text.string().as_str()).ok()
}

/// DER of a UTF8String.
fn utf8_string(text: &[u8]) -> Vec<u8> {
    let mut der = vec![0x0c];
    match u8::try_from(text.len()) {
        Ok(length) if length < 0x80 => der.push(length),
        // The long form: how many bytes of length follow, most significant first, without leading zeros.
        _ => {
            let length = text.len().to_be_bytes();
            let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
            der.push(0x80 | u8::try_from(significant.len()).unwrap_or(0));
            der.extend(significant);
        }
    }
    der.extend_from_slice(text);
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_every_length_are_der() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let text = "x".repeat(length);
            let der = utf8_string(text.as_bytes());
            let (rest, parsed) = Utf8String::from_der(&der).unwrap();
            assert!(rest.is_empty());
            assert_eq!(parsed.string(), text);
        }
    }
}
