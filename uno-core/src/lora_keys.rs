//! Names of LoRA tensors: which linear layer of which part of the model each one adapts.
//!
//! A key is prefixes, a layer and what the tensor is to it (`lora_A.weight`, `lora_up.weight`, `alpha`, ...). A layer of the
//! transformer is named as the checkpoint names it, as diffusers does, or as UNO and XLabs name their attention processors; one
//! of a text encoder as transformers does. kohya and OneTrainer write underscores for all dots. Prefixes tell little that the
//! rest does not, so nearly any goes with any, in any order; only text encoders are told by some.

use std::fmt;

use crate::weights::layout::{LINEARS, Use, fill, matches};

/// A part of the model whose linear layers LoRAs adapt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The diffusion transformer.
    Transformer,
    /// The CLIP-L text encoder.
    Clip,
    /// The T5 text encoder.
    T5,
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Transformer, Self::Clip, Self::T5];
}

/// In words for people: `the transformer`, `CLIP`, `T5`.
impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transformer => "the transformer",
            Self::Clip => "CLIP",
            Self::T5 => "T5",
        })
    }
}

/// A linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layer {
    /// What it is a layer of.
    pub component: Component,
    /// Its name in the checkpoint with `{}` for the number of the block: `double_blocks.{}.img_attn.qkv`.
    pub pattern: &'static str,
    /// The number of the block, for layers in a block.
    pub block: Option<usize>,
}

/// The name in the checkpoint: `double_blocks.0.img_attn.qkv`.
impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&fill(self.pattern, self.block.as_slice()))
    }
}

/// Which outputs of a layer are adapted, if not all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rows {
    /// The slice of this number, counted from 0, among slices of one hidden size: queries 0, keys 1, values 2.
    Hidden(usize),
    /// The first three hidden sizes: queries, keys and values in `linear1`.
    FirstThree,
    /// All after the first three hidden sizes: the MLP in `linear1`.
    AfterThree,
}

/// What a LoRA tensor adapts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The layer.
    pub layer: Layer,
    /// Its outputs that are adapted; `None`: all.
    pub rows: Option<Rows>,
    /// Whether the halves of the outputs (rows of [`Half::Up`]) are in the other order than ours: scale before shift.
    pub swap_halves: bool,
}

/// What a tensor is to the LoRA of its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Half {
    /// `[rank, input]`.
    Down,
    /// `[output, rank]`.
    Up,
    /// One number; the LoRA counts `alpha / rank` times.
    Alpha,
    /// The magnitudes of DoRA, `[output]` or `[output, 1]`: the layer is more than a sum, so this is no plain LoRA.
    Dora,
}

/// What keys end in.
const ENDS: [(&str, Half); 13] = [
    (".lora_down.weight", Half::Down),
    (".lora_up.weight", Half::Up),
    (".lora_A.weight", Half::Down),
    (".lora_B.weight", Half::Up),
    (".lora.down.weight", Half::Down),
    (".lora.up.weight", Half::Up),
    (".lora_linear_layer.down.weight", Half::Down),
    (".lora_linear_layer.up.weight", Half::Up),
    (".alpha", Half::Alpha),
    (".dora_scale", Half::Dora),
    (".magnitude", Half::Dora),
    (".lora_magnitude_vector", Half::Dora),
    (".lora_magnitude_vector.weight", Half::Dora),
];

/// The key of the other half, for one of the two.
pub(crate) fn other_half(key: &str) -> String {
    const PAIRS: [(&str, &str); 3] = [("lora_down", "lora_up"), ("lora_A", "lora_B"), (".down.", ".up.")];
    let both_ways = PAIRS.iter().flat_map(|&(down, up)| [(down, up), (up, down)]);
    let found = both_ways.into_iter().find(|(half, _)| key.contains(half));
    found.map_or_else(String::new, |(half, other)| key.replacen(half, other, 1))
}

/// What keys end in if PEFT wrote the name of the adapter, between these and `.weight`.
const ADAPTER_ENDS: [(&str, Half); 3] =
    [(".lora_A.", Half::Down), (".lora_B.", Half::Up), (".lora_magnitude_vector.", Half::Dora)];

