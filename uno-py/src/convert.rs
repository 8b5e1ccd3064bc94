//! Between numpy arrays and tensors, pictures and bytes.

use burn::tensor::{DType, Device, Tensor, TensorData};
use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use numpy::{PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use uno_models::picture::{self, Picture};

use crate::{error, fork};

/// Imports numpy, if it was not yet. Left to the numpy crate, a Ctrl-C during the import would be a panic.
pub(crate) fn imported(py: Python<'_>) -> PyResult<()> {
    py.import("numpy").map(drop)
}

/// A tensor as a float32 array of the same shape.
pub(crate) fn to_numpy<const D: usize>(
    py: Python<'_>,
    tensor: Tensor<D>,
) -> PyResult<Bound<'_, PyArrayDyn<f32>>> {
    let shape = tensor.dims().to_vec();
    let values = uno_core::tensor_to_vec(tensor).map_err(error::core)?;
    imported(py)?;
    numpy::PyArray1::from_vec(py, values).reshape(shape)
}

/// A float32 array as a tensor of rank `D`.
pub(crate) fn to_tensor<const D: usize>(
    what: &str,
    array: &PyReadonlyArrayDyn<'_, f32>,
    device: &Device,
) -> PyResult<Tensor<D>> {
    fork::check()?;
    let shape: [usize; D] = array.shape().try_into().map_err(|_| {
        PyValueError::new_err(format!(
            "{what}: got an array of shape {:?}, wanted {D} dimensions",
            array.shape()
        ))
    })?;
    if shape.contains(&0) {
        return Err(PyValueError::new_err(format!(
            "{what}: got an array of shape {shape:?}, wanted no empty dimension"
        )));
    }
    let values: Vec<f32> = array.as_array().iter().copied().collect();
    Ok(Tensor::from_data(TensorData::new(values, shape), (device, DType::F32)))
}

/// Raises ValueError for what Pillow would take without a word though it is not the whole picture: a JPEG that is cut short where
/// Pillow was told to load truncated files, a raw photo's preview.
#[pyfunction]
pub(crate) fn refuse_partial(py: Python<'_>, name: &str, data: &[u8]) -> PyResult<()> {
    py.detach(|| picture::refuse_partial(name, data)).map_err(error::models)
}

/// What the bytes of a file are that is no picture that can be read, and what to do instead; None if they begin as one that can be.
#[pyfunction]
pub(crate) fn unreadable(data: &[u8]) -> Option<String> {
    picture::unreadable(data)
}

/// What Python hands over for a picture: name, width, height, channels (1 to 4), pixels, and whether it had a palette.
pub(crate) type RawPicture<'py> = (String, u32, u32, u8, Bound<'py, PyBytes>, bool);

/// A picture from its raw pixels.
pub(crate) fn picture((name, width, height, channels, pixels, nearest): RawPicture<'_>) -> PyResult<Picture> {
    let bytes = pixels.as_bytes().to_vec();
    let image: Option<DynamicImage> = match channels {
        1 => GrayImage::from_raw(width, height, bytes).map(Into::into),
        2 => GrayAlphaImage::from_raw(width, height, bytes).map(Into::into),
        3 => RgbImage::from_raw(width, height, bytes).map(Into::into),
        4 => RgbaImage::from_raw(width, height, bytes).map(Into::into),
        _ => None,
    };
    match image {
        Some(image) => Ok(Picture::from_pixels(name, image, nearest)),
        None => Err(PyValueError::new_err(format!(
            "picture {name}: {width}x{height} with {channels} channels does not fit its {} bytes",
            pixels.as_bytes().len()
        ))),
    }
}

/// Pictures in 8-bit RGB as a uint8 array `[H, W, 3]`.
pub(crate) fn rgb_to_numpy(py: Python<'_>, picture: RgbImage) -> PyResult<Bound<'_, PyArrayDyn<u8>>> {
    let shape = vec![picture.height() as usize, picture.width() as usize, 3];
    imported(py)?;
    numpy::PyArray1::from_vec(py, picture.into_raw()).reshape(shape)
}
