//! Weight files of kinds that are known and not read: each is refused by name, with what to take instead, whatever part of the
//! model it is given as.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/raw_files.rs"]
mod raw_files;

use std::process::Command;

use common::program::{Desk, RawTensor, Tensors, example, serialized};
use raw_files::{Gguf, f32s, matrix, tensors, zeros};
use safetensors::Dtype;
use uno_core::flux::FluxConfig;
use uno_core::text::{ClipTextConfig, T5Config};
use uno_core::vae::AutoEncoderConfig;
use uno_core::weights::Checkpoint;

const DIT: &str = "model/flux1-dev.safetensors";
const AE: &str = "model/ae.safetensors";
const T5: &str = "model/t5/model.safetensors";
const CLIP: &str = "model/clip/model.safetensors";
const LORA: &str = "model/dit_lora.safetensors";

/// The first matrix of a model, or the first kernel of an autoencoder.
fn first_matrix(all: &Tensors) -> String {
    let is_matrix =
        |(name, tensor): &(&String, &RawTensor)| name.ends_with(".weight") && tensor.shape.len() >= 2;
    all.iter().find(is_matrix).unwrap().0.clone()
}

/// Puts what a way of quantizing keeps beside a layer (`{}`) in the place of its weight.
fn quantize(all: &mut Tensors, kept: &[(&str, Dtype, &[usize])]) {
    let weight = first_matrix(all);
    all.remove(&weight);
    let layer = weight.strip_suffix(".weight").unwrap();
    all.extend(kept.iter().map(|(name, dtype, shape)| (name.replace("{}", layer), zeros(*dtype, shape))));
}

type Kept = &'static [(&'static str, Dtype, &'static [usize])];

/// Ways of quantizing as their programs write them, each with the words that name it.
const KINDS: [(&str, Kept); 10] = [
    (
        "bitsandbytes nf4",
        &[
            ("{}.weight", Dtype::U8, &[2048, 1]),
            ("{}.weight.absmax", Dtype::U8, &[64]),
            ("{}.weight.nested_absmax", Dtype::F32, &[1]),
            ("{}.weight.quant_map", Dtype::F32, &[16]),
            ("{}.weight.quant_state.bitsandbytes__nf4", Dtype::U8, &[103]),
        ],
    ),
    (
        "bitsandbytes fp4",
        &[
            ("{}.weight", Dtype::U8, &[2048, 1]),
            ("{}.weight.quant_state.bitsandbytes__fp4", Dtype::U8, &[103]),
        ],
    ),
    (
        "bitsandbytes int8",
        &[
            ("{}.weight", Dtype::I8, &[64, 32]),
            ("{}.SCB", Dtype::F32, &[64]),
            ("{}.weight_format", Dtype::U8, &[]),
        ],
    ),
    (
        "SVDQuant (nunchaku)",
        &[
            ("{}.qweight", Dtype::I8, &[64, 32]),
            ("{}.wscales", Dtype::BF16, &[1, 64]),
            ("{}.smooth_factor", Dtype::BF16, &[64]),
            ("{}.proj_down", Dtype::BF16, &[64, 16]),
            ("{}.proj_up", Dtype::BF16, &[64, 16]),
        ],
    ),
    ("quanto", &[("{}.weight._data", Dtype::I8, &[64, 64]), ("{}.weight._scale", Dtype::BF16, &[64, 1])]),
    (
        "AWQ",
        &[
            ("{}.qweight", Dtype::I32, &[16, 64]),
            ("{}.scales", Dtype::F16, &[1, 64]),
            ("{}.qzeros", Dtype::I32, &[1, 8]),
        ],
    ),
    (
        "GPTQ",
        &[
            ("{}.qweight", Dtype::I32, &[8, 64]),
            ("{}.g_idx", Dtype::I32, &[64]),
            ("{}.qzeros", Dtype::I32, &[1, 8]),
        ],
    ),
    (
        "HQQ",
        &[("{}.W_q", Dtype::U8, &[32, 64]), ("{}.scale", Dtype::F16, &[64]), ("{}.zero", Dtype::F16, &[64])],
    ),
    (
        "NVFP4",
        &[
            ("{}.weight", Dtype::U8, &[64, 32]),
            ("{}.weight_scale", Dtype::F8_E4M3, &[64, 4]),
            ("{}.weight_scale_2", Dtype::F32, &[]),
            ("{}.input_scale", Dtype::F32, &[]),
        ],
    ),
    ("8-bit integers", &[("{}.weight", Dtype::I8, &[64, 64]), ("{}.weight_scale", Dtype::F32, &[])]),
];

