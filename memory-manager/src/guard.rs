//! Guard bytes around the blocks of any manager: [`GuardedManager`].
//!
//! A guarded block lies inside a larger one of the manager below:
//!
//! ```text
//! | unused, for alignment | size, its complement, 48 guard bytes | block | 64 guard bytes |
//! ^ the block below                                              ^ aligned as asked for
//! ```
//!
//! The head also holds the size with which the block was lent, so that a wrong one is noticed when the block
//! is returned.
#![expect(
    unsafe_code,
    reason = "implements the manager's unsafe trait, and writes around blocks"
)]

use std::alloc::Layout;
use std::env;
use std::fmt;
use std::process;
use std::ptr::NonNull;
use std::str::FromStr;
use std::sync::Arc;

use crate::__forward_to_inner as forward_to_inner;
use crate::environment::on_or_off;
use crate::events;
use crate::manager::{AllocationManager, ManagerError};
use crate::sync::ProcessLock;
use crate::sync::process::Order;
use crate::text::Escaped;

/// The environment variable that puts guard bytes around the blocks of every tree.
pub const DEBUG_POOL_VARIABLE: &str = "ARROW_DEBUG_MEMORY_POOL";

/// What happens when guard bytes were overwritten, or a block is returned with another size.
///
/// ```
/// use arrow_memory_manager::GuardAction;
///
/// assert_eq!("abort".parse(), Ok(GuardAction::Abort));
/// assert_eq!("".parse(), Ok(GuardAction::None));
/// let error = "loud".parse::<GuardAction>().unwrap_err();
/// assert_eq!(error.to_string(), "`loud` is none of abort, trap, warn and none");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GuardAction {
    /// Writes what was found to standard error and aborts the process.
    Abort,
    /// Writes what was found to standard error and stops in the debugger; without one, a signal ends the process.
    Trap,
    /// Emits a `tracing` warning (a line on standard error if there is no subscriber), and continues.
    Warn,
    /// There are no guard bytes and nothing is checked.
    #[default]
    None,
}

impl FromStr for GuardAction {
    type Err = UnknownGuardAction;

    /// `abort`, `trap`, `warn` or `none`, in any case of letters; `none` may also be written as off,
    /// 0, false, no, or nothing.
    fn from_str(name: &str) -> Result<Self, UnknownGuardAction> {
        match name.trim().to_ascii_lowercase().as_str() {
            "abort" => Ok(Self::Abort),
            "trap" => Ok(Self::Trap),
            "warn" => Ok(Self::Warn),
            "none" => Ok(Self::None),
            word if on_or_off(word) == Some(false) => Ok(Self::None),
            _ => Err(UnknownGuardAction {
                name: name.to_owned(),
            }),
        }
    }
}

/// The *caller's* fault: a name that is no [`GuardAction`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is none of abort, trap, warn and none", Escaped(.name))]
#[non_exhaustive]
pub struct UnknownGuardAction {
    /// The name.
    pub name: String,
}

crate::__debug_as_display!(struct UnknownGuardAction { name });

/// Puts guard bytes around the blocks of another manager and checks them when a block is
/// reallocated or returned. It keeps that manager's name.
///
/// A block takes 128 bytes more (with an alignment above 64, the alignment and 64), which
/// [`stats`](AllocationManager::stats), being those of the manager below, include.
///
/// # Examples
///
/// ```
/// use std::alloc::Layout;
/// use std::sync::Arc;
///
/// use arrow_memory_manager::testing::{Block, StdManager};
/// use arrow_memory_manager::{AllocationManager, GuardAction, GuardedManager};
///
/// let manager = GuardedManager::new(Arc::new(StdManager), GuardAction::Abort);
/// assert_eq!(manager.name(), "std");
///
/// let block = Block::zeroed(&manager, Layout::from_size_align(100, 64)?)?;
/// drop(block); // here its surroundings are checked
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[doc(alias = "ARROW_DEBUG_MEMORY_POOL")]
pub struct GuardedManager {
    inner: Arc<dyn AllocationManager>,
    action: GuardAction,
}

impl GuardedManager {
    /// Guards the blocks of `inner`.
    pub fn new(inner: Arc<dyn AllocationManager>, action: GuardAction) -> Self {
        Self { inner, action }
    }

