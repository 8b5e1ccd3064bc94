//! The same model from other files: other storages, layouts and LoRA styles, kept in memory or streamed from disk.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::{FloatDType, Tensor};
use common::*;
use uno_core::flux::{Flux, FluxConfig};
use uno_core::latents::pack;
use uno_core::lora;
use uno_core::traits::{Conditioning, Silent, VelocityInput, VelocityModel};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{
    Checkpoint, LoadOptions, Storage, StorageDtype, StoredTensor, TensorHeader, layout, write,
};
use uno_models::Request;
use uno_models::checkpoint::{CheckpointOptions, Environment, discover};
use uno_models::components::{LoraMerge, ModelSource, PipelineOptions, load};
use uno_models::memory::{Budget, Geometry, Plan};
use uno_models::unope::{UnoPe, sequence_ids};

fn dev64() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dev64")
}

fn options() -> LoadOptions {
    LoadOptions::new(&device())
}

fn source() -> ModelSource {
    let mut files = CheckpointOptions::in_folder(dev64().join("model"));
    files.environment = Environment::empty();
    ModelSource::open(&discover(&files, &()).unwrap()).unwrap()
}

/// The velocity of the first golden case.
fn velocity(model: &Flux) -> Vec<f32> {
    let cases = Cases::open(&dev64().join("cases/dit.safetensors"));
    let latent = cases.tensor::<4>("0.latent");
    let (txt, [batch, _, h, w]) = (cases.tensor::<3>("0.txt"), latent.dims());
    let conditioning = Conditioning {
        ids: sequence_ids(UnoPe::D, txt.dims()[1], (h / 2, w / 2), &[]),
        txt,
        vec: cases.tensor("0.vec"),
        references: Vec::new(),
    };
    let (t, guidance) = (cases.values("0.t"), vec![4.0; batch]);
    let latent = pack(latent).unwrap();
    values(
        model
            .velocity(VelocityInput { latent, t: &t, guidance: &guidance, conditioning: &conditioning })
            .unwrap(),
    )
}

/// Writes `tensors` as they are stored.
fn save(path: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
    let headers: Vec<TensorHeader> = tensors
        .iter()
        .map(|(name, (shape, _))| TensorHeader {
            name: name.clone(),
            dtype: StorageDtype::F32,
            shape: shape.clone(),
        })
        .collect();
    let data: Vec<_> = tensors.values().collect();
    write(path, &headers, &BTreeMap::new(), |i| Ok(StorageDtype::F32.pack(&data[i].1).unwrap())).unwrap();
}

fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let checkpoint = Checkpoint::open(path).unwrap();
    checkpoint.tensors().iter().map(|(n, t)| (n.clone(), (t.shape().to_vec(), t.to_f32()))).collect()
}

#[test]
fn a_picture_is_the_same_whatever_stays_in_memory() {
    let source = source();
    let request = Request::new("a cat").with_size(64, 48).with_steps(2).with_seed(1);
    let picture = |adjust: &dyn Fn(&mut PipelineOptions)| {
        let mut options = PipelineOptions::new(&device());
        adjust(&mut options);
        let pipeline = load(&source, &options, &Silent).unwrap();
        // Twice, since streamed weights were let go of after the first time.
        pipeline.generate(&request, &Silent).unwrap();
        let generation = pipeline.generate(&request, &Silent).unwrap();
        (generation.pictures[0].picture.clone(), values(generation.latents))
    };
    let wanted = picture(&|_| {});
    for resident in [0, 100_000, 400_000] {
        let streamed = picture(&|options| {
            (options.resident_bytes, options.stream_text_encoders) = (resident, true);
        });
        assert!(streamed == wanted, "{resident} bytes in memory");
    }
    assert!(picture(&|options| options.release_text_encoders = true) == wanted);
}

