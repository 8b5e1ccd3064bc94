//! Every part of the model in foreign layouts, through `examples/make_checkpoint` and `examples/convert` into every storage, and
//! back: what is computed with the file that comes out is what was computed with the one that went in, as exactly as the
//! storage allows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::{Tensor, TensorData};
use common::{device, program, relative_error, values};
use uno_core::flux::Flux;
use uno_core::latents::pack;
use uno_core::text::{ClipTextEncoder, T5Encoder};
use uno_core::traits::{Conditioning, LatentCodec, VelocityInput, VelocityModel};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage};
use uno_models::unope::{UnoPe, sequence_ids};

fn options() -> LoadOptions {
    LoadOptions::new(&device())
}

/// Runs an example with arguments and returns what it says.
#[track_caller]
fn run(example: &str, arguments: &[&str]) -> String {
    let program = program::program().with_file_name(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{example}: {errors}");
    errors
}

/// Names and shapes of a model.
type Manifest = BTreeMap<String, Vec<usize>>;

/// Writes a checkpoint of random numbers in f32, matrices times `scale`.
fn make(folder: &Path, name: &str, manifest: &Manifest, scale: &str) -> PathBuf {
    let entries: BTreeMap<_, _> = manifest
        .iter()
        .map(|(name, shape)| (name, serde_json::json!({"shape": shape, "dtype": "F32"})))
        .collect();
    let (like, out) = (folder.join(format!("{name}.json")), folder.join(format!("{name}.safetensors")));
    std::fs::write(&like, serde_json::to_vec(&entries).unwrap()).unwrap();
    let [from, to] = [&like, &out].map(|path| path.to_str().unwrap());
    run("make_checkpoint", &["--like", from, "--out", to, "--scale", scale]);
    out
}

fn convert(input: &Path, storage: &str, out: &Path) {
    let [input, out] = [input, out].map(|path| path.to_str().unwrap());
    let errors = run("convert", &["--input", input, "--storage", storage, "--out", out]);
    assert!(errors.contains("relative RMS"), "{errors}");
}

/// Numbers of about a normal distribution.
fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|_| 2.0 * (uniform() + uniform() + uniform())).collect();
    Tensor::from_data(TensorData::new(numbers, shape), &device())
}

/// A storage, the file that holds it, and how far results may be from those of f32.
type Row = (&'static str, &'static str, f64);

/// Converts `input` to each storage, and compares what `compute` makes of it, kept in memory, streamed and expanded.
fn table(
    part: &str,
    folder: &Path,
    input: &Path,
    rows: &[Row],
    compute: impl Fn(&Checkpoint, &LoadOptions) -> Vec<f32>,
) {
    let wanted = compute(&Checkpoint::open(input).unwrap(), &options());
    assert!(wanted.iter().all(|x| x.is_finite()));
    for &(storage, extension, bound) in rows {
        let out = folder.join(format!("{part}-{storage}.{extension}"));
        convert(input, storage, &out);
        let checkpoint = Checkpoint::open(&out).unwrap();
        let got = compute(&checkpoint, &options());
        let streamed = compute(&checkpoint, &options().with_resident_bytes(0));
        assert!(got == streamed, "{part}, {storage}: streamed weights give other bits than resident ones");
        let expanded = compute(&checkpoint, &options().with_storage(Storage::Expanded));
        let (error, kept) = (relative_error(&got, &wanted), relative_error(&expanded, &got));
        let size =
            std::fs::metadata(&out).unwrap().len() as f64 / std::fs::metadata(input).unwrap().len() as f64;
        println!(
            "{part:<12} {storage:<10} {extension:<11} size {size:>5.3}, error {error:.2e}, expanded {kept:.1e}"
        );
        assert!(error <= bound, "{part}, {storage}: error {error:e} is above {bound:e}");
        assert!(kept < 1e-5, "{part}, {storage}: expanded weights give other numbers, by {kept:e}");
    }
}

// The transformer

const WIDTH: usize = 256;
const MLP: usize = 1024;
const DEPTH: usize = 2;

