//! Layouts of image encoders. Ours is timm's: `patch_embed`, `blocks`, one matrix for queries, keys and values.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::pattern::{fill, matches};
use super::{Arrangement, Model, Use, arrange, stem};
use crate::weights::{Checkpoint, StoredTensor};

/// Where a module of transformers' `ViTModel` and `Dinov2Model` goes in ours; `{}` is the number of the block. Weights and biases
/// go the same way.
const DINO_MODULES: [(&str, &str, Use); 21] = [
    ("embeddings.patch_embeddings.projection", "patch_embed.proj", Use::Whole),
    ("encoder.layer.{}.layernorm_before", "blocks.{}.norm1", Use::Whole),
    ("encoder.layer.{}.layernorm_after", "blocks.{}.norm2", Use::Whole),
    ("encoder.layer.{}.norm1", "blocks.{}.norm1", Use::Whole),
    ("encoder.layer.{}.norm2", "blocks.{}.norm2", Use::Whole),
    ("encoder.layer.{}.attention.attention.query", "blocks.{}.attn.qkv", Use::Part(0, 3)),
    ("encoder.layer.{}.attention.attention.key", "blocks.{}.attn.qkv", Use::Part(1, 3)),
    ("encoder.layer.{}.attention.attention.value", "blocks.{}.attn.qkv", Use::Part(2, 3)),
    ("encoder.layer.{}.attention.output.dense", "blocks.{}.attn.proj", Use::Whole),
    // As transformers 5 names them in memory.
    ("encoder.layer.{}.attention.q_proj", "blocks.{}.attn.qkv", Use::Part(0, 3)),
    ("encoder.layer.{}.attention.k_proj", "blocks.{}.attn.qkv", Use::Part(1, 3)),
    ("encoder.layer.{}.attention.v_proj", "blocks.{}.attn.qkv", Use::Part(2, 3)),
    ("encoder.layer.{}.attention.o_proj", "blocks.{}.attn.proj", Use::Whole),
    ("encoder.layer.{}.intermediate.dense", "blocks.{}.mlp.fc1", Use::Whole),
    ("encoder.layer.{}.output.dense", "blocks.{}.mlp.fc2", Use::Whole),
    ("encoder.layer.{}.mlp.fc1", "blocks.{}.mlp.fc1", Use::Whole),
    ("encoder.layer.{}.mlp.fc2", "blocks.{}.mlp.fc2", Use::Whole),
    ("layernorm", "norm", Use::Whole),
    ("vit.layernorm", "norm", Use::Whole),
    ("dinov2.layernorm", "norm", Use::Whole),
    ("encoder.layernorm", "norm", Use::Whole),
];

/// Tensors of theirs that are no weight or bias.
const DINO_TENSORS: [(&str, &str); 4] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("encoder.layer.{}.layer_scale1.lambda1", "blocks.{}.ls1.gamma"),
    ("encoder.layer.{}.layer_scale2.lambda1", "blocks.{}.ls2.gamma"),
];

const DINO: Model = Model {
    prefixes: &["vit.", "dinov2.", "backbone."],
    markers: &["encoder.layer.", "embeddings.patch_embeddings.", "blocks.", "patch_embed."],
    foreign: "transformers",
};

/// How a DINO encoder in transformers' layout, or below a prefix, is read.
///
/// `names` are all tensors of the file(s) with their shapes. `None` if all have our names already, or if there is no encoder.
pub fn dino(names: &[(String, Vec<usize>)]) -> Option<Arrangement> {
    arrange(&DINO, names, |name| {
        // transformers 5 calls the blocks of a ViT `layers` in memory.
        let name = match name.strip_prefix("layers.") {
            Some(rest) => Cow::Owned(format!("encoder.layer.{rest}")),
            None => Cow::Borrowed(name),
        };
        place(&name, &DINO_TENSORS, &DINO_MODULES)
    })
}

