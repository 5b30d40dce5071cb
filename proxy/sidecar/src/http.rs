//! HTTP on both sides of a request: heads within limits, bodies streamed with backpressure, and the edges of the
//! protocols where a proxy could turn one message into two.

mod body;
mod framing;
mod guard;
mod idle;
mod limits;
mod link;
mod overheard;
mod patience;
mod refusal;
mod reply;
mod request;
mod serve;
mod stall;
mod upload;

pub(crate) use body::{BodyError, ResponseBody};
pub(crate) use guard::{Guarded, Transport};
pub(crate) use idle::{FOR_EVER, Idle};
pub use limits::Limits;
pub(crate) use link::Link;
pub use overheard::refusals;
pub(crate) use overheard::{Overheard, overhear};
pub(crate) use patience::Patience;
pub(crate) use refusal::{Fault, Refusal};
pub(crate) use reply::{Shape, accepted, ask_patience, own_answer};
pub(crate) use request::{
    Form, InvalidLength, Target, check_head, check_size, expects_continue, is_idempotent, length,
    to_origin_form,
};
pub(crate) use serve::{Clients, Closing, serve_http1, serve_http2};
pub(crate) use upload::{Gate, RequestBody, Upload};
