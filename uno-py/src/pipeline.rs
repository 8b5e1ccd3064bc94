//! The pipeline: loading it, and one generation.

use std::path::PathBuf;
use std::sync::OnceLock;

use burn::tensor::{Device, FloatDType};
use image::RgbImage;
use numpy::{PyArrayDyn, PyReadonlyArrayDyn};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use uno_core::device::Opened;
use uno_core::lora;
use uno_core::noise::NoiseSource;
use uno_core::preview::LatentPreview;
use uno_core::sampling::SequenceLength;
use uno_models::checkpoint::{CheckpointOptions, ModelType, Progress, discover, embedded};
use uno_models::components::{LoraMerge, ModelSource, PipelineOptions, load};
use uno_models::memory::{Budget, Geometry, Plan};
use uno_models::output::{FileRecord, ModelInfo, ReferenceRecord, Settings};
use uno_models::preprocess::preprocessed_size;
use uno_models::request::{MAX_PICTURES, MAX_SIDE, MAX_STEPS, MULTIPLE, NoiseDtype, Sample};
use uno_models::{Defaults, Request, UnoPipeline};

use crate::convert::{self, RawPicture};
use crate::detach::{self, Watcher};
use crate::{error, fork};

/// Where a model comes from and how it computes; the keys of a dictionary.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct LoadArguments {
    /// The model inside the package, in place of files.
    embedded: bool,
    model_dir: Option<PathBuf>,
    model_type: Option<String>,
    dit: Option<PathBuf>,
    ae: Option<PathBuf>,
    t5: Option<PathBuf>,
    t5_tokenizer: Option<PathBuf>,
    clip: Option<PathBuf>,
    clip_tokenizer: Option<PathBuf>,
    lora: Option<PathBuf>,
    download: bool,
    offline: bool,
    token: Option<String>,
    cache_dir: Option<PathBuf>,
    device: String,
    dtype: Option<String>,
    /// Most memory to use, as on the command line; `None`: nothing is planned.
    memory: Option<String>,
    offload: bool,
    lora_scale: f64,
    /// `None`: as the plan chooses.
    merge_lora: Option<bool>,
    /// Products in 8-bit integers.
    int8: bool,
    /// Further LoRAs, each with its factor.
    loras: Vec<(PathBuf, f64)>,
    /// Width and height of the pictures that memory is planned for; `None`: those that the model was made for.
    plan_size: Option<(i128, i128)>,
    /// References that memory is planned for.
    plan_references: i128,
    /// Pictures at once that memory is planned for.
    plan_batch: i128,
}

/// More references than anybody gives; each takes memory for its tokens.
const MAX_REFERENCES: usize = 64;

impl LoadArguments {
    /// Finds and opens the files, those of further LoRAs too.
    fn open(&self, watcher: &Watcher) -> uno_models::Result<ModelSource> {
        let mut source = if self.embedded { embedded()? } else { self.find(watcher)? };
        for (path, scale) in &self.loras {
            source.more_loras.push((lora::open(path)?, *scale));
        }
        Ok(source)
    }

    fn find(&self, watcher: &Watcher) -> uno_models::Result<ModelSource> {
        let mut options = CheckpointOptions {
            model_dir: self.model_dir.clone(),
            model_type: self.model_type.as_deref().map(str::parse::<ModelType>).transpose()?,
            dit: self.dit.clone(),
            ae: self.ae.clone(),
            t5: self.t5.clone(),
            t5_tokenizer: self.t5_tokenizer.clone(),
            clip: self.clip.clone(),
            clip_tokenizer: self.clip_tokenizer.clone(),
            lora: self.lora.clone(),
            use_lora: self.lora_scale != 0.0,
            allow_download: self.download,
            offline: self.offline,
            ..CheckpointOptions::default()
        };
        options.hub.token.clone_from(&self.token);
        options.hub.cache_dir.clone_from(&self.cache_dir);
        ModelSource::open(&discover(&options, watcher)?)
    }

    /// The bound on memory, if there is to be a plan.
    fn budget(&self) -> PyResult<Option<Budget>> {
        match (self.memory.as_deref(), self.offload) {
            (None | Some("auto"), true) => Ok(Some(Budget::Least)),
            (Some(memory), true) => Err(PyValueError::new_err(format!(
                "memory: got {memory:?} and offload, which is memory=\"least\"; give one of the two"
            ))),
            (memory, false) => memory.map(str::parse).transpose().map_err(error::models),
        }
    }

