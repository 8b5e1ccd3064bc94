//! Tensors by name: the parameters that train, their gradients, an optimizer's moments.
//!
//! They lie flat and without gradients, so that optimizer, average and files need not know what they belong to.
//! [`NamedTensors::of_module`] and its counterparts connect them with any burn module; [`super::lora`] with UNO's LoRA.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Gradients, Tensor};
use uno_core::weights::{Checkpoint, StorageDtype, TensorHeader};

use crate::error::{Error, Result};

/// One tensor of any rank.
#[derive(Debug, Clone)]
pub struct Values {
    shape: Vec<usize>,
    /// The numbers, outermost dimension first; f32, without gradients.
    data: Tensor<1>,
}

impl Values {
    /// Takes the numbers of a tensor, without the graph behind them.
    pub fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        let count: usize = shape.iter().product();
        Self { shape, data: tensor.inner().cast(FloatDType::F32).reshape([count]) }
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The numbers, flat.
    pub fn data(&self) -> Tensor<1> {
        self.data.clone()
    }

    /// The same dimensions with other numbers, as many as there were.
    pub fn with_data(&self, data: Tensor<1>) -> Self {
        Self { shape: self.shape.clone(), data }
    }

    /// The tensor; `None` if it has not `D` dimensions.
    pub fn tensor<const D: usize>(&self) -> Option<Tensor<D>> {
        let shape: [usize; D] = self.shape.as_slice().try_into().ok()?;
        Some(self.data.clone().reshape(shape))
    }
}

/// Tensors by name, in the order of their names.
#[derive(Debug, Clone, Default)]
pub struct NamedTensors(BTreeMap<String, Values>);

