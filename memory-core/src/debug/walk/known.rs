//! A table of the unwinder's earlier answers, frame by frame.
//!
//! On x86-64 a call stores the return address right below the caller's stack pointer. So from a frame,
//! given by the address in it (`ip`) and where its stack begins (`sp`), a single number leads to the next
//! one: the frame's size, which is the distance between the two `sp`, and is a constant of `ip` in nearly
//! all code. The next `ip` is the word right below the next `sp`.
//!
//! A table keeps, for each pair of a callee's and its caller's `ip` that the unwinder has shown, the size
//! of the caller's frame. A walk reads one word of the stack and one of the table per frame. If a pair is
//! not in the table, the unwinder is called, and its answer is entered.
//!
//! Frames of variable size (C's `alloca`, locals aligned to more than 16 bytes) break the rule: the size
//! is wrong, so the walk reads some other word. The pair that it forms is not in the table, unless a true
//! return address to the same place is stored there by chance. The unwinder's next answer shows the other
//! size, and from then on the entry of the pair means *ask the unwinder*. The same holds for code that
//! was unloaded and replaced.
//!
//! The table is bounded and shared by all threads; a new pair may replace another one.
//!
//! # Why it is sound
//!
//! A wrong entry can make a *stack trace* wrong. It cannot make the *program* wrong, because the only
//! dangerous step is to read a word of the stack, and each word that is read meets these conditions,
//! whatever the table says:
//!
//! 1. *It is mapped.* A walk starts at `here`, the address of a word in a frame that is in use, and asks the
//!    C library for the bounds of the calling thread's stack. If `here` lies outside of them, as in a signal
//!    handler on a stack of its own or in a coroutine, there is no walk ([`end_of_stack`]). `sp` only grows,
//!    by a positive number of words, and the walk stops before `sp` passes the end. So each word lies between
//!    `here` and the end of this thread's stack, which is mapped down to the stack pointer at least.
//! 2. *It is aligned.* `here` is the address of a word, and each step is a whole number of words.
//! 3. *It may be read.* A word between two frames' ends may belong to no object of the language, be
//!    uninitialised, or be written at that moment by another thread that was lent a local. A read through a
//!    Rust pointer would be undefined then. So the word is read by one `mov` in [`return_address`], of which
//!    the compiler assumes only that it reads memory: any bits are a valid `usize`, and on x86-64 an aligned
//!    load of a word is not torn.
//! 4. *It is only compared.* The word is looked up in the table as an address of code. It is never followed,
//!    called or written to; the frames that a walk returns are numbers that the symbol table translates later.
//!
//! The table itself consists of atomics that are whole in themselves: a thread sees an old entry or a new one.
//! The rest of the workspace calls the one safe function `addresses_above`, which asks the unwinder where a
//! walk does not end. Other platforms always ask the unwinder, behind the same function.
#![expect(unsafe_code, reason = "reads return addresses on this thread's stack")]

use std::arch::asm;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;

use super::Step;
use crate::sync::Ordering;
use crate::sync::plain::AtomicU64;

/// The number of bits of a pair's hash that are its index in the table.
const INDEX_BITS: u32 = 14;

/// The bits of an entry that hold the size of the frame, in words; the others are bits of the hash.
const SIZE: u64 = 0xFFFF;

/// A size that means: the stack ends here.
const END: u64 = SIZE;

/// A size that means: it varies, or cannot be told from the stack. An empty entry has it too.
const UNKNOWN: u64 = 0;

/// An entry that was never written.
const EMPTY: u64 = 0;

/// The pairs. An entry is one word and guards no other memory, so all accesses are Relaxed.
static PAIRS: [AtomicU64; 1 << INDEX_BITS] = [const { AtomicU64::new(EMPTY) }; 1 << INDEX_BITS];

/// The distance from `here` to where the stack of the first frame begins: a positive multiple of a word's
/// size. Relaxed, like the pairs: a wrong distance leads to no pair that is in the table.
static FIRST: AtomicU64 = AtomicU64::new(WORD as u64);

const WORD: usize = size_of::<usize>();