    /// The largest request that memory is planned for.
    fn geometry(&self, defaults: Defaults) -> PyResult<Geometry> {
        let check = |name: &str, got: i128, least: usize, most: usize| {
            let number = usize::try_from(got).ok().filter(|got| (least..=most).contains(got));
            number
                .ok_or_else(|| PyValueError::new_err(format!("{name}: got {got}, wanted {least} to {most}")))
        };
        let side = |got| Ok::<_, PyErr>(check("plan_size", got, MULTIPLE, MAX_SIDE)? / MULTIPLE * MULTIPLE);
        let references = check("plan_references", self.plan_references, 0, MAX_REFERENCES)?;
        let long_side = defaults.long_side(references) as usize;
        let (width, height) = self.plan_size.unwrap_or((defaults.side as i128, defaults.side as i128));
        Ok(Geometry::new(side(width)?, side(height)?)
            .with_references(vec![(long_side, long_side); references])
            .with_batch(check("plan_batch", self.plan_batch, 1, MAX_PICTURES)?))
    }

    /// How it computes, where nothing is planned.
    fn options(&self, opened: &Opened) -> PyResult<PipelineOptions> {
        let mut options = PipelineOptions::suited_to(opened);
        options.dtype = match self.dtype.as_deref() {
            None => options.dtype,
            Some("float32" | "f32") => FloatDType::F32,
            Some("bfloat16" | "bf16") => FloatDType::BF16,
            Some("float16" | "f16") => FloatDType::F16,
            Some(other) => {
                return Err(PyValueError::new_err(format!(
                    "dtype: got {other:?}, wanted float32, bfloat16 or float16"
                )));
            }
        };
        options.lora_scale = self.lora_scale;
        options.merge_lora = self.merge_lora.map_or(LoraMerge::Auto, LoraMerge::from);
        options.int8 = self.int8;
        Ok(options)
    }
}

/// Opens a device by name.
pub(crate) fn open_device(name: &str) -> PyResult<Device> {
    fork::check()?;
    uno_core::device::open(name).map_err(error::core)
}

/// What is asked of a generation; the keys of a dictionary.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct GenerateArguments<'py> {
    /// (prompt, seed) of each picture.
    samples: Vec<(String, u64)>,
    references: Vec<RawPicture<'py>>,
    /// (path, SHA-256) of each reference, for the settings.
    reference_records: Vec<(PathBuf, String)>,
    exif_orientation: bool,
    /// `None`: what the model was made for, as for height and guidance.
    width: Option<i128>,
    height: Option<i128>,
    num_steps: i128,
    guidance: Option<f32>,
    ref_size: Option<i128>,
    pe: String,
    noise: String,
    noise_dtype: String,
    schedule: String,
    latents: Option<PyReadonlyArrayDyn<'py, f32>>,
    reference_seed: Option<i128>,
    first_block_cache: Option<f32>,
    reference_cache: Option<i128>,
    decode: bool,
}

/// One of two names.
fn either<T>(what: &str, got: &str, [(a, first), (b, second)]: [(&str, T); 2]) -> PyResult<T> {
    match got {
        got if got == a => Ok(first),
        got if got == b => Ok(second),
        got => Err(PyValueError::new_err(format!("{what}: got {got:?}, wanted {a:?} or {b:?}"))),
    }
}

/// A number of Python's as one of the request, which checks its bounds; what is below or beyond all numbers of that kind is told the
/// bounds here.
fn whole<T: TryFrom<i128>>(name: &str, got: Option<i128>, wanted: &str) -> PyResult<Option<T>> {
    let number = got.map(|got| {
        T::try_from(got).map_err(|_| PyValueError::new_err(format!("{name}: got {got}, wanted {wanted}")))
    });
    number.transpose()
}

