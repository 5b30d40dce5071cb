//! Integration tests of the proxy over real sockets.