/// Fills in `addresses` and returns their number, if all frames are known. `here` is the address of a
/// word in a frame of the calling thread.
#[inline]
pub(super) fn walk<const N: usize>(here: usize, addresses: &mut [usize; N]) -> Option<usize> {
    let end = end_of_stack(here)?;
    let mut sp = here + FIRST.load(Ordering::Relaxed) as usize;
    let mut callee = 0;
    for (index, address) in addresses.iter_mut().enumerate() {
        if sp > end {
            return None;
        }
        // SAFETY: the word below `sp` is at `here` or above it, since `FIRST` is a word at least,
        // and below `end`; all of that is this thread's stack. Both are multiples of a word's size.
        let ip = unsafe { return_address(sp) };
        let size = size_of_frame(callee, ip);
        if size == UNKNOWN {
            return None;
        }
        *address = ip;
        if size == END {
            return Some(index + 1);
        }
        sp += size as usize * WORD;
        callee = ip;
    }
    Some(N)
}

/// Enters the unwinder's answer: the innermost frames, or all frames if it is `complete`.
pub(super) fn learn(here: usize, steps: &[Step], complete: bool) {
    let Some(end) = end_of_stack(here) else {
        return;
    };
    let Some(first) = steps.first() else { return };
    if !returns_to(first, here, end) {
        return;
    }
    FIRST.store((first.sp - here) as u64, Ordering::Relaxed);
    let mut callee = 0;
    for (index, step) in steps.iter().enumerate() {
        let size = match steps.get(index + 1) {
            Some(next) if returns_to(next, step.sp, end) => {
                let words = ((next.sp - step.sp) / WORD) as u64;
                if words < END { words } else { UNKNOWN }
            }
            Some(_) => UNKNOWN,
            None if complete => END,
            None => return,
        };
        enter(callee, step.ip, size);
        callee = step.ip;
    }
}

/// Returns whether the word below a frame's stack, which begins above `below`, is the address in the
/// frame.
fn returns_to(frame: &Step, below: usize, end: usize) -> bool {
    let in_stack = frame.sp > below && frame.sp <= end && frame.sp.is_multiple_of(WORD);
    // SAFETY: `below` is in this thread's stack, the word is not below it, and is below `end`.
    in_stack && unsafe { return_address(frame.sp) } == frame.ip
}

/// Returns the size of the frame whose address is `ip`, which called the one whose address is `callee`.
#[inline]
fn size_of_frame(callee: usize, ip: usize) -> u64 {
    let hash = hash(callee, ip);
    let entry = place(hash).load(Ordering::Relaxed);
    if (entry ^ hash) <= SIZE {
        return entry & SIZE;
    }
    let entry = second_place(hash).load(Ordering::Relaxed);
    if (entry ^ hash) <= SIZE {
        return entry & SIZE;
    }
    UNKNOWN
}

/// Enters a frame's size. If the pair has an entry with another size, that becomes `UNKNOWN`.
fn enter(callee: usize, ip: usize, size: u64) {
    let hash = hash(callee, ip);
    let tag = hash & !SIZE;
    let (first, second) = (place(hash), second_place(hash));
    let before = first.load(Ordering::Relaxed);
    for (place, entry) in [(first, before), (second, second.load(Ordering::Relaxed))] {
        if entry & !SIZE == tag {
            let same = entry & SIZE == size;
            return place.store(tag | if same { size } else { UNKNOWN }, Ordering::Relaxed);
        }
    }
    // The previous entry moves to its second place, if that is free, or else replaces the one there. If
    // there was none, the second place is left to the pair that has it as its first.
    if before != EMPTY {
        second.store(before, Ordering::Relaxed);
    }
    first.store(tag | size, Ordering::Relaxed);
}

/// Returns the hash of a pair. Its highest bits are the index; the bits of [`SIZE`] are the least random.
#[inline]
fn hash(callee: usize, ip: usize) -> u64 {
    let mixed = (ip as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ callee as u64;
    mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

#[inline]
fn place(hash: u64) -> &'static AtomicU64 {
    &PAIRS[(hash >> (u64::BITS - INDEX_BITS)) as usize]
}

/// Returns the place to which a pair moves that was displaced from its first one.
#[inline]
fn second_place(hash: u64) -> &'static AtomicU64 {
    &PAIRS[(hash >> (u64::BITS - INDEX_BITS)) as usize ^ 1]
}