/// Where a module of transformers' CLIP goes in ours.
const CLIP_MODULES: [(&str, &str, Use); 11] = [
    ("vision_model.embeddings.patch_embedding", "visual.patch_embed.proj", Use::Whole),
    // The misspelling is theirs.
    ("vision_model.pre_layrnorm", "visual.norm_pre", Use::Whole),
    ("vision_model.post_layernorm", "visual.norm", Use::Whole),
    ("vision_model.encoder.layers.{}.layer_norm1", "visual.blocks.{}.norm1", Use::Whole),
    ("vision_model.encoder.layers.{}.layer_norm2", "visual.blocks.{}.norm2", Use::Whole),
    ("vision_model.encoder.layers.{}.self_attn.q_proj", "visual.blocks.{}.attn.qkv", Use::Part(0, 3)),
    ("vision_model.encoder.layers.{}.self_attn.k_proj", "visual.blocks.{}.attn.qkv", Use::Part(1, 3)),
    ("vision_model.encoder.layers.{}.self_attn.v_proj", "visual.blocks.{}.attn.qkv", Use::Part(2, 3)),
    ("vision_model.encoder.layers.{}.self_attn.out_proj", "visual.blocks.{}.attn.proj", Use::Whole),
    ("vision_model.encoder.layers.{}.mlp.fc1", "visual.blocks.{}.mlp.fc1", Use::Whole),
    ("vision_model.encoder.layers.{}.mlp.fc2", "visual.blocks.{}.mlp.fc2", Use::Whole),
];

const CLIP: Model = Model { prefixes: &[], markers: &["vision_model.", "visual."], foreign: "transformers" };

/// How CLIP's image encoder in transformers' layout is read. The text encoder's tensors keep their names.
pub fn clip_vision(names: &[(String, Vec<usize>)]) -> Option<Arrangement> {
    arrange(&CLIP, names, |name| place(name, &[], &CLIP_MODULES))
}

fn place(name: &str, tensors: &[(&str, &str)], modules: &[(&str, &str, Use)]) -> Option<(String, Use)> {
    let whole = tensors
        .iter()
        .find_map(|(theirs, ours)| Some((fill(ours, &matches(theirs, name, '.')?), Use::Whole)));
    whole.or_else(|| {
        let (stem, end) = stem(name)?;
        modules.iter().find_map(|(theirs, ours, how)| {
            Some((format!("{}.{end}", fill(ours, &matches(theirs, stem, '.')?)), *how))
        })
    })
}

/// Where a module of OpenAI's CLIP goes in transformers' one, or in our image encoder.
const OPENAI_MODULES: [(&str, &str); 13] = [
    ("visual.conv1", "visual.patch_embed.proj"),
    ("visual.ln_pre", "visual.norm_pre"),
    ("visual.ln_post", "visual.norm"),
    ("visual.transformer.resblocks.{}.ln_1", "visual.blocks.{}.norm1"),
    ("visual.transformer.resblocks.{}.ln_2", "visual.blocks.{}.norm2"),
    ("visual.transformer.resblocks.{}.attn.out_proj", "visual.blocks.{}.attn.proj"),
    ("visual.transformer.resblocks.{}.mlp.c_fc", "visual.blocks.{}.mlp.fc1"),
    ("visual.transformer.resblocks.{}.mlp.c_proj", "visual.blocks.{}.mlp.fc2"),
    ("transformer.resblocks.{}.ln_1", "text_model.encoder.layers.{}.layer_norm1"),
    ("transformer.resblocks.{}.ln_2", "text_model.encoder.layers.{}.layer_norm2"),
    ("transformer.resblocks.{}.attn.out_proj", "text_model.encoder.layers.{}.self_attn.out_proj"),
    ("transformer.resblocks.{}.mlp.c_fc", "text_model.encoder.layers.{}.mlp.fc1"),
    ("transformer.resblocks.{}.mlp.c_proj", "text_model.encoder.layers.{}.mlp.fc2"),
];

