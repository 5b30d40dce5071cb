//! What lies between a protocol and its socket, to spare system calls: writes that are gathered, reads that take all that
//! is there.

mod ahead;
mod gather;

pub(crate) use ahead::Ahead;
pub(crate) use gather::Gather;
