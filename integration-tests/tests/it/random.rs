//! Random operations on a tree and on the naive model. Every number is compared after the steps.
//!
//! A case is a list of draws, which become operations only when they are run. A draw chooses among the
//! objects that exist at that moment, and derives its sizes from the bytes left, so that about a third of the
//! requests are refused, many of them by one byte.
//!
//! The accounting does not depend on the backend. So all cases run over one backend, and a twentieth of them
//! over each other one. `PROPTEST_CASES` sets the number of cases.

mod draws;

use std::cell::Cell;
use std::panic;
use std::sync::{Arc, Once};
use std::thread;

use arrow_memory_core::AllocationManager;
use arrow_memory_integration_tests::for_every_backend;
use arrow_memory_integration_tests::operation::{Operation, Rounding};
use arrow_memory_integration_tests::script::{Draw, Script, Shape, overflows, release};
use arrow_memory_integration_tests::side_by_side::{Headroom, SideBySide};
use arrow_memory_integration_tests::tree::Ground;
use proptest::collection::vec;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use draws::{draw, low_limit, root_limit, rounding, shape};

/// The number of operations per case, without those that release everything at its end.
const STEPS: usize = 200;

/// Enough draws for that many operations: a draw may find no object to use.
const DRAWS: usize = 300;

/// Fewer where requests wait, so that there are more cases.
const DRAWS_WITH_WAITS: usize = 120;

type Backend = Arc<dyn AllocationManager>;

for_every_backend!(
    random_operations_agree_with_the_model_with_the_default_credit,
    random_operations_agree_with_the_model_without_credit,
    random_operations_agree_with_the_model_with_the_credit_of_a_few_buffers,
    random_operations_agree_with_the_model_when_it_is_asked_now_and_then,
    random_operations_agree_with_the_model_when_it_is_asked_now_and_then_about_little_credit,
    random_waits_agree_with_the_model_without_credit,
    random_waits_agree_with_the_model_with_the_default_credit,
    random_waits_agree_with_the_model_with_the_credit_of_a_few_buffers,
);

fn random_waits_agree_with_the_model_without_credit(backend: &Backend) {
    agree_on_waits(backend, 3500, Some(0));
}

fn random_waits_agree_with_the_model_with_the_default_credit(backend: &Backend) {
    agree_on_waits(backend, 1500, None);
}

fn random_waits_agree_with_the_model_with_the_credit_of_a_few_buffers(backend: &Backend) {
    agree_on_waits(backend, 1500, Some(1000));
}

fn random_operations_agree_with_the_model_with_the_default_credit(backend: &Backend) {
    agree(backend, 2000, None, 1);
}

fn random_operations_agree_with_the_model_without_credit(backend: &Backend) {
    agree(backend, 2000, Some(0), 1);
}

fn random_operations_agree_with_the_model_with_the_credit_of_a_few_buffers(backend: &Backend) {
    agree(backend, 500, Some(1000), 1);
}

fn random_operations_agree_with_the_model_when_it_is_asked_now_and_then(backend: &Backend) {
    agree(backend, 500, None, 9);
}

fn random_operations_agree_with_the_model_when_it_is_asked_now_and_then_about_little_credit(
    backend: &Backend,
) {
    agree(backend, 500, Some(1000), 9);
}

