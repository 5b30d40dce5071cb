//! One `listen = service` pair: an address on loopback that leads to one port of one service of the mesh, for clients
//! that know nothing of proxies.

use std::{fmt, net::SocketAddr, str::FromStr};

use http::uri::Authority;
use outrigger_core::{
    model::Name,
    names::{self, InvalidAuthority},
};
use outrigger_process::settings::address::{self, InvalidAddress};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::listed::Listed;

/// Where the own workload reaches one service. Written as text, `LISTEN=SERVICE[:PORT]`
/// (`127.0.0.1:9000=price.shop:80`), or as a table with the keys listen, service, port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceListener {
    /// Where the sidecar listens; loopback only.
    pub listen: SocketAddr,
    /// What whoever connects there is connected to.
    pub target: ServiceTarget,
}

/// A service and a port of it, in one of the forms in which the mesh names services: `price`, `price.shop`,
/// `price.shop.mesh`, `price.shop.svc.<domain>`. Without a port: the service's only one, or 80.
///
/// The own namespace and the mesh's domain are learnt later, so what it means is found out by each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTarget(Authority);

impl ServiceTarget {
    /// As it would be CONNECTed to, lower-case.
    pub fn authority(&self) -> &Authority {
        &self.0
    }
}

/// A pair that is not written as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServiceListener {
    /// No `LISTEN=SERVICE`.
    #[error("'{0}' has no 'LISTEN=SERVICE': write it like 127.0.0.1:9000=price.shop:80")]
    NoPair(String),
    /// An address that is none.
    #[error("listen: {0}")]
    Listen(InvalidAddress),
    /// Not written like a host and a port.
    #[error("service '{target}': {cause}; write it like price.shop:80")]
    Authority {
        /// What was given.
        target: String,
        /// What is wrong with it.
        cause: InvalidAuthority,
    },
    /// An address, or a name outside the mesh.
    #[error(
        "service '{0}' is outside the mesh: write price, price.shop, price.shop.mesh or \
         price.shop.svc.cluster.local"
    )]
    Outside(String),
    /// A table that gives two ports.
    #[error("service '{0}' has a port, and there is the key 'port': leave one out")]
    TwoPorts(String),
}

impl FromStr for ServiceTarget {
    type Err = InvalidServiceListener;

    fn from_str(text: &str) -> Result<Self, InvalidServiceListener> {
        let invalid = |cause| InvalidServiceListener::Authority { target: text.to_owned(), cause };
        let authority = text.to_ascii_lowercase();
        match resolve(&authority).map_err(invalid)? {
            names::Destination::Mesh { .. } => {
                let character = |_invalid| invalid(InvalidAuthority::Character);
                Authority::try_from(authority).map(Self).map_err(character)
            }
            names::Destination::External { .. } => Err(InvalidServiceListener::Outside(text.to_owned())),
        }
    }
}

/// Reads `authority` with whatever domain it names for that of the mesh, and any namespace for the own one: only the
/// form is of interest here.
fn resolve(authority: &str) -> Result<names::Destination, InvalidAuthority> {
    let host = authority.split(':').next().unwrap_or_default().trim_end_matches('.');
    let mut labels = host.splitn(4, '.').skip(2);
    let domain = match (labels.next(), labels.next()) {
        (Some("svc"), Some(domain)) => domain,
        _ => "",
    };
    let own: Name = "default".parse().map_err(|_not_a_name| InvalidAuthority::Host)?;
    names::resolve(authority, &own, domain)
}

impl FromStr for ServiceListener {
    type Err = InvalidServiceListener;

    fn from_str(text: &str) -> Result<Self, InvalidServiceListener> {
        let pair = text.split_once('=');
        let (listen, target) = pair.ok_or_else(|| InvalidServiceListener::NoPair(text.to_owned()))?;
        let (listen, target) = (listen.trim(), target.trim());
        let listen = address::parse(listen).map_err(InvalidServiceListener::Listen)?;
        Ok(Self { listen, target: target.parse()? })
    }
}

