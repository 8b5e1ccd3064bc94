//! UNO's LoRA as parameters that train: f32, beside a frozen transformer in whatever format it is stored.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use uno_core::flux::{Flux, FluxConfig};
use uno_core::lora_keys::{Rows, uno_layers};
use uno_core::nn::{LoraBranch, Matrix};
use uno_core::weights::Checkpoint;

use super::named::{NamedTensors, Values};
use super::random::{Draws, Purpose};
use crate::error::{Error, Result};

/// A transformer without gradients, with a LoRA that has them.
#[derive(Debug, Clone)]
pub struct LoraModel {
    flux: Flux,
    layers: Vec<AdaptedLayer>,
    /// The parameters `[in, out]` as the layers hold them, by their names in files.
    leaves: Vec<(String, Tensor<2>)>,
}

/// A layer with its branch.
#[derive(Debug, Clone)]
struct AdaptedLayer {
    /// Beginning of the keys in files.
    key: String,
    /// Name of the layer.
    name: String,
    /// Which of the layer's branches it is.
    branch: usize,
}

impl AdaptedLayer {
    fn down(&self) -> String {
        format!("{}.down.weight", self.key)
    }

    fn up(&self) -> String {
        format!("{}.up.weight", self.key)
    }
}

impl LoraModel {
    /// Adds a LoRA with these parameters, named and shaped as in UNO's files, to a transformer, which is frozen.
    ///
    /// # Errors
    ///
    /// Parameters that do not fit the transformer.
    pub fn new(flux: Flux, parameters: &NamedTensors) -> Result<Self> {
        let mut flux = flux.no_grad();
        let mut layers = Vec::new();
        let wanted = shapes(flux.config());
        if let Some((name, _)) = parameters.iter().find(|(name, _)| !wanted.iter().any(|w| w.is_key(name))) {
            return Err(Error::checkpoint("LoRA", format!("holds {name}, which UNO's LoRA has not here")));
        }
        for layer in wanted {
            let (key, name) = (layer.key.clone(), layer.name.clone());
            let linear = flux.linear_mut(&name);
            let linear =
                linear.ok_or_else(|| Error::checkpoint("LoRA", format!("there is no layer {name}")))?;
            let adapted = AdaptedLayer { key, name, branch: linear.lora.len() };
            let get = |name: String| {
                parameters.get(&name).ok_or_else(|| Error::checkpoint("LoRA", format!("has no {name}")))
            };
            let (down, up) = (get(adapted.down())?, get(adapted.up())?);
            let rank = down.shape().first().copied().unwrap_or(0);
            if rank == 0 || down.shape() != [rank, layer.input] || up.shape() != [layer.outputs, rank] {
                return Err(Error::checkpoint(
                    "LoRA",
                    format!(
                        "{}: got down {:?} and up {:?}, wanted [rank, {}] and [{}, rank]",
                        adapted.key,
                        down.shape(),
                        up.shape(),
                        layer.input,
                        layer.outputs
                    ),
                ));
            }
            let (Some(down), Some(up)) = (transposed(down), transposed(up)) else { continue };
            let [down, up] = [down, up].map(|weight| Matrix::Dense(Param::from_tensor(weight)));
            linear.lora.push(LoraBranch { down, up, scale: 1.0, first_output: 0 });
            layers.push(adapted);
        }
        let mut model = Self { flux, layers, leaves: Vec::new() };
        model.set(parameters);
        Ok(model)
    }

    /// The transformer with the LoRA.
    pub fn flux(&self) -> &Flux {
        &self.flux
    }

    /// Replaces the parameters by others of the same names and shapes.
    pub fn set(&mut self, parameters: &NamedTensors) {
        self.leaves = put(&mut self.flux, &self.layers, parameters, true);
    }

    /// The transformer with these parameters, without gradients: to make pictures with. It shares the base's weights.
    pub fn for_inference(&self, parameters: &NamedTensors) -> Flux {
        let mut flux = self.flux.clone();
        put(&mut flux, &self.layers, parameters, false);
        flux
    }

    /// The gradients of the parameters that are in this part, named as in files.
    pub fn gradients(&self, gradients: &Gradients) -> NamedTensors {
        let mut found = NamedTensors::default();
        for (name, leaf) in &self.leaves {
            if let Some(gradient) = leaf.grad(gradients) {
                found.insert(name.clone(), Values::new(gradient.transpose()));
            }
        }
        found
    }
}

