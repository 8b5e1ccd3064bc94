//! The loop that the parts share: goes on from a state on disk, prints a line now and then, and writes the state.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use uno_models::tiny::trainer::Trainer;
use uno_models::train::learning_rate::LearningRate;

/// Where the state of a run is, and how often it is written.
pub struct State<'a> {
    pub file: &'a Path,
    pub save_every: u64,
}

/// Trains up to the steps of `rate`, on the loss of a module at a step; `saved` is called after each time that the state was
/// written.
pub fn train<M: Module>(
    trainer: &mut Trainer<M>,
    rate: &LearningRate,
    state: &State<'_>,
    loss: impl Fn(&M, u64) -> uno_models::Result<Tensor<1>>,
    mut saved: impl FnMut(&Trainer<M>) -> Result<()>,
) -> Result<()> {
    println!("{} parameters", trainer.parameters().count());
    if state.file.exists() {
        trainer.restore(state.file, &Device::flex())?;
        println!("goes on after step {}", trainer.steps());
    }
    let (start, begun, mut sum) = (Instant::now(), trainer.steps(), 0.0);
    while trainer.steps() < rate.steps {
        let step = trainer.steps();
        let done = trainer.step(rate.at(step), |model| loss(model, step))?;
        sum += done.loss;
        let steps = trainer.steps();
        if steps.is_multiple_of(20) {
            let seconds = start.elapsed().as_secs_f64() / (steps - begun) as f64;
            println!("{steps} loss {:.4} norm {:.3} {seconds:.2} s/step", sum / 20.0, done.norm);
            sum = 0.0;
        }
        if steps.is_multiple_of(state.save_every) || steps == rate.steps {
            trainer.save(state.file)?;
            saved(trainer)?;
        }
    }
    Ok(())
}
