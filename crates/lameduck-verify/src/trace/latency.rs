//! Latency over time in bounded memory: slots of time that widen as the run gets longer.

use super::{LatencySlot, Micros};

/// So many slots at most; one more doubles their width.
const SLOTS: usize = 240;

/// How wide a slot is at first. A multiple of it by a power of two later, so that slots of two threads merge.
const FIRST_WIDTH: Micros = 10_000;

/// Buckets for each doubling of a latency: the error of a quantile is at most an eighth.
const FINENESS: usize = 8;

/// Bits that number the buckets within a doubling.
const FINENESS_BITS: u32 = FINENESS.trailing_zeros();

/// Buckets in all, for latencies up to 2^26 µs (67 s); what is slower shares the last.
const BUCKETS: usize = (27 - FINENESS_BITS as usize) * FINENESS;

/// The latencies of answered requests, by the time of their end.
#[derive(Clone, Debug)]
pub(crate) struct LatencyOverTime {
    width: Micros,
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    answered: u64,
    slowest: Micros,
    buckets: Box<[u32; BUCKETS]>,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot { answered: 0, slowest: 0, buckets: Box::new([0; BUCKETS]) }
    }
}

impl Default for LatencyOverTime {
    fn default() -> LatencyOverTime {
        LatencyOverTime { width: FIRST_WIDTH, slots: Vec::new() }
    }
}

impl LatencyOverTime {
    pub(crate) fn record(&mut self, at: Micros, latency: Micros) {
        while at / self.width >= SLOTS as u64 {
            self.widen();
        }
        // Below the number of slots, by the loop above.
        let place = (at / self.width) as usize;
        if place >= self.slots.len() {
            self.slots.resize_with(place + 1, Slot::default);
        }
        let slot = &mut self.slots[place];
        slot.answered += 1;
        slot.slowest = slot.slowest.max(latency);
        slot.buckets[bucket(latency)] += 1;
    }

    pub(crate) fn merge(&mut self, other: &LatencyOverTime) {
        let mut other = other.clone();
        while self.width < other.width {
            self.widen();
        }
        while other.width < self.width {
            other.widen();
        }
        if self.slots.len() < other.slots.len() {
            self.slots.resize_with(other.slots.len(), Slot::default);
        }
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            mine.add(theirs);
        }
    }

    /// The slots in which something was answered.
    pub(crate) fn slots(&self) -> Vec<LatencySlot> {
        let each = self.slots.iter().enumerate().filter(|(_, slot)| slot.answered > 0);
        each.map(|(place, slot)| LatencySlot {
            from: place as u64 * self.width,
            to: (place as u64 + 1) * self.width,
            answered: slot.answered,
            p50: slot.quantile(0.5),
            p99: slot.quantile(0.99),
            slowest: slot.slowest,
        })
        .collect()
    }

    fn widen(&mut self) {
        self.width *= 2;
        self.slots = self
            .slots
            .chunks(2)
            .map(|pair| {
                let mut sum = pair[0].clone();
                pair[1..].iter().for_each(|second| sum.add(second));
                sum
            })
            .collect();
    }
}

impl Slot {
    fn add(&mut self, other: &Slot) {
        self.answered += other.answered;
        self.slowest = self.slowest.max(other.slowest);
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *mine += theirs;
        }
    }

    /// The upper end of the bucket that holds the quantile, and no more than the slowest.
    fn quantile(&self, quantile: f64) -> Micros {
        let wanted = (self.answered as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return upper_end(place).min(self.slowest);
            }
        }
        self.slowest
    }
}

fn bucket(latency: Micros) -> usize {
    if latency < FINENESS as u64 {
        return latency as usize;
    }
    let doubling = latency.ilog2() - FINENESS_BITS;
    let within = (latency >> doubling) as usize - FINENESS;
    ((doubling as usize + 1) * FINENESS + within).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> Micros {
    if bucket < FINENESS {
        return bucket as u64;
    }
    let doubling = bucket / FINENESS - 1;
    let within = (bucket % FINENESS + FINENESS + 1) as u64;
    (within << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_lies_in_its_bucket() {
        for latency in (0..5_000).chain([65_535, 65_536, 1_000_000, 67_000_000]) {
            let place = bucket(latency);
            assert!(upper_end(place) >= latency, "{latency} is above bucket {place}");
            assert!(place == 0 || upper_end(place - 1) < latency, "{latency} is below {place}");
        }
        assert_eq!(bucket(Micros::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_long_run_has_wider_slots_and_loses_no_count() {
        let mut latency = LatencyOverTime::default();
        for at in 0..10_000 {
            latency.record(at * 10_000, 100 + at % 7);
        }
        let slots = latency.slots();
        assert!(slots.len() <= SLOTS);
        assert_eq!(slots.iter().map(|slot| slot.answered).sum::<u64>(), 10_000);
        assert!(slots.iter().all(|slot| slot.slowest == 106 && slot.p50 >= 103), "{slots:?}");
    }

    #[test]
    fn slots_of_different_widths_merge() {
        let (mut short, mut long) = (LatencyOverTime::default(), LatencyOverTime::default());
        short.record(5, 10);
        long.record(60_000_000, 20);
        let mut sum = short.clone();
        sum.merge(&long);
        long.merge(&short);
        assert_eq!(sum.slots(), long.slots());
        assert_eq!(sum.slots().iter().map(|slot| slot.answered).sum::<u64>(), 2);
    }
}
