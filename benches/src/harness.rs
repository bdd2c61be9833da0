//! Interleaved measurement, and intervals of ratios.
//!
//! A bar is a ratio of two cases. Measured one after another, as criterion and divan do, each case
//! has its own share of whatever else the machine does, and the ratio of two such means moves by
//! 10 % and more from run to run. Here the cases of a group take turns, a few milliseconds each, for
//! many rounds; a round gives one ratio, in which what disturbs the machine for longer than a round
//! cancels out. The interval is that of the median of these ratios, by order statistics: it assumes
//! nothing of how they are distributed, and a round in which something came between costs nothing.

use std::fmt;
use std::time::{Duration, Instant};

use crate::raw;

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often each case of a group is measured.
    pub rounds: usize,
    /// How long one measurement takes, about.
    pub sample: Duration,
    /// Whether this is the quick mode.
    pub quick: bool,
}

impl Settings {
    /// From the arguments: `--quick` is for a look. The other value is what a case's name must
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

/// Readies the process: the baseline is what it should be, and a second thread is alive from here on. glibc leaves locks out, and others
/// atomics, in a process that has only one, which flatters by up to twofold.
pub fn start() {
    assert!(!cfg!(debug_assertions), "measure what is optimised");
    raw::assert_arrow_without_pool();
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
}

/// A sample: runs an operation so many times.
type Run<'a> = Box<dyn FnMut(u64) + 'a>;

/// Cases that are compared, and so take turns.
#[derive(Default)]
pub struct Group<'a> {
    cases: Vec<(String, f64, Run<'a>)>,
}

impl<'a> Group<'a> {
    /// No cases yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a case.
    pub fn add(&mut self, name: impl Into<String>, operation: impl FnMut() + 'a) {
        self.add_many(name, 1, operation);
    }

    /// Adds a case that does `per` things at once: the time of one of them counts.
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
                // Who comes first differs: nobody always runs after the same one.
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

/// How many operations take as long as a sample should; at least one. The fastest of three tries
/// counts: the first one may make heaps and fault pages in.
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

/// What a group's cases took, in ns for one operation, in each round.
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

    /// One value for each round.
    ///
    /// # Panics
    ///
    /// If there is no such case.
    pub fn samples(&self, name: &str) -> &[f64] {
        let at = self.names.iter().position(|other| other == name);
        &self.samples[at.unwrap_or_else(|| panic!("no case is called {name}"))]
    }

    /// The time of a case, in ns.
    pub fn time(&self, name: &str) -> Estimate {
        Estimate::of(self.samples(name).to_vec())
    }

    /// The time of one case as a multiple of another's.
    pub fn ratio(&self, name: &str, baseline: &str) -> Estimate {
        self.pairwise(name, baseline, |time, baseline| time / baseline)
    }

    /// What one case takes longer than another, in ns.
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
    /// If there is no value.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        // The number of values below the true median is binomial: n/2 within 1.96 √n / 2.
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
