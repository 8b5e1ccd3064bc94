//! What may be approximated to save time. Nothing is, unless it is asked for.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Ways to spare work between the steps of one generation; each changes the picture. By default there are none.
///
/// How much they change and save is measured in docs/performance.md.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Approximation {
    /// First-block cache: the blocks after the first are skipped, and what they added at the last step that ran them is added
    /// again, while what the first block adds to the latent differs from then by less than this part of its mean magnitude.
    /// 0.05 to 0.15 is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_block_cache: Option<f32>,
    /// Reference cache: keys and values of the references' tokens are computed at every so many steps, and taken from the last
    /// of these in between; 1 is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_cache: Option<usize>,
}

impl Approximation {
    /// Whether every step is computed in full.
    pub fn is_none(&self) -> bool {
        self.first_block_cache.is_none() && self.reference_cache.is_none_or(|steps| steps == 1)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A threshold that is no number above 0; a cache that is refreshed at every 0 steps.
    pub fn check(&self) -> Result<()> {
        match (self.first_block_cache, self.reference_cache) {
            (Some(threshold), _) if !(threshold.is_finite() && threshold > 0.0) => {
                Err(Error::invalid("first_block_cache", threshold, "a number above 0, usually 0.05 to 0.15"))
            }
            (_, Some(0)) => Err(Error::invalid("reference_cache", 0, "a number of steps, 1 (exact) or more")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_mean_nothing_are_refused() {
        let cache = |first_block_cache| Approximation { first_block_cache, ..Default::default() };
        for threshold in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = cache(Some(threshold)).check().unwrap_err().to_string();
            assert!(error.contains("first_block_cache"), "{error}");
        }
        assert!(Approximation { reference_cache: Some(0), ..Default::default() }.check().is_err());
        assert!(cache(Some(0.1)).check().is_ok() && Approximation::default().check().is_ok());
    }

    #[test]
    fn a_reference_cache_of_one_step_approximates_nothing() {
        assert!(Approximation { reference_cache: Some(1), ..Default::default() }.is_none());
        assert!(!Approximation { reference_cache: Some(2), ..Default::default() }.is_none());
    }
}
