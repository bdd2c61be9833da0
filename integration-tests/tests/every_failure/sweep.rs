//! Runs operations with each failure and each panic.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::hooks::subscribe;
use crate::plan::{self, Mode, Point};
use crate::world::{CONFIGS, Config, World};

/// A public function, and what calls it on a fresh tree: [`World::act`] must be called once.
pub(crate) struct Operation {
    /// The function's name, as in the source; after a blank, in which situation.
    pub(crate) name: &'static str,
    pub(crate) run: fn(&World),
}

pub(crate) const fn op(name: &'static str, run: fn(&World)) -> Operation {
    Operation { name, run }
}

/// What was injected.
#[derive(Default)]
struct Totals {
    operations: usize,
    failures: usize,
    panics: usize,
    /// What was hit.
    points: BTreeSet<Point>,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operations,
            failures,
            panics,
            ..
        } = self;
        write!(
            f,
            "{operations} operations, {failures} failures injected, {panics} panics injected"
        )
    }
}

/// More points than any operation has.
const MANY: usize = 2000;

/// Hits each point of each operation, on each kind of tree, and prints how many there were. Returns which kinds of points.
///
/// # Panics
///
/// If anything is not as it should be after one of them. The others are tried before.
pub(crate) fn sweep(of: &str, lists: &[(&str, &[Operation])]) -> BTreeSet<Point> {
    subscribe();
    let mut totals = Totals::default();
    let mut wrong = Vec::new();
    for operation in lists.iter().flat_map(|(_, operations)| *operations) {
        totals.operations += 1;
        for config in CONFIGS {
            if let Err(problem) = sweep_one(operation, config, &mut totals) {
                wrong.push(format!("{}, {config:?}, {problem}", operation.name));
            }
        }
    }
    println!("{of}: {totals}");
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    totals.points
}

fn sweep_one(operation: &Operation, config: Config, totals: &mut Totals) -> Result<(), String> {
    let without = run(operation, config, Mode::Off, 0)?;
    let Totals {
        failures,
        panics,
        points,
        ..
    } = totals;
    for (mode, count) in [(Mode::Fail, failures), (Mode::Panic, panics)] {
        let mut ended = false;
        for at in 0..MANY {
            let outcome = run(operation, config, mode, at)?;
            let Some(point) = outcome.hit else {
                ended = true;
                break;
            };
            points.insert(point);
            *count += 1;
            if config == Config::Exact && outcome.peaks > without.peaks {
                let (more, peak) = (outcome.peaks, without.peaks);
                return Err(format!("{mode:?} at {at}: a peak of {more} and not {peak}"));
            }
        }
        if !ended {
            return Err(format!("{mode:?}: more than {MANY} points"));
        }
    }
    Ok(())
}

fn run(
    operation: &Operation,
    config: Config,
    mode: Mode,
    at: usize,
) -> Result<crate::world::Outcome, String> {
    let run = || {
        let world = World::new(config, mode, at);
        (operation.run)(&world);
        world.end()
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let hit = plan::disarm();
        format!("{mode:?} at {at}, which is {hit:?}: {}", text(&*panic))
    })
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or("an injected panic left the operation".to_owned())
}
