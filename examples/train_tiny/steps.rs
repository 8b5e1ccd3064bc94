//! The loop that the parts share: goes on from a state on disk, prints a line now and then, and writes the state.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use uno_core::weights::Checkpoint;
use uno_models::tiny::trainer::Trainer;
use uno_models::train::learning_rate::LearningRate;

/// Where the state of a run is, and how often it is written.
pub struct State {
    file: PathBuf,
    save_every: u64,
}

impl State {
    /// Of a part that begins from nothing.
    pub fn new(out: &Path, part: &str, save_every: u64) -> Self {
        Self { file: out.join(format!("{part}.state.safetensors")), save_every }
    }

    /// Of a part that begins from the file `first`: with another file it is another run.
    pub fn from(out: &Path, part: &str, first: &Checkpoint, save_every: u64) -> Self {
        Self::new(out, &format!("{part}-{}", short(first)), save_every)
    }
}

/// Enough of a fingerprint to tell files of one folder apart.
pub fn short(checkpoint: &Checkpoint) -> &str {
    let fingerprint = checkpoint.fingerprint();
    fingerprint.get(..8).unwrap_or(fingerprint)
}

/// Parts of a step's batch, computed side by side: on two cores, 1.6 times as fast as both cores on one part after the other.
pub const PARTS: usize = 2;

/// Trains up to the steps of `rate`, on the loss of a module for so many pictures at a number, one for each part of each step;
/// `saved` is called after each time that the state was written.
pub fn train<M: Module + Sync>(
    trainer: &mut Trainer<M>,
    rate: &LearningRate,
    state: &State,
    batch: usize,
    loss: impl Fn(&M, usize, u64) -> uno_models::Result<Tensor<1>> + Sync,
    mut saved: impl FnMut(&Trainer<M>) -> Result<()>,
) -> Result<()> {
    ensure!(batch > 0 && batch.is_multiple_of(PARTS), "--batch: got {batch}, wanted a multiple of {PARTS}");
    println!("{} parameters", trainer.parameters().count());
    if state.file.exists() {
        trainer.restore(&state.file, &Device::flex())?;
        println!("goes on after step {}", trainer.steps());
    }
    let (start, begun, mut sum) = (Instant::now(), trainer.steps(), 0.0);
    while trainer.steps() < rate.steps {
        let step = trainer.steps();
        let done = trainer.step(rate.at(step), |model, part| {
            loss(model, batch / PARTS, step * PARTS as u64 + part as u64)
        })?;
        sum += done.loss;
        let steps = trainer.steps();
        if steps.is_multiple_of(20) {
            let seconds = start.elapsed().as_secs_f64() / (steps - begun) as f64;
            println!("{steps} loss {:.4} norm {:.3} {seconds:.2} s/step", sum / 20.0, done.norm);
            sum = 0.0;
        }
        if steps.is_multiple_of(state.save_every) || steps == rate.steps {
            trainer.save(&state.file)?;
            saved(trainer)?;
        }
    }
    Ok(())
}
