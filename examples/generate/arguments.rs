//! The command line.

use std::ffi::OsString;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, FloatDType, Tensor};
use clap::{Parser, ValueEnum};
use uno_core::noise::NoiseSource;
use uno_core::sampling::SequenceLength;
use uno_core::weights::Checkpoint;
use uno_models::checkpoint::ModelType;
use uno_models::components::LoraMerge;
use uno_models::eval::Shard;
use uno_models::memory::Budget;
use uno_models::request::{MAX_PICTURES, MAX_SIDE, MAX_STEPS, MULTIPLE, NoiseDtype};
use uno_models::unope::UnoPe;
use uno_models::{Defaults, Request};

/// Makes pictures of the subjects in reference pictures, as a prompt describes (UNO on FLUX.1).
///
/// Options are named as those of the official command line; dashes and underscores are the same. Without a model (no --model,
/// no single file, no environment variable) the small one inside the program is used.
///
/// Each picture carries its settings, and has them in a .json file beside it. Pictures in a folder are numbered on, so that nothing is
/// replaced; a file that is named by --save_path is replaced only if this program wrote it, and so are those of a list.
#[derive(Parser, Debug)]
#[command(version, next_line_help = false)]
pub struct Arguments {
    /// What the pictures show; may be given several times, and may be empty
    #[arg(long, num_args = 1, required_unless_present_any = ["eval_json_path", "from"])]
    pub prompt: Vec<String>,
    /// Pictures of the subjects, in order; none for plain text-to-image
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub image_paths: Vec<PathBuf>,
    /// Width in pixels; rounded down to a multiple of 16 [default: 512; 128 for the small model inside the program]
    #[arg(long, value_parser = side, allow_negative_numbers = true)]
    pub width: Option<usize>,
    /// Height in pixels; rounded down to a multiple of 16 [default: 512; 128 for the small model]
    #[arg(long, value_parser = side, allow_negative_numbers = true)]
    pub height: Option<usize>,
    /// Steps of the sampler
    #[arg(long, default_value_t = 25, value_parser = steps, allow_negative_numbers = true)]
    pub num_steps: usize,
    /// How closely the prompt is followed [default: 4]
    #[arg(long, value_parser = number::<f32>, allow_negative_numbers = true)]
    pub guidance: Option<f32>,
    /// Which noise to start from: the same seed gives the same picture
    #[arg(long, default_value_t = 3407, value_parser = seed, allow_negative_numbers = true)]
    pub seed: u64,
    /// Longer side that references are scaled to; -1: 512 for one reference, 320 for more (128 and 80 for the small model)
    #[arg(long, default_value_t = -1, value_parser = long_side, allow_negative_numbers = true)]
    pub ref_size: i64,
    /// How references are placed: d (diagonal), h (rows only), w (columns only), o (no offset)
    #[arg(long, default_value_t = UnoPe::D)]
    pub pe: UnoPe,
    /// Pictures per prompt, with the seeds SEED, SEED + 1 ...
    #[arg(long, default_value_t = NonZero::<usize>::MIN, value_parser = pictures, allow_negative_numbers = true)]
    pub num_images_per_prompt: NonZero<usize>,
    /// Make so many of each picture, with consecutive seeds, and keep the one whose least subject DINO finds best; what was chosen and
    /// why is said, and written beside the picture (docs/evaluation.md)
    #[arg(
        long, default_value_t = NonZero::<usize>::MIN, value_parser = pictures, allow_negative_numbers = true,
        requires = "dino", value_name = "COUNT"
    )]
    pub best_of: NonZero<usize>,
    /// DINO's weights or folder (ViT-S/16), for --best_of
    #[arg(long, value_name = "PATH")]
    pub dino: Option<PathBuf>,
    /// How many pictures are computed together; takes more memory, gives the same pictures
    #[arg(long, default_value_t = NonZero::<usize>::MIN, value_parser = at_least_one, allow_negative_numbers = true)]
    pub batch_size: NonZero<usize>,
    /// Folder for {prompt}_{picture}.png and .json, numbered on from what is there; or the file of a single picture, .png (exact) or
    /// .jpg (quality 95, an approximation). With x.png and several pictures x_0_0.png, x_0_1.png ... A named file, and those of
    /// --eval_json_path, are replaced if this program wrote them; else it is an error
    #[arg(long, default_value = "output/inference", value_name = "PATH")]
    pub save_path: PathBuf,
    /// Begin at 0_0.png, and replace whatever has that name, or the name that --save_path gives
    #[arg(long)]
    pub overwrite: bool,
    /// Show the references beside each picture
    #[arg(long)]
    pub concat_refs: bool,
    /// Make a picture again from the settings inside it, or from its .json file. Its files are looked for where they were, beside the
    /// picture, and among those that --image_paths, --noise, --model, --lora, --add_lora ... give, and known by their contents;
    /// beside these only --save_path, --overwrite, --concat_refs, --device, --threads and --memory are taken
    #[arg(long, value_name = "PICTURE")]
    pub from: Option<PathBuf>,
    /// Prompt list (JSON, as DreamBench's) to go through; pictures that are there are not made again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "image_paths", "from"])]
    pub eval_json_path: Option<PathBuf>,
    /// The share i/n of the work, i from 0
    #[arg(long, default_value = "0/1", value_name = "i/n")]
    pub shard: Shard,

    /// Folder of the model
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// flux-dev, flux-dev-fp8 or flux-schnell; by default what the files are
    #[arg(long, help_heading = "Model")]
    pub model_type: Option<ModelType>,
    /// The transformer's file (or FLUX_DEV, FLUX_DEV_FP8, FLUX_SCHNELL)
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub dit: Option<PathBuf>,
    /// The autoencoder's file (or AE)
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub ae: Option<PathBuf>,
    /// T5's file or folder (or T5)
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub t5: Option<PathBuf>,
    /// CLIP's file or folder (or CLIP)
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub clip: Option<PathBuf>,
    /// T5's vocabulary, where it is not beside the weights
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub t5_tokenizer: Option<PathBuf>,
    /// CLIP's vocabulary, where it is not beside the weights
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub clip_tokenizer: Option<PathBuf>,
    /// UNO's LoRA (or LORA)
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub lora: Option<PathBuf>,
    /// Factor on UNO's LoRA; 0 is plain FLUX
    #[arg(long, default_value_t = 1.0, value_parser = number::<f64>, allow_negative_numbers = true, help_heading = "Model")]
    pub lora_scale: f64,
    /// A further LoRA (XLabs, kohya, OneTrainer, diffusers or PEFT keys; a file, or a folder of PEFT or diffusers), with its factor
    /// after an @: style.safetensors@0.8; may be given several times. Beside --from where it is now; the factor is the recorded one
    #[arg(long, num_args = 1, value_name = "PATH[@SCALE]", help_heading = "Model")]
    pub add_lora: Vec<AddedLora>,
    /// Merge the LoRAs into the weights (faster steps, more memory; the same picture up to rounding): always, never, or auto, where
    /// that fits into the memory
    #[arg(
        long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "never",
        default_missing_value = "always", help_heading = "Model"
    )]
    pub merge_lora: LoraMerge,
    /// Fetch what is missing from the Hugging Face hub (up to 37 GB, kept in HF_HOME)
    #[arg(long, help_heading = "Model")]
    pub download: bool,
    /// Never use the network
    #[arg(long, help_heading = "Model")]
    pub offline: bool,

    /// cpu, cuda, cuda:1, vulkan, wgpu, metal, rocm or auto, as far as they are built in
    #[arg(long, default_value = "cpu", help_heading = "Computation")]
    pub device: String,
    /// Number format of transformer and text encoders; by default f32 on the CPU, bf16 on CUDA, f16 on other GPUs
    #[arg(long, value_enum, help_heading = "Computation")]
    pub dtype: Option<Dtype>,
    /// Most memory to use: a size such as 6GiB, auto (what is free), or least; what stays in memory and what is streamed from
    /// disk follows from it, and is said before anything is loaded
    #[arg(long, default_value_t = Budget::Auto, value_name = "SIZE", help_heading = "Computation")]
    pub memory: Budget,
    /// As little memory as possible (--memory least); the official option of this name
    #[arg(long, conflicts_with = "memory", help_heading = "Computation")]
    pub offload: bool,
    /// torch-cuda (the official run on a GPU), torch-cpu, or a safetensors file with one tensor [1, 16, H/8, W/8]
    #[arg(long, default_value = "torch-cuda", value_name = "SOURCE", help_heading = "Computation")]
    pub noise: Noise,
    /// Number format that noise is drawn in
    #[arg(long, value_enum, default_value_t = NoiseFormat::Bf16, help_heading = "Computation")]
    pub noise_dtype: NoiseFormat,
    /// Sequence length that shifts the schedule: as UNO's inference passes it, or as FLUX does
    #[arg(long, value_enum, default_value_t = Schedule::Uno, help_heading = "Computation")]
    pub schedule: Schedule,
    /// Draw the references' latents with this seed, in place of their mean
    #[arg(
        long, value_name = "SEED", value_parser = seed, allow_negative_numbers = true, help_heading = "Computation"
    )]
    pub reference_seed: Option<u64>,
    /// Take references as their pixels lie, whatever their EXIF orientation says (as the official code does)
    #[arg(long, help_heading = "Computation")]
    pub ignore_exif_orientation: bool,
    /// Skip all blocks but the first at steps where that one adds nearly what it added before: within this part, 0.05 to 0.15. An
    /// approximation (docs/performance.md)
    #[arg(
        long, value_name = "PART", value_parser = number::<f32>, allow_negative_numbers = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "0.1", help_heading = "Approximations"
    )]
    pub first_block_cache: Option<f32>,
    /// Compute the references' tokens only at every so many steps. An approximation (docs/performance.md)
    #[arg(
        long, value_name = "STEPS", value_parser = at_least_one, allow_negative_numbers = true, num_args = 0..=1,
        require_equals = true, default_missing_value = "4", help_heading = "Approximations"
    )]
    pub reference_cache: Option<NonZero<usize>>,
    /// Multiply in 8-bit integers, with a transformer stored as Q8_0 (see the convert program). An approximation
    /// (docs/performance.md)
    #[arg(long, help_heading = "Approximations")]
    pub int8: bool,
    /// Threads of the CPU; by default all
    #[arg(long, value_parser = at_least_one, allow_negative_numbers = true, help_heading = "Computation")]
    pub threads: Option<NonZero<usize>>,
    /// Print one line of JSON per picture, and nothing else, to standard output
    #[arg(long, help_heading = "Computation")]
    pub json: bool,
}

