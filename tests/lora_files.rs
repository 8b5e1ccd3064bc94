//! LoRA files as people have them: where alpha is written, which parts of the model are adapted, which kinds are refused.
//! Each is compared with the same LoRA spelt out by hand, or with weights that it was merged into.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::FloatDType;
use common::{device, program, random_model, relative_error, values};
use image::RgbImage;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use uno_core::lora;
use uno_core::lora_keys::Component;
use uno_core::traits::{Silent, TextEncoder};
use uno_core::weights::{Checkpoint, Storage, StorageDtype, StoredTensor};
use uno_models::Request;
use uno_models::components::{ModelSource, PipelineOptions, load, load_text_encoder, load_transformer};
use uno_models::memory::{Budget, Geometry, Plan};

/// Width of the small random model, of its MLP, of its CLIP and of that one's MLP.
const H: usize = 64;
const MLP: usize = 256;
const CLIP: usize = 32;
const CLIP_MLP: usize = 64;
/// Width of T5's feed-forward layer; the stream is as wide as the transformer.
const T5_MLP: usize = 128;

/// A tensor: shape and numbers.
type Numbers = (Vec<usize>, Vec<f32>);
/// A file: tensors by name.
type File = BTreeMap<String, Numbers>;

/// Numbers of about a normal distribution, `amplitude` wide.
fn random(shape: &[usize], seed: u64, amplitude: f32) -> Numbers {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let count = shape.iter().product();
    (shape.to_vec(), (0..count).map(|_| 2.0 * amplitude * (uniform() + uniform() + uniform())).collect())
}

/// The halves of a LoRA on a layer: down `[rank, input]` and up `[outputs, rank]`.
struct Pair {
    down: Numbers,
    up: Numbers,
}

impl Pair {
    fn new(rank: usize, input: usize, outputs: usize, seed: u64) -> Self {
        Self { down: random(&[rank, input], seed, 0.3), up: random(&[outputs, rank], seed + 1000, 0.3) }
    }

    fn rank(&self) -> usize {
        self.down.0[0]
    }

    /// The same that counts so many times.
    fn times(&self, factor: f32) -> Self {
        let (shape, numbers) = &self.up;
        Self { down: self.down.clone(), up: (shape.clone(), numbers.iter().map(|x| x * factor).collect()) }
    }

    /// `up @ down`.
    fn product(&self) -> Vec<f32> {
        let (rank, input) = (self.rank(), self.down.0[1]);
        let row = |up: &[f32]| -> Vec<f32> {
            (0..input).map(|j| (0..rank).map(|r| up[r] * self.down.1[r * input + j]).sum()).collect()
        };
        self.up.1.chunks(rank).flat_map(row).collect()
    }

    /// Puts both into a file, named as PEFT does.
    fn put(&self, file: &mut File, layer: &str) {
        self.put_as(file, layer, [".lora_A.weight", ".lora_B.weight"]);
    }

    fn put_as(&self, file: &mut File, layer: &str, [down, up]: [&str; 2]) {
        file.insert(format!("{layer}{down}"), self.down.clone());
        file.insert(format!("{layer}{up}"), self.up.clone());
    }
}

/// Writes a safetensors file with this metadata in its header.
fn save(path: &Path, file: &File, metadata: &[(&str, &str)]) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes: BTreeMap<_, Vec<u8>> =
        file.iter().map(|(name, (_, x))| (name, x.iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
    let views = file.iter().map(|(name, (shape, _))| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), &bytes[name]).unwrap())
    });
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    std::fs::write(path, safetensors::serialize(views.collect::<Vec<_>>(), metadata).unwrap()).unwrap();
    path.to_path_buf()
}

/// The small random model with these LoRAs.
fn with(loras: &[(&Path, f64)]) -> ModelSource {
    let mut source = random_model();
    source.more_loras = loras.iter().map(|(path, scale)| (lora::open(path).unwrap(), *scale)).collect();
    source
}

fn options() -> PipelineOptions {
    PipelineOptions::new(&device())
}

/// A small picture.
fn picture_with(source: &ModelSource, options: &PipelineOptions) -> RgbImage {
    let request = Request::new("a cup on a table").with_size(64, 48).with_steps(2).with_seed(3);
    let pipeline = load(source, options, &Silent).unwrap();
    // Twice, since streamed and released weights are let go of after the first time.
    pipeline.forget_encodings();
    pipeline.generate(&request, &Silent).unwrap();
    pipeline.forget_encodings();
    pipeline.generate(&request, &Silent).unwrap().pictures[0].picture.clone()
}

fn picture(loras: &[(&Path, f64)]) -> RgbImage {
    picture_with(&with(loras), &options())
}

