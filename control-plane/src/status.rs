//! Which proxy applied which revision, and why not.
