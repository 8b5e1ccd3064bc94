//! Strict loading: models take their tensors by name and shape; whatever does not fit is reported together.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use burn::module::Param;
use burn::tensor::{Device, FloatDType, Tensor};

use super::dtype::float_bytes;
use super::{Checkpoint, LoadReport, Mismatch, StoredTensor};
use crate::error::{Error, Result};

/// In which form the weight matrices of linear layers wait for their use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Storage {
    /// As in the file, expanded only while a layer runs: the least memory. What the file holds in the compute format
    /// is used in place.
    #[default]
    AsStored,
    /// Expanded to the compute format once, at load time: the least time per step.
    Expanded,
}

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where tensors live and are computed.
    pub device: Device,
    /// The number format that is computed in.
    pub dtype: FloatDType,
    /// The form in which weight matrices wait.
    pub storage: Storage,
    /// How many bytes of matrices, in the form of [`storage`](Self::storage), may stay in memory after their use. Those beyond
    /// are streamed: kept as stored, read from disk ahead of each use, and let go of after it. All stay by default.
    pub resident_bytes: u64,
    /// Whether the transformer's blocks multiply in 8-bit integers, an approximation: on the CPU in f32, with weights stored as
    /// Q8_0 ([`Flux::load`](crate::flux::Flux::load) refuses others).
    pub int8: bool,
}

impl LoadOptions {
    /// f32 on `device`, weights as stored.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype: FloatDType::F32,
            storage: Storage::default(),
            resident_bytes: u64::MAX,
            int8: false,
        }
    }

    /// The same with another compute format.
    pub fn with_dtype(mut self, dtype: FloatDType) -> Self {
        self.dtype = dtype;
        self
    }

    /// The same with another storage.
    pub fn with_storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }
}

impl LoadOptions {
    /// The same with another number of bytes of matrices that may stay in memory.
    pub fn with_resident_bytes(mut self, bytes: u64) -> Self {
        self.resident_bytes = bytes;
        self
    }

    /// The same with products in 8-bit integers, or without.
    pub fn with_int8(mut self, int8: bool) -> Self {
        self.int8 = int8;
        self
    }

    /// Bytes that a matrix takes while it waits in memory.
    pub fn bytes_of(&self, matrix: &StoredTensor) -> u64 {
        match self.storage {
            Storage::AsStored => matrix.byte_len() as u64,
            Storage::Expanded => (matrix.len() as u64).saturating_mul(float_bytes(self.dtype) as u64),
        }
    }
}

struct Loading<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a LoadOptions,
    used: RefCell<BTreeSet<String>>,
    resident: Cell<u64>,
    report: RefCell<LoadReport>,
}

/// The tensors of a checkpoint below one prefix, as a model's `load` function sees them.
///
/// Taking a tensor never fails at once: a problem is noted, a placeholder of the right shape returned, and [`load`] fails at
/// its end with all problems together.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    loading: &'a Loading<'a>,
    prefix: &'a str,
    used_once: bool,
}

