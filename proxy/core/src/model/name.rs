//! Names: DNS labels, services, trust domains, SPIFFE IDs.

use std::{fmt, str::FromStr, sync::Arc};

/// A name that does not follow its grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{value}' is not {expected}")]
pub struct InvalidName {
    /// What was given, cut to 80 characters.
    pub value: String,
    /// What it should be: "a DNS label: 1 to 63 of a-z, 0-9 and '-', ...".
    pub expected: &'static str,
}

impl InvalidName {
    fn new(value: &str, expected: &'static str) -> Self {
        Self { value: value.chars().take(80).collect(), expected }
    }
}

/// A DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9`, `-`, neither first nor last a `-`. Names objects, namespaces,
/// service accounts and ports. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(value: &str) -> Result<Self, InvalidName> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
        let bytes = value.as_bytes();
        if bytes.len() <= 63
            && bytes.iter().all(|byte| legal(*byte))
            && edge(bytes.first())
            && edge(bytes.last())
        {
            Ok(Self(Arc::from(value)))
        } else {
            Err(InvalidName::new(
                value,
                "a DNS label: 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit",
            ))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A service's full name, `<namespace>/<name>`: also the name of its resource on the wire.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Where it lives.
    pub namespace: Name,
    /// What it is called there.
    pub name: Name,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceName {
    type Err = InvalidName;

    fn from_str(value: &str) -> Result<Self, InvalidName> {
        let (namespace, name) = value
            .split_once('/')
            .ok_or_else(|| InvalidName::new(value, "a service name: <namespace>/<name>"))?;
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

/// The naming root of identities (SPIFFE ID §2.1): 1 to 255 of `a-z`, `0-9`, `.`, `-`, `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidName;

    fn from_str(value: &str) -> Result<Self, InvalidName> {
        let legal = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        };
        if (1..=255).contains(&value.len()) && value.bytes().all(legal) {
            Ok(Self(Arc::from(value)))
        } else {
            Err(InvalidName::new(value, "a trust domain: 1 to 255 of a-z, 0-9, '.', '-' and '_'"))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// What an identity may be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentityKind {
    /// `/ns/<namespace>/sa/<service account>`: a workload of the mesh.
    Workload {
        /// Its namespace.
        namespace: Name,
        /// Its service account.
        service_account: Name,
    },
    /// `/outrigger/control-plane`.
    ControlPlane,
    /// `/outrigger/operator/<name>`: a person or program that calls the policy API.
    Operator {
        /// Its name.
        name: Name,
    },
}

/// A SPIFFE ID of one of our three kinds; everything else is refused at the parse. Cheap to clone: each request names
/// two.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(Arc<Identity>);

#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Identity {
    trust_domain: TrustDomain,
    kind: IdentityKind,
    uri: String,
}

impl SpiffeId {
    /// Builds the ID of `kind` in `trust_domain`.
    pub fn new(trust_domain: TrustDomain, kind: IdentityKind) -> Self {
        let path = match &kind {
            IdentityKind::Workload { namespace, service_account } => {
                format!("ns/{namespace}/sa/{service_account}")
            }
            IdentityKind::ControlPlane => "outrigger/control-plane".to_owned(),
            IdentityKind::Operator { name } => format!("outrigger/operator/{name}"),
        };
        let uri = format!("spiffe://{trust_domain}/{path}");
        Self(Arc::new(Identity { trust_domain, kind, uri }))
    }

    /// The ID of a workload.
    pub fn workload(trust_domain: TrustDomain, namespace: Name, service_account: Name) -> Self {
        Self::new(trust_domain, IdentityKind::Workload { namespace, service_account })
    }

    /// The ID of the control plane.
    pub fn control_plane(trust_domain: TrustDomain) -> Self {
        Self::new(trust_domain, IdentityKind::ControlPlane)
    }

    /// The ID of an operator.
    pub fn operator(trust_domain: TrustDomain, name: Name) -> Self {
        Self::new(trust_domain, IdentityKind::Operator { name })
    }

    /// The URI, `spiffe://...`.
    pub fn as_str(&self) -> &str {
        &self.0.uri
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// What it names.
    pub fn kind(&self) -> &IdentityKind {
        &self.0.kind
    }

    /// Namespace and service account of a workload; `None` for the reserved kinds.
    pub fn as_workload(&self) -> Option<(&Name, &Name)> {
        match &self.0.kind {
            IdentityKind::Workload { namespace, service_account } => Some((namespace, service_account)),
            IdentityKind::ControlPlane | IdentityKind::Operator { .. } => None,
        }
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidName;

    fn from_str(value: &str) -> Result<Self, InvalidName> {
        let invalid = || {
            InvalidName::new(
                value,
                "a SPIFFE ID of the mesh: spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>",
            )
        };
        let (trust_domain, path) =
            value.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or_else(invalid)?;
        let trust_domain: TrustDomain = trust_domain.parse()?;
        let mut segments = path.split('/');
        let kind = match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
        {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                IdentityKind::Workload { namespace: namespace.parse()?, service_account: account.parse()? }
            }
            (Some("outrigger"), Some("control-plane"), None, None, None) => IdentityKind::ControlPlane,
            (Some("outrigger"), Some("operator"), Some(name), None, None) => {
                IdentityKind::Operator { name: name.parse()? }
            }
            _ => return Err(invalid()),
        };
        Ok(Self::new(trust_domain, kind))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_a_round_trip() {
        for uri in [
            "spiffe://outrigger.local/ns/demo/sa/price",
            "spiffe://outrigger.local/outrigger/control-plane",
            "spiffe://outrigger.local/outrigger/operator/admin",
        ] {
            assert_eq!(uri.parse::<SpiffeId>().unwrap().as_str(), uri);
        }
    }

    #[test]
    fn other_paths_schemes_and_cases_are_refused() {
        for uri in [
            "",
            "https://outrigger.local/ns/demo/sa/price",
            "spiffe://Outrigger.local/ns/demo/sa/price",
            "spiffe:///ns/demo/sa/price",
            "spiffe://outrigger.local/ns/demo/sa/price/",
            "spiffe://outrigger.local/ns/demo/sa/price/x",
            "spiffe://outrigger.local/ns/demo/sa/",
            "spiffe://outrigger.local/ns/../sa/price",
            "spiffe://outrigger.local/outrigger/other",
            "spiffe://outrigger.local/ns/demo/sa/price?x",
        ] {
            assert!(uri.parse::<SpiffeId>().is_err(), "{uri}");
        }
    }

    #[test]
    fn a_name_is_a_dns_label() {
        assert!("price-2".parse::<Name>().is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