/// Number format of transformer and text encoders.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    pub fn float(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum NoiseFormat {
    Bf16,
    F32,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum Schedule {
    Uno,
    Flux,
}

/// Where the initial noise comes from.
#[derive(Clone, Debug)]
pub enum Noise {
    Drawn(NoiseSource),
    File(PathBuf),
}

impl FromStr for Noise {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s {
            "torch-cuda" | "torch_cuda" => Self::Drawn(NoiseSource::TorchCuda),
            "torch-cpu" | "torch_cpu" => Self::Drawn(NoiseSource::TorchCpu),
            path => Self::File(path.into()),
        })
    }
}

impl Noise {
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Drawn(_) => None,
        }
    }
}

impl Arguments {
    /// The memory to use.
    pub fn budget(&self) -> Budget {
        if self.offload { Budget::Least } else { self.memory }
    }

    /// The request for one prompt, without references.
    pub fn request(&self, prompt: &str, defaults: Defaults, device: &Device) -> Result<Request> {
        let mut request =
            Request::with_defaults(prompt, defaults).with_steps(self.num_steps).with_seed(self.seed);
        request.width = self.width.unwrap_or(request.width);
        request.height = self.height.unwrap_or(request.height);
        request.guidance = self.guidance.unwrap_or(request.guidance);
        request.ref_size = match self.ref_size {
            -1 => None,
            size => Some(
                u32::try_from(size)
                    .ok()
                    .with_context(|| format!("ref_size: got {size}, wanted {}", long_sides()))?,
            ),
        };
        request.pe = self.pe;
        request.approximation.first_block_cache = self.first_block_cache;
        request.approximation.reference_cache = self.reference_cache.map(NonZero::get);
        match &self.noise {
            Noise::Drawn(source) => request.noise = *source,
            Noise::File(path) => request.latents = Some(read_noise(path, device)?),
        }
        request.noise_dtype = match self.noise_dtype {
            NoiseFormat::Bf16 => NoiseDtype::Bf16,
            NoiseFormat::F32 => NoiseDtype::F32,
        };
        request.sequence_length = match self.schedule {
            Schedule::Uno => SequenceLength::Uno,
            Schedule::Flux => SequenceLength::Flux,
        };
        request.reference_seed = self.reference_seed;
        Ok(request)
    }
}

