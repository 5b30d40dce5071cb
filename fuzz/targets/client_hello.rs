//! What a stranger sends to an inbound port: told from other protocols, then read by TLS with the mesh's own settings.
#![no_main]

use std::{
    io::Cursor,
    sync::{Arc, LazyLock},
};

use libfuzzer_sys::fuzz_target;
use outrigger_core::detect::{Verdict, decide};
use outrigger_tls::{mesh::server_config, testing::Authority};
use rustls::{ServerConfig, ServerConnection};

static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let authority = Authority::new("outrigger.local");
    let identity = authority.identity(authority.workload("demo", "price"));
    server_config(&identity, &[b"outrigger-h2", b"outrigger-h1", b"outrigger-tcp"])
});

fuzz_target!(|bytes: &[u8]| {
    let verdict = decide(bytes);
    let mut connection = ServerConnection::new(Arc::clone(&CONFIG)).expect("a server");
    // As it arrives: cut anywhere.
    let mut refused = false;
    for part in bytes.chunks(97) {
        let mut part = Cursor::new(part);
        while connection.read_tls(&mut part).is_ok_and(|read| read > 0) && !refused {
            refused = connection.process_new_packets().is_err();
        }
        let mut answer = Vec::new();
        while connection.wants_write() && connection.write_tls(&mut answer).is_ok_and(|written| written > 0) {
        }
        assert!(answer.len() < 64 * 1024, "a stranger's bytes are answered with many more");
        if refused {
            break;
        }
    }
    assert!(connection.is_handshaking(), "nobody gets in without a certificate");
    // Where TLS saw a hello, detection did not take it for something else; it wants a version of a record that exists, too.
    if connection.server_name().is_some() && bytes.get(2).is_some_and(|minor| *minor <= 4) {
        assert_eq!(verdict, Verdict::Tls);
    }
});
