//! Which endpoint of a backend takes a request.
