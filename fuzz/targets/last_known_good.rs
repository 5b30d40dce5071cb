//! What a proxy finds on its disk at a start: any bytes, and any content with a checksum that is right.
#![no_main]

use std::{
    cell::OnceCell,
    time::{Duration, SystemTime},
};

use libfuzzer_sys::fuzz_target;
use outrigger_process::files::{Format, write_checked};
use outrigger_proxy::discovery::last_known_good::Store;

const FORMAT: Format = Format { magic: *b"OUTRGOOD", schema: 1 };
const OWN: &str = "spiffe://outrigger.local/ns/demo/sa/front";
/// A day after the seeds were written.
const NOW: Duration = Duration::from_secs(1_795_800_000);

thread_local! {
    static PLACE: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    PLACE.with(|place| {
        // In memory: a disk would be what is measured.
        let dir = place.get_or_init(|| tempfile::tempdir_in("/dev/shm").expect("a directory")).path();
        let file = dir.join("last-known-good");
        match kind % 4 {
            0 => std::fs::write(&file, bytes).expect("written"),
            _ => write_checked(&file, FORMAT, bytes, 0o600).expect("written"),
        }
        let own = OWN.parse().expect("an identity");
        let recalled = Store::new(dir).recall(&own, SystemTime::UNIX_EPOCH + NOW);
        if recalled.is_err() {
            assert!(!file.exists(), "what is refused is set aside");
            assert!(dir.join("last-known-good.refused").exists(), "and not lost");
        }
    });
});
