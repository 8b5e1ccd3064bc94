//! Layouts of the autoencoder.

use super::pattern::{fill, matches};
use super::{Arrangement, Model, Use, arrange, stem};

/// Where a module of diffusers' `AutoencoderKL` goes in ours. `{}` are numbers of levels and blocks. Modules of both halves
/// come with the name of the half in front, and those of a residual block with [`RESNET`] behind.
const MODULES: [(&str, &str, Use); 9] = [
    ("conv_in", "conv_in", Use::Whole),
    ("conv_norm_out", "norm_out", Use::Whole),
    ("conv_out", "conv_out", Use::Whole),
    ("mid_block.attentions.0.group_norm", "mid.attn_1.norm", Use::Whole),
    // Pointwise convolutions in ours, linear layers in theirs.
    ("mid_block.attentions.0.to_q", "mid.attn_1.q", Use::Kernel),
    ("mid_block.attentions.0.to_k", "mid.attn_1.k", Use::Kernel),
    ("mid_block.attentions.0.to_v", "mid.attn_1.v", Use::Kernel),
    ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out", Use::Kernel),
    ("down_blocks.{}.downsamplers.0.conv", "down.{}.downsample.conv", Use::Whole),
];

/// Where the levels of the decoder go; theirs run from the coarsest to the finest, ours are numbered the other way round.
const UPSAMPLER: (&str, &str) = ("up_blocks.{}.upsamplers.0.conv", "up.{}.upsample.conv");

/// Where residual blocks go.
const RESNETS: [(&str, &str); 4] = [
    ("down_blocks.{}.resnets.{}.", "down.{}.block.{}."),
    ("up_blocks.{}.resnets.{}.", "up.{}.block.{}."),
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
];

/// Where the modules of a residual block go.
const RESNET: [(&str, &str); 5] = [
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("conv_shortcut", "nin_shortcut"),
];

const MODEL: Model = Model {
    prefixes: &["vae.", "first_stage_model."],
    markers: &[
        "encoder.conv_in.",
        "decoder.conv_in.",
        "encoder.down.",
        "decoder.up.",
        "encoder.down_blocks.",
        "decoder.up_blocks.",
    ],
    foreign: "diffusers",
};

/// How an autoencoder in diffusers' layout, below a prefix, or in a file with other models is read.
///
/// `names` are all tensors of the file(s) with their shapes. `None` if all have our names already, or if there is no
/// autoencoder.
pub fn autoencoder(names: &[(String, Vec<usize>)]) -> Option<Arrangement> {
    let levels = names.iter().filter_map(|(name, _)| {
        let (_, level) = name.split_once("decoder.up_blocks.")?;
        matches("{}", level.split_once('.')?.0, '.')?.first().copied()
    });
    let last_level = levels.max().unwrap_or(0);
    arrange(&MODEL, names, |name| place(name, last_level))
}

/// `last_level` is the greatest number of a level in the decoder.
fn place(name: &str, last_level: usize) -> Option<(String, Use)> {
    let (stem, end) = stem(name)?;
    let (half, module) = stem.split_once('.').filter(|(half, _)| ["encoder", "decoder"].contains(half))?;
    let translate = |theirs: &str, ours: &str, how| {
        let mut numbers = matches(theirs, module, '.')?;
        if let (true, Some(level)) = (theirs.starts_with("up_blocks."), numbers.first_mut()) {
            *level = last_level.checked_sub(*level)?;
        }
        let ours = format!("{half}.{}.{end}", fill(ours, &numbers));
        // What is called the same is ours already.
        (ours != name).then_some((ours, how))
    };
    // Biases of linear layers and of convolutions look the same.
    let how = |how| if end == "bias" { Use::Whole } else { how };
    let module = MODULES.iter().find_map(|(theirs, ours, kind)| translate(theirs, ours, how(*kind)));
    let upsampler = || translate(UPSAMPLER.0, UPSAMPLER.1, Use::Whole);
    let resnet = || {
        RESNETS.iter().find_map(|(block, our_block)| {
            RESNET.iter().find_map(|(theirs, ours)| {
                translate(&format!("{block}{theirs}"), &format!("{our_block}{ours}"), Use::Whole)
            })
        })
    };
    module.or_else(upsampler).or_else(resnet)
}
