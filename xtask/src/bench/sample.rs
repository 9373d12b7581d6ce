//! Numbers measured many times, and what is said of them: the middle and the spread.

/// Values in order.
pub struct Sample {
    sorted: Vec<f64>,
}

impl Sample {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }

    /// Each value by its neighbour in time: what slowed both down falls out.
    pub fn of_ratios(values: &[f64], others: &[f64]) -> Self {
        Self::of(values.iter().zip(others).map(|(value, other)| value / other))
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Between the two nearest values; NaN where nothing was measured.
    pub fn quantile(&self, share: f64) -> f64 {
        let Some(last) = self.sorted.len().checked_sub(1) else { return f64::NAN };
        let place = share * last as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        let part = place - place.floor();
        self.sorted[below] * (1.0 - part) + self.sorted[above] * part
    }

    /// `0.98 to 1.01`: where the middle half lies.
    pub fn middle_half(&self, digits: usize) -> String {
        format!("{:.digits$} to {:.digits$}", self.quantile(0.25), self.quantile(0.75))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        assert_eq!(Sample::of([3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Sample::of([4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(Sample::of([]).median().is_nan());
    }

    #[test]
    fn quantiles_reach_from_the_least_to_the_greatest() {
        let sample = Sample::of([1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((sample.quantile(0.0), sample.max()), (1.0, 5.0));
        assert_eq!(sample.middle_half(1), "2.0 to 4.0");
    }

    #[test]
    fn a_ratio_is_taken_between_neighbours() {
        let ratios = Sample::of_ratios(&[10.0, 40.0, 30.0], &[10.0, 20.0, 30.0]);
        assert_eq!(ratios.median(), 1.0);
        assert_eq!(ratios.max(), 2.0);
    }
}
