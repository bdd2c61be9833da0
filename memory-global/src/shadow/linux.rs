//! A table of the address space, with a cell of 32 bits for each granule of 512 bytes.
//!
//! A block of at least 512 bytes is the only one of that size that starts in its granule. So the cell of the
//! granule in which it starts can hold its label, 0 for none. A table of cells covers 1 GiB of addresses and is
//! 12 MiB of address space, of which the kernel provides the pages that are touched: 0.8 % of a heap that is in
//! use. Tables are mapped when the first block needs them, and stay.
//!
//! By its *extent* [`find`](find()) gets from an address inside a block to its start, its size and its label. A block of at
//! least 1,024 bytes contains the granule after its first one wholly, and no other block of 512 bytes starts there:
//! that granule's cell has bit 31 set and holds a part of the extent.
//!
//! ```text
//! first granule      0 1 if the block has less than 1,024 bytes, label (22 bits)
//! the next one       1 0 start / 16 within the first granule (5 bits), size (the lower 25 bits)
//! the one after it   1 1 the upper bits of the size, for a block of 32 MiB or more
//! every MiB          1 1 how many MiB back the granule after the first one is, for a block that reaches so far
//! ```
//!
//! So a search from inside a block visits 2,049 cells at most. A block of less than 1,024 bytes has its extent behind
//! the cells of the table, where there are 16 bits for each granule: start / 16 (5 bits) and size - 512 (9 bits). They
//! cost another 0.4 % of the heap where such blocks are, and are not cleared: they count only beside a label with the
//! bit for small blocks.
//!
//! # Invariants
//!
//! 1. A cell is not 0 only while a live labelled block starts in its granule, or contains the granule
//!    wholly. The cells of a block are cleared before its allocator gets it back.
//! 2. Whoever frees, moves or looks up a block has its address from the thread that labelled it, by some
//!    synchronisation. So it sees the cells of that block as they are, and sees no cell of a block that
//!    was there before.
//! 3. Tables are never unmapped.
#![expect(
    unsafe_code,
    reason = "maps tables, and reads cells by address in them"
)]

mod find;

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicUsize, Ordering};

use arrow_memory_core::__private::heap::ID_BITS;
pub(crate) use find::find;

/// Whether blocks can have labels.
pub(crate) const SUPPORTED: bool = true;

const GRANULE_BITS: u32 = 9;
const TABLE_BITS: u32 = 21;
const CELLS: usize = 1 << TABLE_BITS;

/// The number of bits of an address of a user's program.
#[cfg(target_arch = "x86_64")]
const ADDRESS_BITS: u32 = 47;
#[cfg(target_arch = "aarch64")]
const ADDRESS_BITS: u32 = 48;

/// The bits of a pointer that are its address: on aarch64 the top byte may hold a tag.
#[cfg(target_arch = "x86_64")]
const ADDRESS_MASK: usize = usize::MAX;
#[cfg(target_arch = "aarch64")]
const ADDRESS_MASK: usize = usize::MAX >> 8;

const TABLES: usize = 1 << (ADDRESS_BITS - GRANULE_BITS - TABLE_BITS);

/// The bytes of a table: the cells, and behind them the extents of small blocks.
const TABLE_BYTES: usize = CELLS * (size_of::<AtomicU32>() + size_of::<AtomicU16>());

/// The cells of each GiB; null if they were never needed.
static MAP: [AtomicPtr<AtomicU32>; TABLES] = [const { AtomicPtr::new(ptr::null_mut()) }; TABLES];

/// How many blocks could not be labelled.
static UNATTRIBUTABLE: AtomicUsize = AtomicUsize::new(0);

/// The smallest block whose extent is in cells.
const LARGER: usize = 2 << GRANULE_BITS;
/// The number of cells from one mark of a large block to the next.
const MARK_EVERY: usize = (1 << 20) >> GRANULE_BITS;
/// The smallest block that may have marks, or upper bits of its size.
const LARGE: usize = MARK_EVERY << GRANULE_BITS;

/// The bits of a label in a cell.
const LABEL: u32 = (1 << ID_BITS) - 1;
/// The smallest block that has a label, in bytes.
const SMALLEST: usize = 1 << GRANULE_BITS;

const EXTENT: u32 = 1 << 31;
const FURTHER: u32 = 1 << 30;
/// In a cell with a label: the block has less than 1,024 bytes.
const SMALL: u32 = 1 << 30;
const _: () = assert!(LABEL < SMALL);
/// Where the start of a small block is in its 16 bits; below it is the size.
const SMALL_START_SHIFT: u32 = GRANULE_BITS;
const SIZE_BITS: u32 = 25;
const START_SHIFT: u32 = SIZE_BITS;
/// All addresses of blocks are multiples of this.
const UNIT: usize = 16;