/// What keys of UNO and XLabs end in.
const PROCESSOR_ENDS: [(&str, Half); 3] =
    [(".down.weight", Half::Down), (".up.weight", Half::Up), (".alpha", Half::Alpha)];

/// Layers as UNO and XLabs name them; 1 is the image's stream and 2 the text's.
const PROCESSORS: [(&str, &str, Option<Rows>); 6] = [
    ("double_blocks.{}.processor.qkv_lora1", "double_blocks.{}.img_attn.qkv", None),
    ("double_blocks.{}.processor.proj_lora1", "double_blocks.{}.img_attn.proj", None),
    ("double_blocks.{}.processor.qkv_lora2", "double_blocks.{}.txt_attn.qkv", None),
    ("double_blocks.{}.processor.proj_lora2", "double_blocks.{}.txt_attn.proj", None),
    ("single_blocks.{}.processor.qkv_lora", "single_blocks.{}.linear1", Some(Rows::FirstThree)),
    ("single_blocks.{}.processor.proj_lora", "single_blocks.{}.linear2", None),
];

/// A part of a layer as ComfyUI names it: UNO's, UMO's and USO's LoRAs are written so for it.
const QKV_OF_LINEAR1: (&str, &str) = ("single_blocks.{}.linear1_qkv", "single_blocks.{}.linear1");

/// The linear layers of CLIP's text encoder.
const CLIP_LINEARS: [&str; 6] = [
    "text_model.encoder.layers.{}.self_attn.q_proj",
    "text_model.encoder.layers.{}.self_attn.k_proj",
    "text_model.encoder.layers.{}.self_attn.v_proj",
    "text_model.encoder.layers.{}.self_attn.out_proj",
    "text_model.encoder.layers.{}.mlp.fc1",
    "text_model.encoder.layers.{}.mlp.fc2",
];

/// The linear layers of the T5 encoder.
const T5_LINEARS: [&str; 7] = [
    "encoder.block.{}.layer.0.SelfAttention.q",
    "encoder.block.{}.layer.0.SelfAttention.k",
    "encoder.block.{}.layer.0.SelfAttention.v",
    "encoder.block.{}.layer.0.SelfAttention.o",
    "encoder.block.{}.layer.1.DenseReluDense.wi_0",
    "encoder.block.{}.layer.1.DenseReluDense.wi_1",
    "encoder.block.{}.layer.1.DenseReluDense.wo",
];

/// The layers that UNO's LoRA adapts, each with the beginning of its keys in UNO's files (`double_blocks.0.processor.qkv_lora1`;
/// `.down.weight` and `.up.weight` follow), for a transformer with so many double and single blocks.
pub fn uno_layers(depth: usize, depth_single: usize) -> Vec<(String, Target)> {
    let of_block = |kind: &'static str, block: usize| {
        PROCESSORS.iter().filter(move |(theirs, ..)| theirs.starts_with(kind)).map(
            move |&(theirs, pattern, rows)| {
                let layer = Layer { component: Component::Transformer, pattern, block: Some(block) };
                (fill(theirs, &[block]), Target { layer, rows, swap_halves: false })
            },
        )
    };
    let double = (0..depth).flat_map(|i| of_block("double_blocks.", i));
    double.chain((0..depth_single).flat_map(|i| of_block("single_blocks.", i))).collect()
}

/// What the prefixes of a key tell of the part of the model that it adapts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    /// Nothing that the rest of the key does not.
    Nothing,
    /// A text encoder.
    Text,
    /// A text encoder that is not the first. In FLUX that is T5; layers named as CLIP's are those of SDXL's CLIP-G there.
    LaterText,
}