/// A transformer as diffusers names it, with widths that all blocks of GGUF divide.
fn diffusers_transformer() -> Manifest {
    let mut all = Manifest::new();
    let mut linear = |name: &str, outputs: usize, inputs: usize| {
        all.insert(format!("{name}.weight"), vec![outputs, inputs]);
        all.insert(format!("{name}.bias"), vec![outputs]);
    };
    linear("x_embedder", WIDTH, 64);
    linear("context_embedder", WIDTH, 256);
    for (embedder, inputs) in [("timestep", 256), ("text", 256), ("guidance", 256)] {
        linear(&format!("time_text_embed.{embedder}_embedder.linear_1"), WIDTH, inputs);
        linear(&format!("time_text_embed.{embedder}_embedder.linear_2"), WIDTH, WIDTH);
    }
    linear("norm_out.linear", 2 * WIDTH, WIDTH);
    linear("proj_out", 64, WIDTH);
    for i in 0..DEPTH {
        let block = format!("transformer_blocks.{i}");
        for layer in
            ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"]
        {
            linear(&format!("{block}.attn.{layer}"), WIDTH, WIDTH);
        }
        for stream in ["", "_context"] {
            linear(&format!("{block}.norm1{stream}.linear"), 6 * WIDTH, WIDTH);
            linear(&format!("{block}.ff{stream}.net.0.proj"), MLP, WIDTH);
            linear(&format!("{block}.ff{stream}.net.2"), WIDTH, MLP);
        }
        let block = format!("single_transformer_blocks.{i}");
        for layer in ["to_q", "to_k", "to_v"] {
            linear(&format!("{block}.attn.{layer}"), WIDTH, WIDTH);
        }
        linear(&format!("{block}.norm.linear"), 3 * WIDTH, WIDTH);
        linear(&format!("{block}.proj_mlp"), MLP, WIDTH);
        linear(&format!("{block}.proj_out"), WIDTH, WIDTH + MLP);
    }
    for i in 0..DEPTH {
        for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
            all.insert(format!("transformer_blocks.{i}.attn.{norm}.weight"), vec![128]);
        }
        for norm in ["norm_q", "norm_k"] {
            all.insert(format!("single_transformer_blocks.{i}.attn.{norm}.weight"), vec![128]);
        }
    }
    all
}

/// The velocity of a small picture with one reference.
fn velocity(checkpoint: &Checkpoint, options: &LoadOptions) -> Vec<f32> {
    let model = Flux::load(checkpoint, options).unwrap();
    let conditioning = Conditioning {
        ids: sequence_ids(UnoPe::D, 24, (6, 4), &[(4, 4)]),
        txt: random([1, 24, 256], 1),
        vec: random([1, 256], 2),
        references: vec![pack(random([1, 16, 8, 8], 3)).unwrap()],
    };
    let latent = pack(random([1, 16, 12, 8], 4)).unwrap();
    let input = VelocityInput { latent, t: &[0.7], guidance: &[4.0], conditioning: &conditioning };
    values(model.velocity(input).unwrap())
}

#[test]
fn a_transformer_in_the_layout_of_diffusers_goes_into_every_storage() {
    let folder = tempfile::tempdir().unwrap();
    let input = make(folder.path(), "diffusers", &diffusers_transformer(), "1");
    let rows = [
        ("f32", "safetensors", 0.0),
        ("f32", "gguf", 0.0),
        ("f16", "safetensors", 2e-3),
        ("f16", "gguf", 2e-3),
        ("bf16", "safetensors", 1e-2),
        ("bf16", "gguf", 1e-2),
        ("fp8", "safetensors", 0.1),
        ("fp8_scaled", "safetensors", 0.1),
        ("q8_0", "gguf", 0.03),
        ("q6_k", "gguf", 0.08),
        ("q5_k", "gguf", 0.12),
        ("q5_1", "gguf", 0.15),
        ("q5_0", "gguf", 0.15),
        ("q4_k", "gguf", 0.22),
        ("q4_1", "gguf", 0.27),
        ("q4_0", "gguf", 0.35),
        ("q3_k", "gguf", 0.4),
        ("q2_k", "gguf", 0.75),
    ];
    table("transformer", folder.path(), &input, &rows, velocity);
    // From any storage to any other: the numbers of the one in between, and no more lost than that.
    let [q8, again] = ["transformer-q8_0.gguf", "again.safetensors"].map(|name| folder.path().join(name));
    convert(&q8, "f32", &again);
    let open = |path: &Path| Checkpoint::open(path).unwrap();
    assert!(velocity(&open(&again), &options()) == velocity(&open(&q8), &options()));
    let scaled = folder.path().join("transformer-fp8_scaled.safetensors");
    let (q6, bf16) = (folder.path().join("from-fp8.gguf"), folder.path().join("from-q6.safetensors"));
    convert(&scaled, "q6_k", &q6);
    convert(&q6, "bf16", &bf16);
    let error = relative_error(&velocity(&open(&bf16), &options()), &velocity(&open(&input), &options()));
    println!("transformer  fp8_scaled -> q6_k -> bf16: error {error:.2e}");
    assert!(error < 0.25, "{error:e}");
    // Bytes that are those of the storage already are copied.
    let twice = folder.path().join("twice.gguf");
    convert(&folder.path().join("transformer-q4_0.gguf"), "q4_0", &twice);
    let (once, twice) = (open(&folder.path().join("transformer-q4_0.gguf")), open(&twice));
    assert_eq!(twice.storage(), "Q4_0");
    let error = relative_error(&velocity(&twice, &options()), &velocity(&once, &options()));
    println!("transformer  q4_0 -> q4_0: error {error:.2e}");
    assert!(error < 1e-3, "{error:e}");
}