    /// Guards the blocks of `inner` if [`ARROW_DEBUG_MEMORY_POOL`](DEBUG_POOL_VARIABLE) says so,
    /// as the builder of every root does; otherwise this is `inner` itself.
    ///
    /// The variable is read once, in any case of letters. Empty is unset, and off, 0, false and no are
    /// `none`; another word than `abort`, `trap`, `warn` and `none` is ignored with one warning, by
    /// `tracing`, and on standard error if there is no subscriber.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use arrow_memory_manager::{AllocationManager, GuardedManager};
    /// # use arrow_memory_manager::testing::StdManager;
    ///
    /// let manager = GuardedManager::by_environment(Arc::new(StdManager));
    /// assert_eq!(manager.name(), "std");
    /// ```
    pub fn by_environment(inner: Arc<dyn AllocationManager>) -> Arc<dyn AllocationManager> {
        match action_by_environment() {
            GuardAction::None => inner,
            action => Arc::new(Self::new(inner, action)),
        }
    }

    /// What happens when guard bytes were overwritten.
    pub fn action(&self) -> GuardAction {
        self.action
    }

    /// Writes the guards of a block into the one below, and returns the block.
    ///
    /// # Safety
    ///
    /// `below` is live and has the layout `outer_layout(layout)`.
    unsafe fn enclose(below: NonNull<u8>, layout: Layout) -> NonNull<u8> {
        // SAFETY: the offset is less than the size of the block below, by its layout.
        let block = unsafe { below.add(offset(layout)) };
        let guards = Guards { block };
        // SAFETY: there are `GUARD` bytes before the block, since its offset is at least that.
        unsafe { guards.write_head(layout.size()) };
        // SAFETY: there are `GUARD` bytes behind the block, by the layout of the block below.
        unsafe { guards.write_tail(layout.size()) };
        block
    }

    /// Checks the guards of a block and returns the layout that it was lent with; `None` if it
    /// was returned before.
    ///
    /// # Safety
    ///
    /// `block` is a live block of this manager, and `layout` the one with which its user returns it.
    unsafe fn check(&self, block: NonNull<u8>, layout: Layout) -> Option<Layout> {
        let report = |layout, kind, found| {
            self.report(&Damage {
                block,
                layout,
                kind,
                found,
            });
        };
        let guards = Guards { block };
        // SAFETY: `enclose` wrote that many bytes before the block.
        let head = unsafe { guards.head() };
        if head == [RETURNED; GUARD] {
            report(layout, DamageKind::Returned, head);
            return None;
        }
        let size = size_in(&head);
        if size.is_none() || head[SIZES..] != [PATTERN; GUARD - SIZES] {
            report(layout, DamageKind::Head, head);
        }
        let Some(size) = size else {
            return Some(layout);
        };
        if size != layout.size() {
            report(layout, DamageKind::Size(size), head);
        }
        // The size was lent with this alignment, so they made a layout once.
        let lent = Layout::from_size_align(size, layout.align()).unwrap_or(layout);
        // SAFETY: `enclose` wrote that many bytes behind the size that it was given.
        let tail = unsafe { guards.tail(lent.size()) };
        if tail != [PATTERN; GUARD] {
            report(lent, DamageKind::Tail, tail);
        }
        Some(lent)
    }

    /// Takes the action for damaged blocks. Does not unwind.
    #[cold]
    fn report(&self, damage: &Damage) {
        let name = self.inner.name();
        match self.action {
            GuardAction::Abort => {
                events::say(&format!("{damage} (memory pool `{name}`)"));
                process::abort();
            }
            GuardAction::Trap => {
                events::say(&format!("{damage} (memory pool `{name}`)"));
                trap();
            }
            GuardAction::Warn => {
                events::tell(
                    || tracing::warn!(pool = name, "{damage}"),
                    || format!("{damage} (memory pool `{name}`)"),
                );
            }
            GuardAction::None => {}
        }
    }
}

