//! Random operations on a tree and on the naive model: every number after every step.
//!
//! A case is a list of [`Draw`]s, which become operations only as they are run: a draw picks among
//! what is there at that moment, and takes its sizes from what is left, so that about a third of
//! the requests are refused, many by a byte. `PROPTEST_CASES` changes how many cases run.

use std::cell::Cell;
use std::panic;
use std::sync::{Arc, Once};
use std::thread;

use arrow_memory_core::AllocationManager;
use arrow_memory_integration_tests::backends;
use arrow_memory_integration_tests::model::Model;
use arrow_memory_integration_tests::operation::{Key, Operation, Rounding};
use arrow_memory_integration_tests::side_by_side::{Headroom, SideBySide};
use arrow_memory_integration_tests::tree::Ground;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

/// Steps per case.
const STEPS: usize = 200;

/// Cases per property, unless the environment says otherwise: each runs with credit, without, and
/// with little.
const CASES: u32 = 2000;

/// Buffers are real memory: none is larger than this.
const LARGEST_BUFFER: usize = 256 * 1024;

/// More than any case allocates, and still far from overflowing.
const UNLIMITED: usize = isize::MAX as usize;

/// A step before it is known what there is to choose from.
#[derive(Clone, Debug)]
struct Draw {
    kind: Kind,
    /// Pick one each of what there is.
    first: u16,
    second: u16,
    amount: Amount,
    other: Amount,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Child,
    Allocate,
    Release,
    ReleaseMany,
    Slice,
    Share,
    Transfer,
    TryTransfer,
    Reserve,
    Extend,
    Shrink,
    Use,
    Unreserve,
    Force,
    Unforce,
    AllocateBytes,
    ReleaseBytes,
    Limit,
    Close,
    CloseIdle,
}

/// How many bytes.
#[derive(Clone, Copy, Debug)]
enum Amount {
    /// That many.
    Bytes(usize),
    /// As many as the allocator has left, and so many more.
    Left(isize),
    /// As many as the allocator has, and so many more.
    Allocated(isize),
    /// A part of what is left, in 256ths.
    Part(u8),
    /// Too many for any sum.
    Huge(usize),
}

/// How often each kind is drawn.
const KINDS: [(u32, Kind); 20] = [
    (14, Kind::Release),
    (20, Kind::Allocate),
    (6, Kind::Child),
    (1, Kind::ReleaseMany),
    (3, Kind::Slice),
    (5, Kind::Share),
    (7, Kind::Transfer),
    (5, Kind::TryTransfer),
    (4, Kind::Reserve),
    (3, Kind::Extend),
    (2, Kind::Shrink),
    (3, Kind::Use),
    (2, Kind::Unreserve),
    (3, Kind::Force),
    (3, Kind::Unforce),
    (5, Kind::AllocateBytes),
    (4, Kind::ReleaseBytes),
    (6, Kind::Limit),
    (1, Kind::Close),
    (3, Kind::CloseIdle),
];

/// Made from plain numbers, which proptest draws much faster than it chooses among
/// strategies.
fn draw() -> impl Strategy<Value = Draw> {
    any::<(u32, u16, u16, u32, u32)>().prop_map(|(kind, first, second, amount, other)| Draw {
        kind: decode_kind(kind),
        first,
        second,
        amount: decode_amount(amount),
        other: decode_amount(other),
    })
}

fn decode_kind(drawn: u32) -> Kind {
    let total: u32 = KINDS.iter().map(|it| it.0).sum();
    let mut rest = drawn % total;
    for (weight, kind) in KINDS {
        if rest < weight {
            return kind;
        }
        rest -= weight;
    }
    unreachable!("the weights sum up to the total")
}

fn decode_amount(drawn: u32) -> Amount {
    const NEAR: [isize; 6] = [0, 1, -1, 64, -64, 17];
    const SMALL: [usize; 5] = [0, 1, 63, 64, 65];
    let (class, value) = (
        drawn % 17,
        usize::try_from(drawn / 17).expect("32 bits fit"),
    );
    let near = NEAR[value % NEAR.len()];
    match class {
        0..6 => Amount::Bytes(value % 3000),
        6 => Amount::Bytes(SMALL[value % SMALL.len()]),
        7..11 => Amount::Left(near),
        11..13 => Amount::Allocated(near),
        13..16 => Amount::Part((value % 256).try_into().expect("a byte")),
        _ => Amount::Huge(value % 1000),
    }
}

