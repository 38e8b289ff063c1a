//! Percentiles of latencies, from counts in buckets that grow with the value: 32 to each doubling, so that a percentile is
//! off by 3 % at most, in fixed memory however long the run.

use std::time::Duration;

const PER_DOUBLING: u32 = 32;
/// Up to 2^40 µs, far beyond any deadline.
const BUCKETS: usize = 40 * PER_DOUBLING as usize;

/// Counts of latencies.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Latencies {
    /// None yet.
    pub(super) fn new() -> Latencies {
        Latencies { counts: vec![0; BUCKETS], total: 0, max: Duration::ZERO }
    }

    /// Adds one.
    pub(super) fn add(&mut self, latency: Duration) {
        self.counts[bucket(latency)] += 1;
        self.total += 1;
        self.max = self.max.max(latency);
    }

    /// How many there are.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The longest.
    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// The latency that `percent` of all don't exceed.
    pub(super) fn percentile(&self, percent: u64) -> Duration {
        let wanted = (self.total * percent).div_ceil(100);
        let mut seen = 0;
        for (number, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return upper_bound(number).min(self.max);
            }
        }
        self.max
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Latencies::new();
    }
}

/// Values below `PER_DOUBLING` µs have a bucket each; above, a bucket is a doubling and a place within it.
fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    let doubling = micros.max(1).ilog2().saturating_sub(PER_DOUBLING.ilog2());
    let place = micros >> doubling;
    let number = u64::from(doubling * PER_DOUBLING) + place;
    usize::try_from(number).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

fn upper_bound(number: usize) -> Duration {
    let number = number as u64;
    let per = u64::from(PER_DOUBLING);
    if number < 2 * per {
        return Duration::from_micros(number);
    }
    let doubling = number / per - 1;
    let place = number - doubling * per;
    Duration::from_micros(((place + 1) << doubling) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_the_values_up_to_its_bound() {
        for micros in (0..5000).chain([65_535, 65_536, 1_000_000, 59_999_999]) {
            let latency = Duration::from_micros(micros);
            let bound = upper_bound(bucket(latency));
            assert!(bound >= latency && bound <= latency + latency / 30, "{micros}: {bound:?}");
        }
    }

    #[test]
    fn percentiles_of_a_thousand_known_values() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.percentile(50), Duration::ZERO);
        for micros in 1..=1000 {
            latencies.add(Duration::from_micros(micros));
        }
        for (percent, micros) in [(50, 500.0), (99, 990.0), (100, 1000.0)] {
            let found = latencies.percentile(percent).as_micros() as f64;
            assert!((found - micros).abs() <= micros * 0.04, "{percent}: {found}");
        }
        assert_eq!(latencies.max(), Duration::from_micros(1000));
    }
}
