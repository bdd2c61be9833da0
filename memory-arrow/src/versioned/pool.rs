//! arrow-rs' own pool trait over an allocator.

use arrow_memory_core::BufferAllocator;

use super::deps::arrow_buffer::{MemoryPool, MemoryReservation};

/// arrow-rs' `MemoryPool` over an allocator, so that `claim` of its arrays charges a tree.
///
/// That trait sees a size, not a buffer, and cannot fail: it charges by force, also over the limit,
/// and is counted so (`forced_bytes` in the allocator's `stats`). A buffer that a tree is charged
/// for already is charged again. Where refusal or recognition matters, use
/// [`claim`](super::claim) or [`Accounted`](super::Accounted).
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
        self.allocator.force_allocate(size);
        Box::new(Reservation {
            allocator: self.allocator.clone(),
            size,
        })
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

#[derive(Debug)]
struct Reservation {
    allocator: BufferAllocator,
    /// External bytes that are this reservation's.
    size: usize,
}

impl MemoryReservation for Reservation {
    fn size(&self) -> usize {
        self.size
    }

    fn resize(&mut self, new_size: usize) {
        match new_size.checked_sub(self.size) {
            Some(more) => {
                self.allocator.force_allocate(more);
            }
            None => self.allocator.release_bytes(self.size - new_size),
        }
        self.size = new_size;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.size > 0 {
            self.allocator.release_bytes(self.size);
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_reservation_of_nothing_charges_nothing() {
        let root = RootAllocator::new(1000);
        drop(TreePool::new(&root).reserve(0));
        assert_eq!(root.allocated_memory(), 0);
    }
}