impl NamedTensors {
    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, values: Values) {
        self.0.insert(name.into(), values);
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Values> {
        self.0.get(name)
    }

    /// All tensors with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Values)> {
        self.0.iter().map(|(name, values)| (name.as_str(), values))
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers there are in all.
    pub fn count(&self) -> usize {
        self.0.values().map(|values| values.shape.iter().product::<usize>()).sum()
    }

    /// Zeros in the shapes of these.
    pub fn zeros_like(&self) -> Self {
        self.map(|values| values.data.zeros_like())
    }

    /// Each tensor's numbers replaced by what `f` makes of it.
    pub fn map(&self, f: impl Fn(&Values) -> Tensor<1>) -> Self {
        Self(self.0.iter().map(|(name, values)| (name.clone(), values.with_data(f(values)))).collect())
    }

    /// Adds `other`, tensor by tensor; what is not here yet is taken over.
    pub fn add(&mut self, other: Self) {
        for (name, values) in other.0 {
            let sum = match self.0.remove(&name) {
                Some(before) => before.with_data(before.data.clone() + values.data),
                None => values,
            };
            self.0.insert(name, sum);
        }
    }

    /// All tensors times `factor`.
    pub fn scale(&self, factor: f64) -> Self {
        self.map(|values| values.data().mul_scalar(factor))
    }

    /// The same, tensor by tensor, so that there are never two of all.
    pub fn into_scaled(self, factor: f64) -> Self {
        let scaled = |(name, values): (String, Values)| {
            let Values { shape, data } = values;
            (name, Values { shape, data: data.mul_scalar(factor) })
        };
        Self(self.0.into_iter().map(scaled).collect())
    }

    /// All tensors on another device.
    pub fn to_device(&self, device: &Device) -> Self {
        self.map(|values| values.data().to_device(device))
    }

    /// The L2 norm of all numbers together. Waits for the device.
    ///
    /// # Errors
    ///
    /// The device fails.
    pub fn norm(&self) -> Result<f64> {
        if self.is_empty() {
            return Ok(0.0);
        }
        let squares = self.0.values().map(|values| values.data().square().sum()).collect();
        let squares = uno_core::tensor_to_vec(Tensor::cat(squares, 0))?;
        Ok(squares.into_iter().map(f64::from).sum::<f64>().sqrt())
    }

    /// The same tensors with `prefix` before each name.
    pub fn prefixed(&self, prefix: &str) -> Self {
        Self(self.0.iter().map(|(name, values)| (format!("{prefix}{name}"), values.clone())).collect())
    }

    /// The tensors whose names begin with `prefix`, without it.
    pub fn below(&self, prefix: &str) -> Self {
        let below = self
            .0
            .iter()
            .filter_map(|(name, values)| Some((name.strip_prefix(prefix)?.to_owned(), values.clone())));
        Self(below.collect())
    }

    /// Writes all tensors to a safetensors file, in the format `dtype`; the file appears when it is whole.
    ///
    /// # Errors
    ///
    /// The device fails; the file cannot be written.
    pub fn write(&self, path: &Path, dtype: StorageDtype, metadata: &BTreeMap<String, String>) -> Result<()> {
        let headers: Vec<TensorHeader> = self
            .iter()
            .map(|(name, values)| TensorHeader { name: name.into(), dtype, shape: values.shape.clone() })
            .collect();
        let values: Vec<&Values> = self.0.values().collect();
        uno_core::weights::write(path, &headers, metadata, |i| {
            let numbers = uno_core::tensor_to_vec(values[i].data())?;
            dtype.pack(&numbers).ok_or_else(|| {
                uno_core::Error::invalid("format", dtype, "one that numbers can be written in")
            })
        })?;
        Ok(())
    }

    /// All tensors of a checkpoint, as f32 on `device`.
    pub fn read(checkpoint: &Checkpoint, device: &Device) -> Self {
        let read = |stored: &uno_core::weights::StoredTensor| Values {
            shape: stored.shape().to_vec(),
            data: Tensor::from_data(
                burn::tensor::TensorData::new(stored.to_f32(), [stored.len()]),
                (device, burn::tensor::DType::F32),
            ),
        };
        let tensors = checkpoint.tensors().iter();
        Self(tensors.map(|(name, stored)| (name.clone(), read(stored))).collect())
    }

    /// That these have the names and shapes of `wanted`.
    ///
    /// # Errors
    ///
    /// The first tensor that is missing, of another shape, or too much; `path` is the file that they are from.
    pub fn check_like(&self, wanted: &Self, path: &Path) -> Result<()> {
        for (name, values) in wanted.iter() {
            match self.get(name) {
                Some(got) if got.shape == values.shape => {}
                Some(got) => {
                    return Err(Error::format(
                        path,
                        format!("{name}: got shape {:?}, wanted {:?}", got.shape, values.shape),
                    ));
                }
                None => return Err(Error::format(path, format!("tensor {name} is missing"))),
            }
        }
        match self.0.keys().find(|name| wanted.get(name).is_none()) {
            Some(name) => Err(Error::format(path, format!("holds {name}, which nothing here is named"))),
            None => Ok(()),
        }
    }

    /// The parameters of a module that require gradients, named by their path in it.
    pub fn of_module<M: Module>(module: &M) -> Self {
        let mut visitor = Collect(ModulePath::default(), None, Self::default());
        module.visit(&mut visitor);
        visitor.2
    }

    /// The gradients of a module's parameters, named as in [`of_module`](Self::of_module). Parameters without a gradient
    /// (which the loss does not depend on) are left out.
    pub fn gradients_of<M: Module>(module: &M, gradients: &Gradients) -> Self {
        let mut visitor = Collect(ModulePath::default(), Some(gradients), Self::default());
        module.visit(&mut visitor);
        visitor.2
    }

    /// The module with these values for the parameters of these names, which then require gradients.
    pub fn into_module<M: Module>(&self, module: M) -> M {
        module.map(&mut Put(ModulePath::default(), self))
    }
}

/// Where in a module a visitor is. Variants of enums are left out: how a matrix waits is no part of its name.
#[derive(Default)]
struct ModulePath(Vec<String>);