/// The largest difference of two pictures, in levels of 255.
fn levels(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[track_caller]
fn assert_same(got: &RgbImage, wanted: &RgbImage, what: &str) {
    let most = levels(got, wanted);
    assert!(most <= 1, "{what}: differs by {most} levels");
}

/// Why a file is refused when it is opened.
#[track_caller]
fn refusal(path: &Path) -> String {
    let error = lora::open(path).map(drop).unwrap_err().to_string();
    let named = path.file_name().unwrap().to_str().unwrap();
    assert!(error.contains(named), "{named} is not named: {error}");
    error
}

// Alpha beside the tensors

#[test]
fn alpha_in_the_header_is_the_factor_and_alpha_tensors_go_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let layers = [
        ("transformer.transformer_blocks.1.attn.to_q", Pair::new(4, H, H, 1)),
        ("transformer.transformer_blocks.0.ff.net.2", Pair::new(2, MLP, H, 2)),
        ("transformer.single_transformer_blocks.0.proj_mlp", Pair::new(4, H, MLP, 3)),
    ];
    let (mut plain, mut by_hand) = (File::new(), File::new());
    for ((layer, pair), factor) in layers.iter().zip([0.5, 3.0, 0.5]) {
        pair.put(&mut plain, layer);
        pair.times(factor).put(&mut by_hand, layer);
    }
    let config = r#"{"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.use_rslora": false, "transformer.use_dora": false,
        "transformer.bias": "none", "transformer.init_lora_weights": "gaussian", "transformer.modules_to_save": null,
        "transformer.rank_pattern": {"ff.net.2": 2}, "transformer.alpha_pattern": {"transformer_blocks.0.ff.net.2": 6}}"#;
    let metadata = [("format", "pt"), ("lora_adapter_metadata", config)];
    let wanted = picture(&[(&save(&path("by_hand.safetensors"), &by_hand, &[]), 1.0)]);
    let told = save(&path("told.safetensors"), &plain, &metadata);
    assert_same(&picture(&[(&told, 1.0)]), &wanted, "alpha in the header");
    // Without it each counts once, whatever kohya's metadata says.
    let once = picture(&[(&save(&path("once.safetensors"), &plain, &[("ss_network_alpha", "2.0")]), 1.0)]);
    assert!(levels(&once, &wanted) > 3);
    // Tensors of alpha go first, and what the header says is then not looked at.
    for (layer, pair) in &layers {
        plain.insert(format!("{layer}.alpha"), (vec![], vec![pair.rank() as f32]));
    }
    for config in [config, "no JSON", r#"{"transformer.r": 9, "transformer.lora_alpha": 1}"#] {
        let both = save(&path("both.safetensors"), &plain, &[("lora_adapter_metadata", config)]);
        assert_same(&picture(&[(&both, 1.0)]), &once, "alpha tensors");
    }
}

