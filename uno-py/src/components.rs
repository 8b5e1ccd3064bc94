//! The components, with numpy arrays in and out: for researchers, and to test them against PyTorch itself.

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType, Tensor};
use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::exceptions::{PyUserWarning, PyValueError};
use pyo3::prelude::*;
use uno_core::flux::Flux;
use uno_core::latents::{PATCH, pack, unpack};
use uno_core::noise::{NoiseSource, latent_noise};
use uno_core::sampling::schedule;
use uno_core::text::{ClipTextEncoder, T5Encoder};
use uno_core::traits::{Conditioning, LatentCodec, VelocityInput, VelocityModel};
use uno_core::vae::AutoEncoder as CoreAutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions};
use uno_core::{lora, text};
use uno_models::Defaults;
use uno_models::preprocess::preprocess_ref;
use uno_models::unope::{UnoPe, sequence_ids};

use crate::convert::{self, RawPicture};
use crate::pipeline::open_device;
use crate::{detach, error};

type Array<'py> = Bound<'py, PyArrayDyn<f32>>;

/// SentencePiece tokenizer of T5: from `spiece.model`, `tokenizer.json`, or a folder with one of the two.
#[pyclass(frozen, module = "uno_rs._uno_rs")]
pub(crate) struct T5Tokenizer(text::T5Tokenizer);

/// Byte-pair tokenizer of CLIP: from `tokenizer.json`, or a folder with that or `vocab.json` and `merges.txt`.
#[pyclass(frozen, module = "uno_rs._uno_rs")]
pub(crate) struct ClipTokenizer(text::ClipTokenizer);

fn is_json(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

#[pymethods]
impl T5Tokenizer {
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        let tokenizer = match &path {
            path if path.is_dir() => text::T5Tokenizer::from_dir(path),
            path if is_json(path) => text::T5Tokenizer::from_tokenizer_json(path),
            path => text::T5Tokenizer::from_spiece(path),
        };
        Ok(Self(tokenizer.map_err(error::core)?))
    }

    /// Token ids, padded or cut to `max_length`.
    #[pyo3(signature = (text, max_length=512))]
    fn encode(&self, text: &str, max_length: usize) -> PyResult<Vec<u32>> {
        Ok(self.0.encode(text, max_length).map_err(error::core)?.ids)
    }
}

#[pymethods]
impl ClipTokenizer {
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        let tokenizer = match &path {
            path if path.is_dir() => text::ClipTokenizer::from_dir(path),
            path => text::ClipTokenizer::from_tokenizer_json(path),
        };
        Ok(Self(tokenizer.map_err(error::core)?))
    }

    /// Token ids, padded or cut to `max_length`.
    #[pyo3(signature = (text, max_length=77))]
    fn encode(&self, text: &str, max_length: usize) -> PyResult<Vec<u32>> {
        Ok(self.0.encode(text, max_length).map_err(error::core)?.ids)
    }
}

enum Encoder {
    T5(T5Encoder),
    Clip(ClipTextEncoder),
}

/// T5 or CLIP, whichever the file or folder holds.
#[pyclass(frozen, module = "uno_rs._uno_rs")]
pub(crate) struct TextEncoder(Encoder);

#[pymethods]
impl TextEncoder {
    #[new]
    #[pyo3(signature = (path, device="cpu"))]
    fn new(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<Self> {
        let options = LoadOptions::new(&open_device(device)?);
        let encoder = detach::run(py, None, error::core, |_| {
            let checkpoint = Checkpoint::open(&path)?;
            if checkpoint.tensors().contains_key("text_model.final_layer_norm.weight") {
                let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
                let config = folder.map(|folder| folder.join("config.json")).filter(|config| config.exists());
                Ok(Encoder::Clip(ClipTextEncoder::load(&checkpoint, config.as_deref(), &options)?))
            } else {
                Ok(Encoder::T5(T5Encoder::load(&checkpoint, &options)?))
            }
        })?;
        Ok(Self(encoder))
    }

    /// `t5` or `clip`.
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0 {
            Encoder::T5(_) => "t5",
            Encoder::Clip(_) => "clip",
        }
    }

    /// Token ids of one prompt to float32: `[1, tokens, features]` from T5, `[1, features]` from CLIP.
    fn encode<'py>(&self, py: Python<'py>, ids: Vec<u32>) -> PyResult<Array<'py>> {
        match &self.0 {
            Encoder::T5(t5) => {
                convert::to_numpy(py, detach::run(py, None, error::core, |_| t5.forward(&ids))?)
            }
            Encoder::Clip(clip) => {
                convert::to_numpy(py, detach::run(py, None, error::core, |_| clip.forward(&ids))?)
            }
        }
    }
}