fn rounding() -> impl Strategy<Value = Rounding> {
    prop_oneof![
        3 => Just(Rounding::Padding),
        1 => Just(Rounding::PowerOfTwo),
        1 => Just(Rounding::Segment(1024)),
    ]
}

fn root_limit() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => (16..600_usize).prop_map(|units| units * 64),
        2 => 0..40_000_usize,
        1 => Just(UNLIMITED),
        1 => Just(usize::MAX),
    ]
}

/// Whether a tree grows down or sideways.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Any,
    Deep,
    Wide,
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![Just(Shape::Any), Just(Shape::Deep), Just(Shape::Wide)]
}

/// Turns draws into operations on what there is.
struct Script {
    shape: Shape,
    next: Key,
}

impl Script {
    fn key(&mut self) -> Key {
        self.next += 1;
        self.next
    }

    /// The operation of a draw, or none if there is nothing to do it to.
    fn operation(&mut self, model: &Model, draw: &Draw) -> Option<Operation> {
        let allocators = model.allocators();
        let allocator = pick(&allocators, draw.first)?;
        if model.is_closed(allocator) && matches!(draw.amount, Amount::Huge(_)) {
            // There would be two reasons to refuse.
            return None;
        }
        let closed = usize::from(model.is_closed(allocator));
        let bytes = resolve(model, allocator, draw.amount).max(closed);
        let small = bytes.min(LARGEST_BUFFER);
        Some(match draw.kind {
            Kind::Child => {
                if allocators.len() > 14 {
                    return None;
                }
                let parent = match self.shape {
                    Shape::Any => allocator,
                    Shape::Deep => *allocators.last()?,
                    Shape::Wide => allocators[0],
                };
                if model.is_closed(parent) && !draw.second.is_multiple_of(8) {
                    return None;
                }
                Operation::Child {
                    allocator: self.key(),
                    parent,
                    reservation: if draw.second.is_multiple_of(2) || model.is_closed(parent) {
                        0
                    } else {
                        match resolve(model, parent, draw.amount) {
                            // Else the ownership of its buffers could not move elsewhere.
                            granted if granted <= UNLIMITED => granted.min(1 << 40),
                            refused => refused,
                        }
                    },
                    limit: resolve_limit(model, parent, draw.other),
                }
            }
            Kind::Allocate => {
                let huge = matches!(draw.amount, Amount::Huge(_));
                Operation::Allocate {
                    buffer: self.key(),
                    allocator,
                    // Nobody's limit may grant what no backend has.
                    size: if huge && bytes > UNLIMITED - 63 {
                        bytes
                    } else {
                        small
                    },
                }
            }
            Kind::Release | Kind::ReleaseMany => Operation::Release {
                buffer: pick(&model.buffers(), draw.second)?,
            },
            Kind::Slice => {
                let buffer = pick(&model.buffers(), draw.second)?;
                let offset = usize::from(draw.first) % (model.length(buffer) + 1);
                Operation::Slice {
                    buffer,
                    slice: self.key(),
                    offset,
                    length: bytes.min(model.length(buffer) - offset),
                }
            }
            Kind::Share => Operation::Share {
                buffer: pick(&model.buffers(), draw.second)?,
                shared: self.key(),
                allocator,
            },
            Kind::Transfer => Operation::Transfer {
                buffer: pick(&model.buffers(), draw.second)?,
                moved: self.key(),
                allocator,
            },
            Kind::TryTransfer => {
                // Whether a closed ancestor of both may pass bytes on is not said anywhere.
                if model.is_below_closed(allocator) {
                    return None;
                }
                Operation::TryTransfer {
                    buffer: pick(&model.buffers(), draw.second)?,
                    moved: self.key(),
                    allocator,
                }
            }
            Kind::Reserve => Operation::Reserve {
                reservation: self.key(),
                allocator,
                bytes,
            },
            Kind::Extend => Operation::Extend {
                reservation: pick(&model.reservations(), draw.second)?,
                bytes: bytes.max(1),
            },
            Kind::Shrink => {
                let reservation = pick(&model.reservations(), draw.second)?;
                let bytes = bytes.min(model.reserved(reservation));
                Operation::Shrink { reservation, bytes }
            }
            Kind::Use => {
                let reservation = pick(&model.reservations(), draw.second)?;
                if model.reserved(reservation) > LARGEST_BUFFER {
                    return None;
                }
                let buffer = self.key();
                Operation::Use {
                    buffer,
                    reservation,
                }
            }
            Kind::Unreserve => Operation::Unreserve {
                reservation: pick(&model.reservations(), draw.second)?,
            },
            Kind::Force => Operation::Force {
                allocator,
                bytes: small.max(1),
            },
            Kind::Unforce => Operation::Unforce { allocator },
            Kind::AllocateBytes => Operation::AllocateBytes { allocator, bytes },
            Kind::ReleaseBytes => Operation::ReleaseBytes {
                allocator,
                bytes: bytes.min(model.external(allocator)),
            },
            Kind::Limit => Operation::Limit {
                allocator,
                limit: resolve_limit(model, allocator, draw.amount),
            },
            Kind::Close => {
                if allocator == allocators[0] {
                    return None;
                }
                Operation::Close { allocator }
            }
            Kind::CloseIdle => {
                let idle = allocators[1..].iter().copied();
                let idle: Vec<Key> = idle.filter(|&key| model.is_idle(key)).collect();
                let allocator = pick(&idle, draw.first)?;
                Operation::Close { allocator }
            }
        })
    }
}