/// FLUX.1-dev with UNO as their manifests describe them: names, shapes and formats without data.
fn full_size() -> Option<ModelSource> {
    #[derive(serde::Deserialize)]
    struct Entry {
        shape: Vec<usize>,
        dtype: String,
    }
    let folder = golden()?.join("manifests");
    let checkpoint = |name: &str| {
        let text = std::fs::read(folder.join(name)).unwrap();
        let entries: BTreeMap<String, Entry> = serde_json::from_slice(&text).unwrap();
        Checkpoint::from_shapes(
            name,
            entries.into_iter().map(|(n, e)| (n, e.dtype.parse().unwrap(), e.shape)),
        )
    };
    let mut source = source();
    (source.dit, source.ae) = (checkpoint("flux1-dev.json"), checkpoint("ae.json"));
    source.lora = Some(checkpoint("uno-dit_lora.json"));
    source.text.t5 = checkpoint("t5-v1_1-xxl-encoder.json");
    source.text.clip = checkpoint("clip-vit-large-patch14-text.json");
    Some(source)
}

#[test]
fn a_plan_keeps_to_its_budget_and_refuses_what_cannot_fit() {
    const GIB: u64 = 1 << 30;
    let Some(source) = full_size() else { return };
    let geometry = Geometry::new(512, 512).with_references(vec![(512, 512)]);
    let mut options = PipelineOptions::new(&device());
    let make = |budget| Plan::make(&source, &options, &geometry, budget);
    let all = make(Budget::Bytes(64 * GIB)).unwrap();
    assert_eq!((all.streamed_bytes, all.vae_tile, all.stream_text_encoders), (0, None, false));
    assert!(all.peak() > 33 * GIB && all.seconds_per_step.is_some());
    let least = make(Budget::Least).unwrap();
    assert!(least.resident_bytes == 0 && least.peak() < 2 * GIB);
    for budget in [2, 4, 6, 8, 16, 24] {
        let plan = make(Budget::Bytes(budget * GIB)).unwrap();
        assert!(plan.peak() <= budget * GIB && plan.stream_text_encoders, "{plan}");
        // What may be used is used, until nothing is left to be read at every step.
        assert!(plan.peak() >= budget * GIB / 10 * 9 || plan.streamed_bytes == 0, "{plan}");
        for words in ["streamed from disk at each prompt", "expected peak", "s per step", "BF16"] {
            assert!(plan.to_string().contains(words), "{words}: {plan}");
        }
    }
    let error = make(Budget::Bytes(GIB / 2)).unwrap_err().to_string();
    for part in ["memory", "0.50 GiB", "at least", "smaller picture"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let large = Geometry::new(1024, 1024);
    let whole = Plan::make(&source, &options, &large, Budget::Least).unwrap();
    assert!(whole.peak() > least.peak());
    let tiled = Plan::make(&source, &options, &large, Budget::Bytes(whole.peak() / 10 * 8));
    assert!(tiled.is_err() || tiled.unwrap().vae_tile.is_some());
    // Merged, nearly all matrices are f32 in memory: the planner merges where they fit, and refuses to where they do not.
    options.merge_lora = LoraMerge::Auto;
    let merged = |budget| Plan::make(&source, &options, &geometry, Budget::Bytes(budget)).unwrap().merge_lora;
    assert!(merged(96 * GIB) && !merged(48 * GIB) && !merged(6 * GIB));
    options.merge_lora = true.into();
    let error = Plan::make(&source, &options, &geometry, Budget::Bytes(24 * GIB)).unwrap_err().to_string();
    assert!(error.contains("do not merge LoRAs"), "{error}");
}

/// Runs `examples/convert`.
fn convert(arguments: &[&str]) -> (bool, String) {
    let program = program::program().with_file_name(format!("convert{}", std::env::consts::EXE_SUFFIX));
    let output = Command::new(program).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_storage_gives_nearly_the_same_velocity() {
    let folder = tempfile::tempdir().unwrap();
    let input = dit_path(&dev64());
    let wanted = velocity(&Flux::load(&Checkpoint::open(&input).unwrap(), &options()).unwrap());
    for (storage, extension, bound) in [
        ("f32", "safetensors", 0.0),
        ("f32", "gguf", 0.0),
        ("f16", "safetensors", 1e-3),
        ("bf16", "gguf", 1e-2),
        ("fp8_scaled", "safetensors", 0.06),
        ("fp8", "safetensors", 0.06),
        ("q8_0", "gguf", 0.02),
        ("q5_1", "gguf", 0.08),
        ("q5_0", "gguf", 0.1),
        ("q4_1", "gguf", 0.15),
        ("q4_0", "gguf", 0.2),
    ] {
        let out = folder.path().join(format!("{storage}.{extension}"));
        let (done, errors) = convert(&[
            "--input",
            input.to_str().unwrap(),
            "--storage",
            storage,
            "--out",
            out.to_str().unwrap(),
        ]);
        assert!(done, "{storage}: {errors}");
        let checkpoint = Checkpoint::open(&out).unwrap();
        let streamed = options().with_resident_bytes(0);
        let got = velocity(&Flux::load(&checkpoint, &streamed).unwrap());
        assert!(got == velocity(&Flux::load(&checkpoint, &options()).unwrap()), "{storage} streamed");
        let error = relative_error(&got, &wanted);
        println!("{storage}: relative error of the velocity {error:.2e}");
        assert!(error <= bound, "{storage}: {error:e}");
        let expanded =
            velocity(&Flux::load(&checkpoint, &options().with_storage(Storage::Expanded)).unwrap());
        assert!(relative_error(&expanded, &got) < 1e-5, "{storage} expanded");
    }
}

#[test]
fn a_lora_merged_by_convert_is_the_lora_beside_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let (input, lora_file) = (dit_path(&dev64()), dev64().join("model/dit_lora.safetensors"));
    let out = folder.path().join("merged.safetensors");
    let lora_at = format!("{}@0.5", lora_file.display());
    let report = folder.path().join("report.json");
    let (done, errors) = convert(&[
        "--input",
        input.to_str().unwrap(),
        "--lora",
        &lora_at,
        "--storage",
        "f32",
        "--out",
        out.to_str().unwrap(),
        "--report",
        report.to_str().unwrap(),
    ]);
    assert!(done, "{errors}");
    assert!(std::fs::read_to_string(report).unwrap().contains("relative_rms"));
    let merged = velocity(&Flux::load(&Checkpoint::open(&out).unwrap(), &options()).unwrap());
    let mut model = Flux::load(&Checkpoint::open(&input).unwrap(), &options()).unwrap();
    lora::attach(&mut model, &Checkpoint::open(&lora_file).unwrap(), 0.5, &options()).unwrap();
    assert!(relative_error(&merged, &velocity(&model)) < COMPONENT);
}

#[test]
fn a_lora_on_quantized_weights_is_the_same_beside_them_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let (input, lora_file) = (dit_path(&dev64()), dev64().join("model/dit_lora.safetensors"));
    for (storage, extension) in
        [("fp8", "safetensors"), ("fp8_scaled", "safetensors"), ("q8_0", "gguf"), ("q4_0", "gguf")]
    {
        let out = folder.path().join(format!("{storage}.{extension}"));
        let paths = [&input, &out].map(|path| path.to_str().unwrap().to_owned());
        let (done, errors) = convert(&["--input", &paths[0], "--storage", storage, "--out", &paths[1]]);
        assert!(done, "{storage}: {errors}");
        let mut model = Flux::load(&Checkpoint::open(&out).unwrap(), &options()).unwrap();
        let plain = velocity(&model);
        lora::attach(&mut model, &Checkpoint::open(&lora_file).unwrap(), 1.0, &options()).unwrap();
        let beside = velocity(&model);
        assert!(relative_error(&beside, &plain) > 1e-3, "{storage}: the LoRA does nothing");
        lora::merge(&mut model, FloatDType::F32).unwrap();
        let error = relative_error(&velocity(&model), &beside);
        assert!(error < COMPONENT, "{storage}: {error:e}");
    }
}