/// The one tensor `[n, 16, H/8, W/8]` in a safetensors file.
pub fn read_noise(path: &Path, device: &Device) -> Result<Tensor<4>> {
    let checkpoint = Checkpoint::open(path).context(
        "--noise takes torch-cuda, torch-cpu, or a safetensors file with one tensor [1, 16, H/8, W/8]",
    )?;
    let four: Vec<_> = checkpoint.tensors().iter().filter(|(_, t)| t.shape().len() == 4).collect();
    let tensor = match four[..] {
        [(_, only)] => only,
        _ => checkpoint.tensors().get("noise").filter(|t| t.shape().len() == 4).with_context(|| {
            let (path, count) = (path.display(), four.len());
            format!("{path}: got {count} tensors of 4 dimensions, wanted one, or one of the name noise")
        })?,
    };
    ensure!(tensor.is_read(), "{}: noise of format {} is not read", path.display(), tensor.dtype());
    Ok(tensor.to_tensor(device, FloatDType::F32))
}

/// A whole number; which are taken is checked where they are used, and said here of what is none: clap does not say it.
fn whole<T: FromStr>(text: &str, wanted: impl Into<String>) -> Result<T, String> {
    text.parse().map_err(|_| wanted.into())
}

fn side(text: &str) -> Result<usize, String> {
    whole(text, format!("wanted {MULTIPLE} to {MAX_SIDE} pixels"))
}