/// Objects that the adapted part is in, as PEFT, diffusers, ComfyUI, OneTrainer and PyTorch write them.
const WRAPPERS: [(&str, Said); 18] = [
    ("base_model.model.", Said::Nothing),
    ("transformer.", Said::Nothing),
    ("diffusion_model.", Said::Nothing),
    ("model.", Said::Nothing),
    // Of PyTorch's parallel training, and of its compiler.
    ("module.", Said::Nothing),
    ("_orig_mod.", Said::Nothing),
    ("text_encoder.", Said::Text),
    ("text_encoders.", Said::Text),
    ("text_encoder_2.", Said::LaterText),
    ("text_encoder_3.", Said::LaterText),
    ("clip_l.", Said::Text),
    ("clip_g.", Said::LaterText),
    ("t5xxl.", Said::LaterText),
    ("t5.", Said::LaterText),
    ("lora_te.", Said::Text),
    ("lora_te1.", Said::Text),
    ("lora_te2.", Said::LaterText),
    ("lora_te3.", Said::LaterText),
];

/// What keys with underscores for dots begin with, and who writes them. T5 is the third text encoder to kohya, the second to
/// OneTrainer.
const UNDERSCORED: [(&str, Said, &str); 7] = [
    ("lora_unet_", Said::Nothing, "kohya"),
    ("lora_transformer_", Said::Nothing, "OneTrainer"),
    ("lycoris_", Said::Nothing, "LyCORIS"),
    ("lora_te_", Said::Text, "kohya"),
    ("lora_te1_", Said::Text, "kohya or OneTrainer"),
    ("lora_te2_", Said::LaterText, "OneTrainer"),
    ("lora_te3_", Said::LaterText, "kohya"),
];

/// A key less its prefixes.
struct Unwrapped<'a> {
    rest: &'a str,
    said: Said,
    /// What stands between the words of the layer's name.
    separator: char,
    /// Who writes such prefixes, where one tells it.
    style: Option<&'static str>,
}

impl<'a> Unwrapped<'a> {
    fn new(key: &'a str) -> Self {
        let (mut rest, mut said) = (key, Said::Nothing);
        // They are found in any order, and some twice.
        while let Some((inner, tells)) =
            WRAPPERS.iter().find_map(|(prefix, tells)| Some((rest.strip_prefix(prefix)?, *tells)))
        {
            (rest, said) = (inner, said.max(tells));
        }
        let underscored = UNDERSCORED
            .iter()
            .find_map(|(prefix, tells, style)| Some((rest.strip_prefix(prefix)?, *tells, *style)));
        match underscored {
            Some((rest, tells, style)) => {
                Self { rest, said: said.max(tells), separator: '_', style: Some(style) }
            }
            None => Self { rest, said, separator: '.', style: None },
        }
    }

    /// The layer that is named, and the name as it stands there.
    fn target(&self) -> Option<(Target, Half, &'a str)> {
        if let Some((target, half)) = processor(self.rest).filter(|_| self.separator == '.') {
            return Some((target, half, self.rest));
        }
        let (module, half) = end(self.rest, &ENDS).or_else(|| adapter_end(self.rest))?;
        let transformer = || linear(module, self.separator).filter(|_| self.said == Said::Nothing);
        let clip = || clip(module, self.separator).filter(|_| self.said != Said::LaterText);
        let target = transformer().or_else(clip).or_else(|| t5(module, self.separator))?;
        Some((target, half, module))
    }
}

/// What the tensor named `key` is: part of the LoRA of a layer. `None` if it is nothing known.
pub fn parse(key: &str) -> Option<(Target, Half)> {
    Unwrapped::new(key).target().map(|(target, half, _)| (target, half))
}

/// The name of the adapted module as the program that trained it has it, less its prefixes: what PEFT's patterns of ranks and
/// alphas are matched with. Of a key that [`parse`] knows.
pub(crate) fn module(key: &str) -> &str {
    let unwrapped = Unwrapped::new(key);
    unwrapped.target().map_or(unwrapped.rest, |(_, _, module)| module)
}

/// Whether `key` adapts a text encoder, a known layer or not.
pub fn is_text_encoder(key: &str) -> bool {
    let Unwrapped { rest, said, .. } = Unwrapped::new(key);
    let begins = |names: &[&str]| names.iter().any(|name| rest.starts_with(name));
    said != Said::Nothing || begins(&["text_model.", "text_model_", "encoder.block.", "encoder_block_"])
}

