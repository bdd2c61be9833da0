//! Random operations on a tree and on the naive model: every number after every step.
//!
//! A case is a list of [`Draw`]s, which become operations only as they are run: a draw picks among
//! what is there at that moment, and takes its sizes from what is left, so that about a third of
//! the requests are refused, many by a byte. `PROPTEST_CASES` changes how many cases run.

use std::sync::Arc;

use arrow_memory_core::AllocationManager;
use arrow_memory_integration_tests::backends;
use arrow_memory_integration_tests::model::Model;
use arrow_memory_integration_tests::operation::{Key, Operation, Outcome, Rounding};
use arrow_memory_integration_tests::side_by_side::{Headroom, SideBySide};
use arrow_memory_integration_tests::tree::Ground;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

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
/// strategies; smaller numbers are simpler steps.
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
        let bytes = resolve(model, allocator, draw.amount);
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
                Operation::Child {
                    allocator: self.key(),
                    parent,
                    reservation: if draw.second.is_multiple_of(2) {
                        0
                    } else {
                        resolve(model, parent, draw.amount)
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
                    size: if huge && bytes > UNLIMITED - 64 {
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
            Kind::TryTransfer => Operation::TryTransfer {
                buffer: pick(&model.buffers(), draw.second)?,
                moved: self.key(),
                allocator,
            },
            Kind::Reserve => Operation::Reserve {
                reservation: self.key(),
                allocator,
                bytes,
            },
            Kind::Extend => Operation::Extend {
                reservation: pick(&model.reservations(), draw.second)?,
                bytes,
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
                bytes: small,
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
    let most = |states: Vec<_>| {
        let allocated = |it: &arrow_memory_integration_tests::operation::State| it.allocated;
        states.iter().map(allocated).max()
    };
    most(after.states()) > Some(UNLIMITED)
}

fn run(credit: Option<usize>, rounding: Rounding, limit: usize, shape: Shape, draws: &[Draw]) {
    let manager: Arc<dyn AllocationManager> = backends::manager("system");
    let mut pair = SideBySide::new(Ground::Root { manager, credit }, rounding);
    let mut script = Script { shape, next: 0 };
    pair.apply(&Operation::Root {
        allocator: 0,
        limit,
    });
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
                step(&mut pair, &operation);
            }
        }
    }
    release_all(&mut pair);
}

fn step(pair: &mut SideBySide, operation: &Operation) {
    pair.apply(operation);
    pair.compare(Headroom::Known);
    pair.verify();
}

/// Everything goes, in no particular order; then every allocator closes, the root last.
fn release_all(pair: &mut SideBySide) {
    for buffer in pair.model.buffers() {
        pair.apply(&Operation::Release { buffer });
    }
    for reservation in pair.model.reservations() {
        pair.apply(&Operation::Unreserve { reservation });
    }
    for allocator in pair.model.allocators().into_iter().rev() {
        pair.apply(&Operation::Unforce { allocator });
        let bytes = pair.model.external(allocator);
        pair.apply(&Operation::ReleaseBytes { allocator, bytes });
        pair.compare(Headroom::Known);
        pair.verify();
        let closed = pair.apply(&Operation::Close { allocator });
        assert_eq!(closed, Outcome::Done);
    }
}

/// A case, of which a failure shows the operations and not only the draws.
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
                run($credit, rounding, limit, shape, &draws);
            }
        }
    };
}

fn config() -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok();
    Config {
        cases: cases.and_then(|it| it.parse().ok()).unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 20_000,
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
