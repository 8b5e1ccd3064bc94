//! Names of LoRA tensors: which linear layer of the transformer each one adapts.
//!
//! A key is a prefix, a layer and what the tensor is to it (`lora_A.weight`, `lora_up.weight`, `alpha`, ...). The layer is
//! named as the checkpoint names it, as diffusers does, or as UNO and XLabs name their attention processors; kohya and
//! OneTrainer write underscores for all dots. The prefix tells nothing that the rest does not, so any goes with any.

use std::fmt;

use crate::weights::layout::{LINEARS, Use, fill, matches};

/// A linear layer of the transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layer {
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

/// The layers that UNO's LoRA adapts, each with the beginning of its keys in UNO's files (`double_blocks.0.processor.qkv_lora1`;
/// `.down.weight` and `.up.weight` follow), for a transformer with so many double and single blocks.
pub fn uno_layers(depth: usize, depth_single: usize) -> Vec<(String, Target)> {
    let of_block = |kind: &'static str, block: usize| {
        PROCESSORS.iter().filter(move |(theirs, ..)| theirs.starts_with(kind)).map(
            move |&(theirs, pattern, rows)| {
                let layer = Layer { pattern, block: Some(block) };
                (fill(theirs, &[block]), Target { layer, rows, swap_halves: false })
            },
        )
    };
    let double = (0..depth).flat_map(|i| of_block("double_blocks.", i));
    double.chain((0..depth_single).flat_map(|i| of_block("single_blocks.", i))).collect()
}

/// Objects that the transformer is in, as PEFT and ComfyUI write them. The first of each list that fits is taken off.
const WRAPPERS: [&[&str]; 2] =
    [&["base_model.model."], &["transformer.", "model.diffusion_model.", "diffusion_model."]];

/// What keys with underscores for dots begin with , and who writes them.
const UNDERSCORED: [(&str, &str); 3] =
    [("lora_unet_", "kohya"), ("lora_transformer_", "OneTrainer"), ("lycoris_", "LyCORIS")];

/// What the keys of text encoders begin with.
const TEXT_ENCODERS: [&str; 10] = [
    "lora_te_",
    "lora_te1_",
    "lora_te2_",
    "lora_te3_",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoders.",
    "text_model.",
    "clip_l.",
    "t5xxl.",
];

/// What the tensor named `key` is: part of the LoRA of a layer of the transformer. `None` if it is nothing known.
pub fn parse(key: &str) -> Option<(Target, Half)> {
    let module = unwrapped(key);
    if let Some(found) = processor(module) {
        return Some(found);
    }
    let (module, half) = end(module, &ENDS).or_else(|| adapter_end(module))?;
    let underscored = UNDERSCORED.iter().find_map(|(prefix, _)| module.strip_prefix(prefix));
    let target = underscored.map_or_else(|| linear(module, '.'), |module| linear(module, '_'))?;
    Some((target, half))
}

/// Whether `key` adapts a text encoder.
pub fn is_text_encoder(key: &str) -> bool {
    let key = key.strip_prefix("base_model.model.").unwrap_or(key);
    TEXT_ENCODERS.iter().any(|prefix| key.starts_with(prefix))
}

/// The style of a file's keys, in words for people: that of the first key that is known.
pub fn style<'a>(keys: impl IntoIterator<Item = &'a str>) -> &'static str {
    let mut style = "unknown";
    for key in keys {
        let module = unwrapped(key);
        let Some((target, half)) = parse(key) else {
            if [".lokr_", ".hada_", ".oft_", ".glora_"].iter().any(|kind| key.contains(kind)) {
                style = "LyCORIS, but not LoRA";
            }
            continue;
        };
        let underscored = UNDERSCORED.iter().find(|(prefix, _)| module.starts_with(prefix));
        return match underscored {
            _ if half == Half::Dora => "DoRA",
            _ if processor(module).is_some() => "UNO or XLabs",
            Some((_, style)) => style,
            None if module.starts_with(&target.layer.to_string()) => {
                "the checkpoint's own names (ComfyUI, ai-toolkit)"
            }
            None => "diffusers",
        };
    }
    style
}

/// `key` without the names of objects around the transformer.
fn unwrapped(key: &str) -> &str {
    WRAPPERS
        .iter()
        .fold(key, |key, prefixes| prefixes.iter().find_map(|prefix| key.strip_prefix(prefix)).unwrap_or(key))
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
    Some(Target { layer: Layer { pattern: ours, block }, rows: None, swap_halves: false })
}

#[cfg(test)]
mod tests;
