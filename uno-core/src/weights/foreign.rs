//! Files that are known but not read: weights quantized in other ways, and other models. Each is told by the names of its
//! tensors, and each message says what to take instead.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::scales::{DESCRIPTION, WEIGHT_SCALES, description};
use super::split::gguf_parts;
use super::{Checkpoint, StorageDtype, StoredTensor};
use crate::error::{Error, Result};

/// A kind of file, and how it is recognized.
struct Kind {
    /// Its name for people, as in "is quantized as ..." or "is ...".
    name: &'static str,
    /// Sets of signs. A file is of this kind if it has all signs of one set.
    signs: &'static [&'static [&'static str]],
}

/// Ways of quantizing that are not read. Signs are endings of tensors' names. The first kind that fits is told.
const QUANTIZED: [Kind; 15] = [
    kind("bitsandbytes nf4", &[&[".quant_state.bitsandbytes__nf4"]]),
    kind("bitsandbytes fp4", &[&[".quant_state.bitsandbytes__fp4"]]),
    kind("bitsandbytes 4-bit (nf4 or fp4)", &[&[".absmax", ".quant_map"]]),
    kind("bitsandbytes int8", &[&[".SCB"]]),
    kind(
        "SVDQuant (nunchaku), int4 or fp4",
        &[
            &[".qweight", ".wscales"],
            &[".qweight", ".smooth_factor"],
            &[".qweight", ".smooth"],
            &[".qweight", ".proj_down"],
        ],
    ),
    kind("GPTQ", &[&[".qweight", ".g_idx"]]),
    kind(
        "AWQ or GPTQ",
        &[&[".qweight", ".qzeros"], &[".qweight", ".scaled_zeros"], &[".qweight", ".scales"]],
    ),
    kind(
        "quanto (int8, int4, int2 or its own fp8)",
        &[&[".weight._data"], &[".weight._scale"], &[".weight._data._data"]],
    ),
    kind("HQQ", &[&[".W_q"]]),
    kind("NVFP4", &[&[".weight_scale_2"]]),
    kind(
        "torchao (int8, int4 or its own fp8)",
        &[&[":qdata"], &["._weight_qdata"], &[".weight_qdata"], &[":int_data"]],
    ),
    kind("SDNQ (SD.Next)", &[&[".weight", ".scale", ".zero_point"], &[".scale", ".svd_up", ".svd_down"]]),
    kind("compressed-tensors, packed", &[&[".weight_packed"]]),
    kind("EXL3", &[&[".trellis"]]),
    kind("fp8 with scales of blocks", &[&[".weight_scale_inv"]]),
];

/// What is read of all that the above are made from.
const INSTEAD: &str = "take the same weights in bf16, in fp8 (e4m3 or e5m2, without scales or with one per matrix or row) or as \
     GGUF (Q8_0 to Q2_K)";

/// Other models, by signs that no file of ours has. Signs are beginnings of names, or of what follows a dot in them. The first
/// that fits is told, so what is more special comes first.
const MODELS: [Kind; 27] = [
    kind("FLUX.1-Redux, an adapter for pictures as prompts", &[&["redux_up."]]),
    kind("Chroma", &[&["distilled_guidance_layer."]]),
    kind("FLUX.2", &[&["double_stream_modulation_img."]]),
    kind(
        "a ControlNet",
        &[
            &["controlnet_blocks."],
            &["controlnet_x_embedder."],
            &["controlnet_cond_embedding."],
            &["input_hint_block."],
        ],
    ),
    kind("an IP-Adapter", &[&["ip_adapter_proj_model."], &["ip_adapter.", "image_proj."]]),
    kind("Hunyuan Video", &[&["individual_token_refiner."], &["double_blocks.0.img_attn_qkv."]]),
    kind("Qwen-Image", &[&["txt_norm.", "transformer_blocks."]]),
    kind(
        "Stable Diffusion 3",
        &[&["joint_blocks."], &["pos_embed.proj.", "context_embedder.", "transformer_blocks."]],
    ),
    kind("Stable Diffusion XL", &[&["input_blocks.", "label_emb."], &["down_blocks.", "add_embedding."]]),
    kind(
        "Stable Diffusion 1 or 2",
        &[&["input_blocks.", "middle_block."], &["down_blocks.", "time_embedding."]],
    ),
    kind("Z-Image or Lumina 2", &[&["noise_refiner.", "context_refiner."]]),
    kind("Wan", &[&["patch_embedding.", "blocks.0.cross_attn."]]),
    kind("LTX Video", &[&["patchify_proj."]]),
    kind("HiDream", &[&["double_stream_blocks."]]),
    kind("AuraFlow", &[&["double_layers."]]),
    kind("PixArt", &[&["adaln_single.", "caption_projection."]]),
    kind("a CLIP in the layout of open_clip or of OpenAI's first files", &[&["resblocks.0."]]),
    kind("UMT5", &[&["encoder.block.1.layer.0.SelfAttention.relative_attention_bias."]]),
    kind("T5 v1.0", &[&["DenseReluDense.wi."]]),
    kind("a BERT", &[&["encoder.layer.0.attention.self.query.", "embeddings.word_embeddings."]]),
    kind("a language model", &[&["layers.0.self_attn.q_proj.", "layers.0.mlp.gate_proj."]]),
    kind("the autoencoder of FLUX.2", &[&["bn.running_mean", "encoder.", "decoder."]]),
    kind("the autoencoder of Wan or Qwen-Image", &[&["decoder.middle.0.residual."]]),
    kind("the autoencoder of Stable Diffusion 1, 2 or XL", &[&["post_quant_conv."]]),
    kind("a tiny autoencoder (TAESD)", &[&["taesd_decoder."], &["decoder.layers.1.conv."]]),
    kind("an upscaler (ESRGAN)", &[&["RRDB_trunk."], &["conv_body.", "body.0.rdb1."]]),
    kind("an AnimateDiff motion module", &[&["motion_modules."]]),
];

/// Parts that may be beside the wanted one in a sound file; they are told only where the wanted one is missing.
const PARTS: [Kind; 9] = [
    kind(
        "a LoRA",
        &[
            &[".lora_A.weight"],
            &[".lora_down.weight"],
            &[".lora.down.weight"],
            &[".qkv_lora1.down.weight"],
            &[".proj_lora1.down.weight"],
        ],
    ),
    kind("a FLUX transformer", &[&["double_blocks.0."], &["single_transformer_blocks.0."]]),
    kind("the decoder of an autoencoder alone", &[&["decoder.conv_in.", "decoder.conv_out."]]),
    kind("the encoder of an autoencoder alone", &[&["encoder.conv_in.", "encoder.conv_out."]]),
    kind("a T5 encoder", &[&["encoder.block.0.layer.0.SelfAttention."], &["enc.blk.0."]]),
    kind("the decoder of a T5", &[&["decoder.block.0."], &["dec.blk.0."]]),
    kind("a CLIP text encoder", &[&["text_model.encoder.layers."]]),
    kind("the image half of a CLIP", &[&["vision_model."]]),
    kind("a language model", &[&["blk.0.attn_q."], &["layers.0.self_attn."]]),
];

const fn kind(name: &'static str, signs: &'static [&'static [&'static str]]) -> Kind {
    Kind { name, signs }
}

