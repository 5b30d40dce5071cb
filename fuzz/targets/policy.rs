//! Documents that a user wrote.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_core::policy::{parse, to_yaml};

fuzz_target!(|text: &str| {
    let Ok(documents) = parse(text) else { return };
    for document in documents {
        let written = to_yaml(&document.object);
        let again = parse(&written)
            .unwrap_or_else(|errors| panic!("what was written is refused: {errors:?}\n{written}"));
        assert_eq!(again.len(), 1, "{written}");
        assert_eq!(to_yaml(&again[0].object), written);
    }
});
