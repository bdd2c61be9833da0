// The suite of every device manager, as a list that a program can run.

use std::sync::Arc;

use arrow_memory_device::{DeviceManager, testing};

/// A promise of a device's manager, by its name.
pub(crate) type Promise = (&'static str, fn(&Arc<dyn DeviceManager>));

macro_rules! promises {
    ($($promise:ident)*) => {
        /// All promises of `arrow_memory_device::testing`.
        pub(crate) const SUITE: &[Promise] = &[$((stringify!($promise), testing::$promise)),*];
    };
}

promises! {
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
