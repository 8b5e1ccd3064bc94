//! Weight files that are cut short, changed or lie, of each kind but GGUF: an error that names the file and says what is wrong
//! and how to mend it, and never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/raw_files.rs"]
mod raw_files;

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use common::program::{Desk, RawTensor, Tensors, serialized};
use common::{device, dit_path, values};
use proptest::prelude::*;
use raw_files::{f32s, matrix, read_tensors, safetensors, tensors, zeros};
use safetensors::Dtype;
use uno_core::flux::{Flux, FluxConfig};
use uno_core::lora;
use uno_core::text::{ClipTextEncoder, T5Encoder};
use uno_core::traits::{Conditioning, VelocityInput, VelocityModel};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions};
use uno_models::unope::{UnoPe, sequence_ids};

fn dev64() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dev64")
}

/// The folder of the model inside the programs.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("uno-models/assets/tiny")
}

fn options() -> LoadOptions {
    LoadOptions::new(&device())
}

const NAME: &str = "folder/flux1-dev.safetensors";

/// The message with which a file is refused; it names the file.
#[track_caller]
fn refusal(bytes: Vec<u8>) -> String {
    match Checkpoint::from_bytes(NAME, bytes.into()) {
        Ok(opened) => panic!("it was opened: {:?}", opened.tensors()),
        Err(error) => {
            let message = error.to_string();
            println!("{message}");
            assert!(message.starts_with(NAME), "{message}");
            message
        }
    }
}

#[track_caller]
fn holds(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

// safetensors

/// A header of one tensor of 128 bytes.
fn header(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"a.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

/// Formats with a shape of 128 bytes.
const FORMATS: [(&str, &str); 5] =
    [("F32", "[4,8]"), ("F16", "[8,8]"), ("BF16", "[8,8]"), ("F8_E4M3", "[8,16]"), ("F8_E5M2", "[8,16]")];

#[test]
fn a_file_cut_at_any_byte_is_refused_in_every_format() {
    for (dtype, shape) in FORMATS {
        let whole = safetensors(header(dtype, shape, "[0,128]"), &[0; 128]);
        Checkpoint::from_bytes(NAME, whole.clone().into()).unwrap();
        for length in 0..whole.len() {
            let error = Checkpoint::from_bytes(NAME, whole[..length].to_vec().into()).unwrap_err();
            holds(&error.to_string(), &[NAME, "load it anew"]);
        }
        // More than the header knows of is no sound file either.
        holds(&refusal([&whole[..], &[0; 4]].concat()), &["load it anew"]);
    }
}

#[test]
fn shapes_and_places_that_lie_are_refused_in_every_format() {
    const HUGE: &str = "18446744073709551615";
    for (dtype, shape) in FORMATS {
        for other in [
            "[4,9]",
            "[3,8]",
            "[0]",
            "[]",
            "[4294967296,4294967296]",
            &format!("[{HUGE},{HUGE}]"),
            &format!("[{HUGE},0]"),
            "[-4,-8]",
            "[4.0,8.0]",
            "[1e3]",
            "\"4,8\"",
            "[[4,8]]",
            "null",
            "[99999999999999999999999]",
        ] {
            refusal(safetensors(header(dtype, other, "[0,128]"), &[0; 128]));
        }
        for offsets in [
            "[0,127]",
            "[0,129]",
            "[4,128]",
            "[4,132]",
            "[128,0]",
            "[0]",
            "[0,64,128]",
            "[-128,0]",
            &format!("[0,{HUGE}]"),
            &format!("[{HUGE},{HUGE}]"),
            "[]",
            "null",
        ] {
            refusal(safetensors(header(dtype, shape, offsets), &[0; 128]));
        }
    }
    for dtype in ["F33", "f32", "", "F8_E4M3FN", "Q4_K", "BFLOAT16"] {
        refusal(safetensors(header(dtype, "[4,8]", "[0,128]"), &[0; 128]));
    }
}

#[test]
fn tensors_that_lie_over_each_other_or_leave_gaps_are_refused() {
    let two = |first: &str, second: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[16],"data_offsets":{first}}},"b":{{"dtype":"F32","shape":[16],"data_offsets":{second}}}}}"#
        )
    };
    Checkpoint::from_bytes(NAME, safetensors(two("[64,128]", "[0,64]"), &[0; 128]).into()).unwrap();
    for (first, second) in [("[0,64]", "[0,64]"), ("[0,64]", "[32,96]"), ("[0,64]", "[68,132]")] {
        refusal(safetensors(two(first, second), &[0; 128]));
    }
    // One name for two tensors.
    let twice = two("[0,64]", "[64,128]").replace("\"b\"", "\"a\"");
    refusal(safetensors(twice, &[0; 128]));
}