impl GenerateArguments<'_> {
    fn request(self, defaults: Defaults, device: &Device) -> PyResult<Request> {
        let pixels = format!("{MULTIPLE} to {MAX_SIDE} pixels");
        let steps = whole("num_steps", Some(self.num_steps), &format!("1 to {MAX_STEPS}"))?;
        let mut request = Request::with_defaults("", defaults);
        request.num_steps = steps.unwrap_or(request.num_steps);
        request.width = whole("width", self.width, &pixels)?.unwrap_or(request.width);
        request.height = whole("height", self.height, &pixels)?.unwrap_or(request.height);
        request.guidance = self.guidance.unwrap_or(request.guidance);
        request.samples = self.samples.into_iter().map(|(prompt, seed)| Sample { prompt, seed }).collect();
        request.references = self.references.into_iter().map(convert::picture).collect::<PyResult<_>>()?;
        request.ref_size = whole("ref_size", self.ref_size, &pixels)?;
        request.pe = self.pe.parse().map_err(error::models)?;
        let sources = [("torch-cuda", NoiseSource::TorchCuda), ("torch-cpu", NoiseSource::TorchCpu)];
        request.noise = either("noise", &self.noise, sources)?;
        let dtypes = [("bfloat16", NoiseDtype::Bf16), ("float32", NoiseDtype::F32)];
        request.noise_dtype = either("noise_dtype", &self.noise_dtype, dtypes)?;
        let rules = [("uno", SequenceLength::Uno), ("flux", SequenceLength::Flux)];
        request.sequence_length = either("schedule", &self.schedule, rules)?;
        request.latents = self.latents.map(|l| convert::to_tensor("latents", &l, device)).transpose()?;
        request.reference_seed = whole("reference_seed", self.reference_seed, "0 to 2^64 - 1")?;
        request.approximation.first_block_cache = self.first_block_cache;
        request.approximation.reference_cache =
            whole("reference_cache", self.reference_cache, "1 step or more")?;
        Ok(request)
    }
}

/// A loaded pipeline. It may be used from several threads at once.
#[pyclass(frozen, module = "uno_rs._uno_rs")]
pub(crate) struct Pipeline {
    pipeline: UnoPipeline,
    info: ModelInfo,
    device: Device,
    /// How the model was fitted into memory.
    plan: Option<Plan>,
    /// What for.
    planned: Geometry,
    /// Tokens of a prompt.
    text_tokens: usize,
    /// Whether the user gave a bound, or the model is large: then it is said what goes beyond the plan.
    minds_memory: bool,
    /// How latents look; fitted when it is first asked for.
    preview: OnceLock<LatentPreview>,
}

impl Pipeline {
    /// What to say of a request that is larger than what memory was planned for.
    fn beyond_plan(&self, request: &Request) -> Option<String> {
        if self.plan.is_none() || !self.minds_memory {
            return None;
        }
        let long_side = request.long_side();
        // What cannot be is for the pipeline to say.
        let seen = request.references.iter().map(|picture| preprocessed_size(picture, long_side).ok());
        let asked = Geometry::new(request.width, request.height)
            .with_references(seen.collect::<Option<_>>()?)
            .with_batch(request.samples.len());
        let total = |geometry: &Geometry| {
            geometry.tokens().saturating_add(self.text_tokens).saturating_mul(geometry.batch)
        };
        let (asked, planned) = (total(&asked), total(&self.planned));
        if asked > planned {
            return Some(format!(
                "this takes more memory than was planned for: {asked} tokens, the plan is for {planned}; give plan_size, \
                 plan_references and plan_batch when loading"
            ));
        }
        let caches = request.approximation.reference_cache.is_some_and(|steps| steps > 1);
        (caches && !request.references.is_empty()).then(|| {
            "this takes more memory than was planned for: the reference cache keeps keys and values of every block".into()
        })
    }
}

/// Pictures `[H, W, 3]` uint8 (empty if not decoded), final latents `[n, C, h, w]`, settings as JSON, notices, seconds.
type Generated<'py> =
    (Vec<Bound<'py, PyArrayDyn<u8>>>, Bound<'py, PyArrayDyn<f32>>, Vec<String>, Vec<String>, f64);

#[pymethods]
impl Pipeline {
    /// Finds, opens and loads a model.
    #[staticmethod]
    #[pyo3(signature = (arguments, on_event=None))]
    fn load(py: Python<'_>, arguments: LoadArguments, on_event: Option<Py<PyAny>>) -> PyResult<Self> {
        let opened = uno_core::device::open_named(&arguments.device).map_err(error::core)?;
        let mut options = arguments.options(&opened)?;
        let defaults = if arguments.embedded { Defaults::UNO_TINY } else { Defaults::UNO };
        let (budget, planned) = (arguments.budget()?, arguments.geometry(defaults)?);
        let device = options.device.clone();
        detach::run(py, on_event, error::models, |watcher| {
            let source = arguments.open(watcher)?;
            let plan = budget.map(|budget| Plan::make(&source, &options, &planned, budget)).transpose()?;
            if let Some(plan) = &plan {
                plan.apply(&mut options);
            }
            let info = ModelInfo::new(&source, &options, &opened);
            let is_large = plan.as_ref().is_some_and(|plan| !plan.is_trivial());
            if let Some(plan) = plan.as_ref().filter(|_| is_large) {
                watcher.note(&plan.to_string());
            }
            let pipeline = load(&source, &options, watcher)?;
            let minds_memory = is_large || budget.is_some_and(|budget| budget != Budget::Auto);
            let text_tokens = source.text.t5_length;
            let preview = OnceLock::new();
            Ok(Self { pipeline, info, device, plan, planned, text_tokens, minds_memory, preview })
        })
    }

