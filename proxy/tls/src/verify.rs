//! Who is the peer? One verification for every handshake: one URI name, this trust domain, a chain to the bundle in
//! force now. Never by DNS, never skipped.

use outrigger_core::model::{SpiffeId, TrustDomain};
use rustls::{
    CommonState,
    pki_types::{CertificateDer, TrustAnchor, UnixTime},
};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage};

use crate::{PeerRejected, Refusal, certificate, provider::algorithms};

/// What the peer's certificate must be good for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Usage {
    /// It opened the connection.
    Client,
    /// It accepted the connection.
    Server,
}

impl Usage {
    fn purpose(self) -> impl ExtendedKeyUsageValidator {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }
}

/// What a peer showed in a handshake.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) end_entity: &'a CertificateDer<'a>,
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    pub(crate) now: UnixTime,
    pub(crate) usage: Usage,
}

/// Whom a certificate names, and nothing proven. With a `trust_domain`, any other is refused even where the rest of the
/// URI would not be one of ours.
pub(crate) fn claimed_id(der: &[u8], trust_domain: Option<&TrustDomain>) -> Result<SpiffeId, Refusal> {
    let malformed = |_| Refusal::new(PeerRejected::Malformed);
    let certificate = certificate::parse(der).map_err(malformed)?;
    let uri = match certificate::uri_names(&certificate).map_err(malformed)?.as_slice() {
        [] => return Err(Refusal::new(PeerRejected::NoUriSan)),
        [uri] => *uri,
        _ => return Err(Refusal::new(PeerRejected::TwoUriSans)),
    };
    let id = uri.parse::<SpiffeId>();
    let foreign = match (&id, trust_domain) {
        (_, None) => false,
        (Ok(id), Some(ours)) => id.trust_domain() != ours,
        (Err(_), Some(ours)) => uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split('/').next())
            .is_some_and(|theirs| theirs != ours.as_str()),
    };
    match id {
        Ok(id) if foreign => Err(Refusal::of(PeerRejected::WrongTrustDomain, &id)),
        Ok(id) => Ok(id),
        Err(_) if foreign => Err(Refusal::new(PeerRejected::WrongTrustDomain)),
        Err(_) => Err(Refusal::new(PeerRejected::InvalidId)),
    }
}

/// The chain that was found: the public keys (SPKI, DER) of those who signed, from the leaf's issuer to the anchor.
pub(crate) struct Signers(Vec<Vec<u8>>);

impl Signers {
    /// Who signed the leaf. Which key that was does not depend on which path was found.
    pub(crate) fn issuer(&self) -> Option<&[u8]> {
        self.0.first().map(Vec::as_slice)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

/// Builds a chain from what was shown to one of `anchors`.
pub(crate) fn chain(anchors: &[TrustAnchor<'_>], shown: &Shown<'_>) -> Result<Signers, PeerRejected> {
    let leaf = EndEntityCert::try_from(shown.end_entity).map_err(|error| reason(&error))?;
    let path = leaf
        .verify_for_usage(
            algorithms().all,
            anchors,
            shown.intermediates,
            shown.now,
            shown.usage.purpose(),
            None,
            None,
        )
        .map_err(|error| reason(&error))?;
    let mut signers: Vec<_> = path
        .intermediate_certificates()
        .map(|certificate| certificate.subject_public_key_info().to_vec())
        .collect();
    signers.push(webpki::spki_for_anchor(path.anchor()).to_vec());
    Ok(Signers(signers))
}

/// Our word for webpki's. A signature that does not hold means that a namesake of our authority signed, so it is an
/// unknown authority.
fn reason(error: &webpki::Error) -> PeerRejected {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } | E::InvalidCertValidity => PeerRejected::Expired,
        E::CertNotValidYet { .. } => PeerRejected::NotYetValid,
        E::CaUsedAsEndEntity
        | E::EndEntityUsedAsCa
        | E::RequiredEkuNotFoundContext(_)
        | E::EmptyEkuExtension
        | E::PathLenConstraintViolated
        | E::NameConstraintViolation => PeerRejected::WrongPurpose,
        E::UnknownIssuer
        | E::InvalidSignatureForPublicKey
        | E::SignatureAlgorithmMismatch
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded
        | E::MaximumNameConstraintComparisonsExceeded => PeerRejected::UnknownAuthority,
        _ => PeerRejected::Malformed,
    }
}

/// Who the peer proved to be, on a connection whose handshake is complete under one of this crate's configurations;
/// `None` if it showed no certificate (possible on gRPC only).
pub fn peer_id(connection: &CommonState) -> Option<SpiffeId> {
    let leaf = connection.peer_certificates()?.first()?;
    claimed_id(leaf, None).ok()
}
