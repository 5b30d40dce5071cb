//! Addresses to listen on, as people write them, right or wrong: for flags, and for what the settings' types say too
//! curtly.

use std::net::{IpAddr, SocketAddr};

/// What is wrong with a text that is no `IP:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// `localhost:15001`.
    #[error(
        "'{host}' is a name, and names are not looked up here; write its IP address, such as 127.0.0.1:{port}"
    )]
    Name {
        /// What stands for the address.
        host: String,
        /// The port behind it.
        port: u16,
    },
    /// `127.0.0.1`
    #[error("'{0}' has no port; write it behind the address, such as {with}", with = SocketAddr::new(*.0, 17001))]
    NoPort(IpAddr),
    /// `15001`, `:15001`
    #[error("'{text}' has no address; write it before the port, such as 127.0.0.1:{port}")]
    NoAddress {
        /// What was written.
        text: String,
        /// The port in it.
        port: u16,
    },
    /// Anything else.
    #[error("'{0}' is not an IP address with a port; write it like 127.0.0.1:17001 or [::1]:17001")]
    Neither(String),
}

impl InvalidAddress {
    fn of(text: &str) -> Self {
        let neither = || Self::Neither(text.chars().take(120).collect());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::NoPort(address);
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let Ok(port) = port.parse::<u16>() else { return neither() };
        if host.is_empty() {
            return Self::NoAddress { text: text.to_owned(), port };
        }
        let is_name = host.len() <= 253
            && host.contains(|c: char| c.is_ascii_alphabetic())
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if is_name { Self::Name { host: host.to_owned(), port } } else { neither() }
    }
}

/// Reads an address; for clap's `value_parser`, too.
///
/// # Errors
/// Says what is missing, and what to write.
pub fn parse(text: &str) -> Result<SocketAddr, InvalidAddress> {
    text.parse().map_err(|_curt| InvalidAddress::of(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_write() {
        assert_eq!(parse("[::1]:1").unwrap(), "[::1]:1".parse().unwrap());
        for (text, said) in [
            (
                "localhost:15001",
                "'localhost' is a name, and names are not looked up here; write its IP address, such as 127.0.0.1:15001",
            ),
            ("mesh.example.com:1", "'mesh.example.com' is a name"),
            ("127.0.0.1", "'127.0.0.1' has no port; write it behind the address, such as 127.0.0.1:17001"),
            ("::1", "'::1' has no port; write it behind the address, such as [::1]:17001"),
            ("15001", "'15001' has no address; write it before the port, such as 127.0.0.1:15001"),
            (":15001", "':15001' has no address"),
            ("localhost", "'localhost' is not an IP address with a port; write it like 127.0.0.1:17001"),
            ("127.0.0.1:70000", "'127.0.0.1:70000' is not an IP address with a port"),
            ("127.0.0:80", "'127.0.0:80' is not"),
            ("http://127.0.0.1:80", "'http://127.0.0.1:80' is not"),
            ("", "'' is not"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }
}
