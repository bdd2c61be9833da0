//! The suite that every [`DeviceManager`] should pass.
//!
//! [`device_suite!`](crate::device_suite) makes a test of each function here. Each panics where the manager, or the
//! accounting over it, breaks the promise that the function is named after.

mod accounting;
mod bytes;
mod copies;
mod streams;

use std::alloc::System;
use std::any::Any;
use std::sync::Arc;

use arrow_memory_core::{GlobalAllocManager, RootAllocator};

pub use self::accounting::{
    a_charge_moves_with_its_buffer, a_device_without_room_is_an_error_and_nothing_stays_charged,
    a_failed_close_lists_what_is_outstanding, a_limit_refuses_what_passes_it,
    a_request_waits_until_memory_is_released, a_reservation_pays_for_a_buffer,
    a_shared_block_is_charged_once, buffers_outlive_the_handles_of_their_tree,
    capacities_are_charged_and_given_back, statistics_follow_the_blocks,
    threads_allocate_and_free_at_once,
};
pub use self::bytes::{
    a_reader_seeks_and_ends, a_slice_is_a_part_of_the_same_bytes,
    a_writer_does_not_grow_the_buffer, an_empty_buffer_has_no_memory,
    blocks_are_aligned_and_do_not_overlap, bytes_of_every_size_are_read_back,
};
pub use self::copies::{
    a_copy_is_charged_where_it_lands, a_copy_of_a_slice_has_its_bytes_only,
    a_view_from_another_tree_is_not_charged_twice, a_view_on_the_host_is_not_charged_twice,
    a_view_within_the_tree_is_shared, bytes_travel_over_other_devices, view_or_copy_gets_the_bytes,
};
pub use self::streams::{
    a_buffer_that_is_dropped_while_it_is_copied_gives_everything_back,
    a_copy_on_a_stream_is_there_once_it_is_ready, a_stream_of_another_device_is_refused,
    a_stream_waits_for_the_event_of_another_one, what_is_read_on_another_stream_is_waited_for,
    work_on_a_stream_is_in_order,
};
use crate::manager::DeviceManager;
use crate::root::DeviceRoot;
use crate::sim::SimDevice;

/// Makes a module with one test for each promise of a device's manager.
///
/// The expression makes the manager, as an `Arc`; it is evaluated once per test.
///
/// ```
/// use arrow_memory_device::{SimDevice, device_suite};
///
/// device_suite!(sim, SimDevice::new());
/// ```
#[macro_export]
macro_rules! device_suite {
    ($module:ident, $manager:expr $(,)?) => {
        $crate::__device_promises! { ($crate::device_suite) @each $module, $manager, }
    };
    (@each $module:ident, $manager:expr, $($promise:ident)*) => {
        mod $module {
            #[allow(unused_imports, reason = "the manager's expression may need them")]
            use super::*;

            $(
                #[test]
                fn $promise() {
                    let manager: ::std::sync::Arc<dyn $crate::DeviceManager> = $manager;
                    $crate::testing::$promise(&manager);
                    $crate::testing::nothing_was_done_in_the_wrong_order(&manager);
                }
            )*
        }
    };
}

/// Calls the macro in the parentheses with the tokens that follow, and the names of all promises.
#[doc(hidden)]
#[macro_export]
macro_rules! __device_promises {
    (($($then:tt)*) $($tokens:tt)*) => {
        $($then)*! {
            $($tokens)*
            capacities_are_charged_and_given_back
            a_limit_refuses_what_passes_it
            a_device_without_room_is_an_error_and_nothing_stays_charged
            statistics_follow_the_blocks
            a_shared_block_is_charged_once
            a_charge_moves_with_its_buffer
            a_failed_close_lists_what_is_outstanding
            a_request_waits_until_memory_is_released
            a_reservation_pays_for_a_buffer
            buffers_outlive_the_handles_of_their_tree
            threads_allocate_and_free_at_once
            an_empty_buffer_has_no_memory
            blocks_are_aligned_and_do_not_overlap
            bytes_of_every_size_are_read_back
            a_slice_is_a_part_of_the_same_bytes
            a_reader_seeks_and_ends
            a_writer_does_not_grow_the_buffer
            a_copy_is_charged_where_it_lands
            a_copy_of_a_slice_has_its_bytes_only
            bytes_travel_over_other_devices
            a_view_on_the_host_is_not_charged_twice
            a_view_from_another_tree_is_not_charged_twice
            a_view_within_the_tree_is_shared
            view_or_copy_gets_the_bytes
            a_copy_on_a_stream_is_there_once_it_is_ready
            work_on_a_stream_is_in_order
            a_stream_waits_for_the_event_of_another_one
            what_is_read_on_another_stream_is_waited_for
            a_stream_of_another_device_is_refused
            a_buffer_that_is_dropped_while_it_is_copied_gives_everything_back
        }
    };
}

/// A promise of a device's manager, by its name.
pub type Promise = (&'static str, fn(&Arc<dyn DeviceManager>));

macro_rules! suite {
    ($($promise:ident)*) => {
        /// All promises of [`device_suite`](crate::device_suite), for a program that runs them itself. Each panics if it
        /// is not kept.
        pub const SUITE: &[Promise] = &[$((stringify!($promise), $promise)),*];
    };
}

crate::__device_promises! { (suite) }

/// A simulated device has recorded no hazard. Other devices do not know.
///
/// # Panics
///
/// If it has.
pub fn nothing_was_done_in_the_wrong_order(manager: &Arc<dyn DeviceManager>) {
    let manager: &dyn Any = &**manager;
    if let Some(sim) = manager.downcast_ref::<SimDevice>() {
        assert_eq!(sim.hazards(), []);
    }
}

/// A tree over the manager without a limit.
fn tree(manager: &Arc<dyn DeviceManager>) -> DeviceRoot {
    tree_of(manager, usize::MAX)
}

/// A tree over the manager with a limit in bytes.
fn tree_of(manager: &Arc<dyn DeviceManager>, limit: usize) -> DeviceRoot {
    let root = DeviceRoot::builder()
        .limit(limit)
        .manager(Arc::clone(manager));
    root.build().expect("the manager is given by value")
}

/// A tree of the host, whatever backends the program has.
fn host() -> RootAllocator {
    let manager = Arc::new(GlobalAllocManager::new("suite", System));
    let root = RootAllocator::builder().allocation_manager(manager);
    root.build().expect("the manager is given by value")
}

/// Bytes that differ from their neighbours, and between two seeds.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed)
        .collect()
}
