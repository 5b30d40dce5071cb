//! The proxies' configuration streams.
