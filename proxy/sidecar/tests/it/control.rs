//! The control thread against a fake control plane, over real sockets and real TLS.

mod discovery;
mod drain;
mod fake;
mod lifecycle;
mod reports;
