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
const CASES: u32 = 700;

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

fn amount() -> impl Strategy<Value = Amount> {
    let near = prop_oneof![Just(-64_isize), Just(-1), Just(0), Just(1), Just(64), -200..200_isize];
    prop_oneof![
        6 => (0..3000_usize).prop_map(Amount::Bytes),
        1 => prop_oneof![Just(0), Just(1), Just(63), Just(64), Just(65)].prop_map(Amount::Bytes),
        4 => near.clone().prop_map(Amount::Left),
        2 => near.prop_map(Amount::Allocated),
        3 => any::<u8>().prop_map(Amount::Part),
        1 => prop_oneof![Just(0), Just(1), Just(63), 0..100_000_usize].prop_map(Amount::Huge),
    ]
}

fn draw() -> impl Strategy<Value = Draw> {
    let kind = prop_oneof![
        6 => Just(Kind::Child),
        20 => Just(Kind::Allocate),
        14 => Just(Kind::Release),
        1 => Just(Kind::ReleaseMany),
        3 => Just(Kind::Slice),
        5 => Just(Kind::Share),
        7 => Just(Kind::Transfer),
        5 => Just(Kind::TryTransfer),
        4 => Just(Kind::Reserve),
        3 => Just(Kind::Extend),
        2 => Just(Kind::Shrink),
        3 => Just(Kind::Use),
        2 => Just(Kind::Unreserve),
        3 => Just(Kind::Force),
        3 => Just(Kind::Unforce),
        5 => Just(Kind::AllocateBytes),
        4 => Just(Kind::ReleaseBytes),
        6 => Just(Kind::Limit),
        1 => Just(Kind::Close),
        3 => Just(Kind::CloseIdle),
    ];
    (kind, any::<u16>(), any::<u16>(), amount(), amount()).prop_map(
        |(kind, first, second, amount, other)| Draw {
            kind,
            first,
            second,
            amount,
            other,
        },
    )
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
                    size: if huge && bytes > UNLIMITED - 64 { bytes } else { small },
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
            let most = if less.is_multiple_of(2) { usize::MAX } else { UNLIMITED };
            most - less
        }
    }
}

/// A limit around what is allocated, so that much is refused and some is over.
fn resolve_limit(model: &Model, allocator: Key, amount: Amount) -> usize {
    let state = model.state(allocator);
    match amount {
        Amount::Bytes(bytes) => state.allocated + bytes,
        Amount::Left(more) | Amount::Allocated(more) => {
            state.allocated.saturating_add_signed(more)
        }
        Amount::Part(part) => state.allocated * usize::from(part) / 128 + 2048,
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
            Kind::ReleaseMany => 12,
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

property!(random_operations_agree_with_the_model_with_the_default_credit, None);
property!(random_operations_agree_with_the_model_without_credit, Some(0));
property!(random_operations_agree_with_the_model_with_the_credit_of_a_few_buffers, Some(1000));
