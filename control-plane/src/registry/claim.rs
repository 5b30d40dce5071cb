//! One registration as its sidecar sent it, checked against its certificate.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use outrigger_core::model::{AppProtocol, Name, SpiffeId, Violation};
use outrigger_proto::{mesh::v1alpha1 as mesh, registry::v1alpha1 as proto};

const MAX_PAIRS: usize = 32;
const MAX_WEIGHT: u32 = 1_000;

/// Names a workload, `<namespace>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadName {
    /// Its identity's namespace.
    pub namespace: Name,
    /// Unique there.
    pub id: Name,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.id)
    }
}

/// One "listen = application" pair of a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// For `Service.targetPort`.
    pub name: Option<Name>,
    /// The application's own port.
    pub application_port: u16,
    /// What is spoken there.
    pub protocol: AppProtocol,
    /// Where peers dial.
    pub address: SocketAddr,
}

/// A registration that is well-formed and agrees with its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub name: WorkloadName,
    /// The certificate's; a workload's, always.
    pub identity: SpiffeId,
    /// Its namespace and service account.
    pub account: (Name, Name),
    /// 1 to 32; each name, application port and address once.
    pub pairs: Vec<Pair>,
    /// 1 to 1 000.
    pub weight: u32,
    /// Of two claims on one id the one with the higher epoch stands.
    pub epoch: u64,
}

/// Which addresses may be registered beyond those that any peer can reach.
#[derive(Debug, Clone, Copy, Default)]
pub struct AddressRules {
    /// For a mesh on one machine.
    pub allow_loopback: bool,
}

/// Why a registration is refused before anybody else's is looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClaim {
    /// The certificate is an operator's or the control plane's own.
    #[error("{0} is not the identity of a workload")]
    NotAWorkload(SpiffeId),
    /// The registration names somebody else.
    #[error("{field} '{claimed}' is not the one of the certificate, '{certified}'; leave it empty")]
    Foreign {
        /// Which field.
        field: &'static str,
        /// What it says.
        claimed: String,
        /// What it should say, if anything.
        certified: Name,
    },
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] Violation),
}

impl InvalidClaim {
    /// Stable, for metrics and the audit log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAWorkload(_) => "not_a_workload",
            Self::Foreign { .. } => "foreign_identity",
            Self::Field(_) => "invalid_registration",
        }
    }
}

impl Claim {
    /// Checks `workload`, sent by `identity`.
    ///
    /// # Errors
    /// It names another identity than `identity`, or a field is wrong.
    pub fn new(
        identity: &SpiffeId,
        workload: &proto::Workload,
        rules: AddressRules,
    ) -> Result<Self, InvalidClaim> {
        let (namespace, account) =
            identity.as_workload().ok_or_else(|| InvalidClaim::NotAWorkload(identity.clone()))?;
        same("namespace", &workload.namespace, namespace)?;
        same("service_account", &workload.service_account, account)?;
        let id: Name = workload
            .id
            .parse()
            .map_err(|invalid: outrigger_core::model::InvalidName| field("id", "invalid", invalid))?;
        if workload.weight > MAX_WEIGHT {
            return Err(field(
                "weight",
                "out_of_range",
                format!("{} is above {MAX_WEIGHT}", workload.weight),
            ));
        }
        Ok(Self {
            name: WorkloadName { namespace: namespace.clone(), id },
            identity: identity.clone(),
            account: (namespace.clone(), account.clone()),
            pairs: pairs(&workload.ports, rules)?,
            weight: workload.weight.max(1),
            epoch: workload.epoch,
        })
    }
}

fn same(name: &'static str, claimed: &str, certified: &Name) -> Result<(), InvalidClaim> {
    if claimed.is_empty() || claimed == certified.as_str() {
        return Ok(());
    }
    let claimed = claimed.chars().take(80).collect();
    Err(InvalidClaim::Foreign { field: name, claimed, certified: certified.clone() })
}

fn field(path: impl Into<String>, code: &'static str, message: impl fmt::Display) -> InvalidClaim {
    InvalidClaim::Field(Violation::error(path, code, message.to_string()))
}