/// What a file is opened as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Transformer,
    Autoencoder,
    T5,
    Clip,
}

impl Wanted {
    /// What the file is not.
    fn name(self) -> &'static str {
        match self {
            Self::Transformer => "FLUX transformer",
            Self::Autoencoder => "FLUX autoencoder",
            Self::T5 => "T5 encoder",
            Self::Clip => "CLIP text encoder",
        }
    }

    /// The file to take instead.
    fn remedy(self) -> &'static str {
        match self {
            Self::Transformer => "wanted that of FLUX.1-dev or FLUX.1-schnell (flux1-dev.safetensors)",
            Self::Autoencoder => "wanted that of FLUX.1 (ae.safetensors)",
            Self::T5 => {
                "wanted the encoder of T5 v1.1 XXL (t5xxl_fp16.safetensors, or text_encoder_2/ of FLUX.1-dev)"
            }
            Self::Clip => {
                "wanted that of CLIP ViT-L/14 with the names of transformers (clip_l.safetensors, model.safetensors of \
                 openai/clip-vit-large-patch14, or text_encoder/ of FLUX.1-dev)"
            }
        }
    }
}

/// Refuses a file that is quantized in a way that is not read, or is of another model, before its tensors are looked for one by
/// one. `checkpoint` is under our names, as far as it has them.
///
/// # Errors
///
/// Such a file, by name, with what to take instead.
pub(crate) fn check(checkpoint: &Checkpoint, wanted: Wanted) -> Result<()> {
    check_storage(checkpoint)?;
    let found = MODELS.iter().find_map(|kind| Some((kind.name, found(checkpoint, kind, begins)?)));
    found.map_or(Ok(()), |(name, sign)| {
        let (no, remedy) = (wanted.name(), wanted.remedy());
        Err(Error::format(checkpoint.path(), format!("is no {no}, but {name} (it has {sign}); {remedy}")))
    })
}

