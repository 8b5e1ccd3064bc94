//! What stays in memory, what is streamed, and how much that takes.

use std::fmt;
use std::sync::OnceLock;
use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};
use uno_core::approximation::Approximation;
use uno_core::device::is_cpu;
use uno_core::flux::{Flux, FluxConfig};
use uno_core::lora;
use uno_core::lora_keys::Component;
use uno_core::text::T5Config;
use uno_core::vae::AutoEncoderConfig;
use uno_core::weights::{Checkpoint, LoadOptions, Storage};

use super::{Budget, gib, gpu, measure};
use crate::components::{LoraMerge, ModelSource, PipelineOptions, VaeTiling, modulation_bytes};
use crate::error::{Error, Result};

/// How large a request is.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Geometry {
    /// Width and height of the pictures, in pixels.
    pub size: (usize, usize),
    /// Width and height of each reference as the model sees it.
    pub references: Vec<(usize, usize)>,
    /// Pictures that are computed together.
    pub batch: usize,
    /// What is approximated: the caches take memory.
    pub approximation: Approximation,
}

impl Geometry {
    /// One picture of this size without references.
    pub fn new(width: usize, height: usize) -> Self {
        Self { size: (width, height), batch: 1, ..Self::default() }
    }

    /// The same with references of these sizes.
    pub fn with_references(mut self, references: Vec<(usize, usize)>) -> Self {
        self.references = references;
        self
    }

    /// The same with so many pictures together.
    pub fn with_batch(mut self, batch: usize) -> Self {
        self.batch = batch.max(1);
        self
    }

    /// The same with what is approximated.
    pub fn with_approximation(mut self, approximation: Approximation) -> Self {
        self.approximation = approximation;
        self
    }

    /// Tokens of pictures and references that the transformer sees, beside those of the prompt.
    pub fn tokens(&self) -> usize {
        tokens_of(&self.size) + self.reference_tokens()
    }

    fn reference_tokens(&self) -> usize {
        self.references.iter().map(tokens_of).sum()
    }
}

fn tokens_of((width, height): &(usize, usize)) -> usize {
    (width / 16) * (height / 16)
}

/// One stage of a generation, and the memory that is expected at its peak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// Its name, as observers hear it.
    pub name: &'static str,
    /// Bytes, everything that is in memory at that time included.
    pub peak: u64,
}

/// How a model is fitted into memory.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// The bound, in bytes.
    pub budget: u64,
    /// Where the bound comes from, in words.
    pub budget_from: String,
    /// Parts with their storage formats and bytes on disk.
    pub parts: Vec<(&'static str, String, u64)>,
    /// Whether the bound is on this process' memory, and not on a GPU's.
    pub on_cpu: bool,
    /// [`PipelineOptions::resident_bytes`] for this plan: the largest number if everything stays.
    pub resident_bytes: u64,
    /// Bytes of the transformer's and its LoRAs' matrices that stay in memory.
    pub resident: u64,
    /// Bytes of the transformer and its LoRAs that are read from disk at every step.
    pub streamed_bytes: u64,
    /// Whether the text encoders are streamed.
    pub stream_text_encoders: bool,
    /// Side of the autoencoder's tiles in latents; `None`: in one piece, and exact.
    pub vae_tile: Option<usize>,
    /// Whether LoRAs are merged into the weights.
    pub merge_lora: bool,
    /// Each stage with its expected peak.
    pub phases: Vec<Phase>,
    /// Expected seconds per step, if it was estimated.
    pub seconds_per_step: Option<f64>,
}

/// Tiles that are tried, in latents per side, the largest first.
const TILES: [usize; 4] = [96, 64, 48, 32];
/// Below this many bytes on disk, a model takes no time to plan for.
const SMALL: u64 = 256 << 20;

impl Plan {
    /// Fits `source` and a request of this size into `budget`, for a pipeline with these options: their device, number format,
    /// storage, and wishes for merged LoRAs and for tiles of the autoencoder. Nothing is loaded.
    ///
    /// On a GPU the bound is on its memory, which is not measured: [`Budget::Auto`] keeps everything there.
    ///
    /// # Errors
    ///
    /// It cannot fit: with the numbers, and with what would.
    pub fn make(
        source: &ModelSource,
        options: &PipelineOptions,
        geometry: &Geometry,
        budget: Budget,
    ) -> Result<Self> {
        Self::make_beside(source, options, geometry, budget, measure::resident().unwrap_or(0))
    }

