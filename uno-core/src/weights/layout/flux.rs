//! Layouts of the FLUX transformer.

use super::pattern::{fill, matches};
use super::{Arrangement, Model, Use, arrange, stem};

/// Where a linear layer of diffusers' `FluxTransformer2DModel` goes in ours: its name, ours, and what part of ours it is.
/// `{}` is the number of the block. Weights and biases follow the same rules.
///
/// After diffusers' `scripts/convert_flux_to_diffusers.py`, read backwards. Every linear layer of ours is here.
pub(crate) const LINEARS: [(&str, &str, Use); 30] = {
    use Use::{Part, Swapped, Whole};
    [
        ("x_embedder", "img_in", Whole),
        ("context_embedder", "txt_in", Whole),
        ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer", Whole),
        ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer", Whole),
        ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer", Whole),
        ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer", Whole),
        ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer", Whole),
        ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer", Whole),
        // Scale, then shift; ours is shift, then scale.
        ("norm_out.linear", "final_layer.adaLN_modulation.1", Swapped),
        ("proj_out", "final_layer.linear", Whole),
        ("transformer_blocks.{}.norm1.linear", "double_blocks.{}.img_mod.lin", Whole),
        ("transformer_blocks.{}.norm1_context.linear", "double_blocks.{}.txt_mod.lin", Whole),
        ("transformer_blocks.{}.attn.to_q", "double_blocks.{}.img_attn.qkv", Part(0, 3)),
        ("transformer_blocks.{}.attn.to_k", "double_blocks.{}.img_attn.qkv", Part(1, 3)),
        ("transformer_blocks.{}.attn.to_v", "double_blocks.{}.img_attn.qkv", Part(2, 3)),
        ("transformer_blocks.{}.attn.add_q_proj", "double_blocks.{}.txt_attn.qkv", Part(0, 3)),
        ("transformer_blocks.{}.attn.add_k_proj", "double_blocks.{}.txt_attn.qkv", Part(1, 3)),
        ("transformer_blocks.{}.attn.add_v_proj", "double_blocks.{}.txt_attn.qkv", Part(2, 3)),
        ("transformer_blocks.{}.attn.to_out.0", "double_blocks.{}.img_attn.proj", Whole),
        ("transformer_blocks.{}.attn.to_add_out", "double_blocks.{}.txt_attn.proj", Whole),
        ("transformer_blocks.{}.ff.net.0.proj", "double_blocks.{}.img_mlp.0", Whole),
        ("transformer_blocks.{}.ff.net.2", "double_blocks.{}.img_mlp.2", Whole),
        ("transformer_blocks.{}.ff_context.net.0.proj", "double_blocks.{}.txt_mlp.0", Whole),
        ("transformer_blocks.{}.ff_context.net.2", "double_blocks.{}.txt_mlp.2", Whole),
        ("single_transformer_blocks.{}.norm.linear", "single_blocks.{}.modulation.lin", Whole),
        ("single_transformer_blocks.{}.attn.to_q", "single_blocks.{}.linear1", Part(0, 4)),
        ("single_transformer_blocks.{}.attn.to_k", "single_blocks.{}.linear1", Part(1, 4)),
        ("single_transformer_blocks.{}.attn.to_v", "single_blocks.{}.linear1", Part(2, 4)),
        ("single_transformer_blocks.{}.proj_mlp", "single_blocks.{}.linear1", Part(3, 4)),
        ("single_transformer_blocks.{}.proj_out", "single_blocks.{}.linear2", Whole),
    ]
};

/// The same for the norms of queries and keys, with the name of the parameter.
pub(super) const NORMS: [(&str, &str); 6] = [
    ("transformer_blocks.{}.attn.norm_q.weight", "double_blocks.{}.img_attn.norm.query_norm.scale"),
    ("transformer_blocks.{}.attn.norm_k.weight", "double_blocks.{}.img_attn.norm.key_norm.scale"),
    ("transformer_blocks.{}.attn.norm_added_q.weight", "double_blocks.{}.txt_attn.norm.query_norm.scale"),
    ("transformer_blocks.{}.attn.norm_added_k.weight", "double_blocks.{}.txt_attn.norm.key_norm.scale"),
    ("single_transformer_blocks.{}.attn.norm_q.weight", "single_blocks.{}.norm.query_norm.scale"),
    ("single_transformer_blocks.{}.attn.norm_k.weight", "single_blocks.{}.norm.key_norm.scale"),
];

const MODEL: Model = Model {
    prefixes: &["model.diffusion_model.", "diffusion_model.", "transformer."],
    markers: &[
        "img_in.",
        "double_blocks.",
        "single_blocks.",
        "x_embedder.",
        "transformer_blocks.",
        "single_transformer_blocks.",
    ],
    foreign: "diffusers",
};

/// How a FLUX transformer in diffusers' layout, below a prefix, or in a file with other models is read.
///
/// `names` are all tensors of the file(s) with their shapes. `None` if all have our names already, or if there is no such
/// transformer.
pub fn flux(names: &[(String, Vec<usize>)]) -> Option<Arrangement> {
    arrange(&MODEL, names, place)
}

fn place(name: &str) -> Option<(String, Use)> {
    let norm = |(theirs, ours): &(&str, &str)| Some((fill(ours, &matches(theirs, name, '.')?), Use::Whole));
    if let Some(found) = NORMS.iter().find_map(norm) {
        return Some(found);
    }
    let (stem, end) = stem(name)?;
    LINEARS.iter().find_map(|(theirs, ours, how)| {
        let numbers = matches(theirs, stem, '.')?;
        Some((format!("{}.{end}", fill(ours, &numbers)), *how))
    })
}