impl fmt::Display for ServiceTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ServiceListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.listen, self.target)
    }
}

impl Listed for ServiceListener {
    const FORM: &'static str = "LISTEN=SERVICE[:PORT]";
}

impl Serialize for ServiceListener {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The long spelling.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    listen: String,
    service: String,
    /// Any number: the short spelling knows which are ports.
    port: Option<i64>,
}

impl TryFrom<Table> for ServiceListener {
    type Error = InvalidServiceListener;

    fn try_from(Table { listen, service, port }: Table) -> Result<Self, InvalidServiceListener> {
        match port {
            Some(_) if service.contains(':') => Err(InvalidServiceListener::TwoPorts(service)),
            Some(port) => format!("{listen}={service}:{port}").parse(),
            None => format!("{listen}={service}").parse(),
        }
    }
}

impl<'de> Deserialize<'de> for ServiceListener {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ServiceListener;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("LISTEN=SERVICE[:PORT] or a table with the keys listen, service, port")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ServiceListener, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ServiceListener, A::Error> {
                // In its own words: an error with a path would be told of the list, which knows no such key.
                let table = Table::deserialize(de::value::MapAccessDeserializer::new(map));
                table.map_err(de::Error::custom)?.try_into().map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_of_a_name_is_read_and_survives_a_round_trip() {
        for (text, authority) in [
            ("127.0.0.1:9000=price", "price"),
            ("127.0.0.1:9000=price:80", "price:80"),
            ("127.0.0.1:9000=Price.Shop:80", "price.shop:80"),
            ("127.0.0.1:9000=price.shop.mesh:80", "price.shop.mesh:80"),
            ("127.0.0.1:9000=price.shop.svc.cluster.local", "price.shop.svc.cluster.local"),
            ("[::1]:0=price.shop.svc.example.org:5432", "price.shop.svc.example.org:5432"),
        ] {
            let listener: ServiceListener = text.parse().unwrap();
            assert_eq!(listener.target.authority().as_str(), authority);
            assert_eq!(listener.to_string().parse::<ServiceListener>().unwrap(), listener);
        }
    }

    #[test]
    fn a_wrong_pair_says_what_is_wrong() {
        for (text, expected) in [
            ("", "has no 'LISTEN=SERVICE'"),
            ("127.0.0.1:9000", "write it like 127.0.0.1:9000=price.shop:80"),
            ("localhost:9000=price", "listen: 'localhost' is a name, and names are not looked up here"),
            ("9000=price", "listen: '9000' has no address; write it before the port, such as 127.0.0.1:9000"),
            ("127.0.0.1:9000=", "the authority has no host"),
            ("127.0.0.1:9000=price:0", "not a number from 1 to 65535"),
            ("127.0.0.1:9000=pri/ce", "a character that is not allowed"),
            ("127.0.0.1:9000=a.price.shop.mesh", "service 'a.price.shop.mesh': "),
            ("127.0.0.1:9000=www.example.org:443", "is outside the mesh"),
            ("127.0.0.1:9000=price.shop.pod.cluster.local", "is outside the mesh"),
            ("127.0.0.1:9000=127.0.0.1:8080", "is outside the mesh"),
            ("127.0.0.1:9000=[::1]:8080", "is outside the mesh"),
            ("127.0.0.1:9000=localhost:8080", "is outside the mesh"),
            ("127.0.0.1:9000=169.254.1", "looks like an address"),
        ] {
            let error = text.parse::<ServiceListener>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(text in "(127\\.0\\.0\\.1:[0-9]{1,5}=)?\\PC{0,40}") {
            if let Ok(listener) = text.parse::<ServiceListener>() {
                prop_assert_eq!(listener.to_string().parse::<ServiceListener>(), Ok(listener));
            }
        }
    }
}