    /// The same for a process that takes `base` bytes beside the model. A program that has one loaded takes more at the time.
    ///
    /// # Errors
    ///
    /// As [`make`](Self::make).
    pub fn make_beside(
        source: &ModelSource,
        options: &PipelineOptions,
        geometry: &Geometry,
        budget: Budget,
        base: u64,
    ) -> Result<Self> {
        let on_cpu = is_cpu(&options.device);
        let (limit, budget_from) = match budget {
            Budget::Auto if !on_cpu => (u64::MAX, "all that the device has".to_owned()),
            budget => budget.resolve(),
        };
        let mut merge_lora = options.merge_lora;
        if merge_lora == LoraMerge::Auto {
            // Merged weights are the compute format's; on a GPU that rounds them once more than LoRAs beside them.
            let merged = Need::of(source, options, geometry, true, base)?;
            let fits = on_cpu
                && !options.int8
                && budget != Budget::Least
                && merged.peak(merged.matrices, false, options.vae_tiling.tile()) <= limit;
            merge_lora = LoraMerge::from(fits && source.has_lora());
        }
        let need = Need::of(source, options, geometry, merge_lora.is_merged(), base)?;
        let vae_tile = options.vae_tiling.tile();
        let mut plan = Self {
            on_cpu,
            budget: limit,
            budget_from,
            parts: parts(source),
            resident_bytes: u64::MAX,
            resident: need.matrices,
            streamed_bytes: 0,
            stream_text_encoders: false,
            vae_tile,
            merge_lora: merge_lora.is_merged(),
            phases: need.phases(need.matrices, false, vae_tile),
            seconds_per_step: None,
        };
        if budget == Budget::Least {
            plan.stream_text_encoders = true;
            plan.stay(&need, if merge_lora.is_merged() { need.matrices } else { 0 });
        } else if plan.peak() > limit {
            plan.shrink(&need, options.vae_tiling)?;
        }
        // A GPU's speed is not measured beforehand.
        plan.seconds_per_step =
            on_cpu.then(|| need.seconds_per_step(geometry, plan.streamed_bytes)).flatten();
        Ok(plan)
    }

    /// Lets so many bytes of matrices stay in memory.
    fn stay(&mut self, need: &Need, resident: u64) {
        self.resident = resident;
        self.resident_bytes = if resident == need.matrices { u64::MAX } else { resident };
        // What stays may be expanded; what is read is as the file has it. Modulations are read once for many steps.
        let streamed = need.matrices - resident - if resident == need.matrices { 0 } else { need.once };
        self.streamed_bytes = (streamed as f64 / need.matrices.max(1) as f64 * need.stored as f64) as u64;
        self.phases = need.phases(resident, self.stream_text_encoders, self.vae_tile);
    }

    /// Gives up residence step by step: text encoders first, which are used once per prompt, then as much of the transformer
    /// as it takes, then the autoencoder's exactness.
    fn shrink(&mut self, need: &Need, tiling: VaeTiling) -> Result<()> {
        self.stream_text_encoders = true;
        // Merged matrices exist in memory only.
        let least = if need.merge_lora { need.matrices } else { 0 };
        // What is said of tiles holds; else the largest that fit.
        let smaller = TILES.iter().filter(|_| tiling.is_auto()).map(|tile| Some(*tile));
        let mut tiles = std::iter::once(tiling.tile()).chain(smaller);
        let fitting = tiles.find(|tile| need.peak(least, true, *tile) <= self.budget);
        let Some(tile) = fitting else { return Err(self.refusal(need, tiling)) };
        self.vae_tile = tile;
        // What stays in memory adds to every stage from denoising on. A little is left free: allocators keep what they were
        // given for a while.
        let room = (self.budget - need.peak(least, true, tile)) / 20 * 19;
        let resident = least + room;
        let everything = resident >= need.matrices;
        self.stay(need, if everything { need.matrices } else { resident.min(need.matrices - need.once) });
        Ok(())
    }

