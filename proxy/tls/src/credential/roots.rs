//! The roots as text: PEM, preceded by what else counts of a bundle, in lines that a reader of PEM skips. In one file,
//! since the roots of one bundle must not be found with the rest of another.
//!
//! ```text
//! # sequence: 7
//! # revoked: <SHA-256 of a public key, base64>
//! -----BEGIN CERTIFICATE-----
//! ```

use base64::{Engine as _, engine::general_purpose::STANDARD};
use outrigger_core::model::{Outgoing, TrustDomain};

use crate::{Bundle, InvalidBundle, certificate, pem};

const SEQUENCE: &str = "# sequence: ";
const REVOKED: &str = "# revoked: ";

/// Why a text is no bundle.
#[derive(Debug)]
pub(super) enum Invalid {
    /// It is not what [`write()`] makes, nor certificates in PEM.
    Text,
    /// The certificates are no bundle.
    Bundle(InvalidBundle),
    /// This one (from 1) is not what its own key signed.
    Root(usize),
}

/// Writes what of `bundle` is kept: whom it trusts and whom not. Who is on their way out is asked for anew.
pub(super) fn write(bundle: &Bundle) -> String {
    let mut text = format!("{SEQUENCE}{}\n", bundle.sequence());
    for key in &bundle.outgoing().revoked {
        text.push_str(REVOKED);
        text.push_str(&STANDARD.encode(key));
        text.push('\n');
    }
    text + &pem::encode(bundle.authorities())
}

/// Reads the bundle of `trust_domain`. Without a sequence it is 0. What a disk or a copy did to a root is found here, and
/// not at the first peer that it does not vouch for any more.
pub(super) fn read(text: &str, trust_domain: TrustDomain) -> Result<Bundle, Invalid> {
    let (mut sequence, mut revoked) = (0, Vec::new());
    for line in text.lines() {
        if let Some(number) = line.strip_prefix(SEQUENCE) {
            sequence = number.parse().map_err(|_invalid| Invalid::Text)?;
        } else if let Some(key) = line.strip_prefix(REVOKED) {
            let key = STANDARD.decode(key).ok().and_then(|key| <[u8; 32]>::try_from(key).ok());
            // One that is not understood may be the one that matters.
            revoked.push(key.ok_or(Invalid::Text)?);
        }
    }
    let roots = pem::decode(text).map_err(|_invalid| Invalid::Text)?;
    if let Some(damaged) = roots.iter().position(|root| !certificate::is_self_signed(root)) {
        return Err(Invalid::Root(damaged + 1));
    }
    let bundle = Bundle::new(trust_domain, roots, sequence).map_err(Invalid::Bundle)?;
    Ok(bundle.with_outgoing(Outgoing { revoked, ..Outgoing::default() }))
}