#[test]
fn convert_refuses_what_it_cannot_do_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let input = dit_path(&dev64());
    let input = input.to_str().unwrap();
    let out = folder.path().join("x.safetensors");
    let out = out.to_str().unwrap();
    for (arguments, words) in [
        (vec!["--input", input, "--storage", "q8_0", "--out", out], "gguf"),
        (vec!["--input", input, "--storage", "q9_9", "--out", out], "q9_9"),
        (vec!["--input", "/nowhere", "--storage", "bf16", "--out", out], "/nowhere"),
        (vec!["--input", input, "--lora", input, "--storage", "bf16", "--out", out], "is no LoRA"),
    ] {
        let (done, errors) = convert(&arguments);
        assert!(!done && errors.contains(words), "{arguments:?}: {errors}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Our tensors under diffusers' names: queries, keys and values apart, the final modulation the other way round.
fn diffusers(ours: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let config = FluxConfig::detect(&Checkpoint::open(dit_path(&dev64())).unwrap()).unwrap();
    let hidden = config.hidden_size;
    let mut theirs = BTreeMap::new();
    let mut rows = |name: String, (shape, numbers): &(Vec<usize>, Vec<f32>), first: usize, count: usize| {
        let width: usize = shape[1..].iter().product();
        let mut shape = shape.clone();
        shape[0] = count;
        theirs.insert(name, (shape, numbers[first * width..(first + count) * width].to_vec()));
    };
    for (name, tensor) in ours {
        let (stem, end) = name.rsplit_once('.').unwrap();
        let all = tensor.0[0];
        let parts: Vec<&str> = stem.split('.').collect();
        match parts[..] {
            ["img_in"] => rows(format!("x_embedder.{end}"), tensor, 0, all),
            ["txt_in"] => rows(format!("context_embedder.{end}"), tensor, 0, all),
            [embedder @ ("time_in" | "vector_in" | "guidance_in"), layer] => {
                let embedder = match embedder {
                    "time_in" => "timestep_embedder",
                    "vector_in" => "text_embedder",
                    _ => "guidance_embedder",
                };
                let layer = if layer == "in_layer" { 1 } else { 2 };
                rows(format!("time_text_embed.{embedder}.linear_{layer}.{end}"), tensor, 0, all);
            }
            ["final_layer", "linear"] => rows(format!("proj_out.{end}"), tensor, 0, all),
            ["final_layer", "adaLN_modulation", "1"] => {
                let (shape, numbers) = tensor;
                let (shift, scale) = numbers.split_at(numbers.len() / 2);
                let swapped = (shape.clone(), [scale, shift].concat());
                rows(format!("norm_out.linear.{end}"), &swapped, 0, all);
            }
            ["double_blocks", i, ref rest @ ..] => {
                let block = format!("transformer_blocks.{i}");
                let is_img = rest[0].starts_with("img");
                let (add, context, added) =
                    if is_img { ("to_", "", "") } else { ("add_", "_context", "added_") };
                match &rest.join(".")[4..] {
                    "attn.qkv" => {
                        for (k, part) in ["q", "k", "v"].iter().enumerate() {
                            let name =
                                if is_img { format!("{add}{part}") } else { format!("{add}{part}_proj") };
                            rows(format!("{block}.attn.{name}.{end}"), tensor, k * hidden, hidden);
                        }
                    }
                    "attn.proj" => {
                        let name = if is_img { "to_out.0" } else { "to_add_out" };
                        rows(format!("{block}.attn.{name}.{end}"), tensor, 0, all);
                    }
                    "attn.norm.query_norm" => {
                        rows(format!("{block}.attn.norm_{added}q.weight"), tensor, 0, all)
                    }
                    "attn.norm.key_norm" => {
                        rows(format!("{block}.attn.norm_{added}k.weight"), tensor, 0, all)
                    }
                    "mlp.0" => rows(format!("{block}.ff{context}.net.0.proj.{end}"), tensor, 0, all),
                    "mlp.2" => rows(format!("{block}.ff{context}.net.2.{end}"), tensor, 0, all),
                    "mod.lin" => rows(format!("{block}.norm1{context}.linear.{end}"), tensor, 0, all),
                    other => panic!("{other}"),
                }
            }
            ["single_blocks", i, ref rest @ ..] => {
                let block = format!("single_transformer_blocks.{i}");
                match rest.join(".").as_str() {
                    "linear1" => {
                        for (k, part) in ["q", "k", "v"].iter().enumerate() {
                            rows(format!("{block}.attn.to_{part}.{end}"), tensor, k * hidden, hidden);
                        }
                        rows(format!("{block}.proj_mlp.{end}"), tensor, 3 * hidden, all - 3 * hidden);
                    }
                    "linear2" => rows(format!("{block}.proj_out.{end}"), tensor, 0, all),
                    "modulation.lin" => rows(format!("{block}.norm.linear.{end}"), tensor, 0, all),
                    "norm.query_norm" => rows(format!("{block}.attn.norm_q.weight"), tensor, 0, all),
                    "norm.key_norm" => rows(format!("{block}.attn.norm_k.weight"), tensor, 0, all),
                    other => panic!("{other}"),
                }
            }
            _ => panic!("{name}"),
        }
    }
    theirs
}

#[test]
fn the_layout_of_diffusers_and_prefixes_give_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let ours = tensors(&dit_path(&dev64()));
    let wanted = velocity(&Flux::load(&Checkpoint::open(dit_path(&dev64())).unwrap(), &options()).unwrap());
    let prefixed = ours.iter().map(|(n, t)| (format!("model.diffusion_model.{n}"), t.clone())).collect();
    for (name, tensors) in [("diffusers", diffusers(&ours)), ("prefixed", prefixed)] {
        let path = folder.path().join(format!("{name}.safetensors"));
        save(&path, &tensors);
        for storage in [Storage::AsStored, Storage::Expanded] {
            let options = options().with_storage(storage);
            let got = velocity(&Flux::load(&Checkpoint::open(&path).unwrap(), &options).unwrap());
            assert!(relative_error(&got, &wanted) < 1e-6, "{name}, {storage:?}");
        }
    }
    // One part of a joined matrix is missing: a report, and not a picture without keys.
    let mut broken = diffusers(&ours);
    broken.remove("transformer_blocks.0.attn.to_k.weight").unwrap();
    let path = folder.path().join("broken.safetensors");
    save(&path, &broken);
    let error = Flux::load(&Checkpoint::open(&path).unwrap(), &options()).unwrap_err().to_string();
    assert!(error.contains("double_blocks.0.img_attn.qkv.weight"), "{error}");
}

#[test]
fn an_all_in_one_file_gives_each_model_its_part() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.safetensors");
    let mut all = BTreeMap::new();
    let mut add = |prefix: &str, file: PathBuf| {
        all.extend(tensors(&file).into_iter().map(|(name, t)| (format!("{prefix}{name}"), t)));
    };
    add("model.diffusion_model.", dit_path(&dev64()));
    add("vae.", dev64().join("model/ae.safetensors"));
    save(&path, &all);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let ours = Checkpoint::open(dit_path(&dev64())).unwrap();
    assert!(
        velocity(&Flux::load(&checkpoint, &options()).unwrap())
            == velocity(&Flux::load(&ours, &options()).unwrap())
    );
    AutoEncoder::load(&checkpoint, &options()).unwrap();
    assert_eq!(checkpoint.arranged(layout::flux).tensors().len(), ours.tensors().len());
}

