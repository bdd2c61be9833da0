//! Leaks on purpose: a clone that a thread keeps.
//!
//! Run it with `cargo run -p arrow-memory-core --example leak_clone`; it prints the error
//! of the failed `close` in debug mode.

use std::sync::mpsc;
use std::thread;

use arrow_memory_core::{AllocError, ArrowBuf, RootAllocator};
use arrow_memory_system as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = RootAllocator::builder().limit(8192).debug(true).build()?;
    let batch = read_batch(&root)?;
    let (stop, stopped) = mpsc::channel::<()>();
    let (started, ready) = mpsc::channel::<()>();
    let worker = thread::spawn(move || {
        let column = keep_column(&batch);
        drop(batch);
        started.send(()).ok();
        // The thread waits for work that is never sent, and keeps its column.
        stopped.recv().ok();
        drop(column);
    });
    ready.recv()?;
    if let Err(error) = root.close() {
        println!("{error}");
    }
    drop(stop);
    worker.join().expect("the worker does not panic");
    Ok(())
}

fn read_batch(root: &RootAllocator) -> Result<ArrowBuf, AllocError> {
    root.buffer_from_slice(&[7; 4096])
}

fn keep_column(batch: &ArrowBuf) -> ArrowBuf {
    batch.clone()
}
