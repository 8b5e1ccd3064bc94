//! The learning rate of each step: a linear warm-up, then constant or falling to zero.

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warm-up (diffusers `get_scheduler`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It stays.
    #[default]
    Constant,
    /// It falls linearly to zero at the last step.
    Linear,
    /// It falls to zero at the last step along half a cosine.
    Cosine,
}

/// A learning rate over `steps` steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// The rate after the warm-up.
    pub peak: f64,
    /// Steps in which the rate rises linearly. The first of them has a rate of `peak / warmup`, not zero.
    pub warmup: u64,
    /// What follows.
    pub decay: Decay,
    /// Steps in all.
    pub steps: u64,
}

impl LearningRate {
    /// The rate of a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let after = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / after).min(1.0);
        self.peak
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear => 1.0 - progress,
                Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_zero() {
        let rate = |decay| LearningRate { peak: 2.0, warmup: 4, decay, steps: 12 };
        let linear = rate(Decay::Linear);
        assert_eq!([0, 3, 4, 8, 12].map(|step| linear.at(step)), [0.5, 2.0, 2.0, 1.0, 0.0]);
        let cosine = rate(Decay::Cosine);
        assert!((cosine.at(8) - 1.0).abs() < 1e-12 && cosine.at(6) > linear.at(6) && cosine.at(12) < 1e-12);
        assert_eq!(rate(Decay::Constant).at(1_000_000), 2.0);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_full_rate() {
        let rate = LearningRate { peak: 1e-5, warmup: 0, decay: Decay::Cosine, steps: 1 };
        assert_eq!(rate.at(0), 1e-5);
    }
}