/// Puts parameters into the branches and returns them; if it `trains`, they require gradients.
fn put(
    flux: &mut Flux,
    layers: &[AdaptedLayer],
    parameters: &NamedTensors,
    trains: bool,
) -> Vec<(String, Tensor<2>)> {
    let mut leaves = Vec::new();
    for layer in layers {
        let branch = flux.linear_mut(&layer.name).and_then(|linear| linear.lora.get_mut(layer.branch));
        let Some(branch) = branch else { continue };
        for (name, place) in [(layer.down(), &mut branch.down), (layer.up(), &mut branch.up)] {
            let Some(weight) = parameters.get(&name).and_then(transposed) else { continue };
            let weight = if trains { weight.autodiff().require_grad() } else { weight };
            *place = Matrix::Dense(Param::from_tensor(weight.clone()));
            leaves.push((name, weight));
        }
    }
    leaves
}

/// `[out, in]` as in files -> `[in, out]` as layers hold it.
fn transposed(values: &Values) -> Option<Tensor<2>> {
    Some(values.tensor::<2>()?.transpose())
}

/// What UNO's LoRA has for a layer.
struct LayerShape {
    key: String,
    name: String,
    input: usize,
    outputs: usize,
}

impl LayerShape {
    fn is_key(&self, name: &str) -> bool {
        name.strip_prefix(&self.key).is_some_and(|end| end == ".down.weight" || end == ".up.weight")
    }
}

fn shapes(config: &FluxConfig) -> Vec<LayerShape> {
    let hidden = config.hidden_size;
    let layer = |(key, target): (String, uno_core::lora_keys::Target)| {
        let is_first = matches!(target.rows, Some(Rows::FirstThree)) || target.layer.pattern.ends_with("qkv");
        let is_single_out = target.layer.pattern.ends_with("linear2");
        LayerShape {
            key,
            name: target.layer.to_string(),
            input: if is_single_out { hidden + config.mlp_hidden } else { hidden },
            outputs: if is_first { 3 * hidden } else { hidden },
        }
    };
    uno_layers(config.depth, config.depth_single_blocks).into_iter().map(layer).collect()
}

/// First values of UNO's LoRA: down normal with standard deviation 1 / rank, up zero, so that it changes nothing yet.
///
/// # Errors
///
/// A rank of 0.
pub fn init(config: &FluxConfig, rank: usize, seed: u64, device: &Device) -> Result<NamedTensors> {
    if rank == 0 {
        return Err(Error::request("rank", rank, "at least 1; 512 is UNO's, gains slow down from 128"));
    }
    let mut parameters = NamedTensors::default();
    for (i, layer) in shapes(config).into_iter().enumerate() {
        let normal = Draws::new(seed, Purpose::Init, i as u64).normal(rank * layer.input);
        let down: Vec<f32> = normal.into_iter().map(|x| x / rank as f32).collect();
        let tensor = |numbers: Vec<f32>, shape: [usize; 2]| {
            Values::new(Tensor::<2>::from_data(TensorData::new(numbers, shape), (device, DType::F32)))
        };
        let up = vec![0.0; layer.outputs * rank];
        parameters.insert(format!("{}.down.weight", layer.key), tensor(down, [rank, layer.input]));
        parameters.insert(format!("{}.up.weight", layer.key), tensor(up, [layer.outputs, rank]));
    }
    Ok(parameters)
}

/// The rank of parameters that were read or initialized: that of their first layer.
pub fn rank(parameters: &NamedTensors) -> Option<usize> {
    let mut down = parameters.iter().filter(|(name, _)| name.ends_with(".down.weight"));
    down.next()?.1.shape().first().copied()
}

/// The parameters in a LoRA file of UNO, as f32 on `device`, to go on training from.
///
/// # Errors
///
/// A file in another style (which may adapt other layers); tensors that cannot be read.
pub fn read(checkpoint: &Checkpoint, device: &Device) -> Result<NamedTensors> {
    let is_uno = |name: &String| name.contains(".processor.") && name.ends_with(".weight");
    if let Some(name) = checkpoint.tensors().keys().find(|name| !is_uno(name)) {
        return Err(Error::format(
            checkpoint.path(),
            format!(
                "holds {name}; wanted a LoRA of UNO, with keys as double_blocks.0.processor.qkv_lora1.down.weight"
            ),
        ));
    }
    if let Some((name, tensor)) = checkpoint.tensors().iter().find(|(_, tensor)| !tensor.is_read()) {
        return Err(Error::format(checkpoint.path(), format!("{name} is {tensor}; wanted a float format")));
    }
    Ok(NamedTensors::read(checkpoint, device))
}
