//! Policies and registry in, resources out: a pure, deterministic function.
