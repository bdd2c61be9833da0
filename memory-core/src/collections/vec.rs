//! A vector whose growth is refused with an error that says why.

use std::alloc::Layout;
use std::fmt;
use std::ops::{Deref, DerefMut};

use allocator_api2::vec::Vec;

use super::TreeAllocator;
use arrow_memory_manager::ManagerError;

use crate::allocator::BufferAllocator;
use crate::buffer::errors::{manager_failed, overflow};
use crate::error::AllocError;
use crate::outcome::Purpose;
use crate::size::ALIGNMENT;

/// A vector of any type whose memory is charged to an allocator. Where a method of std's vector aborts
/// the program for lack of memory, its counterpart here returns an [`AllocError`] and leaves the vector
/// as it was.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{AccountedVec, AllocError, RootAllocator};
///
/// let root = RootAllocator::new(1000);
/// let mut names = AccountedVec::new(&root);
/// names.push("scan".to_owned())?;
/// names.push("join".to_owned())?;
/// assert_eq!((names.len(), root.allocated_memory()), (2, 128));
/// let refused = names.reserve(1000).unwrap_err();
/// assert!(matches!(refused, AllocError::OutOfMemory { .. }));
/// # Ok::<(), AllocError>(())
/// ```
pub struct AccountedVec<T> {
    items: Vec<T, TreeAllocator>,
}

