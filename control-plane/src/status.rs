//! Which proxy runs what: told by its discovery stream (sent, accepted, rejected) and by its own report (applied).

mod board;
mod convergence;
mod figures;
mod report;
pub mod service;

pub use board::{Board, Node, Progress, REMEMBERED, Reported};
pub(crate) use convergence::unreachable;
pub use report::ReportService;