#[test]
fn every_lora_style_gives_the_velocity_of_unos_own() {
    let folder = tempfile::tempdir().unwrap();
    let own = dev64().join("model/dit_lora.safetensors");
    let config = FluxConfig::detect(&Checkpoint::open(dit_path(&dev64())).unwrap()).unwrap();
    let (hidden, base) = (config.hidden_size, Checkpoint::open(dit_path(&dev64())).unwrap());
    let attached = |file: &Path, scale: f64, options: &LoadOptions| {
        let mut model = Flux::load(&base, options).unwrap();
        lora::attach(&mut model, &Checkpoint::open(file).unwrap(), scale, options).unwrap();
        velocity(&model)
    };
    let wanted = attached(&own, 0.7, &options());
    assert!(attached(&own, 0.7, &options().with_resident_bytes(0)) == wanted);

    let (mut kohya, mut peft) = (BTreeMap::new(), BTreeMap::new());
    for (name, (shape, numbers)) in tensors(&own) {
        let parts: Vec<&str> = name.split('.').collect();
        let (block, layer, half) = (parts[1], parts[3], parts[4]);
        let is_double = parts[0] == "double_blocks";
        let stream = if layer.ends_with('1') { "img" } else { "txt" };
        let kind = &layer[..4];
        let native = match (is_double, kind) {
            (true, kind) => format!("{stream}_attn.{}", if kind == "qkv_" { "qkv" } else { "proj" }),
            (false, "qkv_") => "linear1".to_owned(),
            (false, _) => "linear2".to_owned(),
        };
        let key = format!("{}.{block}.{native}", parts[0]);
        let underscored = format!("lora_unet_{}", key.replace('.', "_"));
        // kohya adapts whole layers: where UNO adapts queries, keys and values only, the rest is zero.
        let rank = if half == "down" { shape[0] } else { shape[1] };
        let mut up = (shape.clone(), numbers.clone());
        if half == "up" && native == "linear1" {
            up = (vec![3 * hidden + config.mlp_hidden, rank], numbers.clone());
            up.1.resize(up.0[0] * rank, 0.0);
        }
        kohya.insert(format!("{underscored}.lora_{half}.weight"), up);
        kohya.insert(format!("{underscored}.alpha"), (vec![], vec![2.0 * rank as f32]));
        // diffusers: parts of qkv apart.
        let (block_name, ab) = (
            if is_double { "transformer_blocks" } else { "single_transformer_blocks" },
            if half == "down" { "A" } else { "B" },
        );
        let mut put = |layer: &str, tensor| {
            peft.insert(format!("transformer.{block_name}.{block}.{layer}.lora_{ab}.weight"), tensor);
        };
        if kind == "qkv_" {
            for (k, part) in ["q", "k", "v"].iter().enumerate() {
                let layer = if is_double && stream == "txt" {
                    format!("attn.add_{part}_proj")
                } else {
                    format!("attn.to_{part}")
                };
                let slice = numbers.iter().skip(k * hidden * rank).take(hidden * rank).copied();
                let tensor = if half == "up" {
                    (vec![hidden, rank], slice.collect())
                } else {
                    (shape.clone(), numbers.clone())
                };
                put(&layer, tensor);
            }
        } else {
            let layer = match (is_double, stream) {
                (true, "img") => "attn.to_out.0",
                (true, _) => "attn.to_add_out",
                (false, _) => "proj_out",
            };
            put(layer, (shape.clone(), numbers.clone()));
        }
    }
    for (name, tensors, scale) in [("kohya", &kohya, 0.35), ("peft", &peft, 0.7)] {
        let path = folder.path().join(format!("{name}.safetensors"));
        save(&path, tensors);
        let error = relative_error(&attached(&path, scale, &options()), &wanted);
        println!("{name}: {error:.2e}");
        assert!(error < 1e-5, "{name}: {error:e}");
    }
    // Stacked on a quantized base: twice the half is the whole.
    let q8 = folder.path().join("q8.gguf");
    let (done, errors) = convert(&[
        "--input",
        dit_path(&dev64()).to_str().unwrap(),
        "--storage",
        "q8_0",
        "--out",
        q8.to_str().unwrap(),
    ]);
    assert!(done, "{errors}");
    let quantized = Checkpoint::open(&q8).unwrap();
    let with = |files: &[(&Path, f64)]| {
        let mut model = Flux::load(&quantized, &options()).unwrap();
        for (file, scale) in files {
            lora::attach(&mut model, &Checkpoint::open(file).unwrap(), *scale, &options()).unwrap();
        }
        velocity(&model)
    };
    let peft = folder.path().join("peft.safetensors");
    let (one, two) = (with(&[(&own, 0.7)]), with(&[(&own, 0.35), (&peft, 0.35)]));
    assert!(relative_error(&two, &one) < 1e-5);
    assert!(relative_error(&one, &with(&[])) > 1e-3, "the LoRA does something on a quantized base");
}