#[test]
fn headers_that_are_no_headers_are_refused() {
    let deep = "[".repeat(200_000);
    let deep_object = r#"{"a":"#.repeat(100_000);
    for header in ["", "{", "[]", "null", "7", "\"text\"", r#"{"a":7}"#, r#"{"a":{}}"#, &deep, &deep_object] {
        refusal(safetensors(header, &[0; 16]));
    }
    refusal(safetensors([0xff, 0xfe, b'{', b'}'], &[]));
    refusal(safetensors(r#"{"__metadata__":{"a":7}}"#, &[]));
    let sound = safetensors(header("F32", "[4,8]", "[0,128]"), &[0; 128]);
    let length = u64::from_le_bytes(sound[..8].try_into().unwrap());
    for lie in [0, 1, length - 1, length + 1, sound.len() as u64, 1 << 40, 1 << 63, u64::MAX - 7, u64::MAX] {
        refusal([&lie.to_le_bytes(), &sound[8..]].concat());
    }
}

#[test]
fn a_format_that_no_weight_has_is_named_by_the_loader() {
    let mut ours = read_tensors(&std::fs::read(dit_path(&dev64())).unwrap());
    let name = "double_blocks.0.img_attn.qkv.weight";
    let shape = ours[name].shape.clone();
    for dtype in [Dtype::I8, Dtype::U8, Dtype::I64, Dtype::BOOL, Dtype::F4] {
        ours.insert(name.into(), zeros(dtype, &shape));
        let checkpoint = Checkpoint::from_bytes(NAME, serialized(&ours).into()).unwrap();
        let error = Flux::load(&checkpoint, &options()).unwrap_err().to_string();
        holds(&error, &[NAME, name, &format!("{dtype:?}"), "check that the file"]);
    }
}

#[test]
fn dimensions_without_numbers_are_refused_by_every_model_before_anything_is_made() {
    let model = dev64().join("model");
    let read = |path: PathBuf| read_tensors(&std::fs::read(path).unwrap());
    let mut t5 = read(model.join("t5/model-00001-of-00002.safetensors"));
    t5.extend(read(model.join("t5/model-00002-of-00002.safetensors")));
    type Load = fn(&Checkpoint) -> Result<(), uno_core::Error>;
    let models: [(&str, Tensors, Load); 4] = [
        ("dit", read(dit_path(&dev64())), |c| Flux::load(c, &options()).map(drop)),
        ("ae", read(model.join("ae.safetensors")), |c| AutoEncoder::load(c, &options()).map(drop)),
        ("t5", t5, |c| T5Encoder::load(c, &options()).map(drop)),
        ("clip", read(model.join("clip/model.safetensors")), |c| {
            ClipTextEncoder::load(c, None, &options()).map(drop)
        }),
    ];
    for (part, sound, load) in models {
        for (name, tensor) in &sound {
            for place in 0..tensor.shape.len() {
                // No data, but a side that would be terabytes were it believed.
                let mut shape = tensor.shape.clone();
                shape[place] = 0;
                let other = (place + 1) % shape.len();
                if other != place {
                    shape[other] = 1 << 42;
                }
                let mut lie = sound.clone();
                lie.insert(name.clone(), zeros(tensor.dtype, &shape));
                let checkpoint = Checkpoint::from_bytes(NAME, serialized(&lie).into()).unwrap();
                let error = load(&checkpoint).expect_err(&format!("{part}: {name} as {shape:?}")).to_string();
                assert!(error.contains(NAME), "{part}: {name} as {shape:?}: {error}");
            }
        }
    }
}

// fp8 with scales

/// A file of one scaled matrix of 4 rows and its scale.
fn scaled(scale: RawTensor, key: &str) -> Vec<u8> {
    let mut weight = zeros(Dtype::F8_E4M3, &[4, 8]);
    weight.data.fill(0x38);
    serialized(&tensors([("layer.weight", weight), (key, scale)]))
}

const SCALES: [&str; 2] = ["layer.scale_weight", "layer.weight_scale"];

#[test]
fn sound_scales_are_read_before_they_are_damaged() {
    for key in SCALES {
        for (shape, count) in [(&[][..], 1), (&[1], 1), (&[4], 4), (&[4, 1], 4)] {
            let bytes = scaled(f32s(shape, vec![2.0; count]), key);
            let checkpoint = Checkpoint::from_bytes(NAME, bytes.into()).unwrap();
            assert_eq!(checkpoint.tensors()["layer.weight"].to_f32(), [2.0; 32], "{key} {shape:?}");
        }
    }
}

#[test]
fn scales_of_another_length_are_refused_with_both_shapes() {
    for key in SCALES {
        for shape in [&[0][..], &[2], &[3], &[5], &[8], &[32], &[4, 8], &[1, 8], &[4, 2]] {
            let count = shape.iter().product();
            let message = refusal(scaled(f32s(shape, vec![1.0; count]), key));
            holds(&message, &[key, "layer.weight", &format!("{shape:?}"), "[4, 8]", "one per row"]);
        }
    }
}

#[test]
fn scales_of_blocks_that_happen_to_be_as_many_as_rows_are_refused() {
    for key in SCALES {
        for shape in [&[2, 2][..], &[1, 4], &[1, 2, 2]] {
            let message = refusal(scaled(f32s(shape, [1.0, 2.0, 3.0, 4.0]), key));
            holds(&message, &[key, "layer.weight", &format!("{shape:?}"), "[4, 8]", "one per row"]);
        }
    }
}

#[test]
fn scales_that_are_not_finite_are_refused_with_their_value() {
    for key in SCALES {
        for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            holds(&refusal(scaled(f32s(&[], [value]), key)), &[key, word, "anew"]);
            holds(&refusal(scaled(f32s(&[4], [1.0, 1.0, value, 1.0]), key)), &[key, word, "anew"]);
        }
    }
}

#[test]
fn scales_of_zero_that_would_blank_a_matrix_are_refused() {
    for key in SCALES {
        holds(&refusal(scaled(f32s(&[], [0.0]), key)), &[key, "0", "anew"]);
        holds(&refusal(scaled(f32s(&[4], [1.0, 0.0, 1.0, 1.0]), key)), &[key, "0", "anew"]);
    }
}

#[test]
fn scales_of_a_format_without_fractions_are_refused_with_its_name() {
    for key in SCALES {
        for dtype in [Dtype::I32, Dtype::U8, Dtype::I64, Dtype::F8_E8M0] {
            let message = refusal(scaled(zeros(dtype, &[1]), key));
            holds(&message, &[key, "layer.weight", &format!("{dtype:?}")]);
        }
    }
}

#[test]
fn scales_beside_weights_that_need_none_and_block_scales_are_refused() {
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::I8] {
        let bytes = serialized(&tensors([
            ("layer.weight", zeros(dtype, &[4, 8])),
            ("layer.weight_scale", f32s(&[], [1.0])),
        ]));
        holds(&refusal(bytes), &["layer.weight_scale", &format!("{dtype:?}")]);
    }
    for (key, kind) in [("layer.weight_scale_inv", "blocks"), ("layer.weight_scale_2", "NVFP4")] {
        holds(&refusal(scaled(f32s(&[1], [1.0]), key)), &[key, kind, "take the same weights in bf16"]);
    }
    let mut described = tensors([("layer.weight", zeros(Dtype::F8_E4M3, &[4, 8]))]);
    let text = br#"{"format":"nvfp4"}"#;
    let description = RawTensor { dtype: Dtype::U8, shape: vec![text.len()], data: text.to_vec() };
    described.insert("layer.comfy_quant".into(), description);
    holds(&refusal(serialized(&described)), &["layer.comfy_quant", "NVFP4", "take the same weights in bf16"]);
}