// SAFETY: 1. a block lies inside a live one of `inner`, at an offset that is a multiple of its
// alignment, with all its bytes in it. 2, 3. `inner` keeps these promises; guards are written after
// success. 4. Checks do not unwind (`report` catches what a subscriber does).
unsafe impl AllocationManager for GuardedManager {
    forward_to_inner!(name, release_unused, stats);

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        if self.action == GuardAction::None {
            return self.inner.allocate(layout);
        }
        let below = self.inner.allocate(outer_layout(layout)?)?;
        // SAFETY: the block was just made with this layout.
        Ok(unsafe { Self::enclose(below, layout) })
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if self.action == GuardAction::None {
            // SAFETY: the caller's promise is about a block of `inner`.
            unsafe { self.inner.deallocate(ptr, layout) };
            return;
        }
        // SAFETY: by the caller's promise the block is live and ours.
        let lent = unsafe { self.check(ptr, layout) };
        // A lent block has an outer layout.
        let Some((lent, outer)) = lent.and_then(|lent| Some((lent, outer_layout(lent).ok()?)))
        else {
            return;
        };
        let guards = Guards { block: ptr };
        // SAFETY: the bytes before the block are ours.
        unsafe { guards.write(-(GUARD as isize), [RETURNED; GUARD]) };
        // SAFETY: `enclose` put the block at this offset.
        let below = unsafe { ptr.sub(offset(lent)) };
        // SAFETY: `below` is live and was made with this layout; it is not used any more.
        unsafe { self.inner.deallocate(below, outer) };
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        if self.action == GuardAction::None {
            return self.inner.allocate_zeroed(layout);
        }
        let below = self.inner.allocate_zeroed(outer_layout(layout)?)?;
        // SAFETY: the block was just made with this layout.
        Ok(unsafe { Self::enclose(below, layout) })
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        if self.action == GuardAction::None {
            // SAFETY: the caller's promise is about a block of `inner`.
            return unsafe { self.inner.reallocate(ptr, old, new_size) };
        }
        // SAFETY: by the caller's promise the block is live and ours.
        let lent = unsafe { self.check(ptr, old) };
        let lent = lent.ok_or_else(|| ManagerError::new("the block was given back before"))?;
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("the new size does not make a valid layout"))?;
        let outer_old = outer_layout(lent)?;
        let outer_new = outer_layout(new)?;
        // SAFETY: `enclose` put the block at this offset, which depends on the alignment only.
        let below = unsafe { ptr.sub(offset(lent)) };
        // SAFETY: `below` is live and was made with `outer_old`; the new size is not 0 and makes a
        // valid layout. The head lies in front of the contents and moves with them.
        let moved = unsafe { self.inner.reallocate(below, outer_old, outer_new.size())? };
        // SAFETY: the block has the layout `outer_new` now.
        Ok(unsafe { Self::enclose(moved, new) })
    }
}

/// The guards of a block.
struct Guards {
    block: NonNull<u8>,
}

impl Guards {
    /// # Safety
    ///
    /// The [`GUARD`] bytes before the block are writable.
    unsafe fn write_head(&self, size: usize) {
        let mut head = [PATTERN; GUARD];
        head[..SIZES / 2].copy_from_slice(&size.to_ne_bytes());
        head[SIZES / 2..SIZES].copy_from_slice(&(!size).to_ne_bytes());
        // SAFETY: by the caller's promise.
        unsafe { self.write(-(GUARD as isize), head) };
    }

    /// # Safety
    ///
    /// The [`GUARD`] bytes behind the `size` bytes of the block are writable.
    unsafe fn write_tail(&self, size: usize) {
        // SAFETY: by the caller's promise. A size is at most `isize::MAX`.
        unsafe { self.write(size as isize, [PATTERN; GUARD]) };
    }

    /// # Safety
    ///
    /// The [`GUARD`] bytes before the block are readable and initialised.
    unsafe fn head(&self) -> [u8; GUARD] {
        // SAFETY: by the caller's promise.
        unsafe { self.read(-(GUARD as isize)) }
    }

    /// # Safety
    ///
    /// The [`GUARD`] bytes behind the `size` bytes of the block are readable and initialised.
    unsafe fn tail(&self, size: usize) -> [u8; GUARD] {
        // SAFETY: by the caller's promise. A size is at most `isize::MAX`.
        unsafe { self.read(size as isize) }
    }

    /// # Safety
    ///
    /// The [`GUARD`] bytes at this offset from the block are writable.
    unsafe fn write(&self, at: isize, bytes: [u8; GUARD]) {
        // SAFETY: by the caller's promise.
        let start = unsafe { self.block.offset(at) };
        // SAFETY: by the caller's promise; an array of bytes needs no alignment.
        unsafe { start.cast().write(bytes) };
    }