#[test]
fn a_lora_for_another_model_is_refused_with_both_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let layer = "lora_unet_double_blocks_0_img_mlp_0";
    let lora = BTreeMap::from([
        (format!("{layer}.lora_down.weight"), (vec![2, 3072], vec![0.0; 6144])),
        (format!("{layer}.lora_up.weight"), (vec![12288, 2], vec![0.0; 24576])),
    ]);
    save(&path, &lora);
    let mut model = Flux::load(&Checkpoint::open(dit_path(&dev64())).unwrap(), &options()).unwrap();
    let error =
        lora::attach(&mut model, &Checkpoint::open(&path).unwrap(), 1.0, &options()).unwrap_err().to_string();
    assert!(error.contains("3072 inputs and 12288 outputs") && error.contains("width 64"), "{error}");
}

#[test]
fn quantized_matrices_multiply_as_their_numbers_do() {
    use uno_core::weights::ggml::GgmlType;
    let numbers: Vec<f32> =
        (0..512 * 256).map(|i| ((i * 2_654_435_761u64 % 1000) as f32 - 500.0) / 700.0).collect();
    for kind in GgmlType::ALL {
        let dtype = StorageDtype::Ggml(kind);
        let bytes = dtype.pack(&numbers).unwrap();
        let stored = StoredTensor::new(dtype, vec![512, 256], bytes.into()).unwrap();
        let dense: Tensor<2> = stored.to_tensor(&device(), FloatDType::F32);
        let rows = stored.slice_rows(100..103).unwrap().to_f32();
        assert_eq!(rows, values(dense.slice([100..103, 0..256])), "{kind}");
        assert!(relative_error(&stored.to_f32(), &numbers) < 0.3, "{kind}");
    }
}