#[test]
fn weights_quantized_otherwise_are_named_in_every_part_of_the_model() {
    for (kind, kept) in KINDS {
        for file in [DIT, AE, T5, CLIP, LORA] {
            let desk = Desk::with_model();
            desk.change_tensors(file, |all| quantize(all, kept));
            let error = Checkpoint::open(desk.path(file)).unwrap_err().to_string();
            for words in [file.rsplit('/').next().unwrap(), "is quantized as", kind, "bf16", "fp8", "GGUF"] {
                assert!(error.contains(words), "{file} in {kind}: {error}");
            }
        }
    }
}

#[test]
fn the_program_and_the_converter_say_so_before_any_work() {
    let desk = Desk::with_model();
    for (file, (kind, kept)) in [DIT, T5, CLIP].into_iter().zip(KINDS) {
        let sound = desk.read(file);
        desk.change_tensors(file, |all| quantize(all, kept));
        desk.run("--model model").refused(&desk, &[kind, "bf16", "GGUF"]);
        let input = desk.path(file);
        let arguments =
            ["--storage", "bf16", "--out", "converted.safetensors", "--input", input.to_str().unwrap()];
        let converted =
            Command::new(example("convert")).args(arguments).current_dir(desk.path("")).output().unwrap();
        assert!(!converted.status.success());
        assert!(String::from_utf8_lossy(&converted.stderr).contains(kind), "{converted:?}");
        assert!(!desk.path("converted.safetensors").exists());
        desk.put(file, sound);
    }
}

/// Prefixes every name of a part's tensors.
fn below(prefix: &str, part: Tensors) -> impl Iterator<Item = (String, RawTensor)> {
    part.into_iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
}

#[test]
fn beside_a_quantized_transformer_the_other_parts_of_a_file_are_read() {
    let desk = Desk::with_model();
    desk.change_tensors(DIT, |all| quantize(all, KINDS[0].1));
    let part = |file| raw_files::read_tensors(&desk.read(file));
    let all: Tensors = below("model.diffusion_model.", part(DIT)).chain(below("vae.", part(AE))).collect();
    let checkpoint = Checkpoint::from_bytes("all.safetensors", serialized(&all).into()).unwrap();
    AutoEncoderConfig::detect(&checkpoint).unwrap();
    let error = FluxConfig::detect(&checkpoint).unwrap_err().to_string();
    assert!(error.contains("bitsandbytes nf4"), "{error}");
}

