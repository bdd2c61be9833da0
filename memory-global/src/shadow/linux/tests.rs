//! The labels of blocks that do not exist: only their addresses matter.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::Found;
use super::find::extent_by;
use super::*;

/// A block: its size and label.
type Blocks = BTreeMap<usize, (usize, u32)>;

/// An address near the end of a table, where no memory of the process is.
fn near_the_end_of_a_table(number: usize) -> usize {
    (((1 << 16) + number) << TABLE_BITS << GRANULE_BITS) - (1 << 20)
}

fn at(address: usize) -> *mut u8 {
    ptr::without_provenance_mut(address)
}

fn containing(blocks: &Blocks, inside: usize) -> Option<Found> {
    let (&start, &(size, label)) = blocks.range(..=inside).next_back()?;
    (inside < start + size).then_some(Found { label, start, size })
}

/// Whether the search is for memory of a live block, as it has to be, or near the end of one.
fn check(blocks: &Blocks, inside: usize) {
    let found = find(at(inside), 1);
    assert_eq!(found, containing(blocks, inside), "{inside:#x}");
}

/// A block is found by the whole of it and by each part, but by no more than it has.
fn check_whole(start: usize, size: usize, label: u32) {
    let whole = Some(Found { label, start, size });
    assert_eq!(find(at(start), size), whole);
    let part = size.min(fastrand::usize(1..size + 1));
    let found = find(at(start + size - part), part);
    assert_eq!(found, whole, "{part} of {size}");
    assert_eq!(find(at(start + size - part), part + 1), None);
}

fn all_empty(addresses: Range<usize>) -> bool {
    (granule(addresses.start)..=granule(addresses.end)).all(|granule| load(granule) == 0)
}

#[test]
fn random_blocks_are_found_from_every_address_inside() {
    fastrand::seed(7);
    let base = near_the_end_of_a_table(1);
    let span = 3 << 20;
    let mut blocks = Blocks::new();
    for round in 0..20_000_u32 {
        let size = match fastrand::u8(..) {
            0 => fastrand::usize(512..2 << 20),
            1..40 => fastrand::usize(512..40_000),
            _ => fastrand::usize(512..2600),
        };
        let start = base + fastrand::usize(..span / UNIT) * UNIT;
        let overlapping: Vec<usize> = (blocks.range(..start + size))
            .filter(|&(&other, &(size, _))| other + size > start)
            .map(|(&other, _)| other)
            .collect();
        for other in overlapping {
            let (size, label) = blocks.remove(&other).unwrap();
            assert_eq!(get(at(other)), label);
            clear(at(other), size);
            assert_eq!(get(at(other)), 0);
        }
        assert!(set(at(start), size, round + 1));
        blocks.insert(start, (size, round + 1));

        for inside in [start, start + size / 2, start + size - 1] {
            check(&blocks, inside);
        }
        check_whole(start, size, round + 1);
        check(&blocks, base + fastrand::usize(..span));
    }
    assert!(blocks.len() > 100);
    for (start, (size, label)) in blocks {
        assert_eq!(get(at(start)), label);
        clear(at(start), size);
    }
    assert!(all_empty(base..base + span + (2 << 20)));
}

#[test]
fn a_block_of_several_gib_is_found_from_every_mib_and_leaves_nothing() {
    let start = near_the_end_of_a_table(10) + 7 * UNIT;
    for size in [32 << 20, (32 << 20) - 1, (3 << 30) + 12_345] {
        assert!(set(at(start), size, 9));
        let found = Some(Found {
            label: 9,
            start,
            size,
        });
        let steps = (0..size).step_by(987_654);
        for inside in steps.chain([1, 511, 512, 1024, 1536, size - 1]) {
            assert_eq!(find(at(start + inside), 1), found, "{inside} of {size}");
        }
        assert_eq!(find(at(start + size + 1024), 1), None);
        clear(at(start), size);
        assert!(all_empty(start..start + size));
    }
}

#[test]
fn a_block_that_starts_at_the_end_of_a_table_is_found() {
    let start = near_the_end_of_a_table(15) + (1 << 20) - 512;
    for size in [1024, 5000, 2 << 20, 40 << 20] {
        assert!(set(at(start), size, 9));
        for inside in [0, 511, 512, 600, size - 1] {
            let found = Some(Found {
                label: 9,
                start,
                size,
            });
            assert_eq!(find(at(start + inside), 1), found, "{inside} of {size}");
        }
        clear(at(start), size);
        assert!(all_empty(start..start + size));
    }
}

