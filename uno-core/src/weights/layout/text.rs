//! Layouts of the text encoders.

use super::pattern::{fill, matches};
use super::{Arrangement, Model, Use, arrange};

/// Where a tensor of llama.cpp's T5 goes in ours. `{}` is the number of the block.
///
/// After `gguf-py/gguf/constants.py` and `tensor_mapping.py` of llama.cpp. Shapes are the same.
const LLAMA_T5: [(&str, &str); 12] = [
    ("token_embd.weight", "shared.weight"),
    ("enc.output_norm.weight", "encoder.final_layer_norm.weight"),
    ("enc.blk.{}.attn_norm.weight", "encoder.block.{}.layer.0.layer_norm.weight"),
    ("enc.blk.{}.attn_q.weight", "encoder.block.{}.layer.0.SelfAttention.q.weight"),
    ("enc.blk.{}.attn_k.weight", "encoder.block.{}.layer.0.SelfAttention.k.weight"),
    ("enc.blk.{}.attn_v.weight", "encoder.block.{}.layer.0.SelfAttention.v.weight"),
    ("enc.blk.{}.attn_o.weight", "encoder.block.{}.layer.0.SelfAttention.o.weight"),
    ("enc.blk.{}.attn_rel_b.weight", "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"),
    ("enc.blk.{}.ffn_norm.weight", "encoder.block.{}.layer.1.layer_norm.weight"),
    ("enc.blk.{}.ffn_gate.weight", "encoder.block.{}.layer.1.DenseReluDense.wi_0.weight"),
    ("enc.blk.{}.ffn_up.weight", "encoder.block.{}.layer.1.DenseReluDense.wi_1.weight"),
    ("enc.blk.{}.ffn_down.weight", "encoder.block.{}.layer.1.DenseReluDense.wo.weight"),
];

const T5: Model = Model {
    prefixes: &["text_encoders.t5xxl.transformer.", "t5xxl.transformer."],
    markers: &["encoder.block.", "enc.blk."],
    foreign: "GGUF (llama.cpp names)",
};

const CLIP: Model = Model {
    prefixes: &["text_encoders.clip_l.transformer.", "clip_l.transformer.", "transformer."],
    markers: &["text_model.encoder.layers.", "text_model.embeddings."],
    foreign: "",
};

/// How a T5 encoder with llama.cpp's names, below a prefix, or in a file with other models is read.
///
/// `names` are all tensors of the file(s) with their shapes. `None` if all have our names already, or if there is no T5.
pub fn t5(names: &[(String, Vec<usize>)]) -> Option<Arrangement> {
    arrange(&T5, names, |name| {
        // Tensors of a whole T5 that an encoder does not need: under the names that our loader knows as such.
        let unused = || match name {
            "output.weight" => Some("lm_head.weight".to_owned()),
            _ => name.strip_prefix("dec.").map(|rest| format!("decoder.{rest}")),
        };
        let encoder =
            LLAMA_T5.iter().find_map(|(theirs, ours)| Some(fill(ours, &matches(theirs, name, '.')?)));
        Some((encoder.or_else(unused)?, Use::Whole))
    })
}

/// How a CLIP text encoder below a prefix, or in a file with other models is read.
///
/// `names` are all tensors of the file(s) with their shapes. `None` if all have our names already, or if there is no CLIP
/// text encoder.
pub fn clip(names: &[(String, Vec<usize>)]) -> Option<Arrangement> {
    arrange(&CLIP, names, |_| None)
}
