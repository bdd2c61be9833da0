//! The batch that every harness uses, including those of other libraries: 1,000 buffers of mixed sizes, freed
//! in shuffled order.

/// The number of buffers.
pub const COUNT: usize = 1000;

/// The sizes of the batch, log-uniform from 64 bytes to 64 KiB, and the order of freeing.
pub fn plan() -> (Vec<usize>, Vec<usize>) {
    let mut draws = Draws(42);
    let sizes = (0..COUNT)
        .map(|_| {
            let base = 64 << (draws.next() % 10);
            base + draws.next() % base
        })
        .collect();
    let mut order: Vec<usize> = (0..COUNT).collect();
    for last in (1..COUNT).rev() {
        order.swap(last, draws.next() % (last + 1));
    }
    (sizes, order)
}

/// An operation that makes a buffer of each size, and then drops them in order.
pub fn operation<T>(mut make: impl FnMut(usize) -> T) -> impl FnMut() {
    let (sizes, order) = plan();
    let mut held: Vec<Option<T>> = (0..COUNT).map(|_| None).collect();
    move || {
        for (place, &size) in held.iter_mut().zip(&sizes) {
            *place = Some(make(size));
        }
        for &at in &order {
            drop(held[at].take());
        }
    }
}

/// A linear congruential generator.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize
    }
}
