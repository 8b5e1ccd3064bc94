//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) as PyTorch computes it, and the clipping of the global gradient norm.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::named::NamedTensors;
use crate::error::{Error, Result};

/// Constants of AdamW. Defaults are those of UNO's training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: per step a parameter shrinks by learning rate times this.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

impl AdamWConfig {
    /// That the constants make an optimizer.
    ///
    /// # Errors
    ///
    /// The first that does not, with what does.
    pub fn validate(&self) -> Result<()> {
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::request(name, beta, "0 to below 1"));
            }
        }
        for (name, value) in [("eps", self.eps), ("weight_decay", self.weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::request(name, value, "a finite number from 0"));
            }
        }
        Ok(())
    }
}

/// The optimizer with its state.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    /// Steps done.
    step: u64,
    /// First moments of all parameters.
    first: NamedTensors,
    /// Second moments.
    second: NamedTensors,
}

/// Names of the moments in files, as PyTorch's optimizer states name them.
const MOMENTS: [&str; 2] = ["exp_avg.", "exp_avg_sq."];

impl AdamW {
    /// An optimizer for these parameters that has done no step.
    pub fn new(config: AdamWConfig, parameters: &NamedTensors) -> Self {
        Self { config, step: 0, first: parameters.zeros_like(), second: parameters.zeros_like() }
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One step with a learning rate. Parameters without a gradient stay as they are.
    pub fn step(&mut self, parameters: &mut NamedTensors, gradients: &NamedTensors, learning_rate: f64) {
        self.step_with(parameters, gradients, |_| learning_rate);
    }

    /// One step in which each parameter has the learning rate that is given for its name.
    pub fn step_with(
        &mut self,
        parameters: &mut NamedTensors,
        gradients: &NamedTensors,
        learning_rate: impl Fn(&str) -> f64,
    ) {
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        let power = |beta: f64| 1.0 - beta.powf(self.step as f64);
        let (correction1, correction2) = (power(beta1), power(beta2));
        let names: Vec<String> = gradients.iter().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let (Some(value), Some(gradient)) = (parameters.get(&name), gradients.get(&name)) else {
                continue;
            };
            let (Some(first), Some(second)) = (self.first.get(&name), self.second.get(&name)) else {
                continue;
            };
            let learning_rate = learning_rate(&name);
            let gradient = gradient.data();
            let m = first.data().mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1);
            let v = second.data().mul_scalar(beta2) + gradient.square().mul_scalar(1.0 - beta2);
            let root: Tensor<1> = v.clone().sqrt().div_scalar(correction2.sqrt()).add_scalar(eps);
            let change = m.clone().div(root).mul_scalar(learning_rate / correction1);
            let decayed = value.data().mul_scalar(1.0 - learning_rate * weight_decay);
            let (first, second) = (first.with_data(m), second.with_data(v));
            let value = value.with_data(decayed - change);
            self.first.insert(name.clone(), first);
            self.second.insert(name.clone(), second);
            parameters.insert(name, value);
        }
    }

    /// The moments, for a file: `exp_avg.*` and `exp_avg_sq.*`. The number of steps is to be kept beside them.
    pub fn state(&self) -> NamedTensors {
        let mut state = self.first.prefixed(MOMENTS[0]);
        state.add(self.second.prefixed(MOMENTS[1]));
        state
    }

    /// Goes on from moments of [`state`](Self::state) after `steps` steps.
    ///
    /// # Errors
    ///
    /// Moments that do not fit the parameters; `path` is the file that they are from.
    pub fn restore(&mut self, state: &NamedTensors, steps: u64, path: &std::path::Path) -> Result<()> {
        let [first, second] = MOMENTS.map(|prefix| state.below(prefix));
        first.check_like(&self.first, path)?;
        second.check_like(&self.second, path)?;
        (self.first, self.second, self.step) = (first, second, steps);
        Ok(())
    }
}

