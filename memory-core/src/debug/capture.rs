//! Captures the stack of the caller.

use std::hint::black_box;

use super::walk::addresses_above;
use crate::stack::{FRAMES, StackTrace};

impl StackTrace {
    /// Captures the stack of the caller.
    #[inline(never)]
    pub(crate) fn capture() -> Self {
        // Frames below this address are those of the walk itself, and are left out.
        let marker = 0_usize;
        let here = std::ptr::from_ref(black_box(&marker)).addr();
        let mut stack = Self {
            addresses: [0; FRAMES],
            count: 0,
        };
        stack.count = addresses_above(here, &mut stack.addresses);
        stack
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_capture_starts_with_the_caller() {
        let stack = StackTrace::capture();

        assert!(stack.addresses().len() > 3);
        let first = &stack.resolve_all()[0];
        assert!(
            first.function.contains("a_capture_starts_with_the_caller"),
            "{first}"
        );
    }
}
