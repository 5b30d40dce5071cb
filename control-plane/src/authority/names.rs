//! By what DNS names and addresses the control plane may be dialled: they are in its certificate, beside its identity, for
//! clients that know a server by nothing else, as gRPC's stock ones (RFC 5280 §4.2.1.6, RFC 9525). Nobody's identity is
//! in them: our own command and proxies look at the URI alone.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use rcgen::SanType;
use rustls::pki_types::DnsName;

/// More would make the certificate, which is in every handshake, large.
pub const MAX_PORT_NAMES: usize = 64;

/// Why a text is no name to dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPortName {
    /// Something else, a wildcard or a name with a port included.
    #[error("'{0}' is neither a DNS name nor an IP address")]
    Neither(String),
    /// It stands for every address, and nobody dials it.
    #[error("{0} stands for every address, and no client dials it")]
    Unspecified(IpAddr),
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortName {
    /// In lower case, without a final dot.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl FromStr for PortName {
    type Err = InvalidPortName;

    fn from_str(text: &str) -> Result<Self, InvalidPortName> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return match address.is_unspecified() {
                true => Err(InvalidPortName::Unspecified(address)),
                false => Ok(Self::Ip(address)),
            };
        }
        match DnsName::try_from(text) {
            // With its dot a name in a certificate is malformed, and makes all of them useless.
            Ok(name) if !text.ends_with('.') => Ok(Self::Dns(name.as_ref().to_ascii_lowercase())),
            _ => Err(InvalidPortName::Neither(text.to_owned())),
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

/// All of them, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortNames(BTreeSet<PortName>);

impl PortNames {
    /// Those that the settings say.
    ///
    /// # Errors
    /// The first that is none.
    pub fn given<T: AsRef<str>>(names: &[T]) -> Result<Self, InvalidPortName> {
        names.iter().map(|name| name.as_ref().parse()).collect::<Result<_, _>>().map(Self)
    }

    /// Those that can be known without being told: `localhost`, the machine's own name (`host`) if it is one of DNS, and
    /// `listen`, or the loopback addresses if that is every address.
    pub fn known(listen: IpAddr, host: &str) -> Self {
        let mut names = BTreeSet::from([PortName::Dns("localhost".to_owned())]);
        names.extend(host.parse::<PortName>().ok().filter(|name| matches!(name, PortName::Dns(_))));
        if listen.is_unspecified() {
            names.insert(PortName::Ip(Ipv4Addr::LOCALHOST.into()));
            names.insert(PortName::Ip(Ipv6Addr::LOCALHOST.into()));
        } else {
            names.insert(PortName::Ip(listen));
        }
        Self(names)
    }

    /// As they stand in a certificate.
    pub(super) fn alternative_names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let name = |name: &PortName| match name {
            PortName::Dns(name) => Ok(SanType::DnsName(name.as_str().try_into()?)),
            PortName::Ip(address) => Ok(SanType::IpAddress(*address)),
        };
        self.0.iter().map(name).collect()
    }
}

impl fmt::Display for PortNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_client_can_dial_is_a_name() {
        for (text, read) in [
            ("Mesh.Example.COM", "mesh.example.com"),
            ("localhost", "localhost"),
            ("a_b.example", "a_b.example"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:DB8::7", "2001:db8::7"),
        ] {
            assert_eq!(text.parse::<PortName>().unwrap().to_string(), read);
        }
        for text in [
            "",
            "*.example.com",
            "mesh.example.com.",
            "mesh.example.com:17100",
            "192.0.2.7:17100",
            "[::1]",
            "-mesh",
            "mesh example",
            "https://mesh.example.com",
            "mésh.example",
            "192.0.2",
            "0.0.0.0",
            "::",
        ] {
            assert!(text.parse::<PortName>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_known_without_being_told_follows_the_listener() {
        let known = |listen: &str, host: &str| PortNames::known(listen.parse().unwrap(), host).to_string();
        assert_eq!(known("192.0.2.7", "Node-1"), "localhost node-1 192.0.2.7");
        assert_eq!(known("127.0.0.1", "localhost"), "localhost 127.0.0.1");
        assert_eq!(known("0.0.0.0", "(none)"), "localhost 127.0.0.1 ::1");
        assert_eq!(known("::", "node-1.example"), "localhost node-1.example 127.0.0.1 ::1");
    }
}