    fn refusal(&self, need: &Need, tiling: VaeTiling) -> Error {
        let least = if need.merge_lora { need.matrices } else { 0 };
        let (tile, how) = match tiling {
            VaeTiling::Auto => (TILES.last().copied(), "in tiles".to_owned()),
            VaeTiling::Whole => (None, "on whole pictures, as is asked".to_owned()),
            VaeTiling::Tiles(tile) => (Some(tile), format!("in tiles of {tile} latents, as is asked")),
        };
        let least = need.phases(least, true, tile);
        let worst = least.iter().max_by_key(|phase| phase.peak);
        let (name, peak) = worst.map_or(("nothing", 0), |phase| (phase.name, phase.peak));
        let remedy = if need.merge_lora {
            "do not merge LoRAs, or give more memory"
        } else {
            "give more memory, or ask for a smaller picture, fewer or smaller references, or a smaller batch"
        };
        Error::request(
            "memory",
            gib(self.budget),
            format!(
                "at least {}: that is what {name} takes, with all weights streamed from disk and the autoencoder working {how}; \
                 {remedy}",
                gib(peak)
            ),
        )
    }

    /// The highest expected peak of all stages.
    pub fn peak(&self) -> u64 {
        self.phases.iter().map(|phase| phase.peak).max().unwrap_or(0)
    }

    /// Lets a pipeline be loaded as planned.
    pub fn apply(&self, options: &mut PipelineOptions) {
        options.resident_bytes = self.resident_bytes;
        options.stream_text_encoders = self.stream_text_encoders;
        options.vae_tiling = self.vae_tile.into();
        options.merge_lora = self.merge_lora.into();
    }

    /// Whether the model is so small that nobody needs to read its plan.
    pub fn is_trivial(&self) -> bool {
        self.parts.iter().map(|(_, _, bytes)| bytes).sum::<u64>() < SMALL
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.budget {
            u64::MAX => writeln!(f, "memory: {}", self.budget_from)?,
            budget if self.on_cpu => writeln!(f, "memory: {} ({})", gib(budget), self.budget_from)?,
            budget => writeln!(f, "memory of the device: {} ({})", gib(budget), self.budget_from)?,
        }
        for (name, storage, bytes) in &self.parts {
            let how = match *name {
                "text encoders" if self.stream_text_encoders => "streamed from disk at each prompt",
                "transformer" | "LoRA" if self.merge_lora => "merged, in memory",
                "transformer" | "LoRA" if self.resident_bytes == u64::MAX => "in memory",
                "transformer" if self.streamed_bytes == 0 => "in memory, but for modulations",
                "LoRA" if self.streamed_bytes == 0 => "in memory",
                "transformer" | "LoRA" if self.resident == 0 => "streamed from disk at each step",
                "transformer" | "LoRA" => "streamed in part",
                "autoencoder" if self.vae_tile.is_some() => "in overlapping tiles (an approximation)",
                _ => "in memory",
            };
            writeln!(f, "  {name:<14} {:>10}  {storage:<12} {how}", gib(*bytes))?;
        }
        if self.streamed_bytes > 0 {
            let (stays, read) = (gib(self.resident), gib(self.streamed_bytes));
            writeln!(f, "  of transformer and LoRA {stays} stay, {read} are read at each step")?;
        }
        write!(f, "expected peak: {} (", gib(self.peak()))?;
        for (i, phase) in self.phases.iter().enumerate() {
            write!(f, "{}{} {}", if i == 0 { "" } else { ", " }, phase.name, gib(phase.peak))?;
        }
        write!(f, ")")?;
        match self.seconds_per_step {
            Some(seconds) => write!(f, "; about {seconds:.0} s per step"),
            None => Ok(()),
        }
    }
}

fn parts(source: &ModelSource) -> Vec<(&'static str, String, u64)> {
    let bytes = |c: &Checkpoint| c.byte_len() as u64;
    let mut parts = vec![
        ("transformer", source.dit.storage(), bytes(&source.dit)),
        ("text encoders", source.text.t5.storage(), bytes(&source.text.t5) + bytes(&source.text.clip)),
        ("autoencoder", source.ae.storage(), bytes(&source.ae)),
    ];
    let loras = source.lora.iter().chain(source.more_loras.iter().map(|(lora, _)| lora));
    parts.extend(loras.map(|lora| ("LoRA", lora.storage(), bytes(lora))));
    parts
}

