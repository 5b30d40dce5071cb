//! Memory that a process needs no more once it has started.
//!
//! A start runs through most of a binary once: it parses flags and certificates, joins, binds, compiles a configuration. The kernel
//! maps sixteen pages of a file for each that is touched, and keeps them mapped for as long as nobody wants the memory. So a
//! proxy that does nothing has nearly all of its code in its resident memory. Here the mappings are given back; what is
//! used again comes back by itself, from the page cache.

use std::{io, ops::Range, path::Path};

/// Gives back the mapped pages of the running binary that nothing was ever written to: code and constants, not what was relocated.
/// Returns how many bytes were resident there. Blocks for some milliseconds; does nothing but on Linux.
///
/// # Errors
/// If the kernel does not tell what is mapped, or refuses; then the rest stays mapped, which harms nobody.
pub fn release_code() -> io::Result<u64> {
    #[cfg(target_os = "linux")]
    {
        let binary = std::fs::read_link("/proc/self/exe")?;
        let mut released = 0;
        for mapping in unwritten(&std::fs::read_to_string("/proc/self/smaps")?, &binary) {
            linux::release(&mapping.range)?;
            released += mapping.resident;
        }
        Ok(released)
    }
    #[cfg(not(target_os = "linux"))]
    Ok(0)
}

/// Part of the address space, and how many bytes of it are resident.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    range: Range<usize>,
    resident: u64,
    /// Until it is known better.
    copied: bool,
}

/// The private mappings of a file, by `/proc/PID/smaps`, that cannot be written and have no page that ever was (proc_pid_smaps(5)).
/// What is not understood is not among them.
fn unwritten(smaps: &str, file: &Path) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current: Option<Mapping> = None;
    for line in smaps.lines() {
        let Some((name, size)) = line.split_once(':').filter(|(name, _)| !name.contains(' ')) else {
            current = range_of(line, file).map(|range| Mapping { range, resident: 0, copied: true });
            continue;
        };
        let size = || size.trim().strip_suffix(" kB")?.parse::<u64>().ok();
        match (name, &mut current) {
            ("Rss", Some(mapping)) => mapping.resident = size().unwrap_or(0) * 1024,
            // Pages that were copied when they were written have no other home, in memory or swapped out.
            ("Anonymous", Some(mapping)) => mapping.copied = size() != Some(0),
            // Comes last of the three.
            ("Swap", Some(mapping)) if size() == Some(0) && !mapping.copied => found.extend(current.take()),
            ("Swap", _) => current = None,
            _ => {}
        }
    }
    found
}

/// `55d0c0a00000-55d0c0b00000 r-xp 00001000 fe:00 42    /usr/bin/outrigger-proxy`
fn range_of(line: &str, file: &Path) -> Option<Range<usize>> {
    let (range, rest) = line.split_once(' ')?;
    let (permissions, rest) = rest.split_once(' ')?;
    // Offset, device and inode: no `/` in them. The name is padded to a column, and may have blanks.
    let path = rest.get(rest.find('/')?..)?;
    let same = matches!(permissions, "r-xp" | "r--p") && Path::new(path) == file;
    let (start, end) = range.split_once('-').filter(|_| same)?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{io, ops::Range};

    use rustix::mm::{Advice, madvise};

    #[expect(unsafe_code, reason = "madvise takes an address")]
    pub(super) fn release(range: &Range<usize>) -> io::Result<()> {
        let length = range.end.saturating_sub(range.start);
        // SAFETY: the range is one of the running binary's own mappings. The kernel made them at exec, and they stay until the end, unlike
        // those of libraries, which come and go. It is private, its permissions let nobody write to it, and none of its pages, resident or
        // swapped out, is a copy of its own: each is what the file has, and is read from there when it is touched again, by whatever thread.
        // What is relocated is written before `main`, and thus has such copies.
        Ok(unsafe {
            madvise(std::ptr::with_exposed_provenance_mut(range.start), length, Advice::LinuxDontNeed)
        }?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0a00000-55d0c0b00000 r--p 00000000 fe:00 42    /usr/bin/a proxy
Size:               1024 kB
Rss:                 512 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
55d0c0b00000-55d0c0c00000 r-xp 00100000 fe:00 42    /usr/bin/a proxy
Rss:                1024 kB
Anonymous:             0 kB
Swap:                  0 kB
55d0c0c00000-55d0c0c80000 r--p 00200000 fe:00 42    /usr/bin/a proxy
Rss:                 444 kB
Anonymous:           444 kB
Swap:                  0 kB
55d0c0c80000-55d0c0c90000 rw-p 00280000 fe:00 42    /usr/bin/a proxy
Rss:                  20 kB
Anonymous:             0 kB
Swap:                  0 kB
55d0c1000000-55d0c1100000 rw-p 00000000 00:00 0     [heap]
Rss:                 100 kB
Anonymous:           100 kB
Swap:                  0 kB
7f0000000000-7f0000010000 r--s 00000000 fe:00 43    /var/lib/shared
Rss:                  64 kB
Anonymous:             0 kB
Swap:                  0 kB
7f0000020000-7f0000030000 r--p 00000000 00:00 0
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0     [vdso]
Rss:                   8 kB
Anonymous:             0 kB
Swap:                  0 kB
55d0c0c90000-55d0c0ca0000 r--p 00290000 fe:00 42    /usr/bin/a proxy
Rss:                   0 kB
Anonymous:             0 kB
Swap:                  4 kB
55d0c0ca0000-55d0c0cb0000 r--p 002a0000 fe:00 42    /usr/bin/a proxy
Rss:                   4 kB
Anonymous:             0 kB
7f0000040000-7f0000050000 r-xp 00000000 fe:00 44    /usr/lib/libc.so.6
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
";

    #[test]
    fn only_what_is_still_as_in_its_file_is_given_back() {
        let binary = Path::new("/usr/bin/a proxy");
        let found = unwritten(SMAPS, binary);
        assert_eq!(
            found,
            [
                Mapping { range: 0x55d0_c0a0_0000..0x55d0_c0b0_0000, resident: 512 * 1024, copied: false },
                Mapping { range: 0x55d0_c0b0_0000..0x55d0_c0c0_0000, resident: 1024 * 1024, copied: false },
            ]
        );
        for end in 0..SMAPS.len() {
            let whole: Vec<_> = unwritten(SMAPS.get(..end).unwrap(), binary);
            assert!(found.starts_with(&whole), "{end}: {whole:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn code_that_was_given_back_runs_on() {
        let worked = |text: &str| format!("{:?}", text.parse::<f64>().map(f64::sqrt));
        let before = worked("2.25");
        let other =
            std::thread::spawn(|| (0..200_000).map(|number| format!("{number:x}").len()).sum::<usize>());
        for _ in 0..20 {
            assert!(release_code().unwrap() > 0);
        }
        assert_eq!(worked("2.25"), before);
        assert_eq!(
            other.join().unwrap(),
            (0..200_000).map(|number| format!("{number:x}").len()).sum::<usize>()
        );
    }
}