/// The FLUX autoencoder.
#[pyclass(frozen, module = "uno_rs._uno_rs")]
pub(crate) struct AutoEncoder {
    codec: CoreAutoEncoder,
    device: Device,
}

#[pymethods]
impl AutoEncoder {
    #[new]
    #[pyo3(signature = (path, device="cpu"))]
    fn new(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<Self> {
        let device = open_device(device)?;
        let options = LoadOptions::new(&device);
        let load = |_: &_| CoreAutoEncoder::load(&Checkpoint::open(path)?, &options);
        Ok(Self { codec: detach::run(py, None, error::core, load)?, device })
    }

    /// Pictures `[n, 3, H, W]` in [-1, 1] to scaled latents `[n, C, H / 8, W / 8]`: their mean, or drawn with a seed.
    #[pyo3(signature = (pictures, seed=None))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        pictures: PyReadonlyArrayDyn<'py, f32>,
        seed: Option<u64>,
    ) -> PyResult<Array<'py>> {
        let pictures = convert::to_tensor::<4>("pictures", &pictures, &self.device)?;
        convert::to_numpy(py, detach::run(py, None, error::core, |_| self.codec.encode(pictures, seed))?)
    }

    /// Scaled latents `[n, C, h, w]` to pictures `[n, 3, 8 h, 8 w]` in about [-1, 1].
    fn decode<'py>(&self, py: Python<'py>, latents: PyReadonlyArrayDyn<'py, f32>) -> PyResult<Array<'py>> {
        let latents = convert::to_tensor::<4>("latents", &latents, &self.device)?;
        convert::to_numpy(py, detach::run(py, None, error::core, |_| self.codec.decode(latents))?)
    }
}

/// The FLUX transformer, with UNO's LoRA or without.
#[pyclass(frozen, module = "uno_rs._uno_rs")]
pub(crate) struct Transformer {
    model: Flux,
    device: Device,
}

/// Input of one forward pass of the transformer; the keys of a dictionary.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ForwardArguments<'py> {
    /// `[n, C, h, w]`.
    latent: PyReadonlyArrayDyn<'py, f32>,
    /// `[n, C, h_k, w_k]` each.
    references: Vec<PyReadonlyArrayDyn<'py, f32>>,
    /// `[n, tokens, features]`.
    txt: PyReadonlyArrayDyn<'py, f32>,
    /// `[n, features]`.
    vec: PyReadonlyArrayDyn<'py, f32>,
    /// `[n]`.
    t: Vec<f32>,
    /// `[n]`.
    guidance: Vec<f32>,
    pe: String,
}

#[pymethods]
impl Transformer {
    #[new]
    #[pyo3(signature = (path, lora=None, lora_scale=1.0, merge_lora=false, device="cpu"))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        lora: Option<PathBuf>,
        lora_scale: f64,
        merge_lora: bool,
        device: &str,
    ) -> PyResult<Self> {
        let device = open_device(device)?;
        let options = LoadOptions::new(&device);
        let (model, others) = detach::run(py, None, error::core, |_| {
            let mut model = Flux::load(&Checkpoint::open(path)?, &options)?;
            let mut others = Vec::new();
            if let Some(path) = lora {
                let file = lora::open(path)?;
                others = lora::attach(&mut model, &file, lora_scale, &options)?.others;
                lora::check_whole(&file, model.config())?;
                if merge_lora {
                    lora::merge(&mut model, FloatDType::F32)?;
                }
            }
            Ok((model, others))
        })?;
        for other in others {
            let text =
                format!("the LoRA adapts {other} too, which a Transformer has not; UnoPipeline applies it");
            let text = std::ffi::CString::new(text)?;
            PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 1)?;
        }
        Ok(Self { model, device })
    }

    /// The velocity of the noisy latent, `[n, C, h, w]`.
    fn forward<'py>(&self, py: Python<'py>, arguments: ForwardArguments<'py>) -> PyResult<Array<'py>> {
        let latent = convert::to_tensor::<4>("latent", &arguments.latent, &self.device)?;
        let references = arguments.references.iter();
        let references: Vec<Tensor<4>> =
            references.map(|r| convert::to_tensor("reference", r, &self.device)).collect::<PyResult<_>>()?;
        let txt = convert::to_tensor::<3>("txt", &arguments.txt, &self.device)?;
        let vec = convert::to_tensor::<2>("vec", &arguments.vec, &self.device)?;
        let pe: UnoPe = arguments.pe.parse().map_err(error::models)?;
        let (t, guidance) = (arguments.t, arguments.guidance);
        let velocity = detach::run(py, None, error::core, |_| {
            let grid = |x: &Tensor<4>| (x.dims()[2] / PATCH, x.dims()[3] / PATCH);
            let grids: Vec<_> = references.iter().map(grid).collect();
            let ids = sequence_ids(pe, txt.dims()[1], grid(&latent), &grids);
            let [_, _, h, w] = latent.dims();
            let latent = pack(latent)?;
            let references = references.into_iter().map(pack).collect::<uno_core::Result<_>>()?;
            let conditioning = Conditioning { txt, vec, references, ids };
            let input = VelocityInput { latent, t: &t, guidance: &guidance, conditioning: &conditioning };
            unpack(self.model.velocity(input)?, [h, w])
        })?;
        convert::to_numpy(py, velocity)
    }
}

