//! HTTP/1.1 on both sides of a request: heads within limits, bodies streamed with backpressure, and the edges of the
//! protocol where a proxy could turn one message into two.

mod body;
mod framing;
mod guard;
mod limits;
mod patience;
mod reply;
mod request;
mod serve;

pub(crate) use body::{Gate, RequestBody, ResponseBody, Upload};
pub(crate) use guard::{Guarded, Link, Transport};
pub use limits::Limits;
pub(crate) use reply::{accepted, own_answer};
pub(crate) use request::{Form, Target, check_head, is_idempotent, to_origin_form};
pub(crate) use serve::serve;