#[test]
fn a_warm_pipeline_encodes_a_prompt_and_a_reference_once() {
    use std::sync::Mutex;
    use uno_core::traits::Event;
    use uno_models::picture::Picture;

    let pipeline = load(&source(), &PipelineOptions::new(&device()), &Silent).unwrap();
    let reference = |red| {
        let pixels = image::RgbImage::from_fn(48, 32, |x, y| image::Rgb([red, x as u8, y as u8]));
        Picture::from_rgb("x", pixels)
    };
    let run = |prompt: &str, red| {
        let stages = Mutex::new(Vec::new());
        let observer = |event: &Event<'_>| {
            if let Event::Stage { name } = event {
                stages.lock().unwrap().push((*name).to_owned());
            }
            std::ops::ControlFlow::Continue(())
        };
        let request = Request::new(prompt).with_size(32, 32).with_steps(1).with_reference(reference(red));
        let generation = pipeline.generate(&request, &observer).unwrap();
        let stages = stages.into_inner().unwrap();
        let has = |name: &str| stages.iter().any(|stage| stage == name);
        ((has("encoding prompts"), has("encoding references")), values(generation.latents))
    };
    let (encoded, first) = run("a cat", 1);
    assert_eq!(encoded, (true, true));
    assert_eq!(run("a cat", 1), ((false, false), first.clone()));
    assert_eq!(run("a dog", 1).0, (true, false));
    assert_eq!(run("a cat", 2).0, (false, true));
    pipeline.forget_encodings();
    assert_eq!(run("a cat", 1), ((true, true), first));
}
