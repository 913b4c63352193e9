//! One arena for the large blocks of memory that a training step takes and gives back, over and over.
//!
//! [`Arena`] is a global allocator: a program names it with `#[global_allocator]`, and until [`Arena::reserve`] it is the
//! system's. From then on blocks of 16 KiB and more (saved activations, gradients, workspace) come from one range of
//! addresses whose size the caller has planned; smaller blocks, and what does not fit, still come from the system, and
//! what did not fit is counted. Memory that a step gave back is found again by the next step without a page fault, nothing
//! is returned in between, and the highest address in use is the measured peak.
//!
//! Blocks are taken best-fit, the lowest address of equals, and neighbours that are free are joined (Knuth, The Art of
//! Computer Programming 1, 2.5). The list of free blocks lies in the free blocks themselves.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Blocks of this size and more come from the arena.
const LARGE: usize = 16 << 10;
/// Every block's address and size are multiples of it: a cache line.
const ALIGN: usize = 64;

/// The global allocator; see the module's documentation.
pub struct Arena;

/// What an arena holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaUse {
    /// Size of the range; 0 without one.
    pub reserved: usize,
    /// In blocks that are in use.
    pub live: usize,
    /// The most that was in use at once.
    pub peak: usize,
    /// From the start of the range to the highest address ever used: `peak` and what lay free between.
    pub touched: usize,
    /// Taken from the system, in all, because the range was full.
    pub missed: usize,
}

/// A free block's first bytes.
struct Free {
    size: usize,
    next: *mut Free,
}

struct State {
    first: *mut Free,
    used: ArenaUse,
}

// SAFETY: the list is only followed under the lock.
unsafe impl Send for State {}

static STATE: Mutex<State> = Mutex::new(State {
    first: std::ptr::null_mut(),
    used: ArenaUse {
        reserved: 0,
        live: 0,
        peak: 0,
        touched: 0,
        missed: 0,
    },
});
/// The range, to tell an address of ours without the lock. Empty where there is none.
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
/// Whether this process allocates through us at all.
static INSTALLED: AtomicBool = AtomicBool::new(false);

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The arena in use; dropping it gives the range back, if nothing in it is still held.
#[must_use = "the arena ends with it"]
pub struct Reservation(());

impl Arena {
    /// Reserves a range of addresses for large blocks. Pages cost memory only once they are used.
    ///
    /// `None` where this program has another allocator, where an arena is in use already, or where the system has no
    /// such range: everything goes on without one.
    pub fn reserve(bytes: usize) -> Option<Reservation> {
        if !INSTALLED.load(Ordering::Relaxed) || START.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let size = bytes.checked_next_multiple_of(ALIGN)?.max(LARGE);
        let start = map(size)?;
        let mut state = state();
        let first = start.cast::<Free>();
        // SAFETY: the range is ours, writable, and aligned to a page.
        unsafe {
            first.write(Free {
                size,
                next: std::ptr::null_mut(),
            });
        }
        state.first = first;
        state.used = ArenaUse {
            reserved: size,
            ..ArenaUse::default()
        };
        END.store(start.addr() + size, Ordering::Release);
        START.store(start.addr(), Ordering::Release);
        Some(Reservation(()))
    }

    /// What is in use now, and was at most since the reservation.
    pub fn used() -> ArenaUse {
        state().used
    }

    /// Forgets how much was used at most, to measure what comes.
    pub fn reset_peak() {
        let mut state = state();
        state.used.peak = state.used.live;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = state();
        if state.used.live > 0 {
            // Something outlives the training: its addresses must stay. The range is kept for as long as the process.
            return;
        }
        let (start, size) = (START.swap(0, Ordering::AcqRel), state.used.reserved);
        END.store(0, Ordering::Release);
        state.first = std::ptr::null_mut();
        state.used.reserved = 0;
        unmap(start, size);
    }
}

#[cfg(target_os = "linux")]
fn map(size: usize) -> Option<*mut u8> {
    // SAFETY: a new anonymous mapping; huge pages are advice that may be ignored.
    unsafe {
        let start = libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if start == libc::MAP_FAILED {
            return None;
        }
        libc::madvise(start, size, libc::MADV_HUGEPAGE);
        Some(start.cast())
    }
}