    /// Generates pictures.
    #[pyo3(signature = (arguments, on_event=None))]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        mut arguments: GenerateArguments<'py>,
        on_event: Option<Py<PyAny>>,
    ) -> PyResult<Generated<'py>> {
        let (decode, exif_orientation) = (arguments.decode, arguments.exif_orientation);
        let records = std::mem::take(&mut arguments.reference_records);
        let request = arguments.request(self.pipeline.defaults(), &self.device)?;
        let beyond = self.beyond_plan(&request);
        let mut generation = detach::run(py, on_event, error::models, |watcher| {
            if let Some(text) = &beyond {
                watcher.note(text);
            }
            match decode {
                true => self.pipeline.generate(&request, watcher),
                false => self.pipeline.generate_latents(&request, watcher),
            }
        })?;
        generation.notices.extend(beyond);
        let [_, _, h, w] = generation.latents.dims();
        let factor = self.pipeline.codec().downsampling();
        let seen = generation.references.iter().map(|reference| reference.dimensions());
        let references = records.into_iter().zip(seen).map(|((path, sha256), (width, height))| {
            ReferenceRecord { file: FileRecord { path, sha256 }, width, height }
        });
        let references: Vec<_> = references.collect();
        let settings = request.samples.iter().map(|sample| {
            let mut settings =
                Settings::new(&request, sample, [w * factor, h * factor]).with_model(&self.info);
            settings.references.clone_from(&references);
            settings.exif_orientation = exif_orientation;
            serde_json::to_string(&settings).map_err(|e| PyValueError::new_err(e.to_string()))
        });
        let settings = settings.collect::<PyResult<_>>()?;
        let pictures = generation.pictures.into_iter().map(|g| convert::rgb_to_numpy(py, g.picture));
        let pictures = pictures.collect::<PyResult<_>>()?;
        let latents = convert::to_numpy(py, generation.latents)?;
        Ok((pictures, latents, settings, generation.notices, generation.seconds))
    }

    /// What latents `[1, C, h, w]` look like, uint8 `[h, w, 3]`: colours and places, without details.
    fn preview<'py>(
        &self,
        py: Python<'py>,
        latents: PyReadonlyArrayDyn<'py, f32>,
    ) -> PyResult<Bound<'py, PyArrayDyn<u8>>> {
        let latents = convert::to_tensor("latents", &latents, &self.device)?;
        let pixels = detach::run(py, None, error::core, |_| match self.preview.get() {
            Some(preview) => preview.picture(latents),
            None => {
                let fitted = LatentPreview::fit(self.pipeline.codec(), &self.device)?;
                self.preview.get_or_init(|| fitted).picture(latents)
            }
        })?;
        let picture = RgbImage::from_raw(pixels.width as u32, pixels.height as u32, pixels.rgb);
        let picture =
            picture.ok_or_else(|| PyValueError::new_err("latents: got none, wanted [1, C, h, w]"))?;
        convert::rgb_to_numpy(py, picture)
    }

    /// Width and height in pixels, longer sides of a single reference and of each of several, and guidance that the model was
    /// made for.
    #[getter]
    fn defaults(&self) -> (usize, (u32, u32), f32) {
        let Defaults { side, ref_sizes: [single, several], guidance } = self.pipeline.defaults();
        (side, (single, several), guidance)
    }

    /// Kind of model, device and number format.
    fn __repr__(&self) -> String {
        format!(
            "Pipeline({}, device={:?}, dtype={})",
            self.info.model_type, self.info.device, self.info.dtype
        )
    }

    /// Kind of model: `flux-dev`, `flux-dev-fp8`, `flux-schnell` or `embedded`.
    #[getter]
    fn model_type(&self) -> &str {
        &self.info.model_type
    }

    /// How the model was fitted into memory, in words; None without a plan.
    #[getter]
    fn memory_plan(&self) -> Option<String> {
        self.plan.as_ref().map(Plan::to_string)
    }

    /// Device that was opened, whatever name it was asked for by.
    #[getter]
    fn device(&self) -> &str {
        &self.info.device
    }
}

/// The settings inside a PNG or JPEG made by uno-rs, or in its JSON file, as JSON.
#[pyfunction]
pub(crate) fn read_settings(path: PathBuf) -> PyResult<String> {
    let settings = Settings::read(path).map_err(error::models)?;
    serde_json::to_string(&settings).map_err(|e| PyValueError::new_err(e.to_string()))
}
