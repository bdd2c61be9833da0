//! arrow-rs' own pool trait over an allocator.

use arrow_memory_core::{AllocationReservation, BufferAllocator};

use super::deps::arrow_buffer::{MemoryPool, MemoryReservation};

/// arrow-rs' `MemoryPool` over an allocator: `claim` of arrow-rs' arrays charges the allocator by it.
///
/// The trait is told of a size in bytes, not of a buffer, and cannot fail. So the pool charges by force, even
/// beyond the limit, and such bytes are counted (`forced_bytes` in the allocator's `stats`). A buffer that a
/// tree is charged for already is charged again. Use [`Accounted`](super::Accounted)
/// where memory is to be recognised, or may be refused.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::TreePool;
/// use arrow_memory_arrow::deps::arrow_buffer::Buffer;
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(100);
/// let buffer = Buffer::from_vec(vec![0_u8; 500]);
/// buffer.claim(&TreePool::new(&root));
/// assert_eq!((root.allocated_memory(), root.is_over_limit()), (500, true));
/// drop(buffer);
/// assert_eq!(root.allocated_memory(), 0);
/// ```
#[derive(Clone, Debug)]
#[doc(alias = "MemoryPool")]
pub struct TreePool {
    allocator: BufferAllocator,
}

impl TreePool {
    /// A pool that charges `allocator`.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            allocator: allocator.clone(),
        }
    }
}

impl MemoryPool for TreePool {
    fn reserve(&self, size: usize) -> Box<dyn MemoryReservation> {
        let mut charge = self.allocator.new_reservation();
        charge.force_add(size);
        Box::new(Reservation(charge))
    }

    fn available(&self) -> isize {
        self.allocator.headroom()
    }

    fn used(&self) -> usize {
        self.allocator.allocated_memory()
    }

    fn capacity(&self) -> usize {
        self.allocator.limit()
    }
}

/// Bytes that only this can release. (External bytes of the allocator could be released by any code.)
#[derive(Debug)]
struct Reservation(AllocationReservation);

impl MemoryReservation for Reservation {
    fn size(&self) -> usize {
        self.0.size()
    }

    fn resize(&mut self, new_size: usize) {
        match new_size.checked_sub(self.0.size()) {
            Some(more) => {
                self.0.force_add(more);
            }
            None => self.0.shrink(self.0.size() - new_size),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use arrow_memory_core::RootAllocator;
    use arrow_memory_system as _;

    use super::*;

    #[test]
    fn a_reservation_follows_its_size_and_is_released_on_drop() {
        let root = RootAllocator::new(1000);
        let pool = TreePool::new(&root);

        let mut reservation = pool.reserve(100);
        reservation.resize(700);
        assert_eq!(
            (pool.used(), pool.available(), pool.capacity()),
            (700, 300, 1000)
        );
        reservation.resize(50);
        assert_eq!((pool.used(), reservation.size()), (50, 50));

        drop(reservation);
        assert_eq!(root.allocated_memory(), 0);
        assert!(root.stats().forced_bytes >= 700);
    }

    /// The reservation's bytes were external ones, which any code may release. After that `resize` panicked,
    /// and so did `drop`.
    #[test]
    fn bytes_of_a_reservation_cannot_be_released_by_others() {
        let root = RootAllocator::new(1000);
        let mut reservation = TreePool::new(&root).reserve(100);

        let releasing = catch_unwind(AssertUnwindSafe(|| root.release_bytes(100)));
        assert!(releasing.is_err(), "they are the reservation's");
        root.allocate_bytes(60).unwrap();
        root.release_bytes(60);

        reservation.resize(40);
        assert_eq!((reservation.size(), root.allocated_memory()), (40, 40));
        drop(reservation);
        assert_eq!(root.allocated_memory(), 0);
        root.close().unwrap();
    }

    #[test]
    fn a_closed_allocator_is_charged_too_and_gets_all_back() {
        let root = RootAllocator::new(1000);
        let child = root.child("query").build().unwrap();
        child.close().unwrap();

        let mut reservation = TreePool::new(&child).reserve(100);
        reservation.resize(10);
        assert_eq!(reservation.size(), 10);
        drop((reservation, child));
        assert_eq!(root.allocated_memory(), 0);
        root.close().unwrap();
    }

    #[test]
    fn a_reservation_of_nothing_charges_nothing() {
        let root = RootAllocator::new(1000);
        drop(TreePool::new(&root).reserve(0));
        assert_eq!(root.allocated_memory(), 0);
    }
}
