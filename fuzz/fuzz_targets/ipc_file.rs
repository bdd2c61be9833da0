//! Reads any bytes as an Arrow IPC file, copied and in place: the result is batches or an error, and no
//! memory stays charged.
#![no_main]

use std::io::Cursor;

use arrow_memory_arrow::MemoryError;
use arrow_memory_arrow::deps::arrow_array::{Array, RecordBatch};
use arrow_memory_arrow::ipc::IpcFileReader;
use arrow_memory_core::RootAllocator;
use arrow_memory_fuzz::let_arrow_panic;
use arrow_memory_system as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let_arrow_panic();
    let root = RootAllocator::new(64 << 20);
    if let Ok(reader) = IpcFileReader::new(Cursor::new(bytes), &*root) {
        check(reader);
    }
    let whole = root.buffer_from_slice(bytes).expect("inputs are small");
    if let Ok(reader) = IpcFileReader::from_buffer(whole, &*root) {
        check(reader);
    }
    assert!(root.peak_memory_allocation() <= 64 << 20);
    assert_eq!(root.allocated_memory(), 0);
});

fn check(batches: impl Iterator<Item = Result<RecordBatch, MemoryError>>) {
    for batch in batches.take(64).flatten() {
        for column in batch.columns() {
            column
                .to_data()
                .validate_full()
                .expect("what was read is valid");
        }
    }
}