#[test]
fn fp8_with_a_description_of_the_layer_is_still_read() {
    for format in ["float8_e4m3fn", "float8_e5m2"] {
        let desk = Desk::with_model();
        desk.change_tensors(DIT, |all| {
            let text = format!(r#"{{"format":"{format}"}}"#).into_bytes();
            let weight = first_matrix(all);
            let layer = weight.strip_suffix(".weight").unwrap().to_owned();
            let dtype = if format.ends_with("e5m2") { Dtype::F8_E5M2 } else { Dtype::F8_E4M3 };
            let shape = all[&weight].shape.clone();
            all.insert(weight, zeros(dtype, &shape));
            all.insert(format!("{layer}.weight_scale"), f32s(&[], [0.5]));
            all.insert(
                format!("{layer}.comfy_quant"),
                RawTensor { dtype: Dtype::U8, shape: vec![text.len()], data: text },
            );
        });
        FluxConfig::detect(&Checkpoint::open(desk.path(DIT)).unwrap()).unwrap();
    }
}

#[test]
fn relatives_of_flux_dev_that_take_more_channels_are_named() {
    for (times, words) in [
        (2, "takes 128 channels: FLUX.1-Canny or FLUX.1-Depth; wanted 64"),
        (6, "takes 384 channels: FLUX.1-Fill; wanted 64"),
    ] {
        let desk = Desk::with_model();
        desk.change_tensors(DIT, |all| {
            let old = &all["img_in.weight"];
            let wide = zeros(old.dtype, &[old.shape[0], times * old.shape[1]]);
            all.insert("img_in.weight".into(), wide);
        });
        desk.run("--model model").refused(&desk, &[words, "FLUX.1-dev"]);
    }
}

#[test]
fn other_models_are_named_with_the_file_to_take() {
    let desk = Desk::with_model();
    let model =
        |names: &[&str]| serialized(&names.iter().map(|name| ((*name).to_owned(), matrix(4, 4))).collect());
    for (part, names, words) in [
        ("dit", &["distilled_guidance_layer.in_proj.weight", "img_in.weight", "txt_in.weight"][..], "Chroma"),
        ("dit", &["double_stream_modulation_img.lin.weight", "img_in.weight"], "FLUX.2"),
        ("dit", &["redux_up.weight", "redux_down.weight"], "FLUX.1-Redux"),
        ("dit", &["joint_blocks.0.context_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (
            "dit",
            &["model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.label_emb.0.0.weight"],
            "Stable Diffusion XL",
        ),
        ("dit", &["transformer_blocks.0.attn.to_q.weight", "txt_norm.weight", "img_in.weight"], "Qwen-Image"),
        ("dit", &["controlnet_blocks.0.weight", "double_blocks.0.img_attn.qkv.weight"], "ControlNet"),
        (
            "clip",
            &["transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight", "visual.conv1.weight"],
            "open_clip",
        ),
        ("clip", &["vision_model.encoder.layers.0.mlp.fc1.weight"], "the image half of a CLIP"),
        ("t5", &["encoder.block.0.layer.1.DenseReluDense.wi.weight", "shared.weight"], "T5 v1.0"),
        ("t5", &["decoder.block.0.layer.0.SelfAttention.q.weight"], "the decoder of a T5"),
        (
            "t5",
            &["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"],
            "a language model",
        ),
        ("ae", &["encoder.conv_in.weight", "post_quant_conv.weight"], "Stable Diffusion 1, 2 or XL"),
        ("ae", &["decoder.conv_in.weight", "decoder.conv_out.weight"], "the decoder of an autoencoder alone"),
    ] {
        desk.put("other.safetensors", model(names));
        let tokenizers = "--t5_tokenizer model/t5 --clip_tokenizer model/clip";
        desk.run(&format!("--model model {tokenizers} --{part} other.safetensors"))
            .refused(&desk, &["other.safetensors", words, "wanted th"]);
    }
}

#[test]
fn a_file_in_the_place_of_another_part_is_named() {
    let desk = Desk::with_model();
    for (part, file, words) in [
        ("dit", T5, "is no FLUX transformer, but a T5 encoder"),
        ("dit", LORA, "is no FLUX transformer, but a LoRA"),
        ("t5", CLIP, "is no T5 encoder, but a CLIP text encoder"),
        ("clip", DIT, "is no CLIP text encoder, but a FLUX transformer"),
        ("ae", CLIP, "is no FLUX autoencoder, but a CLIP text encoder"),
    ] {
        let tokenizers = "--t5_tokenizer model/t5 --clip_tokenizer model/clip";
        desk.run(&format!("--model model {tokenizers} --{part} {file}")).refused(&desk, &[words]);
    }
}

#[test]
fn sound_models_are_taken_for_nothing_else() {
    let desk = Desk::with_model();
    let open = |file| Checkpoint::open(desk.path(file)).unwrap();
    FluxConfig::detect(&open(DIT)).unwrap();
    AutoEncoderConfig::detect(&open(AE)).unwrap();
    T5Config::detect(&open(T5)).unwrap();
    ClipTextConfig::detect(&open(CLIP), Some(&desk.read("model/clip/config.json"))).unwrap();
}

#[test]
fn a_file_that_is_longer_or_shorter_than_its_header_says_is_told_by_how_much() {
    let sound = serialized(&tensors([("a", matrix(2, 4))]));
    let open = |bytes: Vec<u8>| Checkpoint::from_bytes("x.safetensors", bytes.into());
    open(sound.clone()).unwrap();
    let longer = open([&sound[..], &[0; 96]].concat()).unwrap_err().to_string();
    assert!(
        longer.contains("longer than its header says by 96 bytes") && !longer.contains("truncated"),
        "{longer}"
    );
    let shorter = open(sound[..sound.len() - 5].to_vec()).unwrap_err().to_string();
    assert!(shorter.contains("cut short") && shorter.contains(&sound.len().to_string()), "{shorter}");

    let sound = Gguf::sound().bytes();
    let open = |bytes: Vec<u8>| Checkpoint::from_bytes("x.gguf", bytes.into());
    // The last tensor may be filled up to the alignment, or not.
    for padding in [0, sound.len().next_multiple_of(32) - sound.len()] {
        open([&sound[..], &vec![0; padding]].concat()).unwrap();
    }
    let longer = open([&sound[..], &[0; 96]].concat()).unwrap_err().to_string();
    assert!(longer.contains("longer than its header says by 96 bytes"), "{longer}");
}