/// That a tensor by which `wanted` is recognized is missing, and what the file is instead, where that can be told.
pub(crate) fn lacks(checkpoint: &Checkpoint, wanted: Wanted, tensor: &str) -> Error {
    let holds = |kind: &&Kind| found(checkpoint, kind, |name, sign| begins(name, sign) || ends(name, sign));
    let part = PARTS.iter().find(|kind| holds(kind).is_some());
    let (no, remedy) = (wanted.name(), wanted.remedy());
    let reason = match part {
        Some(part) if !part.name.ends_with(no) => format!("is no {no}, but {}; {remedy}", part.name),
        _ => {
            let parts = gguf_parts(checkpoint.path()).map_or(0, |parts| parts.len());
            let all = if parts > 0 {
                format!(" (in all {parts} parts of this split GGUF file)")
            } else {
                String::new()
            };
            format!(
                "is no {no} in a layout that is known: tensor {tensor} is missing or of another rank{all}; {remedy}"
            )
        }
    };
    Error::format(checkpoint.path(), reason)
}

/// Refuses weights that are quantized in a way that is not read.
///
/// # Errors
///
/// Such weights, by the kind, with what to take instead.
pub(super) fn check_storage(checkpoint: &Checkpoint) -> Result<()> {
    let tensors = checkpoint.tensors();
    let named =
        || QUANTIZED.iter().find_map(|kind| Some((kind.name.to_owned(), found(checkpoint, kind, ends)?)));
    let found = described(tensors).or_else(named).or_else(|| integers(tensors));
    found.map_or(Ok(()), |(name, sign)| {
        let reason = format!("is quantized as {name} (it has {sign}), which is not read; {INSTEAD}");
        Err(Error::format(checkpoint.path(), reason))
    })
}

/// The format that ComfyUI's description of a layer names; those that are read are gone from the tensors already.
fn described(tensors: &BTreeMap<String, StoredTensor>) -> Option<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Description {
        format: String,
    }
    let (name, tensor) = tensors.iter().find(|(name, _)| name.ends_with(DESCRIPTION))?;
    let text = description(tensor).unwrap_or_default();
    let format = serde_json::from_str(&text).map_or_else(|_| text.to_string(), |d: Description| d.format);
    let format: String = format.chars().filter(|c| !c.is_control()).take(80).collect();
    let format = match &*format {
        "" => "a format of ComfyUI without a name",
        "nvfp4" => "NVFP4",
        "mxfp8" => "MXFP8",
        other => other,
    };
    Some((format.to_owned(), name.clone()))
}

