//! Random draws and settings.

use arrow_memory_integration_tests::operation::Rounding;
use arrow_memory_integration_tests::script::{Draw, Shape, UNLIMITED};
use proptest::prelude::*;

/// Makes draws from plain numbers, which proptest generates much faster than choices among strategies.
pub(super) fn draw(waits: bool) -> impl Strategy<Value = Draw> {
    any::<(u32, u16, u16, u32, u32)>().prop_map(move |numbers| Draw::new(numbers, waits))
}

pub(super) fn rounding() -> impl Strategy<Value = Rounding> {
    prop_oneof![
        3 => Just(Rounding::Padding),
        1 => Just(Rounding::PowerOfTwo),
        1 => Just(Rounding::Segment(1024)),
    ]
}

/// The limit of a root where requests wait: one that a few buffers fill.
pub(super) fn low_limit() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => (16..200_usize).prop_map(|units| units * 64),
        1 => 2_000..40_000_usize,
    ]
}

pub(super) fn root_limit() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => (16..600_usize).prop_map(|units| units * 64),
        2 => 0..40_000_usize,
        1 => Just(UNLIMITED),
        1 => Just(usize::MAX),
    ]
}

pub(super) fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![Just(Shape::Any), Just(Shape::Deep), Just(Shape::Wide)]
}
