//! Training of any module from scratch: parameters, optimizer and average, which a file keeps so that a run goes on as if it
//! had not been stopped.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use uno_core::weights::{Checkpoint, StorageDtype};

use crate::error::{Error, Result};
use crate::train::ema::Ema;
use crate::train::named::{NamedTensors, Values};
use crate::train::optimizer::{AdamW, AdamWConfig, clip_global_norm};
use crate::train::shares::Shares;

/// How a module is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// AdamW's constants.
    pub optimizer: AdamWConfig,
    /// Largest gradient norm.
    pub max_norm: f64,
    /// Decay of the average of parameters.
    pub ema_decay: f64,
    /// Parts that learn at another rate: the beginning of their parameters' names, and the factor.
    pub rates: &'static [(&'static str, f64)],
    /// Parts of a step, of equal weight, that are computed side by side.
    pub parts: usize,
}

impl Settings {
    /// What the learning rate of a parameter is multiplied by.
    fn rate(&self, name: &str) -> f64 {
        self.rates.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or(1.0, |(_, factor)| *factor)
    }
}

/// A module in training.
#[derive(Debug)]
pub struct Trainer<M> {
    /// One for each part of a step; none after a step that failed.
    modules: Vec<M>,
    shares: Shares,
    parameters: NamedTensors,
    optimizer: AdamW,
    ema: Ema,
    settings: Settings,
}

/// What a step gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The loss before it.
    pub loss: f64,
    /// The gradients' norm before clipping.
    pub norm: f64,
}

const PARTS: [&str; 2] = ["parameter.", "average."];
const STEPS: &str = "steps";

impl<M: Module> Trainer<M> {
    /// Begins with a module, whose parameters require gradients.
    ///
    /// # Errors
    ///
    /// The system starts no more threads.
    pub fn new(module: M, settings: Settings) -> Result<Self> {
        let parameters = NamedTensors::of_module(&module);
        let optimizer = AdamW::new(settings.optimizer, &parameters);
        // Each with leaves of its own: gradients of parts do not meet before they are averaged.
        let modules = (0..settings.parts.max(1)).map(|_| parameters.into_module(module.clone())).collect();
        Ok(Self {
            modules,
            shares: Shares::new(settings.parts)?,
            optimizer,
            ema: Ema::new(settings.ema_decay, parameters.clone()),
            parameters,
            settings,
        })
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// The parameters as they are.
    pub fn parameters(&self) -> &NamedTensors {
        &self.parameters
    }

    /// Their average over past steps.
    pub fn average(&self) -> &NamedTensors {
        self.ema.parameters()
    }

    /// One step on the mean of the losses `[1]` that `loss` computes for each part, numbered from 0.
    ///
    /// # Errors
    ///
    /// What `loss` returns; a loss or gradients that are not finite.
    pub fn step(
        &mut self,
        learning_rate: f64,
        loss: impl Fn(&M, usize) -> Result<Tensor<1>> + Sync,
    ) -> Result<Step>
    where
        M: Sync,
    {
        let modules = std::mem::take(&mut self.modules);
        let parts = self.shares.run(|part| -> Result<_> {
            let module = modules.get(part).ok_or_else(|| {
                Error::request("training", "a run that failed before", "a run that is begun again")
            })?;
            let loss = loss(module, part)?;
            let value = uno_core::tensor_to_vec(loss.clone().inner())?.first().copied().unwrap_or(f32::NAN);
            Ok((f64::from(value), NamedTensors::gradients_of(module, &loss.backward())))
        })?;
        let share = 1.0 / parts.len() as f64;
        let (mut value, mut gradients) = (0.0, NamedTensors::default());
        for (loss, part) in parts {
            value += share * loss;
            gradients.add(part);
        }
        let gradients = if share < 1.0 { gradients.into_scaled(share) } else { gradients };
        let (gradients, norm) = clip_global_norm(gradients, self.settings.max_norm)?;
        let rate = |name: &str| learning_rate * self.settings.rate(name);
        self.optimizer.step_with(&mut self.parameters, &gradients, rate);
        self.ema.update(&self.parameters);
        self.modules = modules.into_iter().map(|module| self.parameters.into_module(module)).collect();
        Ok(Step { loss: value, norm })
    }

    /// Writes all that is needed to go on.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut state = self.optimizer.state();
        state.add(self.parameters.prefixed(PARTS[0]));
        state.add(self.average().prefixed(PARTS[1]));
        let device =
            self.parameters.iter().next().map(|(_, values)| values.data().device()).unwrap_or_default();
        // Exact up to 2^24 steps.
        state.insert(STEPS, Values::new(Tensor::<1>::from_floats([self.steps() as f32], &device)));
        state.write(path, StorageDtype::F32, &BTreeMap::new())
    }