/// Scales gradients so that their global L2 norm is at most `max_norm`; returns the norm before.
///
/// As `torch.nn.utils.clip_grad_norm_`: the factor is `max_norm / (norm + 1e-6)`, at most 1.
///
/// # Errors
///
/// A norm that is not finite: a step with it would destroy the parameters.
pub fn clip_global_norm(gradients: NamedTensors, max_norm: f64) -> Result<(NamedTensors, f64)> {
    let norm = gradients.norm()?;
    if !norm.is_finite() {
        return Err(uno_core::Error::NonFinite {
            what: "the gradient norm".into(),
            count: 1,
            total: 1,
            remedy: "lower the learning rate, compute in f32, or look for damaged pictures or weights".into(),
        }
        .into());
    }
    let factor = max_norm / (norm + 1e-6);
    Ok(if factor < 1.0 { (gradients.into_scaled(factor), norm) } else { (gradients, norm) })
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use burn::tensor::Device;

    use super::super::named::Values;
    use super::*;

    fn named(numbers: &[f32]) -> NamedTensors {
        let mut named = NamedTensors::default();
        named.insert("x", Values::new(Tensor::<1>::from_floats(numbers, &Device::flex())));
        named
    }

    fn numbers(named: &NamedTensors) -> Vec<f32> {
        uno_core::tensor_to_vec(named.get("x").unwrap().data()).unwrap()
    }

    #[test]
    fn three_steps_are_those_of_pytorch() {
        // p = torch.tensor([1., -2., 3e-3]); AdamW([p], lr=0.1), gradients (p * i) at step i.
        let mut p = named(&[1.0, -2.0, 3e-3]);
        let mut optimizer = AdamW::new(AdamWConfig::default(), &p);
        for i in 1..=3 {
            let gradients = p.scale(f64::from(i));
            optimizer.step(&mut p, &gradients, 0.1);
        }
        for (got, wanted) in numbers(&p).into_iter().zip(PYTORCH) {
            assert!((got - wanted).abs() <= 1e-6 * wanted.abs(), "{got} is not {wanted}");
        }
    }

    const PYTORCH: [f32; 3] = [0.702_114_05, -1.700_549, 0.051_634_654];

    #[test]
    fn gradients_are_clipped_to_the_norm_and_not_beyond() {
        let (clipped, norm) = clip_global_norm(named(&[3.0, 4.0]), 1.0).unwrap();
        assert_eq!(norm, 5.0);
        assert!((clipped.norm().unwrap() - 1.0).abs() < 1e-5);
        let (kept, _) = clip_global_norm(named(&[0.3, 0.4]), 1.0).unwrap();
        assert_eq!(numbers(&kept), [0.3, 0.4]);
        assert!(clip_global_norm(named(&[f32::NAN]), 1.0).unwrap_err().to_string().contains("learning rate"));
    }

    #[test]
    fn an_optimizer_goes_on_from_its_state() {
        let (mut a, gradients) = (named(&[1.0, 2.0]), named(&[0.5, -0.25]));
        let mut optimizer = AdamW::new(AdamWConfig::default(), &a);
        optimizer.step(&mut a, &gradients, 0.1);
        let mut b = a.clone();
        let mut other = AdamW::new(AdamWConfig::default(), &b);
        other.restore(&optimizer.state(), optimizer.steps(), "x".as_ref()).unwrap();
        optimizer.step(&mut a, &gradients, 0.1);
        other.step(&mut b, &gradients, 0.1);
        assert_eq!(numbers(&a), numbers(&b));
        assert!(other.restore(&NamedTensors::default(), 1, "x".as_ref()).is_err());
    }

    #[test]
    fn constants_that_make_no_optimizer_are_refused() {
        for config in [
            AdamWConfig { beta1: 1.0, ..AdamWConfig::default() },
            AdamWConfig { eps: -1.0, ..AdamWConfig::default() },
            AdamWConfig { weight_decay: f64::NAN, ..AdamWConfig::default() },
        ] {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }
}