#[test]
fn a_scale_without_its_weight_is_unknown_to_the_loader() {
    let mut ours = read_tensors(&std::fs::read(dit_path(&dev64())).unwrap());
    ours.insert("double_blocks.7.img_attn.qkv.scale_weight".into(), f32s(&[], [1.0]));
    let checkpoint = Checkpoint::from_bytes(NAME, serialized(&ours).into()).unwrap();
    let error = Flux::load(&checkpoint, &options()).unwrap_err().to_string();
    holds(&error, &[NAME, "double_blocks.7"]);
}

// Shards

/// A folder with two shards of three tensors and their index, under the names of diffusers.
fn sharded() -> Desk {
    let desk = Desk::new();
    let shard = |names: &[&str]| {
        serialized(&names.iter().map(|name| ((*name).to_owned(), matrix(4, 8))).collect::<Tensors>())
    };
    desk.put("transformer/diffusion_pytorch_model-00001-of-00002.safetensors", shard(&["a", "b"]));
    desk.put("transformer/diffusion_pytorch_model-00002-of-00002.safetensors", shard(&["c"]));
    desk.put(INDEX, index(&[("a", FIRST), ("b", FIRST), ("c", SECOND)]));
    desk
}

const INDEX: &str = "transformer/diffusion_pytorch_model.safetensors.index.json";
const FIRST: &str = "diffusion_pytorch_model-00001-of-00002.safetensors";
const SECOND: &str = "diffusion_pytorch_model-00002-of-00002.safetensors";