/// Returns the label of the block that starts at `start`; 0 is none.
#[inline]
pub(crate) fn get(start: *mut u8) -> u32 {
    match cell(granule(address(start))) {
        // Relaxed: by invariant 2.
        Some(cell) => cell.load(Ordering::Relaxed) & LABEL,
        None => 0,
    }
}

/// The same for a live block of another thread, whose label may change meanwhile.
pub(crate) fn get_acquire(start: usize) -> u32 {
    load(granule(start)) & LABEL
}

/// Labels a block of at least 512 bytes, which has none yet, or returns `false` if it cannot have one: its
/// address is out of the ordinary, or there is no memory for cells. `label` is in `1..1 << ID_BITS`.
#[inline(always)] // Every attributed allocation takes this path.
pub(crate) fn set(start: *mut u8, size: usize, label: u32) -> bool {
    let address = address(start);
    let first = granule(address);
    if !address.is_multiple_of(UNIT) {
        return refuse();
    }
    let Some(cell) = cell_or_map(first) else {
        return refuse();
    };
    let mut first_cell = label;
    let start = (address % (1 << GRANULE_BITS) / UNIT) as u32;
    if size >= LARGER {
        if size >= LARGE && !set_marks(address, size) {
            return refuse();
        }
        let Some(next) = following(cell, first) else {
            clear_marks(address, size);
            return refuse();
        };
        let lower = (size % (1 << SIZE_BITS)) as u32;
        // Release: partner of the Acquire in `extent`, which must see the upper bits of this block.
        next.store(EXTENT | start << START_SHIFT | lower, Ordering::Release);
    } else {
        first_cell |= SMALL;
        let extent = start << SMALL_START_SHIFT | (size - SMALLEST) as u32;
        // Relaxed: the label's Release publishes it.
        cell.small(first).store(extent as u16, Ordering::Relaxed);
    }
    // Release: partner of the Acquire in `load`: whoever sees the label of a small block sees its extent, or that of a
    // later one.
    cell.store(first_cell, Ordering::Release);
    true
}

/// Removes the label of a block that has one.
#[inline]
pub(crate) fn clear(start: *mut u8, size: usize) {
    let address = address(start);
    let first = granule(address);
    let Some(cell) = cell(first) else {
        return;
    };
    // Relaxed, both: by invariant 2; the next user of this memory has it from its allocator, which gets it later.
    cell.store(0, Ordering::Relaxed);
    if size >= LARGER {
        if let Some(next) = following(cell, first) {
            next.store(0, Ordering::Relaxed);
        }
        if size >= LARGE {
            clear_marks(address, size);
        }
    }
}

/// Changes the label of the block that starts at the address `start` from `from` to `to`, or returns `false` if it has
/// another one. Only one thread at a time changes the label of a block.
pub(crate) fn relabel(start: usize, from: u32, to: u32) -> bool {
    let Some(cell) = cell(granule(start)) else {
        return false;
    };
    // Relaxed: a hint for the exchange below.
    let before = cell.load(Ordering::Relaxed);
    let after = before & !LABEL | to;
    before & LABEL == from
        // Release: partner of the Acquire in `load`: whoever sees the label sees what its account is.
        && cell
            .compare_exchange(before, after, Ordering::Release, Ordering::Relaxed)
            .is_ok()
}

/// Returns how many blocks were not labelled because of their address or for lack of cells.
pub(crate) fn unattributable() -> usize {
    // Relaxed: a count.
    UNATTRIBUTABLE.load(Ordering::Relaxed)
}

#[inline]
fn address(pointer: *mut u8) -> usize {
    pointer.addr() & ADDRESS_MASK
}

#[inline]
fn granule(address: usize) -> usize {
    address >> GRANULE_BITS
}

/// A cell of a table: a pointer into the table, which stays by invariant 3.
#[derive(Clone, Copy)]
struct Cell(*const AtomicU32);

impl std::ops::Deref for Cell {
    type Target = AtomicU32;

    #[inline]
    fn deref(&self) -> &AtomicU32 {
        // SAFETY: the table stays; it is aligned to a page, and zero bytes are a valid cell.
        unsafe { &*self.0 }
    }
}

impl Cell {
    /// The 16 bits of the granule, for a small block. This is the granule's cell.
    #[inline]
    fn small(&self, granule: usize) -> &AtomicU16 {
        let index = granule % CELLS;
        // SAFETY: it is the cell of this index.
        let cells = unsafe { self.0.sub(index) };
        // SAFETY: that is the end of the cells, within the table.
        let first = unsafe { cells.add(CELLS) }.cast::<AtomicU16>();
        // SAFETY: there, a table has 16 bits for each cell.
        let small = unsafe { first.add(index) };
        // SAFETY: the table stays; it is aligned, and zero bytes are valid.
        unsafe { &*small }
    }
}

