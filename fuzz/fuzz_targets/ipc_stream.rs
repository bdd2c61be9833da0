//! Reads any bytes as an Arrow IPC stream: the result is batches or an error, within the limit, and no memory
//! stays charged.
#![no_main]

use arrow_memory_arrow::deps::arrow_array::Array;
use arrow_memory_arrow::ipc::IpcStreamReader;
use arrow_memory_core::RootAllocator;
use arrow_memory_fuzz::let_arrow_panic;
use arrow_memory_system as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let_arrow_panic();
    let root = RootAllocator::new(64 << 20);
    if let Ok(reader) = IpcStreamReader::new(bytes, &*root) {
        for batch in reader.take(64) {
            let Ok(batch) = batch else { break };
            for column in batch.columns() {
                column
                    .to_data()
                    .validate_full()
                    .expect("what was read is valid");
            }
        }
    }
    assert!(root.peak_memory_allocation() <= 64 << 20);
    assert_eq!(root.allocated_memory(), 0);
});