/// Returns the return address of the function whose caller's stack begins at `sp`.
///
/// # Safety
///
/// The word below `sp` lies in this thread's stack, above its stack pointer, and is aligned.
#[inline]
unsafe fn return_address(sp: usize) -> usize {
    let word: usize;
    // SAFETY: mapped and aligned, by the caller's promise. Any bits are a valid usize. The word is no
    // object of the language, and, if a size is wrong, may be one that another thread is writing.
    unsafe {
        asm!(
            "mov {}, [{}]", out(reg) word, in(reg) sp - WORD,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    word
}

/// Returns the end of the calling thread's stack if `here` is in it, and `None` on the separate stack of
/// a signal handler or a coroutine.
#[inline]
fn end_of_stack(here: usize) -> Option<usize> {
    thread_local! {
        /// The stack's lowest address and its end; both are 0 until `bounds` was called.
        static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    }
    let (mut lowest, mut end) = STACK.get();
    if end == 0 {
        (lowest, end) = bounds();
        STACK.set((lowest, end));
    }
    (lowest..end).contains(&here).then_some(end)
}

/// Asks the C library for the bounds of the calling thread's stack.
#[cold]
fn bounds() -> (usize, usize) {
    /// A range that contains no address.
    const NOWHERE: (usize, usize) = (0, 1);
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: `pthread_self` has no conditions.
    let thread = unsafe { libc::pthread_self() };
    // SAFETY: the thread is the calling one, and `attributes` is a place for its attributes.
    let failed = unsafe { libc::pthread_getattr_np(thread, attributes.as_mut_ptr()) };
    if failed != 0 {
        return NOWHERE;
    }
    let (mut lowest, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the attributes were written, and both other pointers are valid for writes.
    let failed =
        unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut lowest, &raw mut size) };
    // SAFETY: the attributes were written, and are not used after this call.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if failed != 0 {
        return NOWHERE;
    }
    // If the main thread's stack has no limit, the C library's bounds reach down to the next mapping, and
    // a coroutine's stack may be mapped in that range later.
    let end = lowest.addr() + size;
    (lowest.addr().max(end.saturating_sub(MAX_STACK)), end)
}

/// The maximum size of a stack, in bytes. Of a larger one only the upper part is walked.
const MAX_STACK: usize = 1 << 30;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_stack_of_a_thread_has_its_locals_and_no_others() {
        let mine = 0_usize;
        let boxed = Box::new(0_usize);

        let end = end_of_stack((&raw const mine).addr()).unwrap();

        assert!(end > (&raw const mine).addr());
        assert_eq!(end_of_stack((&raw const *boxed).addr()), None);
        let mine = (&raw const mine).addr();
        std::thread::spawn(move || assert_eq!(end_of_stack(mine), None))
            .join()
            .unwrap();
    }

    #[test]
    fn a_frame_whose_size_varies_is_left_to_the_unwinder() {
        // No code has these addresses.
        let (callee, ip) = (1, 3);

        enter(callee, ip, 8);
        assert_eq!(size_of_frame(callee, ip), 8);
        enter(callee, ip, 10);
        assert_eq!(size_of_frame(callee, ip), UNKNOWN);
        enter(callee, ip, 10);

        assert_eq!(size_of_frame(callee, ip), UNKNOWN);
        assert_eq!(size_of_frame(callee, ip + 1), UNKNOWN);
    }

    #[test]
    fn a_pair_makes_room_for_another_and_is_still_found() {
        let at = |callee| hash(callee, 5) >> (u64::BITS - INDEX_BITS);
        let mut same = (10..).filter(|&callee| at(callee) == at(10));
        let [a, b, c] = [(); 3].map(|()| same.next().unwrap());

        enter(a, 5, 1);
        enter(b, 5, 2);
        assert_eq!((size_of_frame(a, 5), size_of_frame(b, 5)), (1, 2));
        enter(c, 5, 3);

        assert_eq!((size_of_frame(b, 5), size_of_frame(c, 5)), (2, 3));
    }
    /// Once each of the two always displaced the other.
    #[test]
    fn two_pairs_whose_places_are_each_others_second_ones_are_both_found() {
        let at = |callee| hash(callee, 7) >> (u64::BITS - INDEX_BITS);
        let other = (10..).find(|&callee| at(callee) == at(9) ^ 1).unwrap();

        // Tests that run at the same time walk stacks too, and may take a place in the meantime.
        let both_are_found = (0..1000).any(|_| {
            enter(9, 7, 1);
            enter(other, 7, 2);
            (size_of_frame(9, 7), size_of_frame(other, 7)) == (1, 2)
        });

        assert!(both_are_found);
    }
}