/// What the parts of a model take, in bytes.
struct Need {
    /// What the process takes before anything is loaded.
    base: u64,
    /// Matrices of the transformer and its LoRAs, in the form that they wait in.
    matrices: u64,
    /// Those of modulations among them, which are streamed as soon as anything is; none if they were merged.
    once: u64,
    /// All as the files hold them.
    stored: u64,
    /// The largest of them, which is in memory while it is used; on a GPU, the largest two blocks.
    largest: u64,
    /// Everything that is expanded when it is loaded: biases, norms.
    small: u64,
    text: u64,
    largest_text: u64,
    encoder: u64,
    decoder: u64,
    text_activations: u64,
    step_activations: u64,
    encode_activations: u64,
    autoencoder: AutoEncoderConfig,
    size: (usize, usize),
    merge_lora: bool,
    flops: f64,
    has_references: bool,
}

impl Need {
    fn of(
        source: &ModelSource,
        options: &PipelineOptions,
        geometry: &Geometry,
        merge_lora: bool,
        base: u64,
    ) -> Result<Self> {
        let flux = FluxConfig::detect(&source.dit)?;
        let t5 = T5Config::detect(&source.text.t5)?;
        let text_tokens = source.text.t5_length;
        let autoencoder = AutoEncoderConfig::detect(&source.ae)?;
        let loras = |component| {
            let all = source.lora.iter().chain(source.more_loras.iter().map(|(lora, _)| lora));
            all.map(|file| lora::part(file, component)).collect::<Vec<Checkpoint>>()
        };
        let text_loras = [loras(Component::Clip), loras(Component::T5)].concat();
        let loras = loras(Component::Transformer);
        let form = options.load();
        let on_cpu = is_cpu(&options.device);
        let in_place = on_cpu && options.dtype == FloatDType::F32 && options.storage == Storage::AsStored;
        let number = DType::from(options.dtype).size() as u64;
        let mut matrices = matrix_bytes(&source.dit, &form);
        let beside = loras.iter().map(matrix_numbers).sum();
        let mut largest = match on_cpu {
            true => largest(&source.dit),
            false => gpu::blocks_under_way(&flux, beside, number),
        };
        let of_loras = loras.iter().map(stored_bytes).sum::<u64>();
        let stored = stored_bytes(&source.dit) + of_loras;
        if merge_lora && !loras.is_empty() {
            // Nearly all matrices are adapted and then held expanded; those that are not are counted too.
            matrices = number * matrix_numbers(&source.dit);
            largest = 4 * source.dit.tensors().values().map(|t| t.len() as u64).max().unwrap_or(0);
        } else {
            matrices += loras.iter().map(|lora| matrix_bytes(lora, &form)).sum::<u64>();
        }
        let text = [&source.text.t5, &source.text.clip].into_iter().chain(&text_loras);
        let once = if merge_lora { 0 } else { modulation_bytes(&flux, &source.dit, &form) };
        let part = |prefix: &str| {
            let of_part = source.ae.tensors().iter().filter(|(name, _)| name.contains(prefix));
            of_part.map(|(_, t)| 4 * t.len() as u64).sum::<u64>()
        };
        let encode = |&(width, height): &(usize, usize)| autoencoder.encode_peak_bytes(width, height) as u64;
        Ok(Self {
            base: if on_cpu { base } else { 0 },
            matrices,
            once,
            stored,
            largest,
            small: [&source.dit, &source.text.t5, &source.text.clip].map(small_bytes).iter().sum(),
            text: text.map(|part| matrix_bytes(part, &form)).sum(),
            largest_text: match on_cpu {
                true => largest_linear(&source.text.t5),
                false => gpu::text_blocks_under_way(&t5, number),
            },
            encoder: part("encoder"),
            decoder: part("decoder"),
            text_activations: text_activations(&t5, text_tokens, geometry.batch, in_place),
            step_activations: step_activations(&flux, text_tokens, geometry, in_place),
            encode_activations: geometry.references.iter().map(encode).max().unwrap_or(0),
            autoencoder,
            size: geometry.size,
            merge_lora,
            flops: flops(&flux, text_tokens, geometry, if merge_lora { &[] } else { &loras }),
            has_references: !geometry.references.is_empty(),
        })
    }

