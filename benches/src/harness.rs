//! Interleaved measurement, and intervals of ratios.
//!
//! A bar is a ratio of two cases. If cases are measured one after another, as criterion and divan do, other
//! load on the machine affects each case differently, and the ratio of two such means varies by 10 % and more
//! from run to run. Here the cases of a group take turns of a few milliseconds, for many rounds. Each round
//! gives one ratio, in which disturbances that last longer than a round cancel out. The interval is that of
//! the median of these ratios, by order statistics: it assumes nothing of their distribution, and a few
//! disturbed rounds do not change it.

use std::fmt;
use std::time::{Duration, Instant};

use crate::raw;

/// The length and the number of measurements.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The number of measurements of each case in a group.
    pub rounds: usize,
    /// The approximate length of one measurement.
    pub sample: Duration,
    /// Whether this is the quick mode.
    pub quick: bool,
}

impl Settings {
    /// Reads the arguments: `--quick` measures less. The second value is a text that the name of a case must
    /// contain.
    pub fn from_arguments() -> (Self, String) {
        let (mut quick, mut filter) = (false, String::new());
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                "--quick" => quick = true,
                "--bench" => {}
                other => filter = other.to_owned(),
            }
        }
        let settings = if quick {
            Self {
                rounds: 31,
                sample: Duration::from_micros(700),
                quick,
            }
        } else {
            Self {
                rounds: 151,
                sample: Duration::from_millis(2),
                quick,
            }
        };
        (settings, filter)
    }
}

/// Prepares the process: checks the baseline, and starts a second thread, which stays alive. In a process
/// with one thread glibc leaves out locks, and other libraries atomics, which makes them up to twice as fast.
pub fn start() {
    assert!(!cfg!(debug_assertions), "measure what is optimised");
    raw::assert_arrow_without_pool();
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
}

/// A sample: a function that runs an operation this many times.
type Run<'a> = Box<dyn FnMut(u64) + 'a>;

/// A group of cases that is measured, and printed, by itself.
pub type RunGroup = fn(&Settings);

/// Runs those groups whose names contain what the command line names.
pub fn run_groups(groups: &[(&str, RunGroup)]) {
    let (settings, filter) = Settings::from_arguments();
    for (name, run) in groups {
        if name.contains(&filter) {
            run(&settings);
        }
    }
}

/// Cases that are compared, and so are measured in turns.
#[derive(Default)]
pub struct Group<'a> {
    cases: Vec<(String, f64, Run<'a>)>,
}

impl<'a> Group<'a> {
    /// A group without cases.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a case to the group.
    pub fn add(&mut self, name: impl Into<String>, operation: impl FnMut() + 'a) {
        self.add_many(name, 1, operation);
    }

    /// Adds a case of which one call does `per` operations. Its time is that of one operation.
    pub fn add_many(
        &mut self,
        name: impl Into<String>,
        per: usize,
        mut operation: impl FnMut() + 'a,
    ) {
        let run = Box::new(move |times| {
            for _ in 0..times {
                operation();
            }
        });
        self.cases.push((name.into(), per as f64, run));
    }

    /// Runs each case `rounds` times, in turn, and measures nothing.
    pub fn warm_up(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for (_, _, run) in &mut self.cases {
                run(1);
            }
        }
    }

    /// Measures the cases in turns.
    pub fn measure(mut self, settings: &Settings) -> Measured {
        let times: Vec<u64> = self
            .cases
            .iter_mut()
            .map(|(_, _, run)| calibrate(run, settings.sample))
            .collect();
        let mut samples = vec![Vec::with_capacity(settings.rounds); self.cases.len()];
        for round in 0..settings.rounds {
            for turn in 0..self.cases.len() {
                // The order changes each round, so that no case always follows the same one.
                let at = (turn + round) % self.cases.len();
                let (_, per, run) = &mut self.cases[at];
                let begun = Instant::now();
                run(times[at]);
                let nanoseconds = begun.elapsed().as_nanos() as f64;
                samples[at].push(nanoseconds / times[at] as f64 / *per);
            }
        }
        let names = self.cases.into_iter().map(|(name, ..)| name).collect();
        Measured { names, samples }
    }
}

/// The number of operations that take as long as a sample should; at least one. The fastest of three tries
/// counts, since the first one may create heaps and fault pages in.
fn calibrate(run: &mut Run<'_>, sample: Duration) -> u64 {
    let mut times = 1;
    loop {
        let taken = (0..3).map(|_| {
            let begun = Instant::now();
            run(times);
            begun.elapsed()
        });
        let taken = taken.min().unwrap_or_default();
        if taken * 4 >= sample {
            let exact = times as f64 * sample.as_secs_f64() / taken.as_secs_f64();
            return (exact as u64).max(1);
        }
        times *= 2;
    }
}

/// The times of a group's cases in each round, in ns for one operation.
#[derive(Clone, Debug)]
pub struct Measured {
    names: Vec<String>,
    samples: Vec<Vec<f64>>,
}

impl Measured {
    /// The cases' names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The times of a case, one for each round.
    ///
    /// # Panics
    ///
    /// If there is no case of this name.
    pub fn samples(&self, name: &str) -> &[f64] {
        let at = self.names.iter().position(|other| other == name);
        &self.samples[at.unwrap_or_else(|| panic!("no case is called {name}"))]
    }

    /// The time of a case in ns.
    pub fn time(&self, name: &str) -> Estimate {
        Estimate::of(self.samples(name).to_vec())
    }

    /// The time of one case as a multiple of another's.
    pub fn ratio(&self, name: &str, baseline: &str) -> Estimate {
        self.pairwise(name, baseline, |time, baseline| time / baseline)
    }

    /// The difference of the times of two cases in ns.
    pub fn difference(&self, name: &str, baseline: &str) -> Estimate {
        self.pairwise(name, baseline, |time, baseline| time - baseline)
    }

    fn pairwise(&self, a: &str, b: &str, combine: impl Fn(f64, f64) -> f64) -> Estimate {
        let pairs = self.samples(a).iter().zip(self.samples(b));
        Estimate::of(pairs.map(|(&a, &b)| combine(a, b)).collect())
    }
}

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// The lower end of the interval.
    pub low: f64,
    /// The median of all rounds.
    pub median: f64,
    /// The upper end of the interval.
    pub high: f64,
}

impl Estimate {
    /// The median of `values` and its interval.
    ///
    /// # Panics
    ///
    /// If `values` is empty.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        // The number of values below the true median is binomial: n/2 ± 1.96 √n / 2 with 95 %.
        let rank = ((count as f64 - 1.96 * (count as f64).sqrt()) / 2.0).floor();
        let rank = rank.max(0.0) as usize;
        Self {
            low: values[rank],
            median: values[count / 2],
            high: values[count - 1 - rank],
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median.abs() < 10.0 { 3 } else { 1 };
        write!(
            f,
            "{:.digits$} ({:.digits$} .. {:.digits$})",
            self.median, self.low, self.high
        )
    }
}
