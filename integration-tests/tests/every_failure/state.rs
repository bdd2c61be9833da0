//! What a value holds and is charged for: to compare before and after an operation that failed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use arrow_memory_core::{
    AccountedVec, AllocationReservation, ArrowBuf, ArrowBufMut, BooleanBufferBuilder,
    BufferAllocator, BufferBuilder, ForeignAllocation, RootAllocator, TransferResult,
    TypedBufferBuilder,
};

/// The bytes that values are charged for, each allocation once.
#[derive(Default)]
pub(crate) struct Charges {
    allocations: BTreeMap<(u64, usize), usize>,
    other: usize,
}

impl Charges {
    pub(crate) fn of(state: &impl State) -> usize {
        Self::of_both(state, &())
    }

    /// The sum for two values, which may be on the same allocations.
    pub(crate) fn of_both(one: &impl State, other: &impl State) -> usize {
        let mut charges = Self::default();
        one.charges(&mut charges);
        other.charges(&mut charges);
        charges.allocations.values().sum::<usize>() + charges.other
    }

    pub(crate) fn add(&mut self, buffer: &ArrowBuf) {
        if let Some(id) = buffer.allocation_id() {
            self.allocations.insert((0, id), buffer.allocation_size());
        }
    }

    /// Adds what a tree is charged for the memory at an address, of which other handles may know less.
    pub(crate) fn add_at(&mut self, root: &BufferAllocator, address: usize, bytes: usize) {
        let at = (root.id().as_u64(), address);
        let known = self.allocations.entry(at).or_default();
        *known = bytes.max(*known);
    }

    pub(crate) fn add_bytes(&mut self, bytes: usize) {
        self.other += bytes;
    }
}

/// A value that an operation changes or makes.
pub(crate) trait State {
    /// Adds what this value is charged for.
    fn charges(&self, charges: &mut Charges);

    /// Everything about the value that an error must leave as it was.
    fn describe(&self) -> String {
        String::new()
    }

    /// Whether an error may leave the value with more memory than before, whose bytes the value does not tell.
    fn may_grow(&self) -> bool {
        false
    }
}

/// A value that is charged for nothing, and of which an error need not leave anything as it was.
pub(crate) struct Opaque<T>(pub(crate) T);

impl<T> State for Opaque<T> {
    fn charges(&self, _: &mut Charges) {}
}

/// A value that does not tell what it is charged for, and those bytes.
pub(crate) struct Charged<T>(pub(crate) Option<T>, pub(crate) usize);

impl<T> State for Charged<T> {
    fn charges(&self, charges: &mut Charges) {
        charges.add_bytes(self.0.as_ref().map_or(0, |_| self.1));
    }
}

/// Bytes that were charged to an allocator without a handle. Dropping this releases them.
pub(crate) struct External(pub(crate) BufferAllocator, pub(crate) usize);

impl State for External {
    fn charges(&self, charges: &mut Charges) {
        charges.add_bytes(self.1);
    }
}

impl Drop for External {
    fn drop(&mut self) {
        self.0.release_bytes(self.1);
    }
}

macro_rules! uncharged {
    ($($plain:ty),+) => {
        $(impl State for $plain {
            fn charges(&self, _: &mut Charges) {}

            fn describe(&self) -> String {
                format!("{self:?}")
            }
        })+
    };
}

uncharged!((), bool, usize, BufferAllocator, RootAllocator);

impl<T: State> State for Option<T> {
    fn charges(&self, charges: &mut Charges) {
        self.iter().for_each(|it| it.charges(charges));
    }

    fn describe(&self) -> String {
        self.as_ref().map_or("none".to_owned(), T::describe)
    }
}

impl<T: State> State for Vec<T> {
    fn charges(&self, charges: &mut Charges) {
        self.iter().for_each(|it| it.charges(charges));
    }

    fn describe(&self) -> String {
        self.iter().map(T::describe).collect()
    }
}

macro_rules! tuple {
    ($($name:ident $index:tt),+) => {
        impl<$($name: State),+> State for ($($name,)+) {
            fn charges(&self, charges: &mut Charges) {
                $(self.$index.charges(charges);)+
            }

            fn describe(&self) -> String {
                let mut text = String::new();
                $(write!(text, "{}; ", self.$index.describe()).unwrap();)+
                text
            }
        }
    };
}

tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);

impl State for ArrowBuf {
    fn charges(&self, charges: &mut Charges) {
        charges.add(self);
    }

    fn describe(&self) -> String {
        format!(
            "{:?} {} {} {} {} {}",
            self,
            digest(self),
            self.ref_count(),
            self.accounted_size(),
            self.allocation_size(),
            self.allocator().info()
        )
    }
}

impl State for ArrowBufMut {
    fn charges(&self, charges: &mut Charges) {
        // Each handle on a block that was split counts its share.
        charges.add_bytes(self.accounted_size() / self.ref_count().max(1));
    }

    fn describe(&self) -> String {
        format!(
            "{:?} {} {} {} {}",
            self,
            digest(self),
            self.ref_count(),
            self.accounted_size(),
            self.allocator().info()
        )
    }
}

impl State for AllocationReservation {
    fn charges(&self, charges: &mut Charges) {
        charges.add_bytes(self.size());
    }

    fn describe(&self) -> String {
        format!("{} {}", self.size(), self.allocator().info())
    }
}

impl State for TransferResult {
    fn charges(&self, charges: &mut Charges) {
        self.buffer.charges(charges);
    }
}

impl State for ForeignAllocation {
    fn charges(&self, _: &mut Charges) {}

    fn describe(&self) -> String {
        format!("{self:?}")
    }
}

macro_rules! builders {
    ($($builder:ty: $bytes:expr),+) => {
        $(impl State for $builder {
            fn charges(&self, charges: &mut Charges) {
                #[allow(clippy::redundant_closure_call, reason = "a macro's argument")]
                charges.add_bytes(($bytes)(self.capacity()));
            }

            fn describe(&self) -> String {
                format!("{} {} {}", self.len(), self.capacity(), digest(self.as_slice()))
            }
        })+
    };
}

builders!(
    BufferBuilder: |bytes| bytes,
    TypedBufferBuilder<u64>: |values: usize| values * 8,
    BooleanBufferBuilder: |bits: usize| bits / 8
);

impl State for AccountedVec<u64> {
    fn charges(&self, charges: &mut Charges) {
        charges.add_bytes((self.capacity() * 8).next_multiple_of(64));
    }

    fn describe(&self) -> String {
        format!("{} {} {}", self.len(), self.capacity(), digest(self))
    }
}

/// A number for contents.
pub(crate) fn digest<T: Hash>(values: &[T]) -> u64 {
    let mut hasher = DefaultHasher::new();
    values.hash(&mut hasher);
    hasher.finish()
}
