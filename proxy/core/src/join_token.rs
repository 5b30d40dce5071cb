//! The token with which a workload joins the mesh: `otr1.<id>.<secret>.<sha256 of the root's SPKI>`. It names its
//! record, proves the right to one identity, and pins the control plane. Whoever stores it keeps a hash of the secret.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// What every token of this version starts with.
const VERSION: &str = "otr1";

/// A text that is not a join token. Says nothing of the text: it may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJoinToken {
    /// Another version, or something else altogether.
    #[error("a join token starts with 'otr1.'")]
    Version,
    /// Not four parts.
    #[error(
        "a join token has four parts: otr1.<id>.<secret>.<hash>; this one is cut or joined with something"
    )]
    Parts,
    /// Its first part.
    #[error("the id of the join token is not 16 hexadecimal digits")]
    Id,
    /// Its second part.
    #[error("the secret of the join token is not 43 characters of base64url")]
    Secret,
    /// Its last part.
    #[error("the hash of the join token is not 43 characters of base64url")]
    Hash,
}

/// Names a token where it is stored, listed and logged; not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let lower = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(lower) {
            return Err(InvalidJoinToken::Id);
        }
        u64::from_str_radix(text, 16)
            .map(|id| Self(id.to_be_bytes()))
            .map_err(|_not_hex| InvalidJoinToken::Id)
    }
}

/// The secret part. Neither `Debug` nor `Display` shows it, and comparing takes the same time wherever two differ.
#[derive(Clone)]
pub struct TokenSecret([u8; 32]);

impl TokenSecret {
    /// Wraps 32 bytes from a cryptographic generator.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be hashed.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenSecret {
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |all, (left, right)| all | (left ^ right));
        std::hint::black_box(difference) == 0
    }
}

impl Eq for TokenSecret {}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// A join token. Its text, secret included, comes only from [`JoinToken::reveal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which token.
    pub id: TokenId,
    /// Proves the right to it.
    pub secret: TokenSecret,
    /// SHA-256 of the SubjectPublicKeyInfo (DER) of the mesh's root: whom the joiner trusts.
    pub root_spki_sha256: [u8; 32],
}

impl JoinToken {
    /// The token as text, with its secret: for the one answer that hands it out, and for the wire.
    pub fn reveal(&self) -> String {
        let secret = URL_SAFE_NO_PAD.encode(self.secret.as_bytes());
        let hash = URL_SAFE_NO_PAD.encode(self.root_spki_sha256);
        format!("{VERSION}.{}.{secret}.{hash}", self.id)
    }
}

/// Shows the id alone: a token in a log line or an error must not be usable.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.<redacted>", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    /// Surrounding white space is ignored: tokens come from files and pipes.
    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let rest = text
            .trim()
            .strip_prefix(VERSION)
            .and_then(|rest| rest.strip_prefix('.'))
            .ok_or(InvalidJoinToken::Version)?;
        let mut parts = rest.split('.');
        let (Some(id), Some(secret), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidJoinToken::Parts);
        };
        Ok(Self {
            id: id.parse()?,
            secret: TokenSecret(bytes32(secret).ok_or(InvalidJoinToken::Secret)?),
            root_spki_sha256: bytes32(hash).ok_or(InvalidJoinToken::Hash)?,
        })
    }
}

/// Canonical base64url without padding of exactly 32 bytes.
fn bytes32(text: &str) -> Option<[u8; 32]> {
    if text.len() != 43 {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken { id: TokenId([0xab; 8]), secret: TokenSecret::new([7; 32]), root_spki_sha256: [9; 32] }
    }

    #[test]
    fn a_token_has_four_parts_and_survives_a_file_with_a_newline() {
        let text = token().reveal();
        assert!(text.starts_with("otr1.abababababababab."), "{text}");
        assert_eq!(text.split('.').count(), 4);
        assert_eq!(format!("  {text}\n").parse::<JoinToken>(), Ok(token()));
    }

    #[test]
    fn neither_debug_nor_display_shows_the_secret() {
        let secret = URL_SAFE_NO_PAD.encode([7; 32]);
        for shown in [token().to_string(), format!("{:?}", token()), format!("{:#?}", token())] {
            assert!(!shown.contains(&secret) && !shown.contains("7, 7"), "{shown}");
        }
    }

    #[test]
    fn a_defect_is_named_by_its_part() {
        let (id, part) = ("abababababababab", "A".repeat(43));
        for (text, error) in [
            (String::new(), InvalidJoinToken::Version),
            (format!("otr2.{id}.{part}.{part}"), InvalidJoinToken::Version),
            (format!("otr1{id}.{part}.{part}"), InvalidJoinToken::Version),
            (format!("otr1.{id}.{part}"), InvalidJoinToken::Parts),
            (format!("otr1.{id}.{part}.{part}.x"), InvalidJoinToken::Parts),
            (format!("otr1.{}.{part}.{part}", "AB".repeat(8)), InvalidJoinToken::Id),
            (format!("otr1.+{}.{part}.{part}", "a".repeat(15)), InvalidJoinToken::Id),
            (format!("otr1.{id}.{}.{part}", "A".repeat(42)), InvalidJoinToken::Secret),
            (format!("otr1.{id}.{}=.{part}", "A".repeat(42)), InvalidJoinToken::Secret),
            // The last character carries 4 bits only: any other encoding of the same bytes is refused.
            (format!("otr1.{id}.{part}.{}B", "A".repeat(42)), InvalidJoinToken::Hash),
            (format!("otr1.{id}.{part}.{}", "A".repeat(44)), InvalidJoinToken::Hash),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_token_survives_a_round_trip(id: [u8; 8], secret: [u8; 32], root_spki_sha256: [u8; 32]) {
            let token = JoinToken { id: TokenId(id), secret: TokenSecret::new(secret), root_spki_sha256 };
            prop_assert_eq!(token.reveal().parse::<JoinToken>(), Ok(token));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _outcome = text.parse::<JoinToken>();
            let _outcome = format!("otr1.{text}").parse::<JoinToken>();
        }
    }
}