#[test]
fn a_folder_of_peft_is_read_with_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let peft = folder.path().join("style");
    let (to_q, proj_out) = (Pair::new(4, H, H, 5), Pair::new(9, H + MLP, H, 6));
    let names =
        ["to_q", "to_k"].map(|name| format!("base_model.model.single_transformer_blocks.1.attn.{name}"));
    let last = "base_model.model.single_transformer_blocks.1.proj_out";
    let (mut plain, mut by_hand) = (File::new(), File::new());
    for name in &names {
        to_q.put(&mut plain, name);
        to_q.times(3.0).put(&mut by_hand, name);
    }
    proj_out.put(&mut plain, last);
    proj_out.times(0.5).put(&mut by_hand, last);
    let wanted = picture(&[(&save(&folder.path().join("by_hand.safetensors"), &by_hand, &[]), 1.0)]);
    let weights = save(&peft.join("adapter_model.safetensors"), &plain, &[("format", "pt")]);
    let once = picture(&[(&peft, 1.0)]);
    let config = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_rslora": true, "bias": "none", "task_type": null,
        "rank_pattern": {"single_transformer_blocks.1.proj_out": 9}, "alpha_pattern": {"^single_transformer_blocks.1.proj_out": 1.5},
        "target_modules": ["to_q", "to_k", "proj_out"], "base_model_name_or_path": "black-forest-labs/FLUX.1-dev"}"#;
    std::fs::write(peft.join("adapter_config.json"), config).unwrap();
    assert_same(&picture(&[(&peft, 1.0)]), &wanted, "the folder");
    assert_same(&picture(&[(&weights, 1.0)]), &wanted, "the file in the folder");
    // The configuration decides on the picture, so it is a part of what the file is known by.
    let fingerprint = |path: &Path| lora::open(path).unwrap().fingerprint().to_owned();
    let with_config = fingerprint(&peft);
    assert_eq!(with_config, fingerprint(&weights));
    assert_ne!(with_config, Checkpoint::open(&weights).unwrap().fingerprint());
    std::fs::write(peft.join("adapter_config.json"), config.replace("6", "7")).unwrap();
    assert_ne!(with_config, fingerprint(&peft));
    // It is of the adapter of that name only.
    let other = peft.join("other.safetensors");
    std::fs::copy(&weights, &other).unwrap();
    assert_same(&picture(&[(&other, 1.0)]), &once, "another file beside it");
    // One that cannot be used is named, as is a folder with two that would do.
    for (config, words) in [
        ("{", "adapter_config.json"),
        (r#"{"r": 4, "lora_alpha": NaN}"#, "NaN"),
        (r#"{"r": 0, "lora_alpha": 4}"#, "adapter_config.json: r is 0"),
        (r#"{"r": 4, "lora_alpha": "4"}"#, "lora_alpha is \"4\""),
        (r#"{"r": 4, "lora_alpha": 4}"#, "proj_out has rank 4, its tensors have 9"),
        (r#"{"r": 4, "lora_alpha": 4, "use_dora": true}"#, "use_dora is true"),
        (r#"{"r": 4, "lora_alpha": 4, "bias": "all"}"#, "bias is \"all\""),
        (r#"{"r": 4, "lora_alpha": 4, "modules_to_save": ["norm"]}"#, "modules_to_save"),
    ] {
        std::fs::write(peft.join("adapter_config.json"), config).unwrap();
        let error = refusal(&weights);
        assert!(error.contains(words), "{config}: {error}");
    }
    std::fs::write(peft.join("adapter_config.json"), vec![b' '; 2 << 20]).unwrap();
    assert!(lora::open(&peft).unwrap_err().to_string().contains("too long"));
    std::fs::copy(&weights, peft.join("pytorch_lora_weights.safetensors")).unwrap();
    assert!(lora::open(&peft).unwrap_err().to_string().contains("holds both"));
    std::fs::remove_file(&weights).unwrap();
    assert_same(&picture(&[(&peft, 1.0)]), &once, "a folder of diffusers");
}

// Text encoders

/// A LoRA on some layers of CLIP and T5, each with its name in transformers.
fn text_layers() -> [(Component, &'static str, Pair); 4] {
    [
        (Component::Clip, "text_model.encoder.layers.1.self_attn.v_proj", Pair::new(3, CLIP, CLIP, 21)),
        (Component::Clip, "text_model.encoder.layers.0.mlp.fc2", Pair::new(3, CLIP_MLP, CLIP, 22)),
        (Component::T5, "encoder.block.1.layer.0.SelfAttention.o", Pair::new(3, H, H, 23)),
        (Component::T5, "encoder.block.0.layer.1.DenseReluDense.wo", Pair::new(3, T5_MLP, H, 24)),
    ]
}

/// The model with that LoRA, `factor` times, merged into its text encoders; matrices of T5 are in `storage` before.
fn with_merged_text(factor: f32, storage: Option<StorageDtype>) -> ModelSource {
    let mut source = random_model();
    source.text.t5 = stored_as(&source.text.t5, storage);
    let merged = |checkpoint: &Checkpoint, of: Component| {
        let tensors = checkpoint.tensors().iter().map(|(name, tensor)| {
            let layers = text_layers();
            let mut layers = layers.iter().filter(|(component, ..)| *component == of);
            match layers.find(|(_, layer, _)| name == &format!("{layer}.weight")) {
                None => (name.clone(), tensor.clone()),
                Some((.., pair)) => {
                    let added = pair.times(factor).product();
                    let sum: Vec<f32> = tensor.to_f32().iter().zip(added).map(|(a, b)| a + b).collect();
                    (name.clone(), StoredTensor::from_f32(tensor.shape().to_vec(), &sum).unwrap())
                }
            }
        });
        Checkpoint::from_tensors("merged", tensors.collect::<Vec<_>>())
    };
    source.text.clip = merged(&source.text.clip, Component::Clip);
    source.text.t5 = merged(&source.text.t5, Component::T5);
    source
}

/// The same checkpoint with its layers' matrices in a storage.
fn stored_as(checkpoint: &Checkpoint, storage: Option<StorageDtype>) -> Checkpoint {
    let Some(storage) = storage else { return checkpoint.clone() };
    let tensors = checkpoint.tensors().iter().map(|(name, tensor)| {
        let is_layer = tensor.shape().len() == 2 && name.contains(".layer.") && !name.contains("bias");
        let changed = is_layer.then(|| {
            let bytes = storage.pack(&tensor.to_f32()).unwrap();
            StoredTensor::new(storage, tensor.shape().to_vec(), bytes.into()).unwrap()
        });
        (name.clone(), changed.unwrap_or_else(|| tensor.clone()))
    });
    Checkpoint::from_tensors("stored", tensors.collect::<Vec<_>>())
}

/// What the encoders make of a prompt.
fn encoding(source: &ModelSource, options: &PipelineOptions) -> [Vec<f32>; 2] {
    let encoded =
        load_text_encoder(source, options).unwrap().encode(&["a cup on a table".to_owned()]).unwrap();
    [values(encoded.txt.cast(FloatDType::F32)), values(encoded.vec.cast(FloatDType::F32))]
}

#[track_caller]
fn assert_near(got: &[Vec<f32>; 2], wanted: &[Vec<f32>; 2], bound: f64, what: &str) {
    for ((got, wanted), encoder) in got.iter().zip(wanted).zip(["T5", "CLIP"]) {
        let error = relative_error(got, wanted);
        assert!(error <= bound, "{what}: {encoder} is off by {error:e}");
    }
}

#[test]
fn text_encoders_are_adapted_in_every_key_style_as_if_the_lora_were_merged() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = encoding(&with_merged_text(0.35, None), &options());
    let plain = encoding(&random_model(), &options());
    for (got, plain) in wanted.iter().zip(&plain) {
        assert!(relative_error(got, plain) > 0.01, "the LoRA does something");
    }
    const A_B: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
    const DOWN_UP: [&str; 2] = [".lora_down.weight", ".lora_up.weight"];
    for (style, [clip, t5], underscores, ends) in [
        ("kohya", ["lora_te1_", "lora_te3_"], true, DOWN_UP),
        ("OneTrainer", ["lora_te1_", "lora_te2_"], true, DOWN_UP),
        ("diffusers", ["text_encoder.", "text_encoder_2."], false, A_B),
        (
            "old diffusers",
            ["text_encoder.", "text_encoder_2."],
            false,
            [".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"],
        ),
        ("ComfyUI", ["text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."], false, A_B),
        ("OMI", ["clip_l.", "t5."], false, DOWN_UP),
        (
            "PEFT",
            ["base_model.model.", "base_model.model."],
            false,
            [".lora_A.default.weight", ".lora_B.default.weight"],
        ),
    ] {
        let (mut by_tensors, mut by_metadata) = (File::new(), File::new());
        for (component, layer, pair) in text_layers() {
            let prefix = if component == Component::Clip { clip } else { t5 };
            let layer = if underscores { layer.replace('.', "_") } else { layer.to_owned() };
            for file in [&mut by_tensors, &mut by_metadata] {
                pair.put_as(file, &format!("{prefix}{layer}"), ends);
            }
            by_tensors.insert(format!("{prefix}{layer}.alpha"), (vec![], vec![1.5]));
        }
        // Alpha 1.5 of rank 3, and 0.7 by the user.
        let alpha = r#"{"text_encoder.r": 3, "text_encoder.lora_alpha": 1.5, "text_encoder_2.r": 3, "text_encoder_2.lora_alpha": 1.5}"#;
        let path = folder.path().join("x.safetensors");
        save(&path, &by_tensors, &[]);
        assert_near(&encoding(&with(&[(&path, 0.7)]), &options()), &wanted, 1e-5, style);
        save(&path, &by_metadata, &[("lora_adapter_metadata", alpha)]);
        assert_near(&encoding(&with(&[(&path, 0.7)]), &options()), &wanted, 1e-5, style);
    }
}

/// A LoRA on transformer and text encoders, and its part for the transformer.
fn whole_and_part(folder: &Path) -> (PathBuf, PathBuf) {
    let mut file = File::new();
    Pair::new(5, H, H, 31).put(&mut file, "diffusion_model.double_blocks.1.txt_attn.proj");
    let part = save(&folder.join("transformer.safetensors"), &file, &[]);
    for (component, layer, pair) in text_layers() {
        let prefix = if component == Component::Clip { "text_encoder." } else { "text_encoder_2." };
        pair.put(&mut file, &format!("{prefix}{layer}"));
    }
    (save(&folder.join("whole.safetensors"), &file, &[]), part)
}

#[test]
fn a_picture_with_adapted_text_encoders_is_that_of_merged_ones_however_they_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, part) = whole_and_part(folder.path());
    let mut merged = with_merged_text(1.0, None);
    merged.more_loras = vec![(lora::open(&part).unwrap(), 1.0)];
    let wanted = picture_with(&merged, &options());
    assert!(levels(&picture(&[(&part, 1.0)]), &wanted) > 3, "the text encoders' part does something");
    let source = with(&[(&whole, 1.0)]);
    for (what, adjust) in [
        ("kept", (|_| {}) as fn(&mut PipelineOptions)),
        ("streamed", |o| (o.stream_text_encoders, o.resident_bytes) = (true, 0)),
        ("released", |o| o.release_text_encoders = true),
        ("expanded", |o| o.storage = Storage::Expanded),
        ("merged into the transformer", |o| o.merge_lora = true.into()),
    ] {
        let mut options = options();
        adjust(&mut options);
        assert_same(&picture_with(&source, &options), &wanted, what);
    }
    // Half of it twice, and a factor of 0.
    assert_same(&picture(&[(&whole, 0.5), (&whole, 0.5)]), &wanted, "twice half of it");
    assert_same(&picture(&[(&whole, 0.0)]), &picture(&[]), "not at all");
    // What is remembered of a prompt belongs to the pipeline, and so to its LoRAs.
    assert!(levels(&picture(&[(&whole, -1.0)]), &wanted) > 3);
}

#[test]
fn quantized_text_encoders_are_adapted_too() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = whole_and_part(folder.path());
    for storage in ["q8_0", "q4_0", "fp8"] {
        let dtype: StorageDtype = storage.parse().unwrap();
        let wanted = encoding(&with_merged_text(1.0, Some(dtype)), &options());
        let mut source = with(&[(&whole, 1.0)]);
        source.text.t5 = stored_as(&source.text.t5, Some(dtype));
        assert_near(&encoding(&source, &options()), &wanted, 1e-5, storage);
        let mut streamed = options();
        streamed.stream_text_encoders = true;
        assert_near(&encoding(&source, &streamed), &wanted, 1e-5, storage);
    }
}

#[test]
fn layers_of_text_encoders_that_are_not_known_or_not_there_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    for (layer, words) in [
        (
            "lora_te1_text_model_encoder_layers_0_mlp_fc3",
            "lora_te1_text_model_encoder_layers_0_mlp_fc3.lora_A.weight",
        ),
        ("text_encoder.text_projection", "text_encoder.text_projection"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "CLIP-G"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "CLIP-G"),
        ("text_encoder_2.decoder.block.0.layer.0.SelfAttention.q", "text_encoder_2.decoder"),
    ] {
        let mut file = File::new();
        Pair::new(2, CLIP, CLIP_MLP, 41).put(&mut file, layer);
        Pair::new(2, H, H, 42).put(&mut file, "transformer.transformer_blocks.0.attn.to_q");
        let error = refusal(&save(&path, &file, &[]));
        assert!(error.contains(words), "{layer}: {error}");
    }
    // Of a model with more layers, and of another width.
    for (layer, pair, words) in [
        (
            "lora_te1_text_model_encoder_layers_9_mlp_fc1",
            Pair::new(2, CLIP, CLIP_MLP, 43),
            "this CLIP (width 32, 2 layers)",
        ),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_q", Pair::new(2, 96, 96, 44), "this T5 (width 64"),
    ] {
        let mut file = File::new();
        pair.put(&mut file, layer);
        let source = with(&[(&save(&path, &file, &[]), 1.0)]);
        let error = load_text_encoder(&source, &options()).unwrap_err().to_string();
        assert!(error.contains("x.safetensors") && error.contains(words), "{error}");
    }
}

#[test]
fn a_plan_counts_what_is_for_text_encoders_with_these() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, part) = whole_and_part(folder.path());
    let plan = |path: &Path| {
        let (source, geometry) = (with(&[(path, 1.0)]), Geometry::new(64, 64));
        Plan::make_beside(&source, &options(), &geometry, Budget::Bytes(8 << 30), 0).unwrap()
    };
    let (whole, part) = (plan(&whole), plan(&part));
    assert_eq!(whole.resident, part.resident, "the transformer takes as much");
    let pairs = text_layers();
    let numbers: usize = pairs.iter().map(|(_, _, pair)| pair.down.1.len() + pair.up.1.len()).sum();
    let [with_text, without] = [&whole, &part].map(|plan| plan.phases.last().unwrap().peak);
    assert_eq!(with_text - without, 4 * numbers as u64, "the text encoders take their part of it more");
}

// Keys that were refused

/// UNO's and XLabs' names of layers with their widths, and ComfyUI's for the same.
const PROCESSORS: [(&str, &str, usize, usize); 4] = [
    ("double_blocks.0.processor.qkv_lora1", "double_blocks.0.img_attn.qkv", H, 3 * H),
    ("double_blocks.0.processor.proj_lora1", "double_blocks.0.img_attn.proj", H, H),
    ("double_blocks.0.processor.qkv_lora2", "double_blocks.0.txt_attn.qkv", H, 3 * H),
    ("single_blocks.0.processor.proj_lora", "single_blocks.0.linear2", H + MLP, H),
];

#[test]
fn a_lora_of_xlabs_on_some_blocks_is_read_and_unos_own_with_a_gap_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (what, chosen) in [("some blocks", &PROCESSORS[..]), ("one half of a block", &PROCESSORS[3..])] {
        let (mut xlabs, mut comfyui) = (File::new(), File::new());
        for (i, (theirs, ours, input, outputs)) in chosen.iter().enumerate() {
            let pair = Pair::new(3, *input, *outputs, 50 + i as u64);
            pair.put_as(&mut xlabs, theirs, [".down.weight", ".up.weight"]);
            pair.put(&mut comfyui, &format!("diffusion_model.{ours}"));
        }
        let xlabs = save(&path("xlabs.safetensors"), &xlabs, &[]);
        let comfyui = save(&path("comfyui.safetensors"), &comfyui, &[]);
        assert_same(&picture(&[(&xlabs, 1.0)]), &picture(&[(&comfyui, 1.0)]), what);
        // As UNO's own it would be one that was cut short.
        let mut source = random_model();
        source.lora = Some(lora::open(&xlabs).unwrap());
        let error = load_transformer(&source, &options()).unwrap_err().to_string();
        assert!(error.contains("is not whole") && error.contains("_blocks."), "{what}: {error}");
    }
    let mut source = random_model();
    let own = source.lora.take().unwrap();
    let gap = "single_blocks.1.processor.qkv_lora.";
    let kept = own.tensors().iter().filter(|(name, _)| !name.starts_with(gap));
    let kept: Vec<_> = kept.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    source.lora = Some(Checkpoint::from_tensors("dit_lora.safetensors", kept));
    let error = load_transformer(&source, &options()).unwrap_err().to_string();
    assert!(error.contains("single_blocks.1.linear1"), "{error}");
}