fn pairs(ports: &[proto::WorkloadPort], rules: AddressRules) -> Result<Vec<Pair>, InvalidClaim> {
    if !(1..=MAX_PAIRS).contains(&ports.len()) {
        return Err(field("ports", "out_of_range", format!("{} ports; 1 to {MAX_PAIRS} are", ports.len())));
    }
    let (mut names, mut applications, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut pairs = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let pair = pair(&format!("ports[{index}]"), port, rules)?;
        if pair.name.clone().is_some_and(|name| !names.insert(name)) {
            return Err(field(format!("ports[{index}].name"), "duplicate", "the name is used twice"));
        }
        if !applications.insert(pair.application_port) {
            let path = format!("ports[{index}].application_port");
            return Err(field(path, "duplicate", "the application's port is there twice"));
        }
        if !addresses.insert(pair.address) {
            return Err(field(format!("ports[{index}].address"), "duplicate", "the address is there twice"));
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

fn pair(path: &str, port: &proto::WorkloadPort, rules: AddressRules) -> Result<Pair, InvalidClaim> {
    let name = match port.name.as_str() {
        "" => None,
        name => Some(name.parse().map_err(|invalid: outrigger_core::model::InvalidName| {
            field(format!("{path}.name"), "invalid", invalid)
        })?),
    };
    let ip = address(&port.address)
        .ok_or_else(|| field(format!("{path}.address"), "invalid", "an address has 4 or 16 bytes"))?;
    if let Some(why) = refused(ip, rules) {
        return Err(field(format!("{path}.address"), "invalid", format!("{ip} is {why}")));
    }
    Ok(Pair {
        name,
        application_port: number(port.application_port, || format!("{path}.application_port"))?,
        protocol: protocol(port.protocol)
            .ok_or_else(|| field(format!("{path}.protocol"), "invalid", "an unknown protocol"))?,
        address: SocketAddr::new(ip, number(port.port, || format!("{path}.port"))?),
    })
}

fn number(port: u32, path: impl FnOnce() -> String) -> Result<u16, InvalidClaim> {
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(field(path(), "out_of_range", format!("{port} is not 1 to 65535"))),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let ip = if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(bytes)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)
    };
    // One address has one owner, however it is written.
    Some(ip.to_canonical())
}

fn refused(ip: IpAddr, rules: AddressRules) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        Some("unspecified: peers cannot dial it")
    } else if ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast()) {
        Some("not the address of one machine")
    } else if link_local {
        Some("link-local: it means another machine on every link")
    } else if ip.is_loopback() && !rules.allow_loopback {
        Some("loopback: peers on other machines cannot dial it (registry.allow_loopback permits it)")
    } else {
        None
    }
}

fn protocol(value: i32) -> Option<AppProtocol> {
    Some(match mesh::AppProtocol::try_from(value).ok()? {
        mesh::AppProtocol::Unspecified => AppProtocol::Detect,
        mesh::AppProtocol::Tcp => AppProtocol::Tcp,
        mesh::AppProtocol::Http1 => AppProtocol::Http1,
        mesh::AppProtocol::Http2 => AppProtocol::Http2,
        mesh::AppProtocol::Grpc => AppProtocol::Grpc,
        mesh::AppProtocol::Tls => AppProtocol::Tls,
    })
}

