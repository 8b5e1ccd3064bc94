//! Means with confidence intervals.

use serde::{Deserialize, Serialize};

use crate::train::random::{Draws, Purpose};

/// Resamples of a confidence interval.
pub const RESAMPLES: usize = 2000;
const SEED: u64 = 3407;

/// A mean, and between which values it would lie in 95 of 100 repetitions with other prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean over all values.
    pub mean: f64,
    /// Lower end of the interval: 2.5% of resampled means lie below.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Values.
    pub count: usize,
}

impl Mean {
    /// The mean over the values of all groups, and its interval by the bootstrap (Efron, 1979) over groups: the values of a
    /// group (pictures of one prompt) are no independent draws. `None` without values.
    ///
    /// The resamples come from a fixed seed: the same values give the same interval.
    pub fn of_groups(groups: &[Vec<f64>]) -> Option<Self> {
        let groups: Vec<(f64, usize)> =
            groups.iter().filter(|g| !g.is_empty()).map(|g| (g.iter().sum(), g.len())).collect();
        let mean = |chosen: &mut dyn Iterator<Item = &(f64, usize)>| {
            let (sum, count) = chosen.fold((0.0, 0), |(sum, count), (s, n)| (sum + s, count + n));
            sum / count as f64
        };
        if groups.is_empty() {
            return None;
        }
        let mut resampled: Vec<f64> = (0..RESAMPLES)
            .map(|i| {
                let mut draws = Draws::new(SEED, Purpose::Other(7), i as u64);
                mean(&mut (0..groups.len()).map(|_| &groups[draws.below(groups.len())]))
            })
            .collect();
        resampled.sort_by(f64::total_cmp);
        let at = |share: f64| resampled[((RESAMPLES - 1) as f64 * share).round() as usize];
        Some(Self {
            mean: mean(&mut groups.iter()),
            low: at(0.025),
            high: at(0.975),
            count: groups.iter().map(|(_, n)| n).sum(),
        })
    }

    /// The mean of values that are independent.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        Self::of_groups(&values.into_iter().map(|value| vec![value]).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_independent_values_is_about_two_standard_errors_wide_on_each_side() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let Mean { mean, low, high, count } = Mean::of(values).unwrap();
        // The deviation of 0..19 is 5.77; the standard error of 400 values 0.288.
        assert!((mean - 9.5).abs() < 1e-12 && count == 400);
        assert!(((high - low) / (2.0 * 1.96 * 0.2883) - 1.0).abs() < 0.1, "{low} to {high}");
    }

    #[test]
    fn pictures_of_one_prompt_count_as_one_draw() {
        let alone = Mean::of((0..40).map(f64::from)).unwrap();
        let groups: Vec<Vec<f64>> = (0..40).map(|i| vec![f64::from(i); 10]).collect();
        let grouped = Mean::of_groups(&groups).unwrap();
        assert!((grouped.low - alone.low).abs() < 1e-9 && (grouped.high - alone.high).abs() < 1e-9);
        assert_eq!(grouped.count, 400);
        assert_eq!(Mean::of([]), None);
        assert_eq!(Mean::of([0.25]), Some(Mean { mean: 0.25, low: 0.25, high: 0.25, count: 1 }));
    }
}
