//! What an authority (`Host`, `:authority`, the target of CONNECT) names: a service of the mesh or something outside.
//!
//! The bias: what ends in a suffix of the mesh is never treated as external, so that a typing error cannot send mesh
//! traffic past mutual TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::{Name, ServiceName};

/// Suffix that always means the mesh, whatever the cluster's domain.
const MESH_SUFFIX: &str = "mesh";
/// RFC 1035 §2.3.4, without the trailing dot.
const MAX_HOST: usize = 253;

/// What an authority names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A service of the mesh.
    Mesh {
        /// Which.
        service: ServiceName,
        /// As given; `None`: the scheme's default.
        port: Option<u16>,
        /// `false` for `svc.ns`, which might as well be a two-label name of the internet: if the control plane does
        /// not know it, it may be tried as an external one, where those are allowed.
        certain: bool,
    },
    /// A name or address outside the mesh, `localhost` and all addresses included. Whether it may be dialled is decided
    /// on the address that is dialled, not here.
    External {
        /// Lower-case, without a trailing dot; an IPv6 address without brackets.
        host: String,
        /// As given; `None`: the scheme's default.
        port: Option<u16>,
    },
}

/// An authority that names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthority {
    /// There is no host.
    #[error("the authority has no host")]
    Empty,
    /// User information, a path, a zone, or a character that no host has.
    #[error("the authority has a character that is not allowed in a host")]
    Character,
    /// A label that is empty or longer than 63, or more than 253 characters in all.
    #[error("the authority's host is not a DNS name")]
    Host,
    /// Not 1 to 65535.
    #[error("the authority's port is not a number from 1 to 65535")]
    Port,
    /// It ends like an address, but is not written like one (`127.1`, `0x7f.0.0.1`): resolvers disagree about those.
    #[error("the authority's host looks like an address, but is not one in its usual form")]
    Address,
    /// Ends in a suffix of the mesh, but has not the form `<service>.<namespace>.<suffix>`.
    #[error("the authority lies in the mesh's own domain, but does not name a service")]
    NotAService,
}

/// Says what `authority` names for a workload of `own_namespace`. `cluster_domain` is compared without regard to case.
///
/// `svc`, `svc.ns`, `svc.ns.svc.<cluster domain>` and `svc.ns.mesh` are names of the mesh, with or without a trailing
/// dot and in any case.
///
/// # Errors
/// By cause; see [`InvalidAuthority`].
pub fn resolve(
    authority: &str,
    own_namespace: &Name,
    cluster_domain: &str,
) -> Result<Destination, InvalidAuthority> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(InvalidAuthority::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_not_an_address| InvalidAuthority::Address)?;
        let port = match port {
            "" => None,
            port => parse_port(port.strip_prefix(':').ok_or(InvalidAuthority::Character)?)?,
        };
        return Ok(external(IpAddr::V6(address).to_string(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, parse_port(port)?),
        None => (authority, None),
    };
    let host = checked_host(host)?;
    if let Some(service) = mesh_suffix(&host, cluster_domain) {
        return match service?.split_once('.') {
            Some((name, namespace)) => mesh(name, namespace, port, true).ok_or(InvalidAuthority::NotAService),
            None => Err(InvalidAuthority::NotAService),
        };
    }
    if host.parse::<Ipv4Addr>().is_ok() {
        return Ok(external(host, port));
    }
    if ends_in_a_number(&host) {
        return Err(InvalidAuthority::Address);
    }
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(external(host, port));
    }
    let found = match host.split_once('.') {
        None => mesh(&host, own_namespace.as_str(), port, true),
        Some((name, namespace)) if !namespace.contains('.') => mesh(name, namespace, port, false),
        Some(_) => None,
    };
    Ok(found.unwrap_or_else(|| external(host, port)))
}

fn external(host: String, port: Option<u16>) -> Destination {
    Destination::External { host, port }
}

fn mesh(name: &str, namespace: &str, port: Option<u16>, certain: bool) -> Option<Destination> {
    let service = ServiceName { namespace: namespace.parse().ok()?, name: name.parse().ok()? };
    Some(Destination::Mesh { service, port, certain })
}

/// What stands before the suffix of the mesh that `host` ends in; an error when nothing of use does.
fn mesh_suffix<'a>(host: &'a str, cluster_domain: &str) -> Option<Result<&'a str, InvalidAuthority>> {
    if let Some(service) = strip_domain(host, MESH_SUFFIX) {
        return Some(Ok(service));
    }
    let inside = strip_domain(host, cluster_domain)?;
    Some(strip_domain(inside, "svc").ok_or(InvalidAuthority::NotAService))
}

/// `host` without `.domain` at its end; `Some("")` when it is the domain itself.
fn strip_domain<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let start = host.len().checked_sub(domain.len())?;
    let (rest, tail) = host.split_at_checked(start)?;
    if domain.is_empty() || !tail.eq_ignore_ascii_case(domain) {
        return None;
    }
    // A single label `mesh` is a service of that name in the own namespace; a cluster domain never is one.
    if rest.is_empty() && domain.contains('.') {
        return Some("");
    }
    rest.strip_suffix('.')
}

