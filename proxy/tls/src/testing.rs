//! A whole mesh's authority for tests, and certificates as wrong as a test wants them.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "support for tests: there a panic is the report"
)]

use std::time::{Duration, SystemTime};

use outrigger_core::model::{Name, SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};

use crate::{Bundle, Identity, Key, Svid};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A root, the workloads' intermediate and the operators', as a control plane has them.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    root: Issued,
    workloads: Issued,
    operators: Issued,
}

#[derive(Debug)]
struct Issued {
    der: Vec<u8>,
    params: CertificateParams,
    key: Key,
}

/// Under whom a leaf is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// The workloads' intermediate.
    Workloads,
    /// The operators' intermediate.
    Operators,
    /// The root itself.
    Root,
}

/// What a leaf says.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Its URI names.
    pub uris: Vec<String>,
    /// Its DNS names.
    pub dns: Vec<String>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// By whom it is issued.
    pub under: Under,
    /// Whether it says that it is an authority.
    pub authority: bool,
    /// What it may be used for.
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    /// A correct one for `id`, valid from five minutes ago for 24 hours.
    pub fn of(id: &SpiffeId) -> Self {
        let not_before = SystemTime::now() - Duration::from_secs(300);
        Self {
            uris: vec![id.to_string()],
            dns: Vec::new(),
            not_before,
            not_after: not_before + DAY,
            under: match id.as_workload() {
                Some(_) => Under::Workloads,
                None => Under::Operators,
            },
            authority: false,
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

impl Leaf {
    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uris = self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().expect("ASCII")));
        let dns = self.dns.iter().map(|name| SanType::DnsName(name.as_str().try_into().expect("ASCII")));
        params.subject_alt_names = uris.chain(dns).collect();
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.extended_key_usages.clone_from(&self.purposes);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if self.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }
}

impl Authority {
    /// Makes one for `trust_domain`, with new keys.
    pub fn new(trust_domain: &str) -> Self {
        let root_key = Key::generate().expect("a key");
        let root_params = authority_params("root");
        let root_der = root_params.self_signed(root_key.pair()).expect("a root").der().to_vec();
        let root = Issued { der: root_der, params: root_params, key: root_key };
        let workloads = root.intermediate("workloads");
        let operators = root.intermediate("operators");
        Self { trust_domain: trust_domain.parse().expect("a trust domain"), root, workloads, operators }
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root, DER.
    pub fn root_der(&self) -> Vec<u8> {
        self.root.der.clone()
    }

    /// The operators' intermediate, DER.
    pub fn operators_der(&self) -> Vec<u8> {
        self.operators.der.clone()
    }

    /// Its bundle.
    pub fn bundle(&self) -> Bundle {
        Bundle::new(self.trust_domain.clone(), vec![self.root_der()], 1).expect("a bundle")
    }

    /// The ID of a workload.
    pub fn workload_id(&self, namespace: &str, service_account: &str) -> SpiffeId {
        SpiffeId::workload(self.trust_domain.clone(), name(namespace), name(service_account))
    }

    /// The SVID of a workload.
    pub fn workload(&self, namespace: &str, service_account: &str) -> Svid {
        self.issue(&Leaf::of(&self.workload_id(namespace, service_account)))
    }

    /// The SVID of an operator.
    pub fn operator(&self, operator: &str) -> Svid {
        self.issue(&Leaf::of(&SpiffeId::operator(self.trust_domain.clone(), name(operator))))
    }

    /// The SVID of the control plane.
    pub fn control_plane(&self) -> Svid {
        self.issue(&Leaf::of(&SpiffeId::control_plane(self.trust_domain.clone())))
    }

    /// The handle of whoever has `svid` and trusts this authority.
    pub fn identity(&self, svid: Svid) -> Identity {
        Identity::new(svid, self.bundle())
    }

    /// Issues a leaf that is a proper SVID.
    pub fn issue(&self, leaf: &Leaf) -> Svid {
        let (chain, key) = self.issue_raw(leaf);
        Svid::from_parts(chain, key).expect("an SVID")
    }

    /// Issues any leaf: its chain without the root, and its key.
    pub fn issue_raw(&self, leaf: &Leaf) -> (Vec<Vec<u8>>, Key) {
        let key = Key::generate().expect("a key");
        (self.chain(leaf, key.pair()), key)
    }

    /// Issues any leaf for the key of a signing request: its chain without the root.
    pub fn certify(&self, leaf: &Leaf, csr_der: &[u8]) -> Vec<Vec<u8>> {
        let request = CertificateSigningRequestParams::from_der(&csr_der.into()).expect("a request");
        self.chain(leaf, &request.public_key)
    }

    fn chain(&self, leaf: &Leaf, key: &impl PublicKeyData) -> Vec<Vec<u8>> {
        let (issuer, intermediate) = match leaf.under {
            Under::Workloads => (&self.workloads, Some(self.workloads.der.clone())),
            Under::Operators => (&self.operators, Some(self.operators.der.clone())),
            Under::Root => (&self.root, None),
        };
        let certificate = leaf.params().signed_by(key, &issuer.issuer()).expect("a leaf");
        std::iter::once(certificate.der().to_vec()).chain(intermediate).collect()
    }

    /// Issues a leaf with a key that has no business issuing: `chain`'s owner's.
    pub fn issue_under(chain: &[Vec<u8>], owner: &Key, leaf: &Leaf) -> (Vec<Vec<u8>>, Key) {
        let above = chain.first().expect("a chain").as_slice().into();
        let issuer = Issuer::from_ca_cert_der(&above, owner.pair()).expect("an issuer");
        let key = Key::generate().expect("a key");
        let certificate = leaf.params().signed_by(key.pair(), &issuer).expect("a leaf");
        let chain = std::iter::once(certificate.der().to_vec()).chain(chain.iter().cloned());
        (chain.collect(), key)
    }
}

impl Issued {
    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, self.key.pair())
    }

    fn intermediate(&self, name: &str) -> Self {
        let key = Key::generate().expect("a key");
        let params = authority_params(name);
        let der = params.signed_by(&key.pair(), &self.issuer()).expect("an intermediate").der().to_vec();
        Self { der, params, key }
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("outrigger {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * 30).into();
    params
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}