#[test]
fn linear1_qkv_is_the_first_three_widths_of_linear1() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::new(3, H, 3 * H, 61);
    let mut whole = Pair { down: pair.down.clone(), up: pair.up.clone() };
    whole.up.0[0] += MLP;
    whole.up.1.resize((3 * H + MLP) * 3, 0.0);
    let mut wanted = File::new();
    whole.put(&mut wanted, "diffusion_model.single_blocks.1.linear1");
    let wanted = picture(&[(&save(&folder.path().join("linear1.safetensors"), &wanted, &[]), 1.0)]);
    for (layer, ends) in [
        ("diffusion_model.single_blocks.1.linear1_qkv", [".lora_A.weight", ".lora_B.weight"]),
        ("diffusion_model.single_blocks.1.linear1_qkv", [".lora_down.weight", ".lora_up.weight"]),
        ("lora_unet_single_blocks_1_linear1_qkv", [".lora_down.weight", ".lora_up.weight"]),
    ] {
        let mut file = File::new();
        pair.put_as(&mut file, layer, ends);
        let path = save(&folder.path().join("qkv.safetensors"), &file, &[]);
        assert_same(&picture(&[(&path, 1.0)]), &wanted, layer);
    }
}

#[test]
fn prefixes_may_stand_in_any_order_with_the_name_of_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let layers = [
        ("transformer_blocks.0.attn.to_k", Pair::new(3, H, H, 71)),
        ("transformer_blocks.1.ff_context.net.0.proj", Pair::new(3, H, MLP, 72)),
        ("single_transformer_blocks.1.attn.to_q", Pair::new(3, H, H, 73)),
    ];
    let made = |prefix: &str, ends: [&str; 2]| {
        let mut file = File::new();
        for (layer, pair) in &layers {
            pair.put_as(&mut file, &format!("{prefix}{layer}"), ends);
        }
        picture(&[(&save(&folder.path().join("x.safetensors"), &file, &[]), 1.0)])
    };
    let plain = [".lora_A.weight", ".lora_B.weight"];
    let wanted = made("transformer.", plain);
    for (prefix, ends) in [
        ("transformer.base_model.model.", plain),
        ("base_model.model.transformer.", plain),
        ("transformer.base_model.model.", [".lora_A.default.weight", ".lora_B.default.weight"]),
        ("module.transformer._orig_mod.", [".lora_A.default_0.weight", ".lora_B.default_0.weight"]),
    ] {
        assert_same(&made(prefix, ends), &wanted, prefix);
    }
}