fn pick(keys: &[Key], draw: u16) -> Option<Key> {
    (!keys.is_empty()).then(|| keys[usize::from(draw) % keys.len()])
}

fn resolve(model: &Model, allocator: Key, amount: Amount) -> usize {
    let state = model.state(allocator);
    let left = usize::try_from(state.headroom).unwrap_or(0);
    match amount {
        Amount::Bytes(bytes) => bytes,
        Amount::Left(more) => left.saturating_add_signed(more),
        Amount::Allocated(more) => state.allocated.saturating_add_signed(more),
        Amount::Part(part) if left < 1 << 40 => left * usize::from(part) / 256,
        Amount::Part(part) => usize::from(part) * 100,
        Amount::Huge(less) => {
            let most = if less.is_multiple_of(2) {
                usize::MAX
            } else {
                UNLIMITED
            };
            most - less
        }
    }
}

/// A limit around what is allocated, so that much is refused and some is over.
fn resolve_limit(model: &Model, allocator: Key, amount: Amount) -> usize {
    let state = model.state(allocator);
    match amount {
        Amount::Bytes(bytes) => state.allocated + bytes,
        Amount::Left(more) | Amount::Allocated(more) => state.allocated.saturating_add_signed(more),
        Amount::Part(part) => state.allocated / 128 * usize::from(part) + 2048,
        Amount::Huge(less) => usize::MAX - less,
    }
}

/// Whether a step could make a sum overflow by force, which panics and is tested elsewhere.
fn overflows(model: &Model, operation: &Operation) -> bool {
    if !matches!(
        operation,
        Operation::Force { .. } | Operation::Transfer { .. } | Operation::Release { .. }
    ) {
        return false;
    }
    let mut after = model.clone();
    after.apply(operation);
    let most = after.views().into_iter().map(|it| it.transient_peak).max();
    most > Some(UNLIMITED)
}

/// A case; a failure is cut down to a few steps, and tells the operations, which the draws do not
/// show.
fn run(
    credit: Option<usize>,
    rounding: Rounding,
    limit: usize,
    shape: Shape,
    draws: &[Draw],
) -> Result<(), TestCaseError> {
    let story = |draws: &[Draw]| {
        let manager: Arc<dyn AllocationManager> = backends::manager("system");
        let mut pair = SideBySide::new(Ground::Root { manager, credit }, rounding);
        let panic = quietly(|| run_all(&mut pair, limit, shape, draws)).err()?;
        let message = panic.downcast_ref::<String>().map_or("", |it| it);
        let story = format!("{message}\n{}", pair.story());
        // The tree may not be fit to be dropped.
        std::mem::forget(pair);
        Some(story)
    };
    match story(draws) {
        None => Ok(()),
        Some(first) => Err(TestCaseError::fail(shortest(first, draws, story))),
    }
}

