//! The methods of [`AllocationManager`](crate::AllocationManager) that managers around another manager share.

/// Writes methods of [`AllocationManager`](crate::AllocationManager) that pass the call on, unchanged, to the
/// manager in the field `inner`. It stands inside the `unsafe impl`.
///
/// `before |this| expression;` puts an expression in front of each call: `this` stands for `self` in it, and
/// `?` in it leaves the method where that returns a `Result`.
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_to_inner {
    ($($method:ident),+) => {
        $( $crate::__forward_to_inner! { @$method } )+
    };
    (before |$this:ident| $before:expr; $method:ident) => {
        $crate::__forward_to_inner! { @$method $this $before }
    };
    (before |$this:ident| $before:expr; $method:ident, $($more:ident),+) => {
        $crate::__forward_to_inner! { @$method $this $before }
        $crate::__forward_to_inner! { before |$this| $before; $($more),+ }
    };
    (@name) => {
        fn name(&self) -> &str {
            self.inner.name()
        }
    };
    (@allocate $($this:ident $before:expr)?) => {
        fn allocate(
            &self,
            layout: ::std::alloc::Layout,
        ) -> ::std::result::Result<::std::ptr::NonNull<u8>, $crate::ManagerError> {
            $( let $this = self; $before; )?
            self.inner.allocate(layout)
        }
    };
    (@allocate_zeroed $($this:ident $before:expr)?) => {
        fn allocate_zeroed(
            &self,
            layout: ::std::alloc::Layout,
        ) -> ::std::result::Result<::std::ptr::NonNull<u8>, $crate::ManagerError> {
            $( let $this = self; $before; )?
            self.inner.allocate_zeroed(layout)
        }
    };
    (@reallocate $($this:ident $before:expr)?) => {
        unsafe fn reallocate(
            &self,
            ptr: ::std::ptr::NonNull<u8>,
            old: ::std::alloc::Layout,
            new_size: usize,
        ) -> ::std::result::Result<::std::ptr::NonNull<u8>, $crate::ManagerError> {
            $( let $this = self; $before; )?
            // SAFETY: the caller's promise is about a block of this manager, which is one of `inner` with
            // the same layout; the promise about the new size is the same for both.
            unsafe { self.inner.reallocate(ptr, old, new_size) }
        }
    };
    (@deallocate $($this:ident $before:expr)?) => {
        unsafe fn deallocate(&self, ptr: ::std::ptr::NonNull<u8>, layout: ::std::alloc::Layout) {
            $( let $this = self; $before; )?
            // SAFETY: the caller's promise is about a block of this manager, which is one of `inner` with
            // the same layout.
            unsafe { self.inner.deallocate(ptr, layout) };
        }
    };
    (@release_unused $($this:ident $before:expr)?) => {
        fn release_unused(&self) {
            $( let $this = self; $before; )?
            self.inner.release_unused();
        }
    };
    (@stats) => {
        fn stats(&self) -> $crate::ManagerStats {
            self.inner.stats()
        }
    };
}