// Kinds that are not read

#[test]
fn kinds_other_than_plain_loras_are_refused_by_name_wherever_a_lora_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("style.safetensors");
    let file = |tensors: &[(&str, &[usize])]| -> File {
        tensors.iter().map(|(name, shape)| ((*name).to_owned(), random(shape, 81, 0.1))).collect()
    };
    let kinds: [(&str, File); 9] = [
        (
            "LoKr",
            file(&[
                ("lycoris_single_transformer_blocks_1_proj_out.lokr_w1", &[8, 16]),
                ("lycoris_single_transformer_blocks_1_proj_out.lokr_w2", &[8, 20]),
            ]),
        ),
        (
            "LoHa",
            file(&[
                ("lora_unet_single_blocks_0_linear1.hada_w1_a", &[448, 3]),
                ("lora_unet_single_blocks_0_linear1.alpha", &[]),
            ]),
        ),
        ("OFT", file(&[("oft_unet_double_blocks_1_img_attn_proj.oft_blocks", &[8, 8, 8])])),
        ("BOFT", file(&[("lycoris_double_blocks_1_img_attn_proj.oft_blocks", &[2, 8, 8, 8])])),
        ("GLoRA", file(&[("lycoris_double_blocks_1_img_attn_proj.a1.weight", &[4, 64])])),
        (
            "IA3",
            file(&[
                ("lycoris_double_blocks_1_img_attn_proj.weight", &[64]),
                ("lycoris_double_blocks_1_img_attn_proj.on_input", &[]),
            ]),
        ),
        (
            ".diff",
            file(&[("diffusion_model.img_in.diff", &[64, 64]), ("diffusion_model.img_in.diff_b", &[64])]),
        ),
        (
            "control LoRA",
            file(&[
                ("transformer.x_embedder.lora_A.weight", &[6, 128]),
                ("transformer.x_embedder.lora_B.weight", &[64, 6]),
                ("transformer.x_embedder.lora_B.bias", &[64]),
            ]),
        ),
        (
            "DoRA",
            file(&[
                ("transformer.proj_out.lora_A.weight", &[4, 64]),
                ("transformer.proj_out.lora_B.weight", &[64, 4]),
                ("transformer.proj_out.lora_magnitude_vector", &[64]),
            ]),
        ),
    ];
    for (name, file) in &kinds {
        let error = refusal(&save(&path, file, &[]));
        assert!(error.contains(name) && error.contains("not read"), "{name}: {error}");
        assert!(
            error.contains("take a") || error.contains("take the") || error.contains("wanted a LoRA"),
            "{name}: {error}"
        );
    }
    // A control LoRA without biases is told by the width of its input.
    let control = file(&[
        ("lora_unet_img_in.lora_down.weight", &[6, 384]),
        ("lora_unet_img_in.lora_up.weight", &[64, 6]),
    ]);
    let source = with(&[(&save(&path, &control, &[]), 1.0)]);
    let error = load_transformer(&source, &options()).unwrap_err().to_string();
    assert!(error.contains("takes 384 channels (FLUX.1-Fill)"), "{error}");
    // The programs.
    save(&path, &kinds[0].1, &[]);
    let desk = program::Desk::with_model();
    desk.run_with(&["--model", "model", "--add_lora", path.to_str().unwrap()])
        .refused(&desk, &["style.safetensors", "LoKr", "not read"]);
    let (done, errors) =
        convert(&desk.path("model/flux1-dev.safetensors"), &path, &desk.path("x.safetensors"), &[]);
    assert!(!done && errors.contains("LoKr"), "{errors}");
}

