//! One `listen = application` pair: how it is written, and what it means.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use outrigger_core::model::{AppProtocol, Name};
use outrigger_process::settings::address::{self, InvalidAddress};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::listed::Listed;

/// Where peers of the mesh reach one port of the application. Written as text,
/// `LISTEN=APP[,name=NAME][,protocol=PROTOCOL][,advertise=IP:PORT]`, or as a table with these keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// Name of the port, for a service's `targetPort`.
    pub name: Option<Name>,
    /// Where the sidecar listens for its peers, with mutual TLS.
    pub listen: SocketAddr,
    /// Where the application listens, in plain.
    pub app: SocketAddr,
    /// What the application speaks there.
    pub protocol: InboundProtocol,
    /// What peers are told to dial, when that is not `listen`: behind a port mapping, or when `listen` is `0.0.0.0`
    /// on a machine with several addresses.
    pub advertise: Option<SocketAddr>,
}

/// What an application speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InboundProtocol {
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC: HTTP/2 with prior knowledge.
    Grpc,
    /// Opaque bytes, the application's own TLS included.
    Tcp,
    /// Whatever the caller's sidecar says it carries: HTTP of the caller's version, or opaque bytes.
    #[default]
    Detect,
}

impl InboundProtocol {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Grpc, Self::Tcp, Self::Detect];

    /// As it is written in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Detect => "detect",
        }
    }
}

impl FromStr for InboundProtocol {
    type Err = InvalidInbound;

    fn from_str(word: &str) -> Result<Self, InvalidInbound> {
        let found = Self::ALL.into_iter().find(|protocol| protocol.as_str() == word);
        found.ok_or_else(|| InvalidInbound::Protocol(word.to_owned()))
    }
}

impl From<InboundProtocol> for AppProtocol {
    fn from(protocol: InboundProtocol) -> Self {
        match protocol {
            InboundProtocol::Http1 => Self::Http1,
            InboundProtocol::Http2 => Self::Http2,
            InboundProtocol::Grpc => Self::Grpc,
            InboundProtocol::Tcp => Self::Tcp,
            InboundProtocol::Detect => Self::Detect,
        }
    }
}

/// A pair that is not written as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInbound {
    /// No `LISTEN=APP`.
    #[error("'{0}' has no 'LISTEN=APP': write it like 0.0.0.0:17006=127.0.0.1:8080")]
    NoPair(String),
    /// An address that is none.
    #[error("{key}: {cause}")]
    Address {
        /// Which of the addresses.
        key: &'static str,
        /// What is wrong with it.
        cause: InvalidAddress,
    },
    /// A key that is not known here.
    #[error("'{0}' is not one of listen, app, name, protocol, advertise")]
    Key(String),
    /// A key given twice.
    #[error("'{0}' is given twice")]
    Twice(&'static str),
    /// A bad port name.
    #[error(transparent)]
    Name(#[from] outrigger_core::model::InvalidName),
    /// A word for no protocol.
    #[error("protocol '{0}' is not one of http1, http2, grpc, tcp, detect")]
    Protocol(String),
}

#[derive(Default)]
struct Parts {
    listen: Option<SocketAddr>,
    app: Option<SocketAddr>,
    name: Option<Name>,
    protocol: Option<InboundProtocol>,
    advertise: Option<SocketAddr>,
}

impl Parts {
    fn put(&mut self, key: &str, value: &str) -> Result<(), InvalidInbound> {
        match key {
            "listen" => once("listen", &mut self.listen, read_address("listen", value)?),
            "app" => once("app", &mut self.app, read_address("app", value)?),
            "advertise" => once("advertise", &mut self.advertise, read_address("advertise", value)?),
            "name" => once("name", &mut self.name, value.parse()?),
            "protocol" => once("protocol", &mut self.protocol, value.parse()?),
            _ => Err(InvalidInbound::Key(key.to_owned())),
        }
    }
}

fn once<T>(key: &'static str, slot: &mut Option<T>, value: T) -> Result<(), InvalidInbound> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(InvalidInbound::Twice(key)),
    }
}

fn read_address(key: &'static str, value: &str) -> Result<SocketAddr, InvalidInbound> {
    address::parse(value).map_err(|cause| InvalidInbound::Address { key, cause })
}