fn index(entries: &[(&str, &str)]) -> String {
    let map: std::collections::BTreeMap<_, _> = entries.iter().copied().collect();
    serde_json::json!({"metadata": {"total_size": 384}, "weight_map": map}).to_string()
}

/// The message with which the folder is refused.
#[track_caller]
fn folder_refusal(desk: &Desk, words: &[&str]) {
    let message = Checkpoint::open(desk.path("transformer")).expect_err("it was opened").to_string();
    println!("{message}");
    holds(&message, words);
}

#[test]
fn an_index_that_lies_is_refused() {
    let desk = sharded();
    assert_eq!(Checkpoint::open(desk.path("transformer")).unwrap().tensors().len(), 3);
    let file = "diffusion_pytorch_model.safetensors.index.json";
    for text in [
        "",
        "{",
        "[]",
        "{}",
        "null",
        r#"{"weight_map":null}"#,
        r#"{"weight_map":["a"]}"#,
        r#"{"weight_map":{"a":7}}"#,
        r#"{"weight_map":{"a":["x"]}}"#,
        "<html>404</html>",
    ] {
        desk.put(INDEX, text);
        folder_refusal(&desk, &[file, "not an index of shards", "weight_map"]);
    }
    desk.put(INDEX, "[".repeat(1 << 20));
    folder_refusal(&desk, &[file, "not an index of shards"]);
    desk.put(INDEX, [0xff, 0xfe, 0]);
    folder_refusal(&desk, &[file, "not an index of shards"]);
    for shard in ["../x.safetensors", "/etc/hostname", "", ".", "..", "a/b.safetensors", "./x"] {
        desk.put(INDEX, index(&[("a", shard)]));
        folder_refusal(&desk, &[file, "plain file name"]);
    }
    desk.put(INDEX, index(&[("a", FIRST), ("b", SECOND), ("c", SECOND)]));
    folder_refusal(&desk, &[file, SECOND, "holds b", "another download"]);
    desk.put(INDEX, index(&[("a", FIRST), ("b", FIRST), ("c", SECOND), ("d", SECOND)]));
    folder_refusal(&desk, &[file, SECOND, "holds d", "another download"]);
    // An index of nothing is of no model.
    desk.put(INDEX, index(&[]));
    let nothing = Checkpoint::open(desk.path("transformer")).unwrap();
    holds(&Flux::load(&nothing, &options()).unwrap_err().to_string(), &[file, "img_in.weight"]);
}

#[test]
fn an_index_cut_at_any_byte_is_refused() {
    let desk = sharded();
    let whole = desk.read(INDEX);
    for length in 0..whole.len() {
        desk.put(INDEX, &whole[..length]);
        folder_refusal(&desk, &["index.json", "not an index of shards"]);
    }
}