// Programs

/// Runs `convert` with a LoRA to f32, and returns whether it succeeded and what it said.
fn convert(input: &Path, lora: &Path, out: &Path, more: &[&str]) -> (bool, String) {
    let mut command = Command::new(program::example("convert"));
    command.arg("--input").arg(input).args(["--storage", "f32"]).arg("--out").arg(out).args(more);
    if !lora.as_os_str().is_empty() {
        command.arg("--lora").arg(lora);
    }
    let output = command.env_remove("RUST_BACKTRACE").output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn convert_merges_each_part_of_a_lora_where_it_belongs_and_says_what_it_leaves_out() {
    let desk = program::Desk::with_model();
    let (whole, part) = whole_and_part(&desk.path("loras"));
    let mut source = random_model();
    source.more_loras = vec![(lora::open(&part).unwrap(), 1.0)];
    for (input, name, word) in [("model/t5", "t5", "merged"), ("model/clip", "clip", "merged")] {
        let out = desk.path(format!("{name}.safetensors"));
        let (done, errors) = convert(&desk.path(input), &whole, &out, &[]);
        assert!(done && errors.contains(word) && errors.contains("part transformer"), "{errors}");
        let merged = Checkpoint::open(&out).unwrap();
        if name == "t5" { source.text.t5 = merged } else { source.text.clip = merged }
    }
    let wanted = picture(&[(&whole, 1.0)]);
    assert_same(&picture_with(&source, &options()), &wanted, "text encoders merged by convert");
    // The transformer's file cannot hold the rest.
    let dit = desk.path("dit.safetensors");
    let (done, errors) = convert(&desk.path("model/flux1-dev.safetensors"), &whole, &dit, &[]);
    assert!(
        done && errors.contains("2 layers of the part clip") && errors.contains("2 layers of the part t5"),
        "{errors}"
    );
    (source.dit, source.more_loras) = (Checkpoint::open(&dit).unwrap(), Vec::new());
    assert_same(&picture_with(&source, &options()), &wanted, "all merged by convert");
    // A LoRA that has nothing for the file is no LoRA for it.
    let out = desk.path("none.safetensors");
    let (done, errors) = convert(&desk.path("model/t5"), &part, &out, &[]);
    assert!(!done && errors.contains("adapts nothing of T5") && !out.exists(), "{errors}");
}

#[test]
fn convert_says_what_it_leaves_out_of_a_file_with_several_models() {
    let desk = program::Desk::with_model();
    let mut all = File::new();
    let mut add = |prefix: &str, file: &str| {
        let checkpoint = Checkpoint::open(desk.path(file)).unwrap();
        let read = checkpoint.tensors().iter().filter(|(_, tensor)| tensor.is_read());
        all.extend(read.map(|(name, t)| (format!("{prefix}{name}"), (t.shape().to_vec(), t.to_f32()))));
    };
    add("model.diffusion_model.", "model/flux1-dev.safetensors");
    add("text_encoders.t5xxl.transformer.", "model/t5/model.safetensors");
    add("text_encoders.clip_l.transformer.", "model/clip/model.safetensors");
    add("vae.", "model/ae.safetensors");
    all.insert("conditioner.something".to_owned(), (vec![1], vec![0.0]));
    let file = save(&desk.path("all.safetensors"), &all, &[]);
    let none = Path::new("");
    for (part, mark) in [
        (None, "img_in.weight"),
        (Some("t5"), "encoder.final_layer_norm.weight"),
        (Some("clip"), "text_model.final_layer_norm.weight"),
        (Some("autoencoder"), "decoder.conv_in.weight"),
    ] {
        let out = desk.path("part.safetensors");
        let more: Vec<&str> = part.into_iter().flat_map(|part| ["--part", part]).collect();
        let (done, errors) = convert(&file, none, &out, &more);
        assert!(done, "{errors}");
        assert!(Checkpoint::open(&out).unwrap().tensors().contains_key(mark), "{part:?}");
        for other in ["transformer", "t5", "clip", "autoencoder"] {
            let is_written = part.unwrap_or("transformer") == other;
            assert_eq!(errors.contains(&format!("of the part {other};")), !is_written, "{part:?}: {errors}");
        }
        assert!(
            errors.contains(
                "1 tensors that belong to no part that is known, the first is conditioner.something"
            ),
            "{errors}"
        );
    }
    let (done, errors) =
        convert(&desk.path("model/t5"), none, &desk.path("x.safetensors"), &["--part", "clip"]);
    assert!(!done && errors.contains("holds no clip; it holds t5"), "{errors}");
    let (done, errors) = convert(&desk.path("model/clip"), none, &desk.path("x.safetensors"), &[]);
    assert!(done && errors.contains("left out: text_model.embeddings.position_ids"), "{errors}");
}

#[test]
fn generate_takes_a_folder_and_finds_its_configuration_again() {
    let desk = program::Desk::with_model();
    let mut file = File::new();
    Pair::new(4, H, H, 91).put(&mut file, "base_model.model.transformer_blocks.0.attn.to_q");
    save(&desk.path("style/adapter_model.safetensors"), &file, &[]);
    desk.put("style/adapter_config.json", r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 12}"#);
    desk.made("--model model --add_lora style@0.5 --save_path a.png");
    desk.made("--model model --add_lora style/adapter_model.safetensors@0.5 --save_path b.png");
    assert_eq!(desk.picture("a.png"), desk.picture("b.png"));
    desk.made("--model model --from a.png --save_path again.png");
    assert_eq!(desk.picture("a.png"), desk.picture("again.png"));
    // With another alpha it is another LoRA.
    desk.put("style/adapter_config.json", r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 4}"#);
    desk.run("--model model --from a.png").refused(&desk, &["add_lora.0", "fingerprint"]);
}