impl ModulePath {
    fn enter(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.push(name.to_owned());
        }
    }

    fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Collects what requires gradients; with gradients given, those instead of the values.
struct Collect<'a>(ModulePath, Option<&'a Gradients>, NamedTensors);

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.0.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let found = match self.1 {
            Some(gradients) => value.grad(gradients),
            None => value.is_require_grad().then_some(value),
        };
        if let Some(found) = found {
            self.2.insert(self.0.name(), Values::new(found));
        }
    }
}

struct Put<'a>(ModulePath, &'a NamedTensors);

impl ModuleMapper for Put<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.0.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.1.get(&self.0.name()).and_then(Values::tensor::<D>) {
            Some(value) => {
                let (id, _, mapper) = param.consume();
                Param::from_mapped_value(id, value.autodiff().require_grad(), mapper)
            }
            None => param,
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    fn named(values: &[(&str, &[f32])]) -> NamedTensors {
        let mut named = NamedTensors::default();
        for (name, numbers) in values {
            named.insert(*name, Values::new(Tensor::<1>::from_floats(*numbers, &Device::flex())));
        }
        named
    }

    #[derive(Module, Debug)]
    struct Line {
        slope: Param<Tensor<2>>,
        frozen: Param<Tensor<1>>,
    }

    #[test]
    fn parameters_of_a_module_are_taken_out_and_put_back_by_name() {
        let device = Device::flex().autodiff();
        let line = Line {
            slope: Param::from_tensor(Tensor::from_floats([[1.0, 2.0]], &device)),
            frozen: Param::from_tensor(Tensor::from_floats([5.0], &device)).set_require_grad(false),
        };
        let values = NamedTensors::of_module(&line);
        assert_eq!(values.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["slope"]);
        let line = values.scale(3.0).into_module(line);
        let loss = (line.slope.val() * line.frozen.val().unsqueeze()).sum();
        let gradients = NamedTensors::gradients_of(&line, &loss.backward());
        assert_eq!(loss.into_scalar::<f32>(), 45.0);
        assert_eq!(
            gradients.get("slope").unwrap().tensor::<2>().unwrap().into_data().try_to_vec::<f32>().unwrap(),
            [5.0; 2]
        );
        assert_eq!(gradients.len(), 1);
    }

    #[test]
    fn the_norm_is_over_all_tensors_together() {
        assert_eq!(named(&[("a", &[3.0]), ("b", &[0.0, 4.0])]).norm().unwrap(), 5.0);
        assert_eq!(NamedTensors::default().norm().unwrap(), 0.0);
    }

    #[test]
    fn files_give_back_the_same_bits_and_what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let written = named(&[("a", &[0.1, -0.0]), ("b", &[f32::MIN_POSITIVE])]);
        written.write(&path, StorageDtype::F32, &BTreeMap::new()).unwrap();
        let read = NamedTensors::read(&Checkpoint::open(&path).unwrap(), &Device::flex());
        for (name, values) in written.iter() {
            assert_eq!(read.get(name).unwrap().data().into_data(), values.data().into_data());
        }
        read.check_like(&written, &path).unwrap();
        for (wanted, part) in [
            (named(&[("a", &[0.0; 2])]), "holds b"),
            (named(&[("a", &[0.0; 2]), ("b", &[0.0; 3])]), "shape [1], wanted [3]"),
            (named(&[("a", &[0.0; 2]), ("b", &[0.0]), ("c", &[0.0])]), "c is missing"),
        ] {
            let error = read.check_like(&wanted, &path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn sums_take_over_what_is_new() {
        let mut sum = named(&[("a", &[1.0])]);
        sum.add(named(&[("a", &[2.0]), ("b", &[7.0])]));
        let number = |name: &str| sum.get(name).unwrap().data().into_scalar::<f32>();
        assert_eq!((number("a"), number("b")), (3.0, 7.0));
    }
}
