//! Opaque tunnels to names outside the mesh: CONNECT to port 443 of public addresses, where the mesh allows it. What is
//! checked is the address that is dialled, not the name that it came from.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::OnceLock,
    time::Duration,
};

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use outrigger_core::reason::Reason;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    accept,
    http::Transport,
    tcp::{self, Side},
};

/// DNS and TCP together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// A tunnel through which nothing goes in either direction.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Dials `host`, if one of its addresses may be dialled.
pub(crate) async fn open(
    host: &str,
    port: u16,
    resolver: &OnceLock<TokioResolver>,
    never_dialled: &[IpAddr],
) -> Result<TcpStream, Reason> {
    let opened = timeout(OPEN_TIMEOUT, async {
        let addresses = addresses(host, resolver).await?;
        let allowed = allowed(&addresses, never_dialled)?;
        let mut last = Reason::NameUnresolved;
        for address in allowed.into_iter().take(MAX_ADDRESSES) {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => {
                    accept::tune(&stream);
                    return Ok(stream);
                }
                Err(error) => {
                    tracing::debug!(%error, upstream.addr = %address, "connection refused");
                    last = Reason::ConnectFailed;
                }
            }
        }
        Err(last)
    });
    opened.await.map_err(|_elapsed| Reason::ConnectTimeout)?
}

async fn addresses(host: &str, resolver: &OnceLock<TokioResolver>) -> Result<Vec<IpAddr>, Reason> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    // Resolvers read `localhost` from the hosts file or invent it; no name of it is outside.
    if host == "localhost" || host.ends_with(".localhost") {
        return Err(Reason::ExternalDenied);
    }
    let unresolved = |error: &dyn std::error::Error| {
        tracing::debug!(%error, host, "name not resolved");
        Reason::NameUnresolved
    };
    let resolver = match resolver.get() {
        Some(resolver) => resolver,
        None => {
            let built = TokioResolver::builder_tokio().and_then(|builder| builder.build());
            let built = built.map_err(|error| unresolved(&error))?;
            resolver.get_or_init(|| built)
        }
    };
    let answer = resolver.lookup_ip(host).await.map_err(|error| unresolved(&error))?;
    Ok(answer.iter().collect())
}

/// A name that has both kinds of addresses is refused whole: it is how an attacker walks past a check.
fn allowed(addresses: &[IpAddr], never_dialled: &[IpAddr]) -> Result<Vec<IpAddr>, Reason> {
    if addresses.is_empty() {
        return Err(Reason::NameUnresolved);
    }
    let forbidden = |address: &IpAddr| {
        !is_public(*address) || never_dialled.contains(&address.to_canonical()) || is_own(*address)
    };
    if addresses.iter().any(forbidden) {
        return Err(Reason::ExternalDenied);
    }
    Ok(addresses.to_vec())
}

/// Whether an address is this machine's: only then would it itself be the source of what is sent there. Nothing is sent.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 443))?;
        socket.local_addr()
    });
    address.to_canonical().is_loopback()
        || source.is_ok_and(|source| source.ip().to_canonical() == address.to_canonical())
}

/// Whether an address belongs to somebody on the internet: not to this machine, its link, a private network, a metadata
/// service, or a group.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a >= 240
        // Carrier-grade NAT, where a cloud keeps its metadata (100.100.100.200).
        || (a == 100 && (64..128).contains(&b))
        // IETF assignments, another cloud's metadata (192.0.0.192) among them.
        || (a == 192 && b == 0 && c == 0)
        // Relays to IPv6, withdrawn.
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        // A cloud's metadata at an address that looks like anybody's.
        || address == Ipv4Addr::new(168, 63, 129, 16))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // NAT64 and 6to4 reach an IPv4 address inside. Of NAT64 only the well-known prefix: where a local one
        // (64:ff9b:1::/48) keeps the address is its operator's choice.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        // IETF assignments, Teredo among them, and documentation.
        [0x2001, 0..0x200 | 0xdb8, ..] | [0x3fff, 0..0x1000, ..] => false,
        // Global unicast is 2000::/3.
        [first, ..] => (first & 0xe000) == 0x2000,
    }
}

/// Copies both ways until the tunnel is over. `prefix` was read from the downstream already.
pub(crate) async fn relay<D: Transport, U: Transport>(downstream: D, prefix: Bytes, upstream: U) {
    let (downstream, upstream) = (Side::new(downstream, prefix), Side::new(upstream, Bytes::new()));
    let tcp::Ended { sent, received, why, error } =
        tcp::relay(downstream, upstream, IDLE_TIMEOUT, std::future::pending()).await;
    let error = error.as_ref().map(tracing::field::display);
    tracing::debug!(sent, received, ?why, error, "tunnel ended");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_may_be_dialled() {
        for address in ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "64:ff9b::1.1.1.1", "::ffff:1.1.1.1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "2002:7f00:1::",
            "2002:a00:1::",
            "64:ff9b:1:a9fe:a9:fe00:101:101",
            "64:ff9b:0:1::101:101",
            "2001:2::1",
            "3fff::1",
            "168.63.129.16",
            "192.88.99.1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_address_of_this_machine_is_its_own() {
        for own in ["127.0.0.1", "127.1.2.3", "::ffff:127.0.0.1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in ["192.0.2.1", "2001:db8::1", "1.1.1.1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn a_name_with_one_forbidden_address_is_refused_whole() {
        let parse =
            |addresses: &[&str]| addresses.iter().map(|a| a.parse().unwrap()).collect::<Vec<IpAddr>>();
        let public = parse(&["1.1.1.1", "2606:4700::1111"]);
        assert_eq!(allowed(&public, &[]), Ok(public.clone()));
        assert_eq!(allowed(&parse(&["1.1.1.1", "127.0.0.1"]), &[]), Err(Reason::ExternalDenied));
        assert_eq!(allowed(&public, &parse(&["1.1.1.1"])), Err(Reason::ExternalDenied));
        assert_eq!(allowed(&parse(&["::ffff:1.1.1.1"]), &parse(&["1.1.1.1"])), Err(Reason::ExternalDenied));
        assert_eq!(allowed(&[], &[]), Err(Reason::NameUnresolved));
    }
}
