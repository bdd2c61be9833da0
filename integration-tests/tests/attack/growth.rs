//! Costs grow no faster than n log n, for children, levels, ledgers, threads and others. For release builds only.
//!
//! The curves are those of the benchmark `attack`, which prints them. Here each is measured at two sizes, and the cost of
//! one thing must not grow by nearly as much as their number does.
#![cfg(not(debug_assertions))]

use arrow_memory_benches::curves::{CURVES, Curve};

use crate::alone;

const FEW: usize = 200;
const MANY: usize = 20 * FEW;

/// What the cost of one thing may grow by, from few to many, which are twenty times as many. With a cost of n² in sum it
/// grows by twenty; with n log n by 1.6, and by some more since the caches of the processor are too small for many.
const ALLOWED: f64 = 8.0;

const TRIES: usize = 5;

fn growth(curve: &Curve) -> f64 {
    let many = MANY.min(curve.largest);
    let few = many / (MANY / FEW);
    let tries = (0..TRIES).map(|_| curve.cost(many) / curve.cost(few));
    let mut least = f64::MAX;
    for growth in tries {
        least = least.min(growth);
        if least <= ALLOWED {
            break;
        }
    }
    least
}

#[test]
fn no_cost_grows_faster_than_n_log_n() {
    let _alone = alone();
    let grown: Vec<_> = CURVES
        .iter()
        .map(|curve| (growth(curve), curve.name))
        .inspect(|(growth, name)| println!("{growth:5.2}  {name}"))
        .collect();

    let too_fast: Vec<_> = grown
        .iter()
        .filter(|&&(growth, _)| growth > ALLOWED)
        .collect();
    assert!(too_fast.is_empty(), "{too_fast:#?}");
}