fn long_side(text: &str) -> Result<i64, String> {
    whole(text, format!("wanted {}", long_sides()))
}

/// Which sizes of references are taken.
fn long_sides() -> String {
    format!("{MULTIPLE} to {MAX_SIDE} pixels, or -1 for the size that fits the number of references")
}

fn steps(text: &str) -> Result<usize, String> {
    whole(text, format!("wanted 1 to {MAX_STEPS} steps"))
}

fn pictures(text: &str) -> Result<NonZero<usize>, String> {
    whole(text, format!("wanted 1 to {MAX_PICTURES} pictures"))
}

fn seed(text: &str) -> Result<u64, String> {
    whole(text, format!("wanted a whole number from 0 to {}", u64::MAX))
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "wanted a number, such as 1 or 0.5".to_owned())
}

fn at_least_one(text: &str) -> Result<NonZero<usize>, String> {
    text.parse().map_err(|_| "wanted a whole number from 1 on".to_owned())
}

/// `--num_steps` for `--num-steps`: clap's names have dashes, the official ones underscores.
pub fn with_dashes(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    arguments
        .map(|argument| match argument.to_str() {
            Some(text) if text.starts_with("--") => {
                let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
                format!("{}{value}", name.replace('_', "-")).into()
            }
            _ => argument,
        })
        .collect()
}

/// A LoRA file, and its factor if one is given.
#[derive(Clone, Debug)]
pub struct AddedLora {
    pub path: PathBuf,
    pub scale: Option<f64>,
}

impl FromStr for AddedLora {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        // A file whose own name ends in @ and a number is meant if it is there.
        let split = text.rsplit_once('@').filter(|_| !Path::new(text).exists());
        let (path, scale) = match split.map(|(path, scale)| (path, scale.parse::<f64>())) {
            Some((path, Ok(scale))) => (path, Some(scale)),
            Some((_, Err(_))) if text.ends_with(".safetensors") => (text, None),
            Some((_, Err(_))) => anyhow::bail!("{text:?}: what follows @ is no number; wanted FILE@0.8"),
            None => (text, None),
        };
        ensure!(!path.is_empty() && scale.is_none_or(f64::is_finite), "{text:?}: wanted FILE or FILE@SCALE");
        Ok(Self { path: path.into(), scale })
    }
}
