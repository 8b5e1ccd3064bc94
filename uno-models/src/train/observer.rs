//! What a training run tells while it goes on, and how it is stopped.

use std::ops::ControlFlow;
use std::path::Path;

use super::data::DataError;

/// What is measured at each step, in this order: the columns of the metrics' files.
pub const COLUMNS: [&str; 5] = ["loss", "gradient_norm", "learning_rate", "seconds", "epoch"];

/// One step of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Steps done in the stage.
    pub step: u64,
    /// Steps of the stage in all.
    pub steps: u64,
    /// Mean loss of the step's samples.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Seconds that the step took.
    pub seconds: f64,
    /// Times that the data has been gone through.
    pub epoch: u64,
}

impl StepReport {
    /// The numbers of [`COLUMNS`].
    pub fn columns(&self) -> [f64; COLUMNS.len()] {
        [self.loss, self.gradient_norm, self.learning_rate, self.seconds, self.epoch as f64]
    }

    /// Seconds that the rest of the stage takes at this pace.
    pub fn seconds_left(&self) -> f64 {
        self.seconds * self.steps.saturating_sub(self.step) as f64
    }
}

/// What a [`TrainObserver`] is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum TrainEvent<'a> {
    /// Something begins that takes a while: checking data, encoding, loading.
    Begins {
        /// What, for people.
        what: &'a str,
    },
    /// It goes on.
    Advances {
        /// Items done.
        done: usize,
        /// Items in all.
        total: usize,
    },
    /// Entries of the data that are left out.
    DataErrors {
        /// All of them.
        errors: &'a [DataError],
    },
    /// A step is done.
    Step(StepReport),
    /// A checkpoint is there.
    Saved {
        /// Its folder.
        folder: &'a Path,
    },
    /// Something that the user should know.
    Notice {
        /// What, for people.
        text: &'a str,
    },
}

/// Watches a training run. After [`ControlFlow::Break`] the run ends as soon as it can be resumed from a checkpoint.
pub trait TrainObserver: Send + Sync {
    /// Called as training goes on.
    fn on_event(&self, event: &TrainEvent<'_>) -> ControlFlow<()>;
}

impl<F: Fn(&TrainEvent<'_>) -> ControlFlow<()> + Send + Sync> TrainObserver for F {
    fn on_event(&self, event: &TrainEvent<'_>) -> ControlFlow<()> {
        self(event)
    }
}
