//! The allocator of the proxy: mimalloc, asked for memory in its shortest way.
//!
//! A layout says how its memory is to be aligned, and mimalloc's function for that looks for a block which happens to be:
//! twice the work of taking one, which is aligned to 16 bytes as it is. That is enough for all but a few layouts (docs/adr/0012-allocator.md).

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{mi_malloc, mi_zalloc};
use mimalloc::MiMalloc;

/// What mimalloc aligns every block to that is as large as its alignment (`MI_MAX_ALIGN_SIZE`; its own shortcut in
/// `mi_malloc_is_naturally_aligned` is the same), bytes.
const ALIGNED: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Allocator;

fn is_aligned_anyway(layout: Layout) -> bool {
    layout.align() <= ALIGNED && layout.align() <= layout.size()
}

#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
// SAFETY: every block is mimalloc's, whichever of its functions it comes from: all of them return null or a block of at least the
// size, and those without an alignment are asked only where that is no more than every block has. `dealloc` and `realloc` are
// mimalloc's own, and take blocks of either.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_aligned_anyway(layout) {
            // SAFETY: takes any size.
            return unsafe { mi_malloc(layout.size()) }.cast();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_aligned_anyway(layout) {
            // SAFETY: takes any size.
            return unsafe { mi_zalloc(layout.size()) }.cast();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.realloc(block, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "blocks are asked for by hand")]
    fn every_block_is_aligned_and_as_large_as_asked() {
        let aligns = (0..10).map(|power| 1_usize << power);
        let layouts = aligns.flat_map(|align| {
            (1..300)
                .chain([1 << 10, (1 << 10) + 1, 5000, 1 << 17, (1 << 17) + 1, 3 << 20])
                .map(move |size| Layout::from_size_align(size, align).unwrap())
        });
        let held: Vec<_> = layouts
            .flat_map(|layout| [(layout, false), (layout, true)])
            .map(|(layout, zeroed)| {
                // SAFETY: no layout is empty.
                let block =
                    unsafe { if zeroed { Allocator.alloc_zeroed(layout) } else { Allocator.alloc(layout) } };
                assert!(
                    !block.is_null() && block.addr().is_multiple_of(layout.align()),
                    "{layout:?} {block:?}"
                );
                // SAFETY: a block of this size, which nobody else has.
                let bytes = unsafe {
                    if !zeroed {
                        block.write_bytes(0, layout.size());
                    }
                    std::slice::from_raw_parts_mut(block, layout.size())
                };
                assert!(bytes.iter().all(|byte| *byte == 0), "{layout:?}");
                bytes.fill(u8::try_from(layout.size() % 251).unwrap());
                (layout, block)
            })
            .collect();
        // None overlaps another one: each still holds what was written to it; also when it is moved.
        for (layout, block) in held {
            let size = layout.size() * 2;
            // SAFETY: each block is of this layout, and is given back once, with the layout that it has then.
            unsafe {
                let moved = Allocator.realloc(block, layout, size);
                assert!(moved.addr().is_multiple_of(layout.align()), "{layout:?}");
                let bytes = std::slice::from_raw_parts(moved, layout.size());
                assert!(bytes.iter().all(|byte| usize::from(*byte) == layout.size() % 251), "{layout:?}");
                Allocator.dealloc(moved, Layout::from_size_align(size, layout.align()).unwrap());
            }
        }
    }
}