    /// The highest of the stages' peaks.
    fn peak(&self, resident: u64, stream_text: bool, tile: Option<usize>) -> u64 {
        self.phases(resident, stream_text, tile).iter().map(|phase| phase.peak).max().unwrap_or(0)
    }

    /// The stages with their peaks, if `resident` bytes of matrices stay.
    fn phases(&self, resident: u64, stream_text: bool, tile: Option<usize>) -> Vec<Phase> {
        let (width, height) = self.size;
        let side = tile.map_or(usize::MAX, |tile| tile.saturating_mul(self.autoencoder.downsampling()));
        let decode = self.autoencoder.decode_peak_bytes(width.min(side), height.min(side)) as u64;
        let decode = decode + if tile.is_some() { (width * height * 24) as u64 } else { 0 };
        let mut standing = self.base + self.small;
        let mut phases = Vec::new();
        if self.has_references {
            standing += self.encoder;
            phases.push(Phase { name: "encoding references", peak: standing + self.encode_activations });
        }
        let window = if stream_text { self.largest_text } else { self.text };
        phases.push(Phase { name: "encoding prompts", peak: standing + window + self.text_activations });
        standing += if stream_text { 0 } else { self.text };
        let window = if resident < self.matrices { self.largest } else { 0 };
        // A pipeline that is kept has its transformer in memory at every later prompt.
        phases.push(Phase { name: "denoising", peak: standing + resident + window + self.step_activations });
        phases.push(Phase { name: "decoding", peak: standing + resident + self.decoder + decode });
        phases
    }

    /// From a short product on this machine, and the number of them in a step.
    fn seconds_per_step(&self, geometry: &Geometry, streamed: u64) -> Option<f64> {
        if self.matrices < SMALL {
            return None;
        }
        let rate = products_per_second();
        // Of a step at full size, products are nearly all; the rest is normalization, activation and copying.
        let rest = 1.12;
        // Reading a file that the system caches is a copy; else the disk decides, which is not measured here.
        let reading = streamed as f64 / 4e9;
        Some(geometry.batch as f64 * self.flops / rate * rest + reading)
    }
}

/// Matrices are kept as stored; everything else is expanded at load time.
fn is_matrix(shape: &[usize]) -> bool {
    shape.len() == 2
}

/// Bytes of all matrices in the form that they wait in.
fn matrix_bytes(checkpoint: &Checkpoint, form: &LoadOptions) -> u64 {
    let tensors = checkpoint.tensors().values().filter(|t| is_matrix(t.shape()));
    tensors.map(|t| form.bytes_of(t)).sum()
}

/// Bytes of all matrices as the file holds them.
fn stored_bytes(checkpoint: &Checkpoint) -> u64 {
    let tensors = checkpoint.tensors().values().filter(|t| is_matrix(t.shape()));
    tensors.map(|t| t.byte_len() as u64).sum()
}

fn matrix_numbers(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().values().filter(|t| is_matrix(t.shape())).map(|t| t.len() as u64).sum()
}

fn small_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().values().filter(|t| !is_matrix(t.shape())).map(|t| 4 * t.len() as u64).sum()
}

fn largest(checkpoint: &Checkpoint) -> u64 {
    let tensors = checkpoint.tensors().values().filter(|t| is_matrix(t.shape()));
    tensors.map(|t| t.byte_len() as u64).max().unwrap_or(0)
}

/// The largest matrix but for embeddings, of which only rows are read.
fn largest_linear(checkpoint: &Checkpoint) -> u64 {
    let is_table = |name: &str| name.contains("embed") || name.contains("embd") || name.contains("shared");
    let linears = checkpoint.tensors().iter().filter(|(name, t)| is_matrix(t.shape()) && !is_table(name));
    linears.map(|(_, t)| t.byte_len() as u64).max().unwrap_or(0)
}

