//! Who is accepted on either side of the control plane's ports.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use outrigger_core::model::{IdentityKind, SpiffeId, TrustDomain};
use rustls::{ClientConfig, ServerConfig, pki_types::CertificateDer};

use crate::{
    Identity, InvalidCertificate, PeerRejected, Refusal, certificate,
    mesh::{base_client, base_server},
    resolve::CurrentWithRoots,
    verifier::{Judge, Verifier},
    verify::{self, Shown},
};

/// ALPN of gRPC.
const ALPN_GRPC: &[u8] = b"h2";

/// By what a client knows the control plane. Either way it must be `spiffe://<trust domain>/outrigger/control-plane`.
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// By the SHA-256 of the root's SubjectPublicKeyInfo, from a join token: nothing else is known yet.
    Pinned([u8; 32]),
    /// By the bundle in force, of its trust domain.
    Bundle(Identity),
}

impl Judge for ServerTrust {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Refusal> {
        let id = match self {
            Self::Pinned(hash) => {
                let id = verify::claimed_id(shown.end_entity, None)?;
                let pinned =
                    |der: &&CertificateDer<'_>| certificate::spki_sha256(der).is_ok_and(|spki| spki == *hash);
                // Its key is what was pinned, so whatever verifies under that key is the pinned root's word.
                let root = shown.intermediates.iter().find(pinned);
                let root = root.ok_or_else(|| Refusal::of(PeerRejected::UnknownAuthority, &id))?;
                let anchor = webpki::anchor_from_trusted_cert(root)
                    .map_err(|_malformed| Refusal::of(PeerRejected::Malformed, &id))?;
                verify::chain(&[anchor], shown).map_err(|reason| Refusal::of(reason, &id))?;
                id
            }
            Self::Bundle(identity) => {
                let bundle = identity.bundle().ok_or_else(|| Refusal::new(PeerRejected::NoBundle))?;
                let id = verify::claimed_id(shown.end_entity, Some(bundle.trust_domain()))?;
                bundle.verify(shown).map_err(|reason| Refusal::of(reason, &id))?;
                id
            }
        };
        match id.kind() {
            IdentityKind::ControlPlane => Ok(()),
            IdentityKind::Workload { .. } | IdentityKind::Operator { .. } => {
                Err(Refusal::of(PeerRejected::UnexpectedIdentity, &id))
            }
        }
    }
}

/// For dialling the control plane; shows `identity`'s SVID if there is one.
pub(super) fn client_config(trust: ServerTrust, identity: Option<&Identity>) -> Arc<ClientConfig> {
    let mut config = base_client(Arc::new(Verifier(trust)), identity, &[ALPN_GRPC]);
    // Without a certificate the handshake is complete before the server's word on ALPN would be missed.
    config.check_selected_alpn = true;
    Arc::new(config)
}

/// The intermediates that issue to operators and to the control plane itself. Cheap to clone; all clones see the same.
/// Swapped as they are renewed, old and new together for as long as the old one's leaves live.
#[derive(Debug, Clone)]
pub struct OperatorAuthorities(Arc<ArcSwap<Intermediates>>);

#[derive(Debug, Default)]
struct Intermediates {
    /// Their public keys.
    keys: BTreeSet<Vec<u8>>,
    /// Themselves. A client may show an older certificate of the same key, under a root that is gone.
    certificates: Vec<CertificateDer<'static>>,
}

impl OperatorAuthorities {
    /// Takes the certificates (DER) of the intermediates. None at all means that no operator is accepted.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn new<D: AsRef<[u8]>>(
        certificates: impl IntoIterator<Item = D>,
    ) -> Result<Self, InvalidCertificate> {
        let intermediates = Self::read(certificates)?;
        Ok(Self(Arc::new(ArcSwap::from_pointee(intermediates))))
    }

    /// Takes these instead, for every handshake from now on.
    ///
    /// # Errors
    /// If one cannot be read; nothing has changed then.
    pub fn set<D: AsRef<[u8]>>(
        &self,
        certificates: impl IntoIterator<Item = D>,
    ) -> Result<(), InvalidCertificate> {
        self.0.store(Arc::new(Self::read(certificates)?));
        Ok(())
    }

    fn read<D: AsRef<[u8]>>(
        certificates: impl IntoIterator<Item = D>,
    ) -> Result<Intermediates, InvalidCertificate> {
        let mut read = Intermediates::default();
        for der in certificates {
            let der = der.as_ref();
            read.keys.insert(certificate::parse(der)?.public_key().raw.to_vec());
            read.certificates.push(CertificateDer::from(der.to_vec()));
        }
        Ok(read)
    }
}

/// For the control plane's ports: shows the SVID with the roots above it (a joiner knows no more than a root's hash),
/// and holds a client that shows a certificate to its kind's authority.
pub fn server_config(identity: &Identity, operators: &OperatorAuthorities) -> Arc<ServerConfig> {
    let verifier = Arc::new(Verifier(Caller { identity: identity.clone(), operators: operators.clone() }));
    let resolver = Arc::new(CurrentWithRoots(identity.clone()));
    Arc::new(base_server(verifier, resolver, &[ALPN_GRPC]))
}

/// A client of the control plane.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) operators: OperatorAuthorities,
}

impl Judge for Caller {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Refusal> {
        let bundle = self.identity.bundle().ok_or_else(|| Refusal::new(PeerRejected::NoBundle))?;
        let ours: &TrustDomain = bundle.trust_domain();
        let id: SpiffeId = verify::claimed_id(shown.end_entity, Some(ours))?;
        let refuse = |reason| Refusal::of(reason, &id);
        let operators = self.operators.0.load();
        let allowed = match id.kind() {
            IdentityKind::ControlPlane => return Err(refuse(PeerRejected::ReservedId)),
            IdentityKind::Operator { .. } => {
                // Its own copy of its intermediate may be under a root that has been rotated since; ours is not.
                let known = operators.certificates.iter().cloned();
                let intermediates: Vec<_> = known.chain(shown.intermediates.iter().cloned()).collect();
                let signers =
                    bundle.verify(&Shown { intermediates: &intermediates, ..*shown }).map_err(refuse)?;
                signers.issuer().is_some_and(|key| operators.keys.contains(key))
            }
            IdentityKind::Workload { .. } => {
                let signers = bundle.verify(shown).map_err(refuse)?;
                !signers.iter().any(|key| operators.keys.contains(key))
            }
        };
        if allowed { Ok(()) } else { Err(refuse(PeerRejected::WrongAuthority)) }
    }

    fn anonymous_clients(&self) -> bool {
        true
    }
}