/// A reference as the model sees it: uint8 `[H, W, 3]`.
#[pyfunction]
#[pyo3(signature = (picture, long_side=None))]
pub(crate) fn preprocess<'py>(
    py: Python<'py>,
    picture: RawPicture<'py>,
    long_side: Option<u32>,
) -> PyResult<Bound<'py, PyArrayDyn<u8>>> {
    let picture = convert::picture(picture)?;
    let long_side = long_side.unwrap_or(Defaults::UNO.long_side(1));
    if !(16..=8192).contains(&long_side) {
        return Err(PyValueError::new_err(format!("long_side: got {long_side}, wanted 16 to 8192 pixels")));
    }
    let seen = detach::run(py, None, error::models, |_| preprocess_ref(&picture, long_side))?;
    convert::rgb_to_numpy(py, seen)
}

/// Positions of text tokens, the latent's tokens and each reference's, float32 `[tokens, 3]`; grids are (rows, columns) of tokens.
#[pyfunction]
#[pyo3(signature = (latent, references, pe="d", text_tokens=0))]
pub(crate) fn position_ids<'py>(
    py: Python<'py>,
    latent: (usize, usize),
    references: Vec<(usize, usize)>,
    pe: &str,
    text_tokens: usize,
) -> PyResult<Array<'py>> {
    let all = references.iter().chain([&latent]).map(|(rows, columns)| rows.checked_mul(*columns));
    let total = all.chain([Some(text_tokens)]).try_fold(0usize, |sum, n| sum.checked_add(n?));
    if total.is_none_or(|total| total > 1 << 24) {
        return Err(PyValueError::new_err("position_ids: got more than 16,777,216 tokens"));
    }
    let ids = sequence_ids(pe.parse().map_err(error::models)?, text_tokens, latent, &references);
    let shape = vec![ids.len(), 3];
    use numpy::PyArrayMethods;
    convert::imported(py)?;
    numpy::PyArray1::from_vec(py, ids.into_iter().flatten().collect()).reshape(shape)
}

/// Times from 1 to 0, `steps + 1` of them.
#[pyfunction]
#[pyo3(signature = (steps, sequence_length, shift=true))]
pub(crate) fn timestep_schedule(steps: usize, sequence_length: usize, shift: bool) -> PyResult<Vec<f32>> {
    if steps > uno_models::request::MAX_STEPS {
        return Err(PyValueError::new_err(format!("steps: got {steps}, wanted at most 10000")));
    }
    schedule(steps, sequence_length, shift).map_err(error::core)
}

/// Initial noise `[1, C, H / 8, W / 8]`, as `torch.randn` draws it on the device of `source`.
#[pyfunction]
#[pyo3(signature = (seed, height, width, source="torch-cuda", dtype="bfloat16", channels=16))]
pub(crate) fn initial_noise<'py>(
    py: Python<'py>,
    seed: u64,
    height: usize,
    width: usize,
    source: &str,
    dtype: &str,
    channels: usize,
) -> PyResult<Array<'py>> {
    if [height, width].iter().any(|side| !(1..=8192).contains(side)) || !(1..=1024).contains(&channels) {
        let got = format!("height {height}, width {width}, channels {channels}");
        return Err(PyValueError::new_err(format!(
            "noise: got {got}, wanted sides of 1 to 8192, channels of 1 to 1024"
        )));
    }
    let source = match source {
        "torch-cuda" => NoiseSource::TorchCuda,
        "torch-cpu" => NoiseSource::TorchCpu,
        other => {
            return Err(PyValueError::new_err(format!(
                "source: got {other:?}, wanted torch-cuda or torch-cpu"
            )));
        }
    };
    let dtype = match dtype {
        "bfloat16" => FloatDType::BF16,
        "float32" => FloatDType::F32,
        other => {
            return Err(PyValueError::new_err(format!("dtype: got {other:?}, wanted bfloat16 or float32")));
        }
    };
    let device = open_device("cpu")?;
    let noise = latent_noise(source, seed, channels, [height, width], dtype, &device).map_err(error::core)?;
    convert::to_numpy(py, noise)
}