impl<T> AccountedVec<T> {
    /// Creates an empty vector. Nothing is charged yet.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            items: Vec::new_in(TreeAllocator::silent(allocator)),
        }
    }

    /// Creates a vector with room for `capacity` items.
    ///
    /// The room is charged at once, rounded up to a multiple of 64 bytes.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if a limit between here and the root would be passed.
    /// * [`AllocError::Vetoed`] if the listener refuses the request.
    /// * [`AllocError::Manager`] if the backend has no such block.
    /// * [`AllocError::Closed`] if the allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if the size, or a sum, is above `isize::MAX`.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// use arrow_memory_core::AccountedVec;
    ///
    /// let mut rows = AccountedVec::<u64>::with_capacity(&root, 8)?;
    /// assert_eq!((rows.capacity(), root.allocated_memory()), (8, 64));
    /// rows.reserve_exact(9)?;
    /// assert_eq!(root.allocated_memory(), 128);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn with_capacity(allocator: &BufferAllocator, capacity: usize) -> Result<Self, AllocError> {
        let mut made = Self::new(allocator);
        made.reserve_exact(capacity)?;
        Ok(made)
    }

    /// Returns how many items fit without growing.
    pub fn capacity(&self) -> usize {
        self.items.capacity()
    }

    /// Returns the allocator that is charged.
    pub fn allocator(&self) -> &BufferAllocator {
        self.items.allocator().allocator()
    }

    /// Makes room for `additional` more items. Doubles the capacity if memory allows, or else makes room
    /// for just as many.
    ///
    /// # Errors
    ///
    /// [`AllocError::OutOfMemory`], [`AllocError::Vetoed`], [`AllocError::Manager`],
    /// [`AllocError::Closed`] or [`AllocError::SizeOverflow`], for the reasons that
    /// [`with_capacity`](Self::with_capacity) lists. The vector is then as it was.
    #[inline]
    pub fn reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        if additional <= self.items.capacity() - self.items.len() {
            return Ok(());
        }
        self.grow(additional)
    }

    /// Makes room for `additional` more items, without spare room.
    ///
    /// # Errors
    ///
    /// [`AllocError::OutOfMemory`], [`AllocError::Vetoed`], [`AllocError::Manager`],
    /// [`AllocError::Closed`] or [`AllocError::SizeOverflow`], for the reasons that
    /// [`with_capacity`](Self::with_capacity) lists. The vector is then as it was.
    pub fn reserve_exact(&mut self, additional: usize) -> Result<(), AllocError> {
        if self.items.try_reserve_exact(additional).is_ok() {
            return Ok(());
        }
        self.explain(additional)?;
        // `explain` found no reason any more, so the growth may succeed now.
        if self.items.try_reserve_exact(additional).is_ok() {
            return Ok(());
        }
        let requested = additional.saturating_mul(size_of::<T>());
        let source = ManagerError::new("the block cannot grow");
        let node = self.allocator().node();
        Err(manager_failed(node, requested, Purpose::Bytes, source))
    }

    /// Appends an item.
    ///
    /// # Errors
    ///
    /// [`AllocError::OutOfMemory`], [`AllocError::Vetoed`], [`AllocError::Manager`],
    /// [`AllocError::Closed`] or [`AllocError::SizeOverflow`], for the reasons that
    /// [`with_capacity`](Self::with_capacity) lists. The vector is then as it was, and the item is
    /// dropped.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), AllocError> {
        self.reserve(1)?;
        self.items.push(item);
        Ok(())
    }

    /// Appends clones of the items.
    ///
    /// # Errors
    ///
    /// [`AllocError::OutOfMemory`], [`AllocError::Vetoed`], [`AllocError::Manager`],
    /// [`AllocError::Closed`] or [`AllocError::SizeOverflow`], for the reasons that
    /// [`with_capacity`](Self::with_capacity) lists. The vector is then as it was.
    pub fn extend_from_slice(&mut self, items: &[T]) -> Result<(), AllocError>
    where
        T: Clone,
    {
        self.reserve(items.len())?;
        self.items.extend_from_slice(items);
        Ok(())
    }

    /// Appends items until one is refused; those before it stay in the vector.
    ///
    /// # Errors
    ///
    /// [`AllocError::OutOfMemory`], [`AllocError::Vetoed`], [`AllocError::Manager`],
    /// [`AllocError::Closed`] or [`AllocError::SizeOverflow`], for the reasons that
    /// [`with_capacity`](Self::with_capacity) lists.
    pub fn try_extend(&mut self, items: impl IntoIterator<Item = T>) -> Result<(), AllocError> {
        let items = items.into_iter();
        self.reserve(items.size_hint().0)?;
        for item in items {
            self.push(item)?;
        }
        Ok(())
    }

    /// Removes the last item and returns it; `None` if the vector is empty. The capacity stays.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop()
    }

    /// Drops the items after the first `len`; the capacity stays.
    pub fn truncate(&mut self, len: usize) {
        self.items.truncate(len);
    }

    /// Drops all items; the capacity stays.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    #[cold]
    fn grow(&mut self, additional: usize) -> Result<(), AllocError> {
        if self.items.try_reserve(additional).is_ok() {
            return Ok(());
        }
        self.reserve_exact(additional)
    }

    /// Returns the reason for which room for `additional` items was refused; `Ok` if it would not be
    /// refused now.
    #[cold]
    fn explain(&self, additional: usize) -> Result<(), AllocError> {
        let allocator = self.items.allocator();
        let needed = self.items.len().checked_add(additional);
        let Some(new) = needed.and_then(|items| Layout::array::<T>(items).ok()) else {
            let requested = additional.saturating_mul(size_of::<T>());
            return Err(overflow(self.allocator().node(), requested));
        };
        // Growth charges only the difference: the bytes of the old block are charged already.
        let from = (self.items.capacity() * size_of::<T>()).next_multiple_of(ALIGNMENT);
        let to = new.size().next_multiple_of(ALIGNMENT);
        allocator.check_for(to.saturating_sub(from), || {
            let requested = additional.saturating_mul(size_of::<T>());
            (requested, Purpose::Growth { from, to })
        })
    }
}

impl<T> Deref for AccountedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> DerefMut for AccountedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

impl<T: fmt::Debug> fmt::Debug for AccountedVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items.fmt(f)
    }
}

impl<T> IntoIterator for AccountedVec<T> {
    type Item = T;
    type IntoIter = allocator_api2::vec::IntoIter<T, TreeAllocator>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::RootAllocator;
    use crate::testing::StdManager;

    #[test]
    fn pushes_fill_the_limit_exactly_and_are_refused_then() {
        let root = RootAllocator::builder()
            .limit(1024)
            .allocation_manager(Arc::new(StdManager))
            .build()
            .unwrap();
        let mut values = AccountedVec::new(&root);

        let refused = loop {
            if let Err(refused) = values.push(values.len() as u64) {
                break refused;
            }
        };

        assert!(
            matches!(refused, AllocError::OutOfMemory { .. }),
            "{refused}"
        );
        assert_eq!((values.len(), root.allocated_memory()), (128, 1024));
        assert_eq!(values.iter().sum::<u64>(), 127 * 128 / 2);
        assert!(values.reserve(usize::MAX).is_err());
        drop(values);
        root.close().unwrap();
    }
}
