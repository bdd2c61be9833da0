//! What the program prints while it runs, and samples of its memory.

use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_integration_tests::load::{Count, Sample, Slope, Trend, resident_bytes};

use crate::server::Server;

/// How often the memory is looked at.
const SAMPLES: Duration = Duration::from_millis(250);

/// From so many seconds on a run is long enough to judge by its slope.
const LONG: u64 = 600;

/// The maximum growth of resident memory in an hour of a long run, in per cent of the mean live size.
const ALLOWED: f64 = 1.0;

/// Samples the memory for that time, and prints a line every few seconds. Ends early if something fails.
pub(crate) fn watch(server: &Server, seconds: u64) -> Trend {
    let (began, mut trend) = (Instant::now(), Trend::default());
    let (time, every) = (Duration::from_secs(seconds), 5.max(seconds / 60));
    let mut next = Duration::from_secs(every);
    loop {
        let elapsed = began.elapsed();
        if elapsed >= time || !server.totals().failures().is_empty() {
            return trend;
        }
        let live = server.root.allocated_memory();
        let resident = resident_bytes();
        if let Some(resident) = resident {
            trend.push(Sample {
                seconds: elapsed.as_secs_f64(),
                resident: resident as f64,
                live: live as f64,
            });
        }
        if elapsed >= next {
            next += Duration::from_secs(every);
            print(server, elapsed, live, resident);
        }
        thread::park_timeout(SAMPLES);
    }
}

fn print(server: &Server, elapsed: Duration, live: usize, resident: Option<usize>) {
    let of = |count| server.totals().of(count);
    let waits = of(Count::TimedOut) + of(Count::GaveWay);
    let refused = of(Count::Refused) + of(Count::Never) + of(Count::Closed);
    println!(
        "{:5} s  {} operations, {} clients, live {}, peak {}, {waits} waits ended in vain, {refused} refused, \
         {} cancelled, {} failures injected, resident {}",
        elapsed.as_secs(),
        of(Count::Steps),
        of(Count::Arrived),
        mib(live as f64),
        mib(server.root.peak_memory_allocation() as f64),
        of(Count::Cancelled),
        server.failing.failures() + server.panicking.panics(),
        resident.map_or("unknown".to_owned(), |bytes| mib(bytes as f64)),
    );
}

/// Prints how fast the resident memory grew over the last two thirds of the run; what is wrong with it, if that can be
/// told.
pub(crate) fn judge(trend: &Trend, seconds: u64) -> Option<String> {
    let Some(slope) = trend.slope(seconds as f64 / 3.0) else {
        println!("the resident memory of this platform is not known");
        return None;
    };
    let Slope {
        per_hour,
        error,
        live,
        resident,
    } = slope;
    println!(
        "resident memory grows by {per_hour:.2} % of the live size in an hour, standard error {error:.2} \
         (mean live size {}, mean resident memory {})",
        mib(live),
        mib(resident)
    );
    // What is within two standard errors of the bar cannot be told from it.
    if per_hour - 2.0 * error <= ALLOWED && per_hour + 2.0 * error > ALLOWED {
        println!("this is too inexact to tell whether it grows by more than {ALLOWED} %");
    }
    let grows = seconds >= LONG && per_hour - 2.0 * error > ALLOWED;
    grows.then(|| format!("resident memory grows by {per_hour:.2} % in an hour"))
}

fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1024.0 / 1024.0)
}
