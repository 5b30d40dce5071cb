//! Header values that a peer wrote: timing and deadlines.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use outrigger_core::{
    deadline::header as timeouts,
    telemetry::timing::{self, MAX_LENGTH},
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    if let Ok(figures) = timing::parse(&value) {
        let written = timing::encode(&figures);
        assert!(written.len() <= MAX_LENGTH, "longer than what is read");
        assert_eq!(timing::parse(&written), Ok(figures), "{value:?}");
    }
    for (grpc, name) in [(true, "grpc-timeout"), (false, "outrigger-timeout")] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.clone());
        let Ok(Some(left)) = timeouts::read(&headers, grpc) else { continue };
        timeouts::write(&mut headers, grpc, Some(left));
        let again = timeouts::read(&headers, grpc);
        assert!(
            again.is_ok_and(|again| again.is_some_and(|again| again <= left)),
            "a deadline grew: {value:?}"
        );
    }
});
