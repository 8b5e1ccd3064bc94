//! Which tensor of a checkpoint became which parameter of a module.
//!
//! Modules name and turn their parameters in their own way. Instead of a list of pairs, a module is loaded from a checkpoint of
//! the same names and shapes whose numbers say where they are from.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use uno_core::weights::{Checkpoint, StorageDtype, StoredTensor, TensorHeader};

use crate::error::{Error, Result};
use crate::train::named::NamedTensors;

/// Where a tensor of a checkpoint went.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The parameter's name in the module.
    parameter: String,
    /// Whether it is a matrix that is stored the other way round.
    is_transposed: bool,
}

/// From tensors of a checkpoint to parameters of a module.
#[derive(Debug, Clone)]
pub struct Names {
    places: BTreeMap<String, Place>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Names {
    /// Finds out for the tensors of `checkpoint`, with `load` to load the module from another one like it.
    ///
    /// # Errors
    ///
    /// What `load` returns; a tensor that no parameter was made of.
    pub fn find<M: Module>(
        checkpoint: &Checkpoint,
        load: impl FnOnce(&Checkpoint) -> Result<M>,
    ) -> Result<Self> {
        let tensors = checkpoint.tensors();
        let shapes: BTreeMap<String, Vec<usize>> =
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
        // All numbers of tensor i are i, but for the second: i + 1/2 shows which way a matrix lies.
        let marked = shapes.iter().enumerate().map(|(i, (name, shape))| {
            let mut numbers = vec![i as f32; shape.iter().product()];
            if let Some(second) = numbers.get_mut(1) {
                *second += 0.5;
            }
            let tensor = StoredTensor::from_f32(shape.clone(), &numbers);
            tensor.map(|tensor| (name.clone(), tensor)).ok_or_else(|| missing(checkpoint.path(), name))
        });
        let marked = Checkpoint::from_tensors(checkpoint.path(), marked.collect::<Result<Vec<_>>>()?);
        let names: Vec<&String> = shapes.keys().collect();
        let mut places = BTreeMap::new();
        for (parameter, values) in NamedTensors::of_module(&load(&marked)?).iter() {
            let numbers = uno_core::tensor_to_vec(values.data())?;
            let Some(name) = numbers.first().and_then(|&i| names.get(i as usize)) else { continue };
            let is_transposed = values.shape().len() == 2 && numbers.get(1) == numbers.first();
            places.insert((*name).clone(), Place { parameter: parameter.to_owned(), is_transposed });
        }
        match shapes.keys().find(|name| !places.contains_key(*name)) {
            Some(name) => Err(missing(checkpoint.path(), name)),
            None => Ok(Self { places, shapes }),
        }
    }

    /// The parameters' values as tensors of a checkpoint.
    ///
    /// # Errors
    ///
    /// A parameter that is missing, or the device fails.
    pub fn to_tensors(&self, parameters: &NamedTensors) -> Result<BTreeMap<String, Vec<f32>>> {
        let tensor = |(name, place): (&String, &Place)| {
            let lost = || missing(Path::new("parameters"), &place.parameter);
            let values = parameters.get(&place.parameter).ok_or_else(lost)?;
            let data = match place.is_transposed {
                true => {
                    let matrix = values.tensor::<2>().ok_or_else(lost)?.transpose();
                    let count: usize = values.shape().iter().product();
                    matrix.reshape([count])
                }
                false => values.data(),
            };
            Ok((name.clone(), uno_core::tensor_to_vec(data)?))
        };
        self.places.iter().map(tensor).collect()
    }

    /// Writes the parameters' values as a checkpoint in the format `dtype`; `adjust` may change tensors before.
    ///
    /// # Errors
    ///
    /// As [`to_tensors`](Self::to_tensors); the file cannot be written.
    pub fn write(&self, path: &Path, parameters: &NamedTensors, dtype: StorageDtype) -> Result<()> {
        self.write_tensors(path, &self.to_tensors(parameters)?, dtype)
    }

    /// Writes tensors of [`to_tensors`](Self::to_tensors) as a checkpoint.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_tensors(
        &self,
        path: &Path,
        tensors: &BTreeMap<String, Vec<f32>>,
        dtype: StorageDtype,
    ) -> Result<()> {
        let headers = self.shapes.iter().map(|(name, shape)| TensorHeader {
            name: name.clone(),
            dtype,
            shape: shape.clone(),
        });
        let headers: Vec<TensorHeader> = headers.collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        uno_core::weights::write(path, &headers, &metadata, |i| {
            let packed = tensors.get(&headers[i].name).and_then(|numbers| dtype.pack(numbers));
            packed.ok_or_else(|| {
                uno_core::Error::invalid("format", dtype, "one that numbers can be written in")
            })
        })?;
        Ok(())
    }
}

fn missing(path: &Path, name: &str) -> Error {
    Error::format(path, format!("tensor {name} is no parameter of the module that is trained"))
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;
    use uno_core::flux::Flux;
    use uno_core::weights::{LoadOptions, Storage};

    use super::super::fresh::{self, Sizes};
    use super::*;

    #[test]
    fn a_transformer_is_written_as_it_was_read_square_matrices_too() {
        let sizes =
            Sizes { hidden: 32, depth: [1, 1], t5: [16, 16, 1], clip: [16, 16, 1], ..Sizes::default() };
        let first = fresh::flux(&sizes, 3);
        let options = LoadOptions::new(&Device::flex().autodiff()).with_storage(Storage::Expanded);
        let load = |c: &Checkpoint| Ok(Flux::load(c, &options)?);
        let names = Names::find(&first, load).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flux.safetensors");
        let parameters = NamedTensors::of_module(&load(&first).unwrap());
        names.write(&path, &parameters, StorageDtype::F32).unwrap();
        let read = Checkpoint::open(&path).unwrap();
        assert_eq!(read.tensors().len(), first.tensors().len());
        for (name, tensor) in first.tensors() {
            assert_eq!(read.tensors()[name].to_f32(), tensor.to_f32(), "{name}");
        }
    }

    #[test]
    fn a_tensor_that_no_parameter_was_made_of_is_named() {
        let sizes =
            Sizes { hidden: 32, depth: [1, 0], t5: [16, 16, 1], clip: [16, 16, 1], ..Sizes::default() };
        let first = fresh::flux(&sizes, 3);
        // As stored, matrices are no parameters.
        let options = LoadOptions::new(&Device::flex().autodiff());
        let error = Names::find(&first, |c| Ok(Flux::load(c, &options)?)).unwrap_err().to_string();
        assert!(error.contains("is no parameter"), "{error}");
    }
}