/// Runs `cases` over the first backend, and a twentieth of them over each other one.
fn agree(backend: &Backend, cases: u32, credit: Option<usize>, look_every: usize) {
    let share = if backend.name() == "system" { 1 } else { 20 };
    let what = (rounding(), root_limit(), shape(), vec(draw(false), DRAWS));
    let result =
        TestRunner::new(config(cases, share)).run(&what, |(rounding, limit, shape, draws)| {
            let setting = Setting {
                credit,
                rounding,
                limit,
                shape,
                look_every,
            };
            run(backend, setting, &draws)
        });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// Does what [`agree`] does, with requests that wait.
fn agree_on_waits(backend: &Backend, cases: u32, credit: Option<usize>) {
    let share = if backend.name() == "system" { 1 } else { 20 };
    let what = (low_limit(), shape(), vec(draw(true), DRAWS_WITH_WAITS));
    let result = TestRunner::new(config(cases, share)).run(&what, |(limit, shape, draws)| {
        let setting = Setting {
            credit,
            rounding: Rounding::Padding,
            limit,
            shape,
            look_every: 1,
        };
        run(backend, setting, &draws)
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// Runs a case. A failure is reduced to a few steps, and its message lists the operations, which the draws do
/// not show.
fn run(backend: &Backend, setting: Setting, draws: &[Draw]) -> Result<(), TestCaseError> {
    let story = |draws: &[Draw]| {
        let manager = Arc::clone(backend);
        let credit = setting.credit;
        let ground = Ground::Root { manager, credit };
        let mut case = Case {
            pair: SideBySide::new(ground, setting.rounding),
            setting,
            steps: 0,
        };
        let panic = quietly(|| case.run(draws)).err()?;
        let fixed = panic.downcast_ref::<&str>().copied();
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or(fixed).unwrap_or_default();
        let story = format!("{message}\n{}", case.pair.story());
        // After a failure, dropping the tree may fail, too.
        std::mem::forget(case);
        Some(story)
    };
    match story(draws) {
        None => Ok(()),
        Some(first) => Err(TestCaseError::fail(shortest(first, draws, story))),
    }
}

/// Removes draws, many at a time and then fewer, as long as the rest fails.
fn shortest(first: String, draws: &[Draw], story: impl Fn(&[Draw]) -> Option<String>) -> String {
    let (mut shortest, mut draws, mut chunk) = (first, draws.to_vec(), draws.len() / 2);
    while chunk > 0 {
        let mut start = 0;
        while start < draws.len() {
            let mut fewer = draws.clone();
            fewer.drain(start..(start + chunk).min(draws.len()));
            match story(&fewer) {
                Some(failure) => (shortest, draws) = (failure, fewer),
                None => start += chunk,
            }
        }
        chunk /= 2;
    }
    shortest
}

/// Catches a panic without its message: proptest repeats a failure a thousand times to shrink it.
fn quietly(what: impl FnOnce()) -> thread::Result<()> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let result = panic::catch_unwind(panic::AssertUnwindSafe(what));
    QUIET.set(false);
    result
}

/// The settings of a case.
#[derive(Clone, Copy, Debug)]
struct Setting {
    credit: Option<usize>,
    rounding: Rounding,
    limit: usize,
    shape: Shape,
    /// The number of steps between two comparisons of all numbers. A comparison settles pending changes.
    look_every: usize,
}

struct Case {
    pair: SideBySide,
    setting: Setting,
    steps: usize,
}

impl Case {
    fn run(&mut self, draws: &[Draw]) {
        let mut script = Script::new(self.setting.shape);
        let (allocator, limit) = (0, self.setting.limit);
        self.step(&Operation::Root { allocator, limit });
        for draw in draws {
            for _ in 0..draw.rounds() {
                let operation = script.operation(&self.pair.model, draw);
                let sane = |it: &Operation| !overflows(&self.pair.model, it);
                if let Some(operation) = operation.filter(sane) {
                    self.step(&operation);
                }
            }
            if self.steps > STEPS {
                break;
            }
        }
        while let Some(operation) = release(&self.pair.model) {
            self.step(&operation);
        }
    }

    fn step(&mut self, operation: &Operation) {
        self.pair.apply(operation);
        self.steps += 1;
        if self.steps.is_multiple_of(self.setting.look_every) {
            self.pair.compare(Headroom::Known);
            self.pair.verify();
        }
    }
}

fn config(cases: u32, share: u32) -> Config {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    let cases = wanted.and_then(|it| it.parse().ok()).unwrap_or(cases);
    Config {
        cases: cases.div_ceil(share),
        failure_persistence: None,
        // `shortest` reduces failures, since it knows the meaning of draws.
        max_shrink_iters: 0,
        // The cases are the same each time, so that a failure is caused by the current change.
        // PROPTEST_RNG_SEED=random, or a number, selects others.
        rng_seed: match std::env::var("PROPTEST_RNG_SEED") {
            Err(_) => RngSeed::Fixed(20_261_122),
            Ok(seed) => seed.parse().map_or(RngSeed::Random, RngSeed::Fixed),
        },
        ..Config::default()
    }
}