/// Returns the cell of a granule, if there is one.
#[inline]
fn cell(granule: usize) -> Option<Cell> {
    let table = MAP.get(granule >> TABLE_BITS)?;
    // Acquire: partner of the Release in `map_table`; the pages are zero.
    let cells = table.load(Ordering::Acquire);
    if cells.is_null() {
        return None;
    }
    // SAFETY: a table has `CELLS` cells, so the cell is in it.
    Some(Cell(unsafe { cells.add(granule % CELLS) }))
}

#[inline]
fn cell_or_map(granule: usize) -> Option<Cell> {
    match cell(granule) {
        Some(cell) => Some(cell),
        None => map_table(granule),
    }
}

/// Returns the cell after `cell`, which is that of `granule`. It may be in the next table.
#[inline]
fn following(cell: Cell, granule: usize) -> Option<Cell> {
    if granule % CELLS == CELLS - 1 {
        return cell_or_map(granule + 1);
    }
    // SAFETY: `cell` is not the last cell of its table, so the next one is in it.
    Some(Cell(unsafe { cell.0.add(1) }))
}

fn load(granule: usize) -> u32 {
    // Acquire: partner of the Releases in `set` and `set_marks`: whoever sees the upper bits of a block's size sees
    // that the lower bits of an earlier block were cleared, and whoever sees the lower bits sees the upper ones.
    cell(granule).map_or(0, |cell| cell.load(Ordering::Acquire))
}

/// Maps the table for a granule, and returns the granule's cell. `None`, if the address is none of a user's program or
/// the system has no memory for the table.
#[cold]
#[inline(never)]
fn map_table(granule: usize) -> Option<Cell> {
    keep_errno(|| map_table_anew(granule))
}

/// Calls `work`, after which the C library's error number is what it was: a release must not change it, since
/// programs free things between a call that failed and a look at its error.
pub(crate) fn keep_errno<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: it returns the address of the thread's error number.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it is valid for as long as the thread runs.
    let before = unsafe { *errno };
    let result = work();
    // SAFETY: as above.
    unsafe { *errno = before };
    result
}

fn map_table_anew(granule: usize) -> Option<Cell> {
    let table = MAP.get(granule >> TABLE_BITS)?;
    let length = TABLE_BYTES;
    // SAFETY: a new mapping of the system's choice; it touches none that exists.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return None;
    }
    // A page of 2 MiB would make each touched cell cost so much. The advice may be refused, which changes nothing else.
    // SAFETY: the mapping is this function's.
    unsafe { libc::madvise(mapped, length, libc::MADV_NOHUGEPAGE) };
    // AcqRel: a Release for those who load the pointer in `cell`; Acquire: partner of the Release of another thread
    // that came first.
    let installed = table.compare_exchange(
        ptr::null_mut(),
        mapped.cast(),
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    if installed.is_err() {
        // SAFETY: the mapping is this function's, and nobody else has its address.
        unsafe { libc::munmap(mapped, length) };
    }
    cell(granule)
}

/// The granules in which a large block has marks: they lie wholly inside.
fn marks(address: usize, size: usize) -> impl Iterator<Item = (u32, usize)> {
    let lower = granule(address) + 1;
    let end = granule(address.saturating_add(size));
    (1..)
        .map(move |number: u32| (number, lower + number as usize * MARK_EVERY))
        .take_while(move |&(_, at)| at < end)
}

/// The upper bits of a size, and their granule.
fn upper(address: usize, size: usize) -> Option<(u32, usize)> {
    let bits = (size >> SIZE_BITS) as u32;
    (bits > 0).then_some((bits, granule(address) + 2))
}

/// Writes the marks of a large block, and the upper bits of its size. After `false` it has none.
#[cold]
#[inline(never)]
fn set_marks(address: usize, size: usize) -> bool {
    for (value, at) in marks(address, size).chain(upper(address, size)) {
        let Some(cell) = cell_or_map(at) else {
            clear_marks(address, size);
            return false;
        };
        // Release: partner of the Acquire in `load`.
        cell.store(EXTENT | FURTHER | value, Ordering::Release);
    }
    true
}

#[cold]
#[inline(never)]
fn clear_marks(address: usize, size: usize) {
    for (_, at) in marks(address, size).chain(upper(address, size)) {
        if let Some(cell) = cell(at) {
            // Relaxed: by invariant 2.
            cell.store(0, Ordering::Relaxed);
        }
    }
}

#[cold]
fn refuse() -> bool {
    // Relaxed: a count.
    UNATTRIBUTABLE.fetch_add(1, Ordering::Relaxed);
    false
}

#[cfg(test)]
mod tests;