/// Activations of one step at its peak. In f32 on the CPU with weights as stored, blocks work in three buffers that last over the
/// step (uno-core's `flux/in_place.rs`); elsewhere each operation makes its own.
fn step_activations(config: &FluxConfig, text_tokens: usize, geometry: &Geometry, in_place: bool) -> u64 {
    let (hidden, mlp) = (config.hidden_size as u64, config.mlp_hidden as u64);
    let tokens = ((text_tokens + geometry.tokens()) * geometry.batch) as u64;
    let per_token = match in_place {
        // Two of the stream's width and one for queries, keys and values or for attention and MLP; what stays from step to
        // step, and what is cut out at the end.
        true => 2 * hidden + (3 * hidden).max(hidden + mlp) + 2 * hidden,
        false => 8 * hidden + 4 * mlp,
    };
    let modulations = (Flux::MODULATED_STEPS * geometry.batch * config.modulation_outputs()) as u64;
    4 * (tokens * per_token + modulations + cached(config, geometry)) + SCRATCH
}

/// Numbers that the caches of approximate steps hold.
fn cached(config: &FluxConfig, geometry: &Geometry) -> u64 {
    let Approximation { first_block_cache, reference_cache } = geometry.approximation;
    let blocks = config.depth + config.depth_single_blocks;
    let references = match reference_cache {
        Some(steps) if steps > 1 => 2 * geometry.reference_tokens() * blocks,
        _ => 0,
    };
    // What two kinds of blocks add, and the states that this is told from.
    let latent = if first_block_cache.is_some() { 5 * tokens_of(&geometry.size) } else { 0 };
    (geometry.batch * (references + latent) * config.hidden_size) as u64
}

/// Tiles of weights and of scores on each thread, and what the allocator keeps.
const SCRATCH: u64 = 96 << 20;

/// Activations of one T5 block at its peak.
fn text_activations(config: &T5Config, tokens: usize, batch: usize, in_place: bool) -> u64 {
    let tokens = tokens as u64;
    let (d, ff) = (config.d_model as u64, config.d_ff as u64);
    let block = match in_place {
        true => tokens * (6 * d + 3 * ff),
        // Scores of all heads, their bias and their exponentials.
        false => 3 * config.num_heads as u64 * tokens * tokens + tokens * (6 * d + 5 * ff),
    };
    4 * (block + batch as u64 * tokens * d) + SCRATCH
}

/// Floating point operations of one step for one picture (2 per multiplication and addition).
fn flops(config: &FluxConfig, text_tokens: usize, geometry: &Geometry, loras: &[Checkpoint]) -> f64 {
    let (hidden, mlp) = (config.hidden_size as f64, config.mlp_hidden as f64);
    let tokens = (text_tokens + geometry.tokens()) as f64;
    let per_block =
        2.0 * tokens * (4.0 * hidden * hidden + 2.0 * hidden * mlp) + 4.0 * tokens * tokens * hidden;
    let blocks = (config.depth + config.depth_single_blocks) as f64;
    let beside: f64 = loras.iter().map(|lora| 2.0 * tokens * matrix_numbers(lora) as f64).sum();
    // In double blocks a LoRA has a copy for text and one for the picture, each for its own tokens.
    let beside = beside * if config.depth > 0 { 0.75 } else { 1.0 };
    blocks * per_block + beside
}

/// How fast this machine multiplies, measured in a tenth of a second, once: later something else may be at work.
fn products_per_second() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(measured_products_per_second)
}

fn measured_products_per_second() -> f64 {
    #[cfg(feature = "flex")]
    {
        let device = Device::flex();
        let random = |shape| Tensor::<2>::random(shape, Distribution::Default, &device);
        let (a, b) = (random([512, 2048]), random([2048, 2048]));
        // The first one wakes threads and caches.
        let _ = a.clone().matmul(b.clone()).into_data();
        let start = Instant::now();
        for _ in 0..4 {
            let _ = a.clone().matmul(b.clone()).into_data();
        }
        4.0 * 2.0 * 512.0 * 2048.0 * 2048.0 / start.elapsed().as_secs_f64().max(1e-6)
    }
    #[cfg(not(feature = "flex"))]
    {
        let _: Option<(Device, Distribution, Tensor<1>, Instant)> = None;
        1e11
    }
}