/// The wire's name of a protocol.
pub(super) fn protocol_number(protocol: AppProtocol) -> i32 {
    let protocol = match protocol {
        AppProtocol::Detect => mesh::AppProtocol::Unspecified,
        AppProtocol::Tcp => mesh::AppProtocol::Tcp,
        AppProtocol::Http1 => mesh::AppProtocol::Http1,
        AppProtocol::Http2 => mesh::AppProtocol::Http2,
        AppProtocol::Grpc => mesh::AppProtocol::Grpc,
        AppProtocol::Tls => mesh::AppProtocol::Tls,
    };
    protocol.into()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn identity() -> SpiffeId {
        "spiffe://outrigger.local/ns/demo/sa/price".parse().unwrap()
    }

    fn workload(address: &[u8]) -> proto::Workload {
        proto::Workload {
            id: "price-1".to_owned(),
            ports: vec![proto::WorkloadPort {
                name: "http".to_owned(),
                application_port: 8080,
                protocol: 2,
                address: address.to_vec(),
                port: 17006,
            }],
            ..proto::Workload::default()
        }
    }

    fn check(workload: &proto::Workload) -> Result<Claim, InvalidClaim> {
        Claim::new(&identity(), workload, AddressRules::default())
    }

    #[test]
    fn a_claim_takes_its_name_from_the_certificate() {
        let claim = check(&workload(&[10, 0, 0, 1])).unwrap();
        assert_eq!(claim.name.to_string(), "demo/price-1");
        assert_eq!(claim.identity, identity());
        assert_eq!(claim.weight, 1);
        assert_eq!(claim.pairs[0].address, "10.0.0.1:17006".parse().unwrap());
    }

    #[test]
    fn another_namespace_or_account_is_refused() {
        let mut other = workload(&[10, 0, 0, 1]);
        other.namespace = "shop".to_owned();
        assert!(matches!(check(&other), Err(InvalidClaim::Foreign { field: "namespace", .. })));
        let mut other = workload(&[10, 0, 0, 1]);
        other.service_account = "till".to_owned();
        assert!(matches!(check(&other), Err(InvalidClaim::Foreign { field: "service_account", .. })));
        let operator = "spiffe://outrigger.local/outrigger/operator/admin".parse().unwrap();
        let refused = Claim::new(&operator, &workload(&[10, 0, 0, 1]), AddressRules::default());
        assert!(matches!(refused, Err(InvalidClaim::NotAWorkload(_))));
    }

    #[test]
    fn addresses_that_mean_nobody_or_somebody_else_are_refused() {
        let mapped_loopback = "::ffff:127.0.0.1".parse::<Ipv6Addr>().unwrap().octets();
        let link_local = "fe80::1".parse::<Ipv6Addr>().unwrap().octets();
        for bytes in [
            &[0, 0, 0, 0][..],
            &[127, 0, 0, 1],
            &[169, 254, 169, 254],
            &[224, 0, 0, 1],
            &[255, 255, 255, 255],
            &[10, 0, 0],
            &[],
            &Ipv6Addr::UNSPECIFIED.octets(),
            &Ipv6Addr::LOCALHOST.octets(),
            &mapped_loopback,
            &link_local,
        ] {
            let Err(InvalidClaim::Field(violation)) = check(&workload(bytes)) else {
                panic!("{bytes:?} was accepted")
            };
            assert_eq!(violation.field, "ports[0].address");
        }
        let loopback = AddressRules { allow_loopback: true };
        assert!(Claim::new(&identity(), &workload(&[127, 0, 0, 1]), loopback).is_ok());
    }

    #[test]
    fn a_mapped_address_is_the_address() {
        let mapped = "::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(check(&workload(&mapped)).unwrap(), check(&workload(&[10, 0, 0, 1])).unwrap());
    }

    #[test]
    fn wrong_fields_are_named() {
        let good = workload(&[10, 0, 0, 1]);
        let edit = |edit: fn(&mut proto::Workload)| {
            let mut workload = good.clone();
            edit(&mut workload);
            match check(&workload) {
                Err(InvalidClaim::Field(violation)) => violation.field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(edit(|w| w.id = "Price".to_owned()), "id");
        assert_eq!(edit(|w| w.weight = 1_001), "weight");
        assert_eq!(edit(|w| w.ports.clear()), "ports");
        assert_eq!(edit(|w| w.ports[0].port = 0), "ports[0].port");
        assert_eq!(edit(|w| w.ports[0].application_port = 65_536), "ports[0].application_port");
        assert_eq!(edit(|w| w.ports[0].protocol = 99), "ports[0].protocol");
        assert_eq!(edit(|w| w.ports.push(w.ports[0].clone())), "ports[1].name");
        assert_eq!(
            edit(|w| {
                let mut port = w.ports[0].clone();
                port.name.clear();
                port.application_port = 1;
                w.ports.push(port);
            }),
            "ports[1].address"
        );
    }
}