    /// # Safety
    ///
    /// The [`GUARD`] bytes at this offset from the block are readable and initialised.
    unsafe fn read(&self, at: isize) -> [u8; GUARD] {
        // SAFETY: by the caller's promise.
        let start = unsafe { self.block.offset(at) };
        // SAFETY: by the caller's promise; an array of bytes needs no alignment.
        unsafe { start.cast().read() }
    }
}

/// The size that a block was lent with, if both copies of it agree.
fn size_in(head: &[u8; GUARD]) -> Option<usize> {
    let word = |at: usize| {
        let mut word = [0; SIZES / 2];
        word.copy_from_slice(&head[at..at + SIZES / 2]);
        usize::from_ne_bytes(word)
    };
    let size = word(0);
    (size == !word(SIZES / 2)).then_some(size)
}

/// What is wrong with a block.
struct Damage {
    block: NonNull<u8>,
    layout: Layout,
    kind: DamageKind,
    /// The guard bytes as they are.
    found: [u8; GUARD],
}

enum DamageKind {
    /// Bytes before the block were overwritten.
    Head,
    /// Bytes behind the block were overwritten.
    Tail,
    /// The block was lent with another size.
    Size(usize),
    /// The block was returned before.
    Returned,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, size) = (self.block.as_ptr() as usize, self.layout.size());
        write!(f, "block of {size} bytes at {address:#x}: ")?;
        let wrong = |byte: &u8| *byte != PATTERN;
        match self.kind {
            DamageKind::Size(lent) => write!(f, "it was lent with {lent} bytes"),
            DamageKind::Returned => f.write_str("it was given back before"),
            DamageKind::Head => match self.found[SIZES..].iter().rposition(wrong) {
                Some(last) => {
                    let before = GUARD - SIZES - last;
                    let byte = self.found[SIZES + last];
                    write!(f, "{before} bytes before it, {byte:#04x} was written")
                }
                None => write!(f, "its size, over 48 bytes before it, was overwritten"),
            },
            DamageKind::Tail => {
                let first = self.found.iter().position(wrong).unwrap_or(0);
                let byte = self.found[first];
                write!(f, "{first} bytes past its end, {byte:#04x} was written")
            }
        }
    }
}

/// The layout of the block below.
fn outer_layout(layout: Layout) -> Result<Layout, ManagerError> {
    let size = layout.size().checked_add(offset(layout) + GUARD);
    let outer = size.and_then(|size| Layout::from_size_align(size, offset(layout)).ok());
    outer.ok_or_else(|| ManagerError::out_of_memory(layout))
}

/// Where a block starts in the one below: a multiple of its alignment, with room for the head.
fn offset(layout: Layout) -> usize {
    layout.align().max(GUARD)
}

/// What `ARROW_DEBUG_MEMORY_POOL` said when it was first asked for.
fn action_by_environment() -> GuardAction {
    let known = *BY_ENVIRONMENT.lock();
    if let Some(known) = known {
        return known;
    }
    let name = env::var_os(DEBUG_POOL_VARIABLE).unwrap_or_default();
    let parsed = name.to_string_lossy().parse();
    let action = parsed.clone().unwrap_or(GuardAction::None);
    // The first caller warns, after the value is stored: the subscriber may call this function.
    let before = BY_ENVIRONMENT.lock().replace(action);
    if let (None, Err(error)) = (before, parsed) {
        events::variable_ignored(&format!("{DEBUG_POOL_VARIABLE} is ignored: {error}"));
    }
    action
}

/// Stops in the debugger, or ends the process where there is no such instruction.
fn trap() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction changes nothing; without a debugger the system ends the process.
    unsafe {
        std::arch::asm!("int3", options(nomem, nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the instruction changes nothing; without a debugger the system ends the process.
    unsafe {
        std::arch::asm!("brk #0xf000", options(nomem, nostack));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    process::abort();
}

/// What the environment said.
static BY_ENVIRONMENT: ProcessLock<Option<GuardAction>> = ProcessLock::new(Order::Inner, None);

/// Bytes before and behind a block: enough to catch a loop that runs over by one element.
const GUARD: usize = 64;

/// How many of the bytes before a block are its size and the complement of that.
const SIZES: usize = 2 * size_of::<usize>();

/// The value of guard bytes, which programs seldom write.
const PATTERN: u8 = 0xBD;

/// What the bytes before a block are after it was returned, until the manager below reuses them.
const RETURNED: u8 = 0xBE;
