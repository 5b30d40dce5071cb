//! The first bytes of a connection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_core::detect::{MAX_READ, Verdict, decide, version};

fuzz_target!(|bytes: &[u8]| {
    let whole = decide(bytes);
    for cut in 0..bytes.len().min(512) {
        let cut = &bytes[..cut];
        let verdict = decide(cut);
        assert!(verdict == Verdict::More || verdict == whole, "a verdict is taken back");
    }
    assert!(bytes.len() < MAX_READ || whole != Verdict::More, "undecided at the end");
    assert_eq!(version(bytes) == Verdict::Http2, whole == Verdict::Http2);
});
