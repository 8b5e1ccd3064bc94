//! An exponential moving average of the parameters, which often makes better pictures than the last step's.

use super::named::NamedTensors;

/// The average `average = decay * average + (1 - decay) * parameters`, from the first parameters on.
#[derive(Debug, Clone)]
pub struct Ema {
    decay: f64,
    average: NamedTensors,
}

impl Ema {
    /// Begins with `parameters`, or goes on from an average.
    pub fn new(decay: f64, parameters: NamedTensors) -> Self {
        Self { decay, average: parameters }
    }

    /// Takes the parameters of one more step into the average.
    pub fn update(&mut self, parameters: &NamedTensors) {
        let decay = self.decay;
        for (name, now) in parameters.iter() {
            let Some(before) = self.average.get(name) else { continue };
            let next = before.data().mul_scalar(decay) + now.data().mul_scalar(1.0 - decay);
            self.average.insert(name, now.with_data(next));
        }
    }

    /// The same decay from another average on.
    pub fn with_average(self, average: NamedTensors) -> Self {
        Self { average, ..self }
    }

    /// The average.
    pub fn parameters(&self) -> &NamedTensors {
        &self.average
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::super::named::Values;
    use super::*;

    #[test]
    fn the_average_moves_by_one_minus_decay() {
        let one = |x: f32| {
            let mut named = NamedTensors::default();
            named.insert("x", Values::new(Tensor::<1>::from_floats([x], &Device::flex())));
            named
        };
        let mut ema = Ema::new(0.75, one(1.0));
        ema.update(&one(5.0));
        ema.update(&one(5.0));
        let got = ema.parameters().get("x").unwrap().data().into_scalar::<f32>();
        assert_eq!(got, 0.75 * 2.0 + 0.25 * 5.0);
    }
}
