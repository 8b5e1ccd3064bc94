//! Training against the official implementation: loss, gradients, and the LoRA after steps of AdamW.

mod common;

use std::path::Path;

use burn::tensor::{DType, FloatDType};
use common::*;
use uno_core::flux::Flux;
use uno_core::latents::pack;
use uno_core::traits::{Conditioning, VelocityInput};
use uno_core::weights::ggml::GgmlType;
use uno_core::weights::{Checkpoint, LoadOptions, Storage, StorageDtype, StoredTensor};
use uno_models::train::lora::{LoraModel, read};
use uno_models::train::loss::{mean_squared_error, mix};
use uno_models::train::named::NamedTensors;
use uno_models::train::optimizer::{AdamW, AdamWConfig, clip_global_norm};
use uno_models::unope::{UnoPe, sequence_ids};

/// Relative errors of loss, gradients and weights are at most this.
const TRAINING: f64 = 1e-4;

/// The model and the batch of a case.
struct Case {
    model: LoraModel,
    parameters: NamedTensors,
    cases: Cases,
}

impl Case {
    fn open(file: &Path, set: &Path, storage: Storage) -> Self {
        let dit = Checkpoint::open(dit_path(set)).unwrap();
        Self::with(file, set, &dit, &LoadOptions::new(&device()).with_storage(storage))
    }

    fn with(file: &Path, set: &Path, dit: &Checkpoint, options: &LoadOptions) -> Self {
        let flux = Flux::load(dit, options).unwrap();
        let lora = Checkpoint::open(set.join("model/dit_lora.safetensors")).unwrap();
        let parameters = read(&lora, &device()).unwrap();
        Self { model: LoraModel::new(flux, &parameters).unwrap(), parameters, cases: Cases::open(file) }
    }

    /// Loss and gradients with the model's parameters.
    fn backward(&self, by_block: bool) -> (f64, NamedTensors) {
        let cases = &self.cases;
        let references: Vec<_> = (0..)
            .map(|i| format!("ref{i}"))
            .take_while(|name| cases.has(name))
            .map(|n| cases.tensor::<4>(&n))
            .collect();
        let latent = cases.tensor::<4>("latent");
        let grid = |dims: [usize; 4]| (dims[2] / 2, dims[3] / 2);
        let grids: Vec<_> = references.iter().map(|r| grid(r.dims())).collect();
        let txt = cases.tensor::<3>("txt");
        let conditioning = Conditioning {
            ids: sequence_ids(UnoPe::D, txt.dims()[1], grid(latent.dims()), &grids),
            txt,
            vec: cases.tensor("vec"),
            references: references.into_iter().map(|r| pack(r).unwrap()).collect(),
        };
        let t = cases.values("t");
        let mixed = mix(pack(latent).unwrap(), cases.tensor("noise_packed"), &t);
        let guidance = vec![1.0; t.len()];
        let input =
            VelocityInput { latent: mixed.latent, t: &t, guidance: &guidance, conditioning: &conditioning };
        let mut gradients = NamedTensors::default();
        let loss = self.model.flux().backward(
            input,
            by_block,
            |predicted| mean_squared_error(predicted, mixed.velocity),
            |part| gradients.add(self.model.gradients(part)),
        );
        (f64::from(loss.unwrap().into_scalar::<f32>()), gradients)
    }
}

fn numbers(named: &NamedTensors, name: &str) -> Vec<f32> {
    values(named.get(name).unwrap_or_else(|| panic!("no {name}")).data())
}

fn worst(got: &NamedTensors, cases: &Cases, prefix: &str) -> f64 {
    let names = cases.checkpoint.tensors().keys().filter_map(|key| key.strip_prefix(prefix));
    let errors =
        names.map(|name| relative_error(&numbers(got, name), &cases.values(&format!("{prefix}{name}"))));
    let errors: Vec<f64> = errors.collect();
    assert!(!errors.is_empty());
    errors.into_iter().fold(0.0, f64::max)
}