/// Integers with a scale beside them, and 8-bit floats with scales that are exponents (MXFP8).
fn integers(tensors: &BTreeMap<String, StoredTensor>) -> Option<(String, String)> {
    tensors.iter().find_map(|(name, scale)| {
        let layer = WEIGHT_SCALES.iter().find_map(|ending| name.strip_suffix(ending))?;
        let weight = tensors.get(&format!("{layer}.weight"))?;
        let kind = match (weight.dtype(), scale.dtype()) {
            (StorageDtype::Other(Dtype::I8), _) => "8-bit integers (I8) with scales",
            (StorageDtype::Other(Dtype::U8), _) => "4-bit numbers in bytes (U8), with scales",
            (StorageDtype::F8E4M3 | StorageDtype::F8E5M2, StorageDtype::Other(Dtype::U8)) => "MXFP8",
            _ => return None,
        };
        Some((kind.to_owned(), name.clone()))
    })
}

/// A tensor with the first sign of the set of `kind` that is whole.
fn found(checkpoint: &Checkpoint, kind: &Kind, has: impl Fn(&str, &str) -> bool) -> Option<String> {
    let names = checkpoint.tensors();
    let first = |sign: &&str| names.keys().find(|name| has(name, sign));
    kind.signs.iter().find_map(|set| {
        let found: Option<Vec<&String>> = set.iter().map(first).collect();
        found?.first().map(|name| (*name).clone())
    })
}

fn ends(name: &str, sign: &str) -> bool {
    name.ends_with(sign)
}

