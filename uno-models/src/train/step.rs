//! One step's gradients: batches on one device or shared by several.

use burn::tensor::Device;
use uno_core::traits::VelocityInput;

use super::batch::Batch;
use super::lora::LoraModel;
use super::loss::mean_squared_error;
use super::named::NamedTensors;
use super::shares::Shares;
use crate::error::Result;

/// The loss of a batch and the gradients of the LoRA.
///
/// # Errors
///
/// Shapes that do not fit the model; the device fails.
pub fn backward(
    model: &LoraModel,
    batch: &Batch,
    guidance: f32,
    by_block: bool,
) -> Result<(f64, NamedTensors)> {
    let guidance = vec![guidance; batch.t.len()];
    let input = VelocityInput {
        latent: batch.mixed.latent.clone(),
        t: &batch.t,
        guidance: &guidance,
        conditioning: &batch.conditioning,
    };
    let wanted = batch.mixed.velocity.clone();
    let mut gradients = NamedTensors::default();
    let loss = model.flux().backward(
        input,
        by_block,
        |predicted| mean_squared_error(predicted, wanted),
        |part| gradients.add(model.gradients(part)),
    )?;
    let loss = uno_core::tensor_to_vec(loss)?.first().copied().unwrap_or(f32::NAN);
    Ok((f64::from(loss), gradients))
}

/// A model per device.
pub struct Replicas {
    models: Vec<(Device, LoraModel)>,
    shares: Shares,
}

impl Replicas {
    /// Replicas of one model, each on its own device, or on its share of the processor's cores.
    ///
    /// # Errors
    ///
    /// The system starts no more threads.
    pub fn new(models: Vec<(Device, LoraModel)>) -> Result<Self> {
        Ok(Self { shares: Shares::new(models.len())?, models })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.models.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// The first one: the device that the optimizer is on.
    pub fn first(&self) -> Option<&LoraModel> {
        self.models.first().map(|(_, model)| model)
    }

    /// Gives all of them the same parameters.
    pub fn set(&mut self, parameters: &NamedTensors) {
        for (device, model) in &mut self.models {
            model.set(&parameters.to_device(device));
        }
    }

    /// Mean loss and mean gradients of `count` batches, which the replicas share: number i goes to replica i modulo their
    /// number. `make` makes a batch on a device. Gradients are added in a fixed order and come to the first device.
    ///
    /// # Errors
    ///
    /// What `make` and the models return; a thread that fails.
    pub fn backward(
        &self,
        count: usize,
        guidance: f32,
        by_block: bool,
        make: impl Fn(usize, &Device) -> Result<Batch> + Sync,
    ) -> Result<(f64, NamedTensors)> {
        let replicas = self.models.len();
        let run = |number: usize| -> Result<_> {
            let (mut losses, mut sum) = (0.0, NamedTensors::default());
            let Some((device, model)) = self.models.get(number) else { return Ok((losses, sum)) };
            for i in (number..count).step_by(replicas) {
                let batch = make(i, device)?;
                let (loss, gradients) = backward(model, &batch, guidance, by_block)?;
                losses += loss;
                sum.add(gradients);
            }
            Ok((losses, sum))
        };
        let (mut losses, mut sum) = (0.0, NamedTensors::default());
        for (loss, gradients) in self.shares.run(run)? {
            losses += loss;
            sum.add(match self.models.first() {
                Some((first, _)) if replicas > 1 => gradients.to_device(first),
                _ => gradients,
            });
        }
        let share = 1.0 / count.max(1) as f64;
        Ok((losses * share, if count > 1 { sum.into_scaled(share) } else { sum }))
    }
}
