//! What lies between a protocol and its socket, to spare system calls or make them cheaper: writes that are gathered or
//! copied into one, reads that take all that is there.

mod ahead;
mod gather;
pub(crate) mod whole;

pub(crate) use ahead::Ahead;
pub(crate) use gather::Gather;