/// Whether the name, or what follows one of its dots, begins with the sign.
fn begins(name: &str, sign: &str) -> bool {
    name.match_indices(sign).any(|(at, _)| at == 0 || name.as_bytes().get(at - 1) == Some(&b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(entries: &[(&str, StorageDtype)]) -> Checkpoint {
        let shapes = entries.iter().map(|(name, dtype)| ((*name).to_owned(), *dtype, vec![2, 2]));
        Checkpoint::from_shapes("x.safetensors", shapes)
    }

    fn storage(names: &[&str]) -> Result<()> {
        let entries: Vec<_> = names.iter().map(|name| (*name, StorageDtype::BF16)).collect();
        check_storage(&file(&entries))
    }

    #[test]
    fn ways_of_quantizing_are_named_with_what_to_take_instead() {
        for (names, kind) in [
            (
                &["a.weight", "a.weight.absmax", "a.weight.quant_state.bitsandbytes__nf4"][..],
                "bitsandbytes nf4",
            ),
            (&["a.weight.quant_state.bitsandbytes__fp4"], "bitsandbytes fp4"),
            (&["a.weight.absmax", "a.weight.quant_map"], "nf4 or fp4"),
            (&["a.weight", "a.SCB", "a.weight_format"], "bitsandbytes int8"),
            (&["a.qweight", "a.wscales", "a.smooth_orig", "a.lora_down"], "nunchaku"),
            (&["a.qweight", "a.qzeros", "a.scales", "a.g_idx"], "GPTQ"),
            (&["a.qweight", "a.qzeros", "a.scales"], "AWQ"),
            (&["a.weight._data", "a.weight._scale", "a.input_scale"], "quanto"),
            (&["a.weight._data._data", "a.weight._scale", "a.weight._shift"], "quanto"),
            (&["a.W_q", "a.scale", "a.zero"], "HQQ"),
            (&["a.weight", "a.weight_scale", "a.weight_scale_2"], "NVFP4"),
            (&["a._weight_qdata", "a._weight_scale"], "torchao"),
            (&["a.weight:qdata", "a.weight:scale"], "torchao"),
            (&["a.weight", "a.scale", "a.zero_point"], "SDNQ"),
            (&["a.weight_packed", "a.weight_scale"], "compressed-tensors"),
            (&["a.weight", "a.weight_scale_inv"], "scales of blocks"),
        ] {
            let text = storage(names).unwrap_err().to_string();
            for words in ["x.safetensors: is quantized as", kind, "bf16", "fp8", "GGUF"] {
                assert!(text.contains(words), "{names:?}: {text}");
            }
        }
    }

    #[test]
    fn names_of_sound_files_are_no_sign() {
        storage(&[
            "double_blocks.0.img_attn.norm.query_norm.scale",
            "double_blocks.0.img_attn.qkv.weight",
            "double_blocks.0.img_attn.qkv.scale_weight",
            "double_blocks.0.img_attn.qkv.input_scale",
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        ])
        .unwrap();
    }

    #[test]
    fn integers_with_a_scale_are_told_from_fp8_with_one() {
        let with =
            |dtype| check_storage(&file(&[("a.weight", dtype), ("a.weight_scale", StorageDtype::F32)]));
        assert!(with(StorageDtype::Other(Dtype::I8)).unwrap_err().to_string().contains("8-bit integers"));
        assert!(with(StorageDtype::Other(Dtype::U8)).unwrap_err().to_string().contains("4-bit"));
        with(StorageDtype::F8E4M3).unwrap();
        let exponents =
            [("a.weight", StorageDtype::F8E4M3), ("a.weight_scale", StorageDtype::Other(Dtype::U8))];
        assert!(check_storage(&file(&exponents)).unwrap_err().to_string().contains("MXFP8"));
    }

    #[test]
    fn other_models_are_named_and_so_is_the_file_to_take() {
        for (names, wanted, words) in [
            (
                &["distilled_guidance_layer.in_proj.weight", "img_in.weight"][..],
                Wanted::Transformer,
                "Chroma",
            ),
            (&["double_stream_modulation_img.lin.weight", "img_in.weight"], Wanted::Transformer, "FLUX.2"),
            (&["redux_up.weight", "redux_down.weight"], Wanted::Transformer, "Redux"),
            (
                &[
                    "model.diffusion_model.input_blocks.0.0.weight",
                    "model.diffusion_model.label_emb.0.0.weight",
                ],
                Wanted::Transformer,
                "Stable Diffusion XL",
            ),
            (&["model.diffusion_model.joint_blocks.0.x"], Wanted::Transformer, "Stable Diffusion 3"),
            (&["txt_norm.weight", "transformer_blocks.0.x"], Wanted::Transformer, "Qwen-Image"),
            (&["transformer.resblocks.0.ln_1.weight", "visual.proj"], Wanted::Clip, "open_clip"),
            (
                &["encoder.conv_in.weight", "post_quant_conv.weight"],
                Wanted::Autoencoder,
                "Stable Diffusion 1",
            ),
            (&["encoder.block.0.layer.1.DenseReluDense.wi.weight"], Wanted::T5, "T5 v1.0"),
        ] {
            let entries: Vec<_> = names.iter().map(|name| (*name, StorageDtype::BF16)).collect();
            let text = check(&file(&entries), wanted).unwrap_err().to_string();
            assert!(
                text.contains(words) && text.contains("wanted that of") | text.contains("wanted the"),
                "{text}"
            );
        }
    }

    #[test]
    fn names_of_our_models_are_no_sign_of_others() {
        for (wanted, names) in [
            (
                Wanted::Transformer,
                &["transformer_blocks.0.attn.to_q.weight", "context_embedder.weight", "proj_out.weight"][..],
            ),
            (
                Wanted::Clip,
                &[
                    "text_model.encoder.layers.0.self_attn.q_proj.weight",
                    "vision_model.encoder.layers.0.mlp.fc1.weight",
                ],
            ),
            (
                Wanted::T5,
                &[
                    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                    "decoder.block.1.layer.0.SelfAttention.q.weight",
                ],
            ),
            (
                Wanted::Autoencoder,
                &["encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"],
            ),
        ] {
            let entries: Vec<_> = names.iter().map(|name| (*name, StorageDtype::BF16)).collect();
            check(&file(&entries), wanted).unwrap();
        }
    }

    #[test]
    fn another_part_of_the_same_model_is_named_where_the_wanted_one_is_missing() {
        let lacks = |name, wanted| lacks(&file(&[(name, StorageDtype::BF16)]), wanted, "x").to_string();
        assert!(
            lacks("text_model.encoder.layers.0.x", Wanted::T5).contains("no T5 encoder, but a CLIP text")
        );
        assert!(lacks("vision_model.x", Wanted::Clip).contains("image half"));
        assert!(lacks("a.lora_A.weight", Wanted::Transformer).contains("but a LoRA"));
        assert!(lacks("who.knows", Wanted::Transformer).contains("tensor x is missing"));
    }
}