/// Whether `key` adapts CLIP-G, the second text encoder of SDXL, which FLUX has not.
pub(crate) fn is_clip_g(key: &str) -> bool {
    let unwrapped = Unwrapped::new(key);
    unwrapped.said == Said::LaterText && unwrapped.rest.starts_with("text_model")
}

/// The style of a file's keys, in words for people: that of the first key that is known.
pub fn style<'a>(keys: impl IntoIterator<Item = &'a str>) -> &'static str {
    for key in keys {
        let unwrapped = Unwrapped::new(key);
        let Some((target, half, module)) = unwrapped.target() else { continue };
        return match unwrapped.style {
            _ if half == Half::Dora => "DoRA",
            Some(style) => style,
            None if processor(unwrapped.rest).is_some() => "UNO or XLabs",
            None if target.layer.component != Component::Transformer => "transformers",
            None if module.starts_with(&target.layer.to_string()) => {
                "the checkpoint's own names (ComfyUI, ai-toolkit)"
            }
            None => "diffusers",
        };
    }
    "unknown"
}

/// Takes a known end off.
fn end<'a>(module: &'a str, ends: &[(&str, Half)]) -> Option<(&'a str, Half)> {
    ends.iter().find_map(|(end, half)| Some((module.strip_suffix(end)?, *half)))
}

/// Takes an end with the name of an adapter off: `.lora_A.default.weight`.
fn adapter_end(module: &str) -> Option<(&str, Half)> {
    let module = module.strip_suffix(".weight")?;
    ADAPTER_ENDS.iter().find_map(|(end, half)| {
        let (module, adapter) = module.rsplit_once(end)?;
        (!adapter.is_empty() && !adapter.contains('.')).then_some((module, *half))
    })
}

fn processor(module: &str) -> Option<(Target, Half)> {
    let (module, half) = end(module, &PROCESSOR_ENDS)?;
    PROCESSORS.iter().find_map(|(theirs, ours, rows)| {
        let target = target(theirs, ours, module, '.')?;
        Some((Target { rows: *rows, ..target }, half))
    })
}

/// The layer named as in the checkpoint, or as diffusers names it, with `separator` for dots.
fn linear(module: &str, separator: char) -> Option<Target> {
    let (theirs, ours) = QKV_OF_LINEAR1;
    if let Some(part) = target(theirs, ours, module, separator) {
        return Some(Target { rows: Some(Rows::FirstThree), ..part });
    }
    LINEARS.iter().find_map(|(theirs, ours, how)| {
        if let Some(whole) = target(ours, ours, module, separator) {
            return Some(whole);
        }
        let target = target(theirs, ours, module, separator)?;
        let rows = match how {
            Use::Part(3, _) => Some(Rows::AfterThree),
            Use::Part(i, _) => Some(Rows::Hidden(*i)),
            Use::Whole | Use::Swapped | Use::Kernel => None,
        };
        Some(Target { rows, swap_halves: *how == Use::Swapped, ..target })
    })
}

fn target(theirs: &str, ours: &'static str, module: &str, separator: char) -> Option<Target> {
    let block = matches(theirs, module, separator)?.first().copied();
    let layer = Layer { component: Component::Transformer, pattern: ours, block };
    Some(Target { layer, rows: None, swap_halves: false })
}

/// The layer of CLIP, also where the name begins inside of its `text_model`, as newer versions of transformers have it.
fn clip(module: &str, separator: char) -> Option<Target> {
    let of_clip = |pattern: &'static str| {
        let inner = pattern.strip_prefix("text_model.")?;
        let found = target(pattern, pattern, module, separator);
        Some(of(Component::Clip, found.or_else(|| target(inner, pattern, module, separator))?))
    };
    CLIP_LINEARS.into_iter().find_map(of_clip)
}

fn t5(module: &str, separator: char) -> Option<Target> {
    let of_t5 = |pattern| Some(of(Component::T5, target(pattern, pattern, module, separator)?));
    T5_LINEARS.into_iter().find_map(of_t5)
}

/// The same layer, of this part of the model.
fn of(component: Component, target: Target) -> Target {
    Target { layer: Layer { component, ..target.layer }, ..target }
}

#[cfg(test)]
mod tests;
