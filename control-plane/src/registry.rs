//! What runs where: registered by sidecars over a leased stream. A registration claims nothing but addresses: who it
//! is comes from its certificate, its labels from its join token, and what it backs is decided by the destination.
//! Bias: an endpoint is kept too long rather than dropped too early; a dead one costs a connection attempt.

mod budget;
mod claim;
mod member;
mod record;
mod refusal;
pub mod service;
mod table;
mod writer;

pub use claim::{AddressRules, Claim, InvalidClaim, Pair, WorkloadName};
pub use member::{Member, Snapshot, Standing};
pub use record::{Malformed, Registration};
pub use refusal::{Refusal, SessionOver};
pub use table::{Limits, Outcome, Plan, SessionId, Table, Write};
pub use writer::{Answer, LoadError, Registry, Session, SessionError};
