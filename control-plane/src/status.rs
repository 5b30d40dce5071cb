//! Which proxy runs what: told by its discovery stream (sent, accepted, rejected) and by its own report (applied).

mod board;
mod convergence;
mod figures;
mod known;
mod report;
pub mod service;

pub use board::{Absence, Absences, Board, Known, Node, Progress, REMEMBERED, Reported};
pub(crate) use convergence::unreachable;
pub use known::{FILE as KNOWN_PROXIES, Keeper};
pub use report::ReportService;