#[test]
fn a_shard_that_is_missing_cut_or_of_another_kind_is_named() {
    let desk = sharded();
    let path = format!("transformer/{SECOND}");
    let sound = desk.read(&path);
    for length in [0, 7, 8, 20, sound.len() / 2, sound.len() - 1] {
        desk.put(&path, &sound[..length]);
        folder_refusal(&desk, &[SECOND, "load it anew"]);
    }
    desk.put(&path, b"PK\x03\x04data.pkl");
    folder_refusal(&desk, &[SECOND, "pickle", "safetensors"]);
    desk.put(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    folder_refusal(&desk, &[SECOND, "git lfs pull"]);
    std::fs::remove_file(desk.path(&path)).unwrap();
    folder_refusal(&desk, &[SECOND]);
    std::fs::create_dir(desk.path(&path)).unwrap();
    folder_refusal(&desk, &[SECOND]);
    // Without the index nobody knows whether these are all.
    std::fs::remove_dir(desk.path(&path)).unwrap();
    desk.put(&path, &sound);
    std::fs::remove_file(desk.path(INDEX)).unwrap();
    folder_refusal(&desk, &["transformer", "2 .safetensors files", "no index"]);
}

#[test]
fn a_diffusers_folder_that_lacks_a_part_of_a_joined_matrix_is_refused_with_its_name() {
    let desk = Desk::new();
    let names = ["to_q", "to_k"].map(|part| format!("transformer_blocks.0.attn.{part}.weight"));
    let mut all: Tensors = names.iter().map(|name| (name.clone(), matrix(8, 8))).collect();
    for name in ["x_embedder", "context_embedder"] {
        all.insert(format!("{name}.weight"), matrix(8, 8));
    }
    desk.put("transformer/diffusion_pytorch_model.safetensors", serialized(&all));
    let checkpoint = Checkpoint::open(desk.path("transformer")).unwrap();
    let error = Flux::load(&checkpoint, &options()).unwrap_err().to_string();
    holds(&error, &["diffusion_pytorch_model.safetensors", "missing"]);
}

// LoRA files

/// How a file names the halves of a layer.
struct Style {
    name: &'static str,
    /// Two layers that it adapts, with their inputs and outputs in widths of the model.
    layers: [(&'static str, usize, usize); 2],
    down: &'static str,
    up: &'static str,
}

/// Besides UNO's own, whose files must adapt every layer.
const STYLES: [Style; 5] = [
    Style {
        name: "xlabs",
        layers: [
            ("double_blocks.0.processor.qkv_lora1", 1, 3),
            ("double_blocks.1.processor.proj_lora2", 1, 1),
        ],
        down: ".down.weight",
        up: ".up.weight",
    },
    Style {
        name: "kohya",
        layers: [
            ("lora_unet_double_blocks_0_img_attn_qkv", 1, 3),
            ("lora_unet_double_blocks_1_txt_attn_proj", 1, 1),
        ],
        down: ".lora_down.weight",
        up: ".lora_up.weight",
    },
    Style {
        name: "diffusers",
        layers: [
            ("transformer.transformer_blocks.0.attn.to_q", 1, 1),
            ("transformer.transformer_blocks.1.attn.to_add_out", 1, 1),
        ],
        down: ".lora_A.weight",
        up: ".lora_B.weight",
    },
    Style {
        name: "peft",
        layers: [
            ("base_model.model.transformer_blocks.0.attn.to_q", 1, 1),
            ("base_model.model.single_transformer_blocks.1.attn.to_v", 1, 1),
        ],
        down: ".lora_A.default.weight",
        up: ".lora_B.default.weight",
    },
    Style {
        name: "comfyui",
        layers: [
            ("diffusion_model.double_blocks.0.img_attn.qkv", 1, 3),
            ("diffusion_model.double_blocks.1.txt_attn.proj", 1, 1),
        ],
        down: ".lora_A.weight",
        up: ".lora_B.weight",
    },
];

const RANK: usize = 2;

impl Style {
    fn key(&self, layer: usize, half: &str) -> String {
        format!("{}{half}", self.layers[layer].0)
    }

    /// A sound file for a model of this width.
    fn tensors(&self, width: usize) -> Tensors {
        let mut all = Tensors::new();
        for (i, (_, inputs, outputs)) in self.layers.iter().enumerate() {
            all.insert(self.key(i, self.down), matrix(RANK, inputs * width));
            all.insert(self.key(i, self.up), matrix(outputs * width, RANK));
        }
        all
    }
}

const LORA: &str = "folder/style.safetensors";

/// Attaches a LoRA file to the transformer of the small model.
fn attach(model: &mut Flux, bytes: Vec<u8>) -> uno_core::Result<usize> {
    let checkpoint = Checkpoint::from_bytes(LORA, bytes.into())?;
    Ok(lora::attach(model, &checkpoint, 1.0, &options())?.layers)
}

/// The transformer, its width, and a check that a file is refused with all of some words, its name among them.
fn lora_desk() -> (Flux, FluxConfig) {
    let base = Checkpoint::open(tiny().join("flux1-dev.safetensors")).unwrap();
    let config = FluxConfig::detect(&base).unwrap();
    (Flux::load(&base, &options()).unwrap(), config)
}

#[track_caller]
fn lora_refused(model: &mut Flux, tensors: &Tensors, words: &[&str]) {
    let message = attach(model, serialized(tensors)).expect_err("it was taken").to_string();
    println!("{message}");
    holds(&message, &[LORA]);
    holds(&message, words);
}

#[test]
fn lora_files_of_every_style_are_sound_before_they_are_damaged() {
    let (mut model, config) = lora_desk();
    for style in &STYLES {
        let layers = attach(&mut model, serialized(&style.tensors(config.hidden_size)));
        assert_eq!(layers.unwrap(), 2, "{}", style.name);
    }
}

#[test]
fn lora_files_of_every_style_with_a_half_missing_are_refused() {
    let (mut model, config) = lora_desk();
    for style in &STYLES {
        for half in [style.down, style.up] {
            let mut lora = style.tensors(config.hidden_size);
            lora.remove(&style.key(1, half)).unwrap();
            lora_refused(&mut model, &lora, &["half is missing", "anew", "_blocks.1."]);
        }
    }
}

#[test]
fn lora_files_of_every_style_whose_halves_do_not_fit_are_refused() {
    let (mut model, config) = lora_desk();
    let width = config.hidden_size;
    for style in &STYLES {
        let (down, up) = (style.key(0, style.down), style.key(0, style.up));
        let outputs = style.layers[0].2 * width;
        let with = |key: &str, tensor: RawTensor| {
            let mut lora = style.tensors(width);
            lora.insert(key.to_owned(), tensor);
            lora
        };
        lora_refused(
            &mut model,
            &with(&down, matrix(RANK + 1, width)),
            &[&down, &up, "rank 3", "[outputs, 3]"],
        );
        for shape in [&[0, 64][..], &[2, 0], &[], &[128], &[2, 8, 8], &[2, 64, 2, 1]] {
            let numbers = vec![0.0; shape.iter().product()];
            let words = [&down[..], &format!("{shape:?}"), "wanted a matrix"];
            lora_refused(&mut model, &with(&down, f32s(shape, numbers)), &words);
        }
        for dtype in [Dtype::I8, Dtype::I64, Dtype::BOOL] {
            let words = [&up[..], &format!("{dtype:?}"), "wanted a matrix of a float format"];
            lora_refused(&mut model, &with(&up, zeros(dtype, &[outputs, RANK])), &words);
        }
        // For a model of another width.
        let wide = style.tensors(2 * width);
        lora_refused(&mut model, &wide, &["width"]);
        let wide_input = with(&down, matrix(RANK, 2 * width));
        lora_refused(&mut model, &wide_input, &["blocks.0", &(2 * width).to_string()]);
    }
}

#[test]
fn lora_files_of_every_style_with_a_damaged_alpha_are_refused() {
    let (mut model, config) = lora_desk();
    for style in &STYLES {
        let key = style.key(0, ".alpha");
        for alpha in [
            f32s(&[], [f32::NAN]),
            f32s(&[1], [f32::INFINITY]),
            f32s(&[2], [1.0, 1.0]),
            f32s(&[0], []),
            zeros(Dtype::I64, &[]),
        ] {
            let mut lora = style.tensors(config.hidden_size);
            lora.insert(key.clone(), alpha);
            lora_refused(&mut model, &lora, &[&key, "wanted one finite number"]);
        }
    }
}

#[test]
fn lora_files_of_every_style_for_more_blocks_or_with_unknown_tensors_are_refused() {
    let (mut model, config) = lora_desk();
    for style in &STYLES {
        let mut deeper = Tensors::new();
        for (name, tensor) in style.tensors(config.hidden_size) {
            let (dots, underscores) = (name.replace("blocks.1.", "blocks.77."), "blocks_77_");
            deeper.insert(dots.replace("blocks_1_", underscores), tensor);
        }
        lora_refused(&mut model, &deeper, &["blocks.77"]);
        for (key, words) in [
            ("unet.down_blocks.0.attn.lora_A.weight", "U-Net of Stable Diffusion"),
            ("transformer.blocks.0.attn.lora_A.weight", "another model"),
        ] {
            let mut more = style.tensors(config.hidden_size);
            more.insert(key.into(), matrix(2, 8));
            lora_refused(&mut model, &more, &[key, words]);
        }
        let mut dora = style.tensors(config.hidden_size);
        dora.insert(style.key(0, ".dora_scale"), f32s(&[1], [1.0]));
        let message = attach(&mut model, serialized(&dora)).unwrap_err().to_string();
        holds(&message, &[LORA, &style.key(0, ".dora_scale")]);
    }
}

#[test]
fn lora_files_of_every_style_are_refused_at_any_cut() {
    let (mut model, config) = lora_desk();
    for style in &STYLES {
        let whole = serialized(&style.tensors(config.hidden_size));
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        for length in [0, 1, 8, header / 2, header, header + 5, whole.len() / 2, whole.len() - 1] {
            let message = attach(&mut model, whole[..length].to_vec()).unwrap_err().to_string();
            holds(&message, &[LORA, "load it anew"]);
        }
    }
}

#[test]
fn two_tensors_for_one_place_and_files_of_other_kinds_are_refused() {
    let (mut model, config) = lora_desk();
    let [_, kohya, _, _, comfyui] = &STYLES;
    // The same layer in two styles.
    let mut both = kohya.tensors(config.hidden_size);
    both.extend(comfyui.tensors(config.hidden_size));
    lora_refused(&mut model, &both, &["two tensors for one place", "lora_unet_double_blocks_0"]);
    for (tensors, words) in [
        (tensors([]), &["is no LoRA"][..]),
        (tensors([("img_in.weight", matrix(8, 8))]), &["is no LoRA", "img_in.weight", "kohya"]),
        (
            tensors([
                ("lora_te1_text_model_encoder_layers_0_mlp_fc3.lora_down.weight", matrix(2, 8)),
                ("lora_te1_text_model_encoder_layers_0_mlp_fc3.lora_up.weight", matrix(8, 2)),
            ]),
            &["is no LoRA", "mlp_fc3"],
        ),
        (
            tensors([
                ("lora_unet_double_blocks_0_img_attn_qkv.lokr_w1", matrix(2, 8)),
                ("lora_unet_double_blocks_0_img_attn_qkv.lokr_w2", matrix(8, 2)),
            ]),
            &["is no plain LoRA for FLUX but LoKr", "img_attn_qkv.lokr_w1"],
        ),
    ] {
        lora_refused(&mut model, &tensors, words);
    }
}

#[test]
fn a_lora_of_unos_own_that_is_not_whole_is_refused_with_what_it_lacks() {
    let (mut model, config) = lora_desk();
    let sound = read_tensors(&std::fs::read(tiny().join("dit_lora.safetensors")).unwrap());
    attach(&mut model, serialized(&sound)).unwrap();
    for name in sound.keys() {
        let mut lora = sound.clone();
        lora.remove(name).unwrap();
        let block = name.split(".processor").next().unwrap();
        lora_refused(&mut model, &lora, &[block, "anew"]);
    }
    // Both halves.
    for layer in ["double_blocks.1.processor.proj_lora2", "single_blocks.0.processor.qkv_lora"] {
        let lora = sound.iter().filter(|(name, _)| !name.starts_with(&format!("{layer}.")));
        let lora = serialized(&lora.map(|(name, tensor)| (name.clone(), tensor.clone())).collect());
        let block = layer.split(".processor").next().unwrap();
        // XLabs' LoRAs have such names too and adapt what they like; UNO's own must be whole.
        attach(&mut model, lora.clone()).unwrap();
        let checkpoint = Checkpoint::from_bytes(LORA, lora.into()).unwrap();
        let message = lora::check_whole(&checkpoint, &config).unwrap_err().to_string();
        holds(&message, &[LORA, "is not whole", block, "load it anew"]);
    }
    let checkpoint = Checkpoint::from_bytes(LORA, serialized(&sound).into()).unwrap();
    lora::check_whole(&checkpoint, &config).unwrap();
}

/// What the transformer makes of zeros but for the text.
fn velocity(model: &Flux) -> Vec<f32> {
    let config = model.config();
    let zeros = |shape| Tensor::<3>::zeros(shape, &device());
    let conditioning = Conditioning {
        ids: sequence_ids(UnoPe::D, 4, (2, 2), &[]),
        txt: zeros([1, 4, config.context_in_dim]).add_scalar(0.5),
        vec: Tensor::<2>::zeros([1, config.vec_in_dim], &device()),
        references: Vec::new(),
    };
    let latent = zeros([1, 4, config.in_channels]).add_scalar(0.25);
    let input = VelocityInput { latent, t: &[0.5], guidance: &[4.0], conditioning: &conditioning };
    values(model.velocity(input).unwrap())
}

#[test]
fn nothing_changes_when_the_last_layer_of_a_lora_does_not_fit() {
    let (mut model, config) = lora_desk();
    let before = velocity(&model);
    let style = &STYLES[1];
    let mut lora = style.tensors(config.hidden_size);
    lora.insert(style.key(1, style.up), matrix(3 * config.hidden_size, RANK));
    lora_refused(&mut model, &lora, &["double_blocks.1.txt_attn.proj"]);
    assert!(velocity(&model) == before);
    attach(&mut model, serialized(&style.tensors(config.hidden_size))).unwrap();
    assert!(velocity(&model) != before);
}

// The program

#[test]
fn the_program_names_a_damaged_further_lora_and_writes_nothing() {
    let desk = Desk::with_model();
    let style = &STYLES[1];
    let sound = style.tensors(64);
    desk.put("sound.safetensors", serialized(&sound));
    desk.made("--model model --add_lora sound.safetensors@0.5 --save_path sound");
    let mut nan = sound.clone();
    nan.get_mut(&style.key(0, style.down)).unwrap().data[..4].fill(0xff);
    desk.put("nan.safetensors", serialized(&nan));
    desk.put("cut.safetensors", &serialized(&sound)[..200]);
    let mut half = sound.clone();
    half.remove(&style.key(0, style.up)).unwrap();
    desk.put("half.safetensors", serialized(&half));
    for (file, words) in [
        ("nan.safetensors", &["not finite", "load the files anew"][..]),
        ("cut.safetensors", &["load it anew"]),
        ("half.safetensors", &["half is missing", "anew"]),
        ("missing.safetensors", &["cannot read"]),
    ] {
        let words: Vec<&str> = words.iter().copied().chain([file]).collect();
        desk.run(&format!("--model model --add_lora {file}@0.5")).refused(&desk, &words);
    }
}

// Whatever a header says

/// Sound files of every part.
fn parts() -> Vec<(PathBuf, Vec<u8>)> {
    let model = tiny();
    ["flux1-dev.safetensors", "ae.safetensors", "t5/model.safetensors", "clip/model.safetensors"]
        .into_iter()
        .chain(["dit_lora.safetensors"])
        .map(|file| (model.join(file), std::fs::read(model.join(file)).unwrap()))
        .collect()
}

/// Loads as everything that it could be what can be opened.
fn load_all(bytes: Vec<u8>) {
    let Ok(checkpoint) = Checkpoint::from_bytes(NAME, bytes.into()) else { return };
    let _ = Flux::load(&checkpoint, &options()).map(drop);
    let _ = AutoEncoder::load(&checkpoint, &options()).map(drop);
    let _ = T5Encoder::load(&checkpoint, &options()).map(drop);
    let _ = ClipTextEncoder::load(&checkpoint, None, &options()).map(drop);
    let _ = lora::deltas(&checkpoint, 1.0).map(drop);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_some_bytes_of_a_header_brings_a_panic(
        part in 0..5usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        static SOUND: std::sync::LazyLock<Vec<(PathBuf, Vec<u8>)>> = std::sync::LazyLock::new(parts);
        let mut file = SOUND[part].1.clone();
        let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        for (at, byte) in changes {
            file[at.index(header)] = byte;
        }
        load_all(file);
    }

    #[test]
    fn no_other_digit_in_a_header_brings_a_panic(
        part in 0..5usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), b'0'..=b'9'), 1..5),
    ) {
        static SOUND: std::sync::LazyLock<Vec<(PathBuf, Vec<u8>)>> = std::sync::LazyLock::new(parts);
        let mut file = SOUND[part].1.clone();
        let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        // JSON stays JSON, so that what it says is looked at.
        let digits: Vec<usize> = (8..header).filter(|i| file[*i].is_ascii_digit()).collect();
        for (at, digit) in changes {
            file[digits[at.index(digits.len())]] = digit;
        }
        load_all(file);
    }

    #[test]
    fn no_damaged_index_of_shards_brings_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        static DESK: std::sync::LazyLock<(Desk, Vec<u8>)> = std::sync::LazyLock::new(|| {
            let desk = sharded();
            let whole = desk.read(INDEX);
            (desk, whole)
        });
        let mut index = DESK.1.clone();
        for (at, byte) in changes {
            let at = at.index(index.len());
            index[at] = byte;
        }
        DESK.0.put(INDEX, &index);
        let _ = Checkpoint::open(DESK.0.path("transformer"));
    }
}
