//! Why a peer was refused: a closed list, carried through rustls' and everybody else's errors.

use std::{error::Error as StdError, fmt, io, sync::Arc};

use outrigger_core::model::SpiffeId;
use rustls::{CertificateError, Error, OtherError};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $text:literal;)+) => {
        /// Why a peer was refused in the handshake. Closed: metrics label by it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PeerRejected { $($(#[doc = $doc])+ $variant,)+ }

        impl PeerRejected {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name, for metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    /// It showed no certificate.
    NoCertificate = "no_certificate", "the peer showed no certificate";
    /// Its certificate, or one of its chain, cannot be read.
    Malformed = "malformed", "the peer's certificate cannot be read";
    /// Its certificate has no URI name.
    NoUriSan = "no_uri_san", "the peer's certificate has no URI name";
    /// Its certificate has more than one URI name.
    TwoUriSans = "two_uri_sans", "the peer's certificate has more than one URI name";
    /// Its URI is none of the mesh's forms.
    InvalidId = "invalid_id", "the peer's URI is not an identity of the mesh";
    /// It is of another trust domain.
    WrongTrustDomain = "wrong_trust_domain", "the peer belongs to another trust domain";
    /// Its chain leads to no authority of the bundle.
    UnknownAuthority = "unknown_authority", "no authority of the bundle vouches for the peer";
    /// Its chain leads through an authority that was revoked.
    Revoked = "revoked", "the authority that vouches for the peer was revoked";
    /// The connection was opened with a certificate of ours whose authority is tainted; there is a new one.
    Tainted = "tainted", "the authority of our certificate at the time is tainted";
    /// Its certificate, or one of its chain, has expired.
    Expired = "expired", "the peer's certificate has expired";
    /// Its certificate, or one of its chain, is not valid yet.
    NotYetValid = "not_yet_valid", "the peer's certificate is not valid yet";
    /// Its certificate may not be used so: an authority's, or one for the other side only.
    WrongPurpose = "wrong_purpose", "the peer's certificate is not for this use";
    /// Its identity is reserved and has no business here.
    ReservedId = "reserved_id", "the peer's identity is reserved";
    /// An operator's name under the workloads' authority, or a workload's under the operators'.
    WrongAuthority = "wrong_authority", "the peer's certificate comes from the wrong authority for its kind";
    /// It is somebody, but none of those expected here.
    UnexpectedIdentity = "unexpected_identity", "the peer is not the one expected";
    /// It could not prove possession of the key.
    BadSignature = "bad_signature", "the peer does not hold the certificate's key";
    /// Nobody can be verified: we have no trust bundle yet.
    NoBundle = "no_bundle", "there is no trust bundle yet to verify the peer with";
}

impl fmt::Display for PeerRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: why, and whom the peer claimed to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: PeerRejected,
    /// The identity in its certificate, where one could be read. Unproven unless the chain held.
    pub presented: Option<SpiffeId>,
}

impl Refusal {
    /// For `reason`, whoever the peer claims to be.
    pub fn new(reason: PeerRejected) -> Self {
        Self { reason, presented: None }
    }

    pub(crate) fn of(reason: PeerRejected, presented: &SpiffeId) -> Self {
        Self { reason, presented: Some(presented.clone()) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.text())?;
        match &self.presented {
            Some(id) => write!(f, " (presented {id})"),
            None => Ok(()),
        }
    }
}

impl StdError for Refusal {}

/// In rustls' terms, which choose the alert that the peer sees: it learns that its certificate has expired, or that its
/// authority is unknown, and nothing finer.
impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let certificate = match refusal.reason {
            PeerRejected::NoCertificate => return Self::NoCertificatesPresented,
            PeerRejected::Malformed => CertificateError::BadEncoding,
            PeerRejected::Expired => CertificateError::Expired,
            PeerRejected::NotYetValid => CertificateError::NotValidYet,
            PeerRejected::UnknownAuthority => CertificateError::UnknownIssuer,
            PeerRejected::WrongPurpose => CertificateError::InvalidPurpose,
            _ => CertificateError::Other(OtherError(Arc::new(refusal))),
        };
        Self::InvalidCertificate(certificate)
    }
}

/// Why *we* refused the peer, found anywhere in the causes of a failed handshake; `None` if it failed for another cause
/// (including that the peer refused us).
pub fn reject_reason(error: &(dyn StdError + 'static)) -> Option<PeerRejected> {
    refusal(error).map(|refusal| refusal.reason)
}

/// The same with whom the peer claimed to be, where that is known.
pub fn refusal(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    let mut next = Some(error);
    // An error whose causes form a ring would hold us; nothing honest is that deep.
    for _depth in 0..16 {
        let error = next?;
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal.clone());
        }
        if let Some(error) = error.downcast_ref::<Error>() {
            return from_rustls(error);
        }
        // `source` of an `io::Error` skips the error it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

fn from_rustls(error: &Error) -> Option<Refusal> {
    let reason = match error {
        Error::NoCertificatesPresented => PeerRejected::NoCertificate,
        Error::InvalidCertificate(error) => match error {
            CertificateError::Other(OtherError(inner)) => return inner.downcast_ref::<Refusal>().cloned(),
            CertificateError::BadEncoding => PeerRejected::Malformed,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => PeerRejected::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                PeerRejected::NotYetValid
            }
            CertificateError::UnknownIssuer => PeerRejected::UnknownAuthority,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                PeerRejected::WrongPurpose
            }
            CertificateError::BadSignature => PeerRejected::BadSignature,
            _ => PeerRejected::Malformed,
        },
        _ => return None,
    };
    Some(Refusal::new(reason))
}