#[test]
fn loss_gradients_and_weights_after_three_steps_agree() {
    for (file, set) in each("cases/train.safetensors") {
        for storage in [Storage::AsStored, Storage::Expanded] {
            for by_block in [false, true] {
                let mut case = Case::open(&file, &set, storage);
                let list = |name: &str| -> Vec<f64> {
                    serde_json::from_str(&case.cases.meta::<String>(name)).unwrap()
                };
                let (losses, norms) = (list("losses"), list("grad_norms"));
                let how = format!("{storage:?}, checkpointing {by_block}");
                let mut optimizer = AdamW::new(AdamWConfig::default(), &case.parameters);
                for (step, (&loss, &norm)) in losses.iter().zip(&norms).enumerate() {
                    let (got, gradients) = case.backward(by_block);
                    check(&set, &format!("loss {step} ({how})"), (got - loss).abs() / loss, TRAINING);
                    if step == 0 {
                        let error = worst(&gradients, &case.cases, "grad.");
                        check(&set, &format!("worst gradient ({how})"), error, TRAINING);
                    }
                    let (gradients, got) = clip_global_norm(gradients, 1.0).unwrap();
                    check(
                        &set,
                        &format!("gradient norm {step} ({how})"),
                        (got - norm).abs() / norm,
                        TRAINING,
                    );
                    optimizer.step(&mut case.parameters, &gradients, case.cases.meta("lr"));
                    case.model.set(&case.parameters);
                }
                let error = worst(&case.parameters, &case.cases, "after3.");
                check(&set, &format!("worst weight after {} steps ({how})", losses.len()), error, TRAINING);
            }
        }
    }
}

#[test]
fn gradient_checkpointing_changes_nothing() {
    for (file, set) in each("cases/train.safetensors") {
        let case = Case::open(&file, &set, Storage::AsStored);
        let ((loss, gradients), (other, others)) = (case.backward(false), case.backward(true));
        assert_eq!((loss, gradients.len()), (other, others.len()));
        for (name, _) in gradients.iter() {
            assert_eq!(numbers(&gradients, name), numbers(&others, name), "{name}");
        }
    }
}

/// The checkpoint with its matrices in another format.
fn stored_as(dit: &Checkpoint, dtype: StorageDtype) -> Checkpoint {
    let tensors = dit.tensors().iter().map(|(name, tensor)| {
        let shape = tensor.shape().to_vec();
        let fits = shape.len() == 2 && shape[1].is_multiple_of(dtype.block_len());
        let packed = || StoredTensor::new(dtype, shape.clone(), dtype.pack(&tensor.to_f32())?.into());
        (name.clone(), fits.then(packed).flatten().unwrap_or_else(|| tensor.clone()))
    });
    Checkpoint::from_tensors("x", tensors.collect::<Vec<_>>())
}

#[test]
fn on_a_quantized_base_and_in_bf16_gradients_stay_close_and_f32() {
    for (file, set) in each("cases/train.safetensors") {
        let dit = Checkpoint::open(dit_path(&set)).unwrap();
        let options = LoadOptions::new(&device());
        let (loss, exact) = Case::with(&file, &set, &dit, &options).backward(true);
        let q8 = stored_as(&dit, StorageDtype::Ggml(GgmlType::Q8_0));
        let fp8 = stored_as(&dit, StorageDtype::F8E4M3);
        let bf16 = options.clone().with_dtype(FloatDType::BF16);
        for (what, dit, options, tolerance) in [
            ("Q8_0 base", &q8, &options, 0.05),
            ("e4m3 base", &fp8, &options, 0.25),
            ("computed in bf16", &dit, &bf16, 0.25),
            ("computed in bf16, expanded", &dit, &bf16.clone().with_storage(Storage::Expanded), 0.25),
        ] {
            let (got, gradients) = Case::with(&file, &set, dit, options).backward(true);
            check(&set, &format!("loss, {what}"), (got - loss).abs() / loss, 0.02);
            for (name, values) in gradients.iter() {
                assert_eq!(values.data().dtype(), DType::F32, "{name}");
                let error = relative_error(&numbers(&gradients, name), &numbers(&exact, name));
                assert!(error <= tolerance, "{what}: gradient of {name} is off by {error}");
            }
        }
    }
}