// T5

/// A T5 encoder with llama.cpp's names.
fn llama_t5() -> Manifest {
    let mut all = Manifest::from([
        ("token_embd.weight".to_owned(), vec![320, WIDTH]),
        ("enc.output_norm.weight".to_owned(), vec![WIDTH]),
        ("enc.blk.0.attn_rel_b.weight".to_owned(), vec![32, 4]),
    ]);
    for i in 0..2 {
        let mut put = |name: &str, shape: &[usize]| {
            all.insert(format!("enc.blk.{i}.{name}.weight"), shape.to_vec());
        };
        for layer in ["attn_q", "attn_k", "attn_v", "attn_o"] {
            put(layer, &[WIDTH, WIDTH]);
        }
        put("attn_norm", &[WIDTH]);
        put("ffn_norm", &[WIDTH]);
        put("ffn_gate", &[512, WIDTH]);
        put("ffn_up", &[512, WIDTH]);
        put("ffn_down", &[WIDTH, 512]);
    }
    all
}

fn t5_states(checkpoint: &Checkpoint, options: &LoadOptions) -> Vec<f32> {
    let ids: Vec<u32> = (0..24).map(|i| (i * 37 + 5) % 320).chain([1, 0, 0, 0]).collect();
    values(T5Encoder::load(checkpoint, options).unwrap().forward(&ids).unwrap())
}