/// Loads a model: `build` takes tensors, then everything missing, left over or of a wrong shape becomes one error.
///
/// `model` names what is loaded, for the message. `ignore` says of an unused key whether it may be there all the same.
///
/// # Errors
///
/// [`Error::Load`] with the report, or what `build` returns.
pub fn load<M>(
    checkpoint: &Checkpoint,
    model: &str,
    options: &LoadOptions,
    ignore: impl Fn(&str) -> bool,
    build: impl FnOnce(Weights<'_>) -> Result<M>,
) -> Result<M> {
    let report = LoadReport {
        model: model.to_owned(),
        path: checkpoint.path().to_path_buf(),
        ..LoadReport::default()
    };
    let loading = Loading {
        checkpoint,
        options,
        used: RefCell::default(),
        resident: Cell::new(0),
        report: RefCell::new(report),
    };
    let built = build(Weights { loading: &loading, prefix: "", used_once: false });
    let used = loading.used.into_inner();
    let mut report = loading.report.into_inner();
    report.unused =
        checkpoint.tensors().keys().filter(|key| !used.contains(*key) && !ignore(key)).cloned().collect();
    if report.is_clean() { built } else { Err(Error::Load(Box::new(report))) }
}

impl<'a> Weights<'a> {
    /// Runs `f` on the tensors below `prefix.name`.
    pub fn at<M>(&self, name: impl std::fmt::Display, f: impl FnOnce(Weights<'_>) -> M) -> M {
        let prefix = self.key(name);
        f(Weights { prefix: &prefix, ..*self })
    }

    /// The same tensors, told to be used once for many steps: unless everything stays in memory, their matrices are streamed, to
    /// leave room for those of every step.
    pub fn used_once(&self) -> Self {
        Self { used_once: true, ..*self }
    }

    fn key(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// Where tensors are loaded to.
    pub fn device(&self) -> &Device {
        &self.loading.options.device
    }

    /// The number format that is computed in.
    pub fn dtype(&self) -> FloatDType {
        self.loading.options.dtype
    }

    /// The form in which weight matrices wait.
    pub fn storage(&self) -> Storage {
        self.loading.options.storage
    }

    /// Whether a tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.loading.checkpoint.tensors().contains_key(&self.key(name))
    }

    /// Outermost dimension of a tensor, if it is there and has one.
    pub fn first_dim(&self, name: &str) -> Option<usize> {
        self.loading.checkpoint.shape(&self.key(name))?.first().copied()
    }

    /// Takes a tensor in its stored form, checked against `shape`.
    pub fn stored(&self, name: &str, shape: &[usize]) -> StoredTensor {
        let key = self.key(name);
        let mut report = self.loading.report.borrow_mut();
        let placeholder = || StoredTensor::header_only(super::StorageDtype::F32, shape.to_vec());
        let Some(tensor) = self.loading.checkpoint.tensors().get(&key) else {
            report.missing.push(key);
            return placeholder();
        };
        self.loading.used.borrow_mut().insert(key.clone());
        if !tensor.is_read() {
            report.dtypes.push((key, tensor.dtype()));
            placeholder()
        } else if tensor.shape() != shape {
            let (got, wanted) = (tensor.shape().to_vec(), shape.to_vec());
            report.shapes.push(Mismatch { name: key, got, wanted });
            placeholder()
        } else {
            tensor.clone()
        }
    }

    /// Takes a matrix that waits for its use: it stays in memory, or is streamed once [`LoadOptions::resident_bytes`] are
    /// taken (or at once, where it is [`used_once`](Self::used_once)).
    pub fn waiting(&self, name: &str, shape: &[usize]) -> StoredTensor {
        let stored = self.stored(name, shape);
        let bytes = self.loading.options.bytes_of(&stored);
        if self.used_once && self.loading.options.resident_bytes != u64::MAX {
            return stored.streamed();
        }
        let taken = self.loading.resident.get().saturating_add(bytes);
        if taken > self.loading.options.resident_bytes {
            return stored.streamed();
        }
        self.loading.resident.set(taken);
        stored
    }

    /// Takes a tensor of `shape` as a parameter in the compute format.
    pub fn param<const D: usize>(&self, name: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(self.stored(name, &shape).to_tensor(self.device(), self.dtype()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::StorageDtype;
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint::from_shapes(
            "m.safetensors",
            [
                ("a.weight".into(), StorageDtype::F32, vec![2, 3]),
                ("b.weight".into(), StorageDtype::BF16, vec![4]),
                ("ids".into(), StorageDtype::Other(safetensors::Dtype::I64), vec![4]),
            ],
        )
    }

    #[cfg(feature = "flex")]
    #[test]
    fn everything_that_does_not_fit_is_reported_together() {
        let options = LoadOptions::new(&Device::flex());
        let error = load(
            &checkpoint(),
            "a model",
            &options,
            |_| false,
            |w| {
                w.param("a.weight", [3, 2]);
                w.param("c.weight", [1]);
                w.param("ids", [4]);
                Ok(())
            },
        )
        .unwrap_err();
        let Error::Load(report) = &error else { panic!("{error}") };
        assert_eq!(report.missing, ["c.weight"]);
        assert_eq!(report.unused, ["b.weight"]);
        assert_eq!(report.shapes[0].got, [2, 3]);
        assert_eq!(report.dtypes[0].0, "ids");
        let text = error.to_string();
        for part in ["m.safetensors", "c.weight", "b.weight", "[2, 3]", "[3, 2]", "I64"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[cfg(feature = "flex")]
    #[test]
    fn keys_that_may_be_there_are_ignored() {
        let options = LoadOptions::new(&Device::flex());
        let shape = load(
            &checkpoint(),
            "a model",
            &options,
            |key| key == "ids",
            |w| {
                w.at("b", |w| w.param("weight", [4]));
                Ok(w.at("a", |w| w.param("weight", [2, 3])).val().dims())
            },
        );
        assert_eq!(shape.unwrap(), [2, 3]);
    }
}
