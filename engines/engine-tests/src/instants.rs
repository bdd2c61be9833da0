//! What is compared while a query runs: the bytes that a tree says are held, and the Arrow buffers that crossed an
//! operator boundary and are alive, counted by address.
//!
//! A rule puts an `Observer` on top of each operator. It keeps a clone of each buffer that it sees,
//! so that the buffer's count of owners tells whether anybody else has it still. Nothing may run between the two
//! readings: so the query runs on a runtime of one thread, and the observers read when they are polled, since what they
//! have seen before was handed over by then.
//!
//! A test gives [`Crossed::new`] a closure that returns the bytes that the query holds, as the tree says.

mod observer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::ArrayData;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::SessionStateBuilder;

/// Returns the bytes that a tree says are held.
pub type Held = Box<dyn Fn() -> usize + Send + Sync>;

/// The buffers that crossed an operator boundary, and what was found by comparing.
pub struct Crossed {
    buffers: Mutex<HashMap<usize, Buffer>>,
    held: Held,
    found: Mutex<Found>,
}

/// What was found by comparing.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// How often it was compared.
    pub instants: usize,
    /// The largest number of bytes that were alive at an instant.
    pub peak: usize,
    /// The first instants at which the numbers differed: what was alive, and what was said to be held.
    pub differences: Vec<(usize, usize)>,
}

/// Differences that are kept.
const KEPT: usize = 10;

impl Crossed {
    /// Compares with what that closure returns.
    pub fn new(held: Held) -> Arc<Self> {
        Arc::new(Self {
            buffers: Mutex::default(),
            held,
            found: Mutex::default(),
        })
    }

    /// Notes that a batch crosses an operator boundary.
    pub fn note(&self, batch: &RecordBatch) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        for column in batch.columns() {
            note(&mut buffers, &column.to_data());
        }
    }

    /// Returns the capacity of all noted buffers that somebody else has still. Those that nobody has are forgotten.
    pub fn live(&self) -> usize {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dead = Vec::new();
        dead.extend(buffers.extract_if(|_, buffer| buffer.strong_count() == 1));
        let live = buffers.values().map(Buffer::capacity).sum();
        // What owns a buffer may be anything, so it is dropped without the lock.
        drop(buffers);
        drop(dead);
        live
    }

    /// Compares what is alive with what is said to be held.
    pub fn compare(&self) {
        let (live, held) = (self.live(), (self.held)());
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.instants += 1;
        found.peak = found.peak.max(live);
        if live != held && found.differences.len() < KEPT {
            found.differences.push((live, held));
        }
    }

    /// Returns what was found so far.
    pub fn found(&self) -> Found {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn note(buffers: &mut HashMap<usize, Buffer>, data: &ArrayData) {
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    for buffer in data.buffers().iter().chain(nulls) {
        // An empty buffer owns nothing, and its address is nobody's.
        if buffer.capacity() > 0 {
            let address = buffer.data_ptr().as_ptr().addr();
            buffers.entry(address).or_insert_with(|| buffer.clone());
        }
    }
    for child in data.child_data() {
        note(buffers, child);
    }
}

/// Has the plans of a session observed. Call it before the session is put under a tree, whose rules come last.
pub fn observe(builder: SessionStateBuilder, crossed: &Arc<Crossed>) -> SessionStateBuilder {
    builder.with_physical_optimizer_rule(Arc::new(observer::ObserverRule(Arc::clone(crossed))))
}
