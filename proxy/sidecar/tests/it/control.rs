//! The control thread against a fake control plane, over real sockets and real TLS.

mod discovery;
mod drain;
mod fake;
mod last_known_good;
mod lifecycle;
mod reports;
