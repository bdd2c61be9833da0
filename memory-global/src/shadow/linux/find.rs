//! How a block is found by an address inside it.
#![expect(unsafe_code, reason = "reads many cells of a table at once")]

use std::sync::atomic::{AtomicU32, Ordering};

use super::super::Found;
use super::{
    CELLS, EXTENT, FURTHER, GRANULE_BITS, LABEL, MAP, MARK_EVERY, SIZE_BITS, SMALL,
    SMALL_START_SHIFT, SMALLEST, START_SHIFT, TABLE_BITS, UNIT, address, cell, granule, load,
};

/// Finds the labelled block that contains `size` bytes at `part`, memory of a live block.
///
/// A block that is being freed by another thread is found or not. The caller's block is not freed meanwhile, so the
/// answer for it is right: its extent, and a label that it has at some instant of the call; or `None` if it has no
/// label.
pub(crate) fn find(part: *mut u8, size: usize) -> Option<Found> {
    let at = address(part);
    let found = containing(at)?;
    let fits = at - found.start + size <= found.size;
    fits.then_some(found)
}

/// Reads the extent of the small block that starts in a granule, whose cell was `first`.
///
/// If the caller's block is another one, each small block that starts there as long as that lives ends before it or
/// starts behind it. The extent is that of such a block, since whoever sees the label sees an extent that is as new.
fn small(granule: usize, first: u32, inside: usize) -> Result<Option<Found>, Behind> {
    let Some(cell) = cell(granule) else {
        return Err(Behind);
    };
    // Relaxed: after the Acquire by which `first` was read.
    let extent = usize::from(cell.small(granule).load(Ordering::Relaxed));
    let offset = (extent >> SMALL_START_SHIFT) * UNIT;
    let start = (granule << GRANULE_BITS) + offset;
    let size = SMALLEST + extent % (1 << SMALL_START_SHIFT);
    if start > inside {
        return Err(Behind);
    }
    let label = first & LABEL;
    Ok((inside - start < size).then_some(Found { label, start, size }))
}

/// Finds the labelled block that contains an address.
fn containing(inside: usize) -> Option<Found> {
    let last = granule(inside);
    let first = last.saturating_sub(MARK_EVERY + 1);
    let mut next = Some(last);
    while let Some(at) = next.and_then(|at| last_used(first, at)) {
        next = at.checked_sub(1).filter(|&before| before >= first);
        match load(at) {
            // It was another block's.
            0 => {}
            // Another block may start behind `inside` in the same granule, where the one that is looked for ends.
            label if label & EXTENT == 0 => {
                let found = match label & SMALL {
                    0 => extent(at + 1, inside),
                    _ => small(at, label, inside),
                };
                match found {
                    Ok(found) => return found,
                    Err(Behind) if at == last => {}
                    Err(Behind) => return None,
                }
            }
            further if further & FURTHER != 0 => {
                // The upper bits of the size stand behind the lower ones, a mark behind an empty cell.
                let lower = match is_lower(load(at - 1)) {
                    true => at - 1,
                    false => {
                        at.checked_sub((further & !(EXTENT | FURTHER)) as usize * MARK_EVERY)?
                    }
                };
                return extent(lower, inside).unwrap_or(None);
            }
            _ => return extent(at, inside).unwrap_or(None),
        }
    }
    None
}

/// The last granule from `first` to `last` whose cell seems not to be 0.
fn last_used(first: usize, last: usize) -> Option<usize> {
    let mut end = last + 1;
    while end > first {
        // The part in the table of the last of them.
        let table_start = (end - 1) & !(CELLS - 1);
        let start = first.max(table_start);
        // Acquire: partner of the Release in `map_table`; the pages are zero.
        let table = MAP.get(start >> TABLE_BITS)?.load(Ordering::Acquire);
        if !table.is_null() {
            // SAFETY: a table has `CELLS` cells, so the cell is in it.
            let cell = unsafe { table.add(start % CELLS) };
            // SAFETY: the cells from `start` to `end` are in this table, which by invariant 3 stays.
            let cells = unsafe { std::slice::from_raw_parts(cell, end - start) };
            // Relaxed: a hint; what is found is read again.
            let value = |cell: &AtomicU32| cell.load(Ordering::Relaxed);
            let mut before = cells.len();
            for some in cells.rchunks(8) {
                before -= some.len();
                if some.iter().fold(0, |all, cell| all | value(cell)) != 0
                    && let Some(used) = some.iter().rposition(|cell| value(cell) != 0)
                {
                    return Some(start + before + used);
                }
            }
        }
        end = start;
    }
    None
}

/// That a block starts behind the address, or that it cannot be said where it starts.
pub(super) struct Behind;

/// Reads the extent whose lower bits are in the cell `at`, and returns the block if it contains `inside`.
fn extent(at: usize, inside: usize) -> Result<Option<Found>, Behind> {
    extent_by(load, at, inside)
}

/// [`extent`], with the function that reads a cell: a test changes cells between two reads.
#[inline]
pub(super) fn extent_by(
    load: impl Fn(usize) -> u32,
    at: usize,
    inside: usize,
) -> Result<Option<Found>, Behind> {
    let lower = load(at);
    if !is_lower(lower) {
        return Err(Behind);
    }
    let further = load(at + 1);
    let upper = match further & EXTENT != 0 && further & FURTHER != 0 {
        // If these bits are of a later block than the lower ones, those were cleared before.
        true if load(at) != lower => return Ok(None),
        true => (further & !(EXTENT | FURTHER)) as usize,
        false => 0,
    };
    let size = upper << SIZE_BITS | (lower % (1 << SIZE_BITS)) as usize;
    let offset = (lower >> START_SHIFT) as usize % (1 << (GRANULE_BITS - UNIT.ilog2())) * UNIT;
    let start = ((at - 1) << GRANULE_BITS) + offset;
    if start > inside {
        return Err(Behind);
    }
    let label = load(at - 1);
    let contains = inside - start < size && label != 0 && label & EXTENT == 0;
    let label = label & LABEL;
    Ok(contains.then_some(Found { label, start, size }))
}

fn is_lower(cell: u32) -> bool {
    cell & EXTENT != 0 && cell & FURTHER == 0
}