/// Tensors that have another place, but not another form.
const OPENAI_TENSORS: [(&str, &str); 6] = [
    ("visual.transformer.resblocks.{}.attn.in_proj_weight", "visual.blocks.{}.attn.qkv.weight"),
    ("visual.transformer.resblocks.{}.attn.in_proj_bias", "visual.blocks.{}.attn.qkv.bias"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
];

/// A CLIP model with OpenAI's names (open_clip's too) under ours. Beside names it differs in form: projections lie the other
/// way round, and the text encoder's queries, keys and values are one matrix.
///
/// In any other layout the class token and the positions of the image encoder get the dimensions that timm's have.
pub(crate) fn clip_of_openai(checkpoint: &Checkpoint) -> Cow<'_, Checkpoint> {
    let tensors = checkpoint.tensors();
    let mut ours: BTreeMap<String, StoredTensor> = BTreeMap::new();
    for (name, tensor) in tensors {
        for (name, tensor) in renamed(name, tensor) {
            ours.insert(name, tensor);
        }
    }
    let changed = ours.len() != tensors.len() || ours.keys().zip(tensors.keys()).any(|(a, b)| a != b);
    if changed { Cow::Owned(checkpoint.with_tensors(ours)) } else { Cow::Borrowed(checkpoint) }
}

fn renamed(name: &str, tensor: &StoredTensor) -> Vec<(String, StoredTensor)> {
    let same = || vec![(name.to_owned(), tensor.clone())];
    let one = |ours: &str, made: Option<StoredTensor>| match made {
        Some(made) => vec![(ours.to_owned(), made)],
        None => same(),
    };
    let vectors = |tensor: &StoredTensor| {
        let [leading @ .., width] = tensor.shape() else { return None };
        let shape = vec![1, leading.iter().product::<usize>(), *width];
        tensor.reshaped(shape)
    };
    match name {
        "visual.class_embedding" | "vision_model.embeddings.class_embedding" => {
            return one("visual.cls_token", vectors(tensor));
        }
        "visual.positional_embedding" | "vision_model.embeddings.position_embedding.weight" => {
            return one("visual.pos_embed", vectors(tensor));
        }
        "visual.proj" => return one("visual_projection.weight", transposed(tensor)),
        "text_projection" => return one("text_projection.weight", transposed(tensor)),
        _ => {}
    }
    for end in ["weight", "bias"] {
        let theirs = format!("transformer.resblocks.{{}}.attn.in_proj_{end}");
        if let Some(block) = matches(&theirs, name, '.') {
            let all = tensor.shape().first().copied().unwrap_or(0);
            let rows = all / 3;
            let part = |(i, part): (usize, &str)| {
                let ours = format!("text_model.encoder.layers.{{}}.self_attn.{part}_proj.{end}");
                Some((fill(&ours, &block), tensor.slice_rows(i * rows..(i + 1) * rows)?))
            };
            let parts: Option<Vec<_>> = ["q", "k", "v"].into_iter().enumerate().map(part).collect();
            return parts.filter(|_| rows * 3 == all).unwrap_or_else(same);
        }
    }
    let whole =
        OPENAI_TENSORS.iter().find_map(|(theirs, ours)| Some(fill(ours, &matches(theirs, name, '.')?)));
    let module = || {
        let (stem, end) = stem(name)?;
        OPENAI_MODULES
            .iter()
            .find_map(|(theirs, ours)| Some(format!("{}.{end}", fill(ours, &matches(theirs, stem, '.')?))))
    };
    match whole.or_else(module) {
        Some(ours) => vec![(ours, tensor.clone())],
        None => same(),
    }
}

/// A matrix the other way round, in f32; nothing for what is no matrix, or is not read.
fn transposed(tensor: &StoredTensor) -> Option<StoredTensor> {
    let &[rows, columns] = tensor.shape() else { return None };
    if !tensor.is_read() {
        return None;
    }
    let numbers = tensor.to_f32();
    let turned: Vec<f32> = (0..rows * columns)
        .map(|i| numbers.get(i % rows * columns + i / rows).copied().unwrap_or(0.0))
        .collect();
    StoredTensor::from_f32(vec![columns, rows], &turned)
}