/// Leaves out draws, many at a time and then fewer, as long as the rest fails.
fn shortest(first: String, draws: &[Draw], story: impl Fn(&[Draw]) -> Option<String>) -> String {
    let (mut shortest, mut draws, mut chunk) = (first, draws.to_vec(), draws.len() / 2);
    while chunk > 0 {
        let mut start = 0;
        while start < draws.len() {
            let mut fewer = draws.clone();
            fewer.drain(start..(start + chunk).min(draws.len()));
            match story(&fewer) {
                Some(failure) => (shortest, draws) = (failure, fewer),
                None => start += chunk,
            }
        }
        chunk /= 2;
    }
    shortest
}

fn run_all(pair: &mut SideBySide, limit: usize, shape: Shape, draws: &[Draw]) {
    let mut script = Script { shape, next: 0 };
    let allocator = 0;
    step(pair, &Operation::Root { allocator, limit });
    for draw in draws {
        let rounds = match draw.kind {
            Kind::ReleaseMany => 8,
            _ => 1,
        };
        for _ in 0..rounds {
            let Some(operation) = script.operation(&pair.model, draw) else {
                continue;
            };
            if !overflows(&pair.model, &operation) {
                step(pair, &operation);
            }
        }
    }
    release_all(pair);
}

/// Catches a panic without its message: proptest repeats a failure a thousand times to shrink it.
fn quietly(what: impl FnOnce()) -> thread::Result<()> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let result = panic::catch_unwind(panic::AssertUnwindSafe(what));
    QUIET.set(false);
    result
}

fn step(pair: &mut SideBySide, operation: &Operation) {
    pair.apply(operation);
    pair.compare(Headroom::Known);
    pair.verify();
}

/// Everything goes, external bytes first: there may be so many that a buffer's ownership could not
/// move. Then every allocator closes, the root last.
fn release_all(pair: &mut SideBySide) {
    for allocator in pair.model.allocators().into_iter().rev() {
        release_external(pair, allocator);
    }
    for buffer in pair.model.buffers() {
        step(pair, &Operation::Release { buffer });
    }
    for reservation in pair.model.reservations() {
        step(pair, &Operation::Unreserve { reservation });
    }
    while let Some(&allocator) = pair.model.allocators().last() {
        step(pair, &Operation::Close { allocator });
    }
}

/// One whose close failed leaves with its last byte.
fn release_external(pair: &mut SideBySide, allocator: Key) {
    let there = |pair: &SideBySide| pair.model.allocators().contains(&allocator);
    if there(pair) && pair.model.external(allocator) > 0 {
        let bytes = pair.model.external(allocator);
        step(pair, &Operation::ReleaseBytes { allocator, bytes });
    }
    if there(pair) && pair.model.forced(allocator) > 0 {
        step(pair, &Operation::Unforce { allocator });
    }
}

macro_rules! property {
    ($name:ident, $credit:expr) => {
        proptest! {
            #![proptest_config(config())]

            #[test]
            fn $name(
                rounding in rounding(),
                limit in root_limit(),
                shape in shape(),
                draws in vec(draw(), STEPS),
            ) {
                run($credit, rounding, limit, shape, &draws)?;
            }
        }
    };
}

fn config() -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok();
    Config {
        cases: cases.and_then(|it| it.parse().ok()).unwrap_or(CASES),
        failure_persistence: None,
        // A failure is cut down by `shortest`, which knows what draws mean.
        max_shrink_iters: 0,
        ..Config::default()
    }
}

property!(
    random_operations_agree_with_the_model_with_the_default_credit,
    None
);
property!(
    random_operations_agree_with_the_model_without_credit,
    Some(0)
);
property!(
    random_operations_agree_with_the_model_with_the_credit_of_a_few_buffers,
    Some(1000)
);
