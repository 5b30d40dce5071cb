//! Which rule covers a request, which backend gets it, and what it does to the head.
