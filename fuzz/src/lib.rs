//! The common code of the fuzz targets: how they read their input, and what they do about panics.

#[allow(dead_code, reason = "the tests of memory-arrow use more of it")]
#[path = "../../memory-arrow/src/versioned/random.rs"]
mod random;

pub mod producer;
pub mod raw;

use std::panic::{Location, PanicHookInfo};
use std::sync::Arc;

pub use arrow_memory_arrow::deps;
use arrow_memory_arrow::deps::arrow_array::ArrayRef;
use arrow_memory_core::{AllocationManager, backend};

/// The unread rest of the input. Behind its end there are zeros.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    /// A byte as the index of one of `n` things; 0 if there are none.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// Whether the next byte is even.
    pub fn flag(&mut self) -> bool {
        self.byte() % 2 == 0
    }

    /// Two bytes as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A size in bytes: usually one below 4 KiB, sometimes one of a few KiB, rarely one that no allocator has.
    pub fn size(&mut self) -> usize {
        match self.byte() {
            0 => 0,
            1 => usize::MAX,
            2 => isize::MAX as usize,
            3 => isize::MAX as usize - 63,
            large @ 4..16 => usize::from(large) << 10,
            round @ 16..48 => usize::from(round - 16) * 64,
            class @ 48.. => usize::from(class - 48) * 16 + self.below(16),
        }
    }

    /// A number that few arrays have, or none.
    pub fn number(&mut self) -> i64 {
        match self.byte() % 8 {
            0 => -1,
            1 => i64::MIN,
            2 => i64::MAX,
            3 => i64::MAX / 2,
            4 => -i64::from(self.byte()),
            5 => 1 << 62,
            6 => i64::from(self.byte()) << 56,
            _ => i64::from(self.byte() % 3),
        }
    }

    /// Up to `n` bytes, as many as there are.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// One of the backends. The target links them: those that do not choose keep to the system's allocator, whose
    /// blocks AddressSanitizer knows.
    pub fn manager(&mut self) -> Arc<dyn AllocationManager> {
        let name = ["system", "jemalloc", "mimalloc", "arena"][self.below(4)];
        backend::manager(name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// An array of up to 64 rows: of any type, nested, with any values. Five bytes say which.
    pub fn array(&mut self) -> ArrayRef {
        let (kind, rows, depth) = (self.below(random::KINDS), self.below(65), self.below(3));
        let mut random = random::Random::new(u64::from(self.short()));
        random::random_array(&mut random, kind, rows, depth)
    }
}

/// Silences panics of arrow-rs on bad input, which callers catch and return as errors; libFuzzer's hook would
/// abort. Panics in the targets themselves are printed and unwind out of the target, which stops the fuzzer.
pub fn let_arrow_panic() {
    hook(|at| at.file().contains("fuzz_targets"));
}

/// Prints panics, which unwind out of the target and stop the fuzzer; libFuzzer's hook would abort before the
/// target can say what led to one.
pub fn print_panics() {
    hook(|_| true);
}

fn hook(is_printed: fn(&Location<'_>) -> bool) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
            if panic.location().is_none_or(is_printed) {
                eprintln!("{panic}");
            }
        }));
    });
}