#[test]
fn t5_with_the_names_of_llama_cpp_goes_into_every_storage() {
    let folder = tempfile::tempdir().unwrap();
    // T5 does not divide scores by the width of heads: with the numbers of ordinary layers attention is a choice of one token,
    // which the least rounding changes.
    const SCALE: &str = "0.4";
    let plain = make(folder.path(), "llama", &llama_t5(), SCALE);
    // As it is found: a GGUF file with these names. (`make_checkpoint` takes names as they are, `convert` makes them ours.)
    let gguf = folder.path().join("t5-v1_1-xxl-encoder-f16.gguf");
    let [from, to] = [&plain, &gguf].map(|path| path.to_str().unwrap());
    run("make_checkpoint", &["--like", from, "--out", to, "--storage", "f16", "--scale", SCALE]);
    let found = Checkpoint::open(&gguf).unwrap();
    assert_eq!(found.storage(), "F16");
    assert!(found.tensors().contains_key("enc.blk.1.ffn_gate.weight"));
    // The same seed gives the same numbers, but for their rounding.
    let wanted = t5_states(&Checkpoint::open(&plain).unwrap(), &options());
    let error = relative_error(&t5_states(&found, &options()), &wanted);
    assert!(error < 5e-3, "{error:e}");
    let rows = [
        ("f32", "safetensors", 0.0),
        ("f16", "safetensors", 2e-3),
        ("f16", "gguf", 2e-3),
        ("bf16", "safetensors", 1.5e-2),
        ("fp8", "safetensors", 0.2),
        ("fp8_scaled", "safetensors", 0.2),
        ("q8_0", "gguf", 0.04),
        ("q6_k", "gguf", 0.1),
        ("q5_k", "gguf", 0.2),
        ("q4_k", "gguf", 0.4),
        ("q3_k", "gguf", 0.7),
        ("q2_k", "gguf", 1.1),
    ];
    table("t5", folder.path(), &plain, &rows, t5_states);
    // Each is written with the names of transformers, ComfyUI's scale keys among them.
    let scaled = std::fs::read(folder.path().join("t5-fp8_scaled.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&scaled).unwrap();
    let layer = "encoder.block.1.layer.0.SelfAttention.q";
    assert_eq!(file.tensor(&format!("{layer}.weight")).unwrap().dtype(), safetensors::Dtype::F8_E4M3);
    assert_eq!(file.tensor(&format!("{layer}.scale_weight")).unwrap().dtype(), safetensors::Dtype::F32);
    // What was found as GGUF in f16 loses nothing more on its way to f32.
    let ours = folder.path().join("ours.safetensors");
    convert(&gguf, "f32", &ours);
    assert!(t5_states(&Checkpoint::open(&ours).unwrap(), &options()) == t5_states(&found, &options()));
}

// CLIP

/// A CLIP text encoder inside a file of several models.
fn clip() -> Manifest {
    let mut all = Manifest::new();
    let mut put = |name: &str, shape: &[usize]| {
        all.insert(format!("text_encoders.clip_l.transformer.text_model.{name}"), shape.to_vec());
    };
    put("embeddings.token_embedding.weight", &[600, WIDTH]);
    put("embeddings.position_embedding.weight", &[77, WIDTH]);
    let mut layer = |name: &str, outputs: usize, inputs: Option<usize>| {
        put(&format!("{name}.weight"), &std::iter::once(outputs).chain(inputs).collect::<Vec<_>>());
        put(&format!("{name}.bias"), &[outputs]);
    };
    layer("final_layer_norm", WIDTH, None);
    for i in 0..2 {
        let block = format!("encoder.layers.{i}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            layer(&format!("{block}.self_attn.{part}"), WIDTH, Some(WIDTH));
        }
        layer(&format!("{block}.layer_norm1"), WIDTH, None);
        layer(&format!("{block}.layer_norm2"), WIDTH, None);
        layer(&format!("{block}.mlp.fc1"), MLP, Some(WIDTH));
        layer(&format!("{block}.mlp.fc2"), WIDTH, Some(MLP));
    }
    all
}

fn clip_state(checkpoint: &Checkpoint, options: &LoadOptions) -> Vec<f32> {
    let ids: Vec<u32> = (0..76).map(|i| (i * 41 + 7) % 598).chain([599]).collect();
    values(ClipTextEncoder::load(checkpoint, None, options).unwrap().forward(&ids).unwrap())
}

#[test]
fn clip_in_a_file_of_several_models_goes_into_every_storage() {
    let folder = tempfile::tempdir().unwrap();
    let input = make(folder.path(), "clip", &clip(), "1");
    let rows = [
        ("f32", "safetensors", 0.0),
        ("f16", "safetensors", 2e-3),
        ("f16", "gguf", 2e-3),
        ("bf16", "safetensors", 1e-2),
        ("fp8", "safetensors", 0.1),
        ("fp8_scaled", "safetensors", 0.1),
        ("q8_0", "gguf", 0.03),
        ("q6_k", "gguf", 0.06),
        ("q5_k", "gguf", 0.12),
        ("q4_k", "gguf", 0.22),
        ("q3_k", "gguf", 0.4),
        ("q2_k", "gguf", 0.7),
    ];
    table("clip", folder.path(), &input, &rows, clip_state);
}

// The autoencoder

/// An autoencoder as diffusers names it, with a change of width.
fn diffusers_autoencoder() -> Manifest {
    let mut all = Manifest::new();
    let mut put = |name: String, shape: &[usize]| {
        all.insert(format!("{name}.bias"), vec![shape[0]]);
        all.insert(format!("{name}.weight"), shape.to_vec());
    };
    const LEVELS: [usize; 3] = [32, 32, 64];
    let widest = LEVELS[2];
    let resnet = |put: &mut dyn FnMut(String, &[usize]), name: String, from: usize, to: usize| {
        put(format!("{name}.norm1"), &[from]);
        put(format!("{name}.conv1"), &[to, from, 3, 3]);
        put(format!("{name}.norm2"), &[to]);
        put(format!("{name}.conv2"), &[to, to, 3, 3]);
        if from != to {
            put(format!("{name}.conv_shortcut"), &[to, from, 1, 1]);
        }
    };
    for half in ["encoder", "decoder"] {
        let mid = format!("{half}.mid_block");
        for i in 0..2 {
            resnet(&mut put, format!("{mid}.resnets.{i}"), widest, widest);
        }
        put(format!("{mid}.attentions.0.group_norm"), &[widest]);
        // Linear layers, where ours are pointwise convolutions.
        for layer in ["to_q", "to_k", "to_v", "to_out.0"] {
            put(format!("{mid}.attentions.0.{layer}"), &[widest, widest]);
        }
    }
    put("encoder.conv_in".into(), &[LEVELS[0], 3, 3, 3]);
    put("encoder.conv_norm_out".into(), &[widest]);
    put("encoder.conv_out".into(), &[32, widest, 3, 3]);
    put("decoder.conv_in".into(), &[widest, 16, 3, 3]);
    put("decoder.conv_norm_out".into(), &[LEVELS[0]]);
    put("decoder.conv_out".into(), &[3, LEVELS[0], 3, 3]);
    let mut from = LEVELS[0];
    for (i, to) in LEVELS.into_iter().enumerate() {
        resnet(&mut put, format!("encoder.down_blocks.{i}.resnets.0"), from, to);
        if i + 1 < LEVELS.len() {
            put(format!("encoder.down_blocks.{i}.downsamplers.0.conv"), &[to, to, 3, 3]);
        }
        from = to;
    }
    // From the coarsest to the finest.
    for (i, to) in LEVELS.into_iter().rev().enumerate() {
        resnet(&mut put, format!("decoder.up_blocks.{i}.resnets.0"), from, to);
        resnet(&mut put, format!("decoder.up_blocks.{i}.resnets.1"), to, to);
        if i + 1 < LEVELS.len() {
            put(format!("decoder.up_blocks.{i}.upsamplers.0.conv"), &[to, to, 3, 3]);
        }
        from = to;
    }
    all
}

#[test]
fn an_autoencoder_in_the_layout_of_diffusers_goes_into_every_storage_that_keeps_its_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let input = make(folder.path(), "vae", &diffusers_autoencoder(), "1");
    let compute = |checkpoint: &Checkpoint, options: &LoadOptions| {
        let model = AutoEncoder::load(checkpoint, options).unwrap();
        let decoded = model.decode(random([1, 16, 6, 4], 5)).unwrap();
        let encoded = model.encode(random([1, 3, 24, 16], 6), None).unwrap();
        [values(decoded), values(encoded)].concat()
    };
    // Kernels are no matrices: without --all they stay as they are, whatever the storage of matrices.
    let rows = [
        ("f32", "safetensors", 0.0),
        ("f32", "gguf", 0.0),
        ("f16", "safetensors", 0.0),
        ("fp8_scaled", "safetensors", 0.0),
        ("q4_k", "gguf", 0.0),
    ];
    table("autoencoder", folder.path(), &input, &rows, compute);
    let wanted = compute(&Checkpoint::open(&input).unwrap(), &options());
    for (storage, name, bound) in
        [("f16", "all.safetensors", 2e-3), ("bf16", "all.safetensors", 2e-2), ("f16", "all.gguf", 2e-3)]
    {
        let out = folder.path().join(name);
        let report = folder.path().join("report.json");
        let [from, to, errors] = [&input, &out, &report].map(|path| path.to_str().unwrap());
        run("convert", &["--input", from, "--storage", storage, "--all", "--out", to, "--report", errors]);
        let checkpoint = Checkpoint::open(&out).unwrap();
        assert_eq!(checkpoint.storage(), storage.to_uppercase());
        let error = relative_error(&compute(&checkpoint, &options()), &wanted);
        println!("autoencoder  {storage:<10} {name} with --all, error {error:.2e}");
        assert!(error <= bound, "{storage}: {error:e}");
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        assert_eq!(report.as_array().unwrap().len(), checkpoint.tensors().len());
    }
}