/// A port without an address, or an address without a port: whoever wrote it meant no key.
fn is_half_an_address(key: &str) -> bool {
    key.trim().parse::<u16>().is_ok() || key.trim().parse::<IpAddr>().is_ok()
}

impl FromStr for Inbound {
    type Err = InvalidInbound;

    fn from_str(text: &str) -> Result<Self, InvalidInbound> {
        let mut parts = Parts::default();
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(|| InvalidInbound::NoPair(text.to_owned()))?;
            // "LISTEN=APP" has an address where the others have a key, or half of one.
            if key.contains(':') || is_half_an_address(key) {
                parts.put("listen", key)?;
                parts.put("app", value)?;
            } else {
                parts.put(key.trim(), value.trim())?;
            }
        }
        match (parts.listen, parts.app) {
            (Some(listen), Some(app)) => Ok(Self {
                name: parts.name,
                listen,
                app,
                protocol: parts.protocol.unwrap_or_default(),
                advertise: parts.advertise,
            }),
            _ => Err(InvalidInbound::NoPair(text.to_owned())),
        }
    }
}

impl fmt::Display for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.listen, self.app)?;
        if let Some(name) = &self.name {
            write!(f, ",name={name}")?;
        }
        write!(f, ",protocol={}", self.protocol.as_str())?;
        if let Some(advertise) = self.advertise {
            write!(f, ",advertise={advertise}")?;
        }
        Ok(())
    }
}

impl Listed for Inbound {
    const FORM: &'static str = "LISTEN=APP[,name=..][,protocol=..][,advertise=..]";
}

impl Serialize for Inbound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Inbound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Inbound;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("LISTEN=APP[,name=..][,protocol=..][,advertise=..] or a table with these keys")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Inbound, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Inbound, A::Error> {
                let mut text = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    text.push(format!("{key}={value}"));
                }
                text.join(",").parse().map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_survives_a_round_trip_in_either_spelling() {
        let short: Inbound = "0.0.0.0:17006=127.0.0.1:8080,name=http".parse().unwrap();
        let long: Inbound =
            "name=http,listen=0.0.0.0:17006,app=127.0.0.1:8080,protocol=detect".parse().unwrap();
        assert_eq!(short, long);
        assert_eq!(short.to_string().parse::<Inbound>().unwrap(), short);
    }

    #[test]
    fn each_protocol_has_one_word_everywhere() {
        for protocol in InboundProtocol::ALL {
            let pair = format!("127.0.0.1:1=127.0.0.1:2,protocol={}", protocol.as_str());
            let pair: Inbound = pair.parse().unwrap();
            assert_eq!(pair.protocol, protocol);
            assert_eq!(pair.to_string().parse::<Inbound>().unwrap(), pair);
            assert_eq!(serde_json::to_value(protocol).unwrap(), protocol.as_str());
        }
    }

    #[test]
    fn ipv6_and_an_advertised_address_are_read() {
        let pair: Inbound = "[::]:17006=[::1]:8080,advertise=192.0.2.1:30006".parse().unwrap();
        assert_eq!(pair.listen, "[::]:17006".parse().unwrap());
        assert_eq!(pair.advertise, Some("192.0.2.1:30006".parse().unwrap()));
    }

    #[test]
    fn a_wrong_pair_says_what_is_wrong() {
        for (text, expected) in [
            ("", "has no 'LISTEN=APP'"),
            ("127.0.0.1:1", "has no 'LISTEN=APP'"),
            ("name=http", "has no 'LISTEN=APP'"),
            (
                "127.0.0.1:1=8080",
                "app: '8080' has no address; write it before the port, such as 127.0.0.1:8080",
            ),
            ("localhost:1=127.0.0.1:2", "listen: 'localhost' is a name, and names are not looked up here"),
            (
                "17006=8080",
                "listen: '17006' has no address; write it before the port, such as 127.0.0.1:17006",
            ),
            ("127.0.0.1=8080", "listen: '127.0.0.1' has no port"),
            ("listne=127.0.0.1:1", "'listne' is not one of"),
            ("127.0.0.1:1=127.0.0.1:2,name=Http", "is not a DNS label"),
            ("127.0.0.1:1=127.0.0.1:2,protocol=HTTP", "'HTTP' is not one of http1, http2, grpc, tcp, detect"),
            ("127.0.0.1:1=127.0.0.1:2,app=127.0.0.1:3", "'app' is given twice"),
        ] {
            let error = text.parse::<Inbound>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