/// RFC 3986 allows an empty port.
fn parse_port(text: &str) -> Result<Option<u16>, InvalidAuthority> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidAuthority::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(InvalidAuthority::Port),
        Ok(port) => Ok(Some(port)),
    }
}

/// Lower-case and without its trailing dot. Underscores are no host name's (RFC 952), but are in use.
fn checked_host(host: &str) -> Result<String, InvalidAuthority> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(InvalidAuthority::Empty);
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !host.bytes().all(legal) {
        return Err(InvalidAuthority::Character);
    }
    if host.len() > MAX_HOST || host.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(InvalidAuthority::Host);
    }
    Ok(host.to_ascii_lowercase())
}

/// "Ends in a number" of the URL standard: parsers of old take such a name for an address.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal =
        last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolved(authority: &str) -> Result<Destination, InvalidAuthority> {
        resolve(authority, &"shop".parse().unwrap(), "cluster.local")
    }

    fn service(name: &str, port: Option<u16>, certain: bool) -> Result<Destination, InvalidAuthority> {
        Ok(Destination::Mesh { service: name.parse().unwrap(), port, certain })
    }

    fn outside(host: &str, port: Option<u16>) -> Result<Destination, InvalidAuthority> {
        Ok(external(host.to_owned(), port))
    }

    #[test]
    fn the_four_forms_name_a_service() {
        assert_eq!(resolved("price"), service("shop/price", None, true));
        assert_eq!(resolved("price:80"), service("shop/price", Some(80), true));
        assert_eq!(resolved("price.demo"), service("demo/price", None, false));
        assert_eq!(resolved("price.demo.mesh:8080"), service("demo/price", Some(8080), true));
        assert_eq!(resolved("price.demo.svc.cluster.local"), service("demo/price", None, true));
        assert_eq!(resolved("mesh"), service("shop/mesh", None, true));
    }

    #[test]
    fn case_and_a_trailing_dot_do_not_matter() {
        assert_eq!(resolved("Price.Demo.SVC.Cluster.Local.:80"), service("demo/price", Some(80), true));
        assert_eq!(resolved("PRICE."), service("shop/price", None, true));
        assert_eq!(
            resolve("a.b.svc.example.org", &"shop".parse().unwrap(), "Example.ORG"),
            service("b/a", None, true)
        );
    }

    #[test]
    fn addresses_and_other_names_are_external() {
        for (authority, host, port) in [
            ("localhost:80", "localhost", Some(80)),
            ("a.localhost", "a.localhost", None),
            ("127.0.0.1", "127.0.0.1", None),
            ("10.0.0.1:443", "10.0.0.1", Some(443)),
            ("[::1]:80", "::1", Some(80)),
            ("[2001:DB8::0:1]", "2001:db8::1", None),
            ("www.example.org:443", "www.example.org", Some(443)),
            ("my_host", "my_host", None),
            ("example.org:", "", None),
        ] {
            if host.is_empty() {
                assert_eq!(resolved(authority), service("org/example", None, false));
            } else {
                assert_eq!(resolved(authority), outside(host, port), "{authority}");
            }
        }
    }

    #[test]
    fn what_lies_in_the_meshs_domain_is_never_external() {
        for authority in [
            "cluster.local",
            "svc.cluster.local",
            "price.svc.cluster.local",
            "pod.price.demo.svc.cluster.local",
            "10-0-0-1.demo.pod.cluster.local",
            "demo.mesh",
            "a.price.demo.mesh",
            "pr_ice.demo.mesh",
        ] {
            assert_eq!(resolved(authority), Err(InvalidAuthority::NotAService), "{authority}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused_by_cause() {
        use InvalidAuthority as No;
        for (authority, cause) in [
            ("", No::Empty),
            (".", No::Empty),
            (":80", No::Empty),
            ("user@price", No::Character),
            ("price/x", No::Character),
            ("pr ice", No::Character),
            ("[::1]80", No::Character),
            ("préis", No::Character),
            ("a..b", No::Host),
            ("[::1", No::Host),
            ("::1", No::Port),
            ("price:0", No::Port),
            ("price:65536", No::Port),
            ("price:+80", No::Port),
            ("price:80:80", No::Port),
            ("127.1", No::Address),
            ("2130706433", No::Address),
            ("0x7f.0.0.0x1", No::Address),
            ("1.2.3.4.5", No::Address),
            ("[127.0.0.1]", No::Address),
            ("[fe80::1%eth0]", No::Address),
        ] {
            assert_eq!(resolved(authority), Err(cause), "{authority}");
        }
        assert_eq!(resolved(&"a".repeat(64)), Err(No::Host));
        assert_eq!(resolved(&"a.".repeat(128)), Err(No::Host));
    }

    proptest! {
        #[test]
        fn no_input_panics_and_every_service_has_its_full_name(authority in "\\PC{0,80}") {
            if let Ok(Destination::Mesh { service: found, .. }) = resolved(&authority) {
                let full = format!("{}.{}.mesh", found.name, found.namespace);
                prop_assert_eq!(resolved(&full), service(&found.to_string(), None, true));
            }
        }
    }
}
