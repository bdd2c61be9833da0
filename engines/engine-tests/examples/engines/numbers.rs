//! Numbers on the command line, medians with their intervals, and percentiles.

use std::time::Duration;

/// Reads a size such as `64MiB`.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let unit = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("a size is a number with KiB, MiB or GiB".to_owned()),
    };
    let number: usize = number.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(unit).ok_or("it is too large".to_owned())
}

/// Reads a number, or two with a dash between them.
pub(crate) fn range(text: &str) -> Result<(usize, usize), String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse().map_err(|error| format!("{error}"));
    Ok((number(from)?, number(to)?))
}

/// Writes a size in MiB.
pub(crate) fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// A median, and an interval around it.
pub(crate) struct Median {
    pub(crate) median: f64,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl std::fmt::Display for Median {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} [{:.3}, {:.3}]", self.median, self.from, self.to)
    }
}

/// Returns the median of some numbers, and the narrowest interval between two of them that holds the true median with a
/// probability of at least 95 %, whatever their distribution. Below six numbers there is none: then it is all of them.
pub(crate) fn median(mut numbers: Vec<f64>) -> Median {
    numbers.sort_by(f64::total_cmp);
    let count = numbers.len();
    // The true median lies below the k-th smallest number if fewer than k numbers are below it, as in tossing a coin.
    let (mut outside, mut term, mut k) = (0.0, 0.5_f64.powi(count as i32), 0);
    while k < count / 2 && outside + 2.0 * term <= 0.05 {
        outside += 2.0 * term;
        term *= (count - k) as f64 / (k + 1) as f64;
        k += 1;
    }
    let k = k.saturating_sub(1);
    Median {
        median: (numbers[(count - 1) / 2] + numbers[count / 2]) / 2.0,
        from: numbers[k],
        to: numbers[count - 1 - k],
    }
}

/// Returns the smallest of the durations that so many percent of them do not pass.
pub(crate) fn percentile(durations: &mut [Duration], percent: usize) -> Option<Duration> {
    durations.sort_unstable();
    let index = (durations.len() * percent).div_ceil(100);
    durations.get(index.saturating_sub(1)).copied()
}