#[cfg(target_os = "linux")]
fn unmap(start: usize, size: usize) {
    // SAFETY: the mapping that `map` made, in which nothing lives.
    unsafe {
        libc::munmap(std::ptr::with_exposed_provenance_mut(start), size);
    }
}

#[cfg(not(target_os = "linux"))]
fn map(_: usize) -> Option<*mut u8> {
    None
}

#[cfg(not(target_os = "linux"))]
fn unmap(_: usize, _: usize) {}

fn is_ours(block: *mut u8) -> bool {
    let start = START.load(Ordering::Acquire);
    start != 0 && block.addr() >= start && block.addr() < END.load(Ordering::Acquire)
}

fn wanted(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= ALIGN && START.load(Ordering::Relaxed) != 0
}

fn rounded(size: usize) -> usize {
    size.next_multiple_of(ALIGN)
}

/// A block of the arena, and how many of its first bytes may be other than zero.
fn take(size: usize) -> Option<(*mut u8, usize)> {
    let mut state = state();
    let needed = rounded(size);
    let mut best: Option<(*mut *mut Free, usize)> = None;
    let mut link: *mut *mut Free = &raw mut state.first;
    // SAFETY: under the lock the list holds free blocks of the range, each with its header, ended by null.
    unsafe {
        while !(*link).is_null() {
            let found = (**link).size;
            if found >= needed && best.is_none_or(|(_, size)| found < size) {
                best = Some((link, found));
                if found == needed {
                    break;
                }
            }
            link = &raw mut (**link).next;
        }
        let Some((link, found)) = best else {
            state.used.missed += needed;
            return None;
        };
        let block = *link;
        if found == needed {
            *link = (*block).next;
        } else {
            let rest = block.byte_add(needed);
            rest.write(Free {
                size: found - needed,
                next: (*block).next,
            });
            *link = rest;
        }
        let used = &mut state.used;
        used.live += needed;
        used.peak = used.peak.max(used.live);
        let offset = block.addr() - START.load(Ordering::Relaxed);
        // Beyond what was ever used only a header was written.
        let dirty = (used.touched.saturating_sub(offset) + size_of::<Free>()).min(size);
        used.touched = used.touched.max(offset + needed);
        Some((block.cast(), dirty))
    }
}

/// Puts a block back between its neighbours.
fn give(block: *mut u8, size: usize) {
    let mut state = state();
    let size = rounded(size);
    state.used.live -= size;
    let block = block.cast::<Free>();
    let mut before: *mut Free = std::ptr::null_mut();
    let mut after = state.first;
    // SAFETY: as in `take`; `block` came from it, so it is aligned, ours, and of this size.
    unsafe {
        while !after.is_null() && after.addr() < block.addr() {
            before = after;
            after = (*after).next;
        }
        block.write(Free { size, next: after });
        if !after.is_null() && block.addr() + size == after.addr() {
            (*block).size += (*after).size;
            (*block).next = (*after).next;
        }
        if before.is_null() {
            state.first = block;
        } else if before.addr() + (*before).size == block.addr() {
            (*before).size += (*block).size;
            (*before).next = (*block).next;
        } else {
            (*before).next = block;
        }
    }
}

// SAFETY: blocks of the arena are disjoint, aligned and as large as asked; everything else is the system's.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if wanted(layout)
            && let Some((block, _)) = take(layout.size())
        {
            return block;
        }
        INSTALLED.store(true, Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if wanted(layout)
            && let Some((block, dirty)) = take(layout.size())
        {
            // SAFETY: `dirty` is at most the block's size.
            unsafe { block.write_bytes(0, dirty) };
            return block;
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_ours(block) {
            give(block, layout.size());
        } else {
            // SAFETY: the caller's contract; the block is the system's.
            unsafe { System.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !is_ours(block) {
            // SAFETY: the caller's contract; the block is the system's.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // SAFETY: the caller's contract: the size does not overflow when rounded up to the alignment.
        let new =
            unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !new.is_null() {
            // SAFETY: two blocks that do not overlap, each at least this large.
            unsafe {
                new.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        new
    }
}
