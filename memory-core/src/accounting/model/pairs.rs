//! Every pair of the operations that may race on one small tree.

use loom::thread;

use super::{at_rest, check, child, root, uncharge};
use crate::accounting::NewReservation::Exactly;
use crate::accounting::handle::Handle;

/// What may race, on a tree with a limit of 64: `a` has 16 bytes charged and some credit, `b` and `c` nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// 8 bytes of `a`'s credit.
    Take,
    /// 8 of `a`'s bytes, back to its credit.
    Give,
    /// 8 bytes for `b`, which has no credit.
    Replenish,
    /// 40 bytes for `b`, which are there only if `a`'s credit is recalled.
    Recall,
    /// 60 external bytes for the root, past its limit.
    Force,
    /// The root's limit becomes 48.
    SetLimit,
    /// `a` refuses new work.
    Close,
    /// 8 bytes from `a` to `b`.
    Transfer,
    /// The reservation of `c` becomes 24.
    Reserve,
}

impl Operation {
    const ALL: [Self; 9] = [
        Self::Take,
        Self::Give,
        Self::Replenish,
        Self::Recall,
        Self::Force,
        Self::SetLimit,
        Self::Close,
        Self::Transfer,
        Self::Reserve,
    ];

    /// Whether it was granted.
    fn run(self, root: &Handle, a: &Handle, b: &Handle, c: &Handle) -> bool {
        match self {
            Self::Take => return a.charge(8).is_ok(),
            Self::Give => uncharge(a, 8),
            Self::Replenish => return b.charge(8).is_ok(),
            Self::Recall => return b.charge(40).is_ok(),
            Self::Force => drop(root.force_external(60).unwrap()),
            Self::SetLimit => root.set_limit(48),
            Self::Close => drop(a.close()),
            Self::Reserve => return c.set_reservation(Exactly(24)).is_ok(),
            Self::Transfer => drop(a.tree.lock().transfer(a.ptr(), b.ptr(), 8).unwrap()),
        }
        true
    }

    /// What it adds to what is allocated, if it was granted.
    fn adds(self) -> isize {
        match self {
            Self::Take | Self::Replenish => 8,
            Self::Give => -8,
            Self::Recall => 40,
            Self::Force => 60,
            Self::Reserve => 24,
            Self::SetLimit | Self::Close | Self::Transfer => 0,
        }
    }

    /// Whether it fits, or is allowed, whichever of the two comes first.
    fn fits_beside(self, other: Self) -> bool {
        match (self, other) {
            (Self::Take, Self::Close) => false,
            (Self::Take | Self::Replenish | Self::Recall | Self::Reserve, Self::Force) => false,
            (Self::Recall, Self::Recall | Self::SetLimit | Self::Reserve) => false,
            (Self::Reserve, Self::Recall) => false,
            _ => true,
        }
    }
}

#[test]
fn each_two_operations_race_without_a_byte_too_many_or_a_false_refusal() {
    for (index, &first) in Operation::ALL.iter().enumerate() {
        for &second in &Operation::ALL[index..] {
            check(move || race(first, second));
        }
    }
}

fn race(first: Operation, second: Operation) {
    let root = root(64);
    let [a, b, c] = [(); 3].map(|()| child(&root, 64, 0));
    a.charge(24).unwrap();
    uncharge(&a, 8);
    let [r, x, y, z] = [&root, &a, &b, &c].map(Handle::clone);
    let thread = thread::spawn(move || first.run(&r, &x, &y, &z));

    let granted = [second.run(&root, &a, &b, &c), thread.join().unwrap()];

    let pair = [second, first];
    let mut allocated = 16;
    for (at, operation) in pair.into_iter().enumerate() {
        let other = pair[1 - at];
        assert!(
            granted[at] || !operation.fits_beside(other),
            "{pair:?}: {granted:?}"
        );
        allocated += if granted[at] { operation.adds() } else { 0 };
    }
    if pair == [Operation::Reserve; 2] {
        // The second one changes nothing.
        allocated -= Operation::Reserve.adds();
    }
    if pair == [Operation::Recall; 2] {
        assert!(granted[0] ^ granted[1], "one of them fits, two do not");
    }
    at_rest(&root, allocated.unsigned_abs());
    if !pair.contains(&Operation::Force) {
        assert!(root.peak() <= 64, "{pair:?}: {}", root.peak());
    }
}
