//! Whether the memory of a process grows: [`Trend`] fits a line to samples of it.

/// The memory of the process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Seconds since the start of the run.
    pub seconds: f64,
    /// Resident memory in bytes.
    pub resident: f64,
    /// The bytes that are allocated in the tree.
    pub live: f64,
}

/// How fast resident memory grows.
#[derive(Clone, Copy, Debug)]
pub struct Slope {
    /// Growth in an hour, in per cent of the mean live size.
    pub per_hour: f64,
    /// The standard error of `per_hour`.
    pub error: f64,
    /// The mean of the live size, in bytes.
    pub live: f64,
    /// The mean of the resident memory, in bytes.
    pub resident: f64,
}

/// Samples of the memory of a process, in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Trend(Vec<Sample>);

/// How many blocks of samples the slope is computed of. Samples that follow each other soon are alike, and their means
/// over a block are less so; hence the standard error is that of the blocks.
const BLOCKS: usize = 40;

impl Trend {
    /// Adds a sample, later than those before it.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Fits a line to the resident memory since `from` seconds, by least squares. `None` with fewer than three samples.
    pub fn slope(&self, from: f64) -> Option<Slope> {
        let start = self.0.partition_point(|sample| sample.seconds < from);
        let samples = &self.0[start..];
        let size = samples.len().div_ceil(BLOCKS).max(1);
        let blocks: Vec<Sample> = samples.chunks_exact(size).map(mean).collect();
        if blocks.len() < 3 {
            return None;
        }
        let centre = mean(&blocks);
        let (mut times, mut products) = (0.0, 0.0);
        for block in &blocks {
            let time = block.seconds - centre.seconds;
            times += time * time;
            products += time * (block.resident - centre.resident);
        }
        let slope = products / times;
        let squares: f64 = blocks
            .iter()
            .map(|it| it.resident - centre.resident - slope * (it.seconds - centre.seconds))
            .map(|rest| rest * rest)
            .sum();
        let error = (squares / (blocks.len() - 2) as f64 / times).sqrt();
        let scale = 3600.0 * 100.0 / centre.live.max(1.0);
        Some(Slope {
            per_hour: slope * scale,
            error: error * scale,
            live: centre.live,
            resident: centre.resident,
        })
    }
}

fn mean(samples: &[Sample]) -> Sample {
    let count = samples.len() as f64;
    let of = |value: fn(&Sample) -> f64| samples.iter().map(value).sum::<f64>() / count;
    Sample {
        seconds: of(|it| it.seconds),
        resident: of(|it| it.resident),
        live: of(|it| it.live),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(resident: impl Fn(f64) -> f64) -> Trend {
        let mut trend = Trend::default();
        for index in 0..2000 {
            let seconds = f64::from(index) / 4.0;
            trend.push(Sample {
                seconds,
                resident: resident(seconds),
                live: 1000.0,
            });
        }
        trend
    }

    #[test]
    fn a_line_has_the_slope_that_it_has_and_no_error() {
        // 1 byte a second is 3600 an hour, of 1000.
        let slope = trend(|seconds| 5000.0 + seconds).slope(0.0).unwrap();

        assert!((slope.per_hour - 360.0).abs() < 1e-6, "{slope:?}");
        assert!(slope.error < 1e-6, "{slope:?}");
        assert!((slope.live - 1000.0).abs() < 1e-6, "{slope:?}");
    }

    #[test]
    fn what_was_before_the_start_does_not_count() {
        let ramp = trend(|seconds| seconds.min(100.0) * 1000.0);

        assert!(ramp.slope(100.0).unwrap().per_hour.abs() < 1e-6);
        assert!(ramp.slope(0.0).unwrap().per_hour > 1000.0);
    }

    #[test]
    fn noise_shows_in_the_error_and_not_in_the_slope() {
        let mut random = fastrand::Rng::with_seed(3);
        let noise: Vec<f64> = (0..2000).map(|_| random.f64() - 0.5).collect();
        let slope = trend(|seconds| noise[(seconds * 4.0) as usize]).slope(0.0);

        let slope = slope.unwrap();
        assert!(
            slope.error > 0.0 && slope.per_hour.abs() < 4.0 * slope.error,
            "{slope:?}"
        );
    }

    #[test]
    fn few_samples_have_no_slope() {
        assert!(Trend::default().slope(0.0).is_none());
    }
}