#[test]
fn the_smallest_blocks_are_found_by_each_part() {
    for (offset, size) in [(0, 512), (16, 513), (496, 700), (496, 1023), (0, 1024)] {
        let start = near_the_end_of_a_table(20) + offset;
        assert!(set(at(start), size, 3));
        let found = |label| Some(Found { label, start, size });
        for inside in [0, 1, 15, 511, size - 1] {
            assert_eq!(find(at(start + inside), 1), found(3));
        }
        assert_eq!(find(at(start), size), found(3));
        assert_eq!(find(at(start), size + 1), None);
        assert_eq!(find(at(start + size), 1), None);
        assert_eq!((get(at(start)), find(at(start - 1), 1)), (3, None));
        assert!(relabel(start, 3, LABEL));
        assert_eq!(
            (get(at(start)), find(at(start + 500), 12)),
            (LABEL, found(LABEL))
        );
        clear(at(start), size);
        assert_eq!(find(at(start), 1), None);
    }
}

/// Another thread frees and allocates small blocks in the granules of a block without a label.
#[test]
fn a_search_in_memory_without_a_label_finds_no_small_neighbour() {
    let base = near_the_end_of_a_table(70);
    // The unlabelled block is [1008, 1520): it has no granule of its own.
    let (before, behind) = ([(0, 1008), (480, 528)], [(1520, 600), (1520, 1000)]);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            for round in 0..100_000 {
                for (offset, size) in [before[round % 2], behind[round % 2]] {
                    assert!(set(at(base + offset), size, 1));
                }
                for (offset, size) in [before[round % 2], behind[round % 2]] {
                    clear(at(base + offset), size);
                }
            }
        });
        while !changing.is_finished() {
            for inside in [1008, 1023, 1024, 1200, 1519] {
                assert_eq!(find(at(base + inside), 1), None);
            }
        }
    });
}

#[test]
fn a_label_changes_only_from_the_expected_one() {
    let start = near_the_end_of_a_table(30);
    assert!(set(at(start), 2000, 3));
    assert!(!relabel(start, 4, 5));
    assert!(relabel(start, 3, 5));
    assert_eq!(get(at(start)), 5);
    clear(at(start), 2000);
    assert!(!relabel(start, 3, 5));
}

#[test]
fn an_address_out_of_the_ordinary_has_no_label() {
    let before = unattributable();
    assert!(!set(at(near_the_end_of_a_table(40) + 8), 2000, 3));
    assert!(!set(at(1 << ADDRESS_BITS), 2000, 3));
    assert_eq!(get(at(1 << ADDRESS_BITS)), 0);
    assert!(unattributable() >= before + 2);
}

/// The lower bits of the sizes below are 4 and 6 MiB, the upper ones 3 and 2.
const SIZES: [usize; 2] = [100 << 20, 70 << 20];

#[test]
fn lower_and_upper_bits_of_two_blocks_make_no_size() {
    let base = near_the_end_of_a_table(50);
    let unlabelled = base + (101 << 20);
    assert!(set(at(base), SIZES[1], 1));
    let lower = granule(base) + 1;
    let reads = std::cell::Cell::new(0);

    let found = extent_by(
        |cell| {
            reads.set(reads.get() + 1);
            if reads.get() == 2 {
                clear(at(base), SIZES[1]);
                assert!(set(at(base), SIZES[0], 1));
            }
            load(cell)
        },
        lower,
        unlabelled,
    );

    assert!(matches!(found, Ok(None)));
    clear(at(base), SIZES[0]);
}

/// Another thread frees and allocates large blocks before a block without a label.
#[test]
fn a_search_in_memory_without_a_label_finds_no_neighbour() {
    let base = near_the_end_of_a_table(60);
    let unlabelled = base + SIZES[0];
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            for round in 0..20_000 {
                let size = SIZES[round % 2];
                assert!(set(at(base), size, 1));
                clear(at(base), size);
            }
        });
        while !changing.is_finished() {
            assert_eq!(find(at(unlabelled), 1), None);
            assert_eq!(find(at(unlabelled + 1000), 1), None);
        }
    });
}