    /// Goes on from a file of [`save`](Self::save).
    ///
    /// # Errors
    ///
    /// A file of another module, or one that is damaged.
    pub fn restore(&mut self, path: &Path, device: &Device) -> Result<()> {
        let state = NamedTensors::read(&Checkpoint::open(path)?, device);
        let [parameters, average] = PARTS.map(|part| state.below(part));
        parameters.check_like(&self.parameters, path)?;
        average.check_like(&self.parameters, path)?;
        let steps = state.get(STEPS).map(|steps| uno_core::tensor_to_vec(steps.data())).transpose()?;
        let steps = steps.and_then(|steps| steps.first().copied());
        let steps = steps.ok_or_else(|| Error::format(path, "does not say how many steps were done"))?;
        let mut moments = NamedTensors::default();
        for prefix in ["exp_avg.", "exp_avg_sq."] {
            moments.add(state.below(prefix).prefixed(prefix));
        }
        self.optimizer.restore(&moments, steps as u64, path)?;
        self.modules = self.modules.drain(..).map(|module| parameters.into_module(module)).collect();
        (self.parameters, self.ema) = (parameters, Ema::new(self.settings.ema_decay, average));
        Ok(())
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::module::Param;

    use super::*;

    #[derive(Module, Debug)]
    struct Line {
        slope: Param<Tensor<1>>,
    }

    fn trainer() -> Trainer<Line> {
        let start = Tensor::from_floats([5.0, -3.0, 0.5], &Device::flex().autodiff());
        let settings = Settings {
            optimizer: AdamWConfig::default(),
            max_norm: 1.0,
            ema_decay: 0.5,
            rates: &[],
            parts: 1,
        };
        Trainer::new(Line { slope: Param::from_tensor(start) }, settings).unwrap()
    }

    fn steps(trainer: &mut Trainer<Line>, count: usize) -> f64 {
        let one = |trainer: &mut Trainer<Line>| {
            trainer.step(0.1, |line, _| Ok((line.slope.val() - 1.0).square().sum())).unwrap().loss
        };
        (0..count).map(|_| one(trainer)).last().unwrap()
    }

    #[test]
    fn a_run_that_is_resumed_ends_with_the_same_bits_as_one_that_was_not_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let mut whole = trainer();
        let first = steps(&mut whole, 1);
        assert!(steps(&mut whole, 29) < 0.2 * first);
        let mut begun = trainer();
        steps(&mut begun, 13);
        begun.save(&path).unwrap();
        let mut resumed = trainer();
        resumed.restore(&path, &Device::flex()).unwrap();
        assert_eq!(resumed.steps(), 13);
        steps(&mut resumed, 17);
        for (a, b) in [(whole.parameters(), resumed.parameters()), (whole.average(), resumed.average())] {
            assert_eq!(
                a.get("slope").unwrap().data().into_data(),
                b.get("slope").unwrap().data().into_data()
            );
        }
    }

    #[test]
    fn a_state_of_another_module_is_refused_and_a_loss_that_is_no_number_stops_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let other = Tensor::from_floats([1.0; 4], &Device::flex().autodiff());
        let settings = Settings {
            optimizer: AdamWConfig::default(),
            max_norm: 1.0,
            ema_decay: 0.5,
            rates: &[],
            parts: 1,
        };
        Trainer::new(Line { slope: Param::from_tensor(other) }, settings).unwrap().save(&path).unwrap();
        let mut trainer = trainer();
        let error = trainer.restore(&path, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("wanted [3]"), "{error}");
        assert!(trainer.step(0.1, |line, _| Ok((line.slope.val() * f32::NAN).sum())).is_err());
        // The state is unchanged, but the run has ended.
        assert!(trainer.step(0.1, |line, _| Ok(line.slope.val().sum())).is_err());
    }
}
