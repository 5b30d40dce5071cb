//! The delta discovery protocol as two state machines: messages in, messages out.
