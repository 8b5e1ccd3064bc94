//! Files of tens of gigabytes, sound or not: what is wrong with them is found, and a plan is made, before more than some
//! megabytes of them are read. The files have holes in place of their data, which take no room on the disk.
#![cfg(target_os = "linux")] // where files may have holes everywhere, and the system tells what a process holds
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/raw_files.rs"]
mod raw_files;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{device, random_model};
use raw_files::{ARRAY, Gguf, GgufTensor, STRING, gguf_entry};
use uno_core::flux::{Flux, FluxConfig};
use uno_core::lora;
use uno_core::text::ClipTextEncoder;
use uno_core::weights::{Checkpoint, LoadOptions};
use uno_models::components::PipelineOptions;
use uno_models::memory::{Budget, Geometry, Plan, peak, reset_peak, resident};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What opening a sound file may take: its fingerprint looks at 16 MiB.
const OPENING: u64 = 48 * MIB;

/// What looking at the longest header may take: safetensors has at most 100 MB.
const HEADER: u64 = 160 * MIB;

/// Memory is counted for the whole process, so that one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work`, and fails if it takes more memory than `bound`, mapped pages of files included.
#[track_caller]
fn within<T>(bound: u64, what: &str, work: impl FnOnce() -> T) -> T {
    reset_peak();
    let before = resident().unwrap();
    let result = work();
    let taken = peak().unwrap().saturating_sub(before);
    println!("{what}: {:.1} MiB", taken as f64 / MIB as f64);
    assert!(taken <= bound, "{what} took {} MiB, wanted at most {}", taken / MIB, bound / MIB);
    result
}

/// A file of this beginning and length, with a hole behind the beginning.
fn hollow(folder: &Path, name: &str, start: &[u8], length: u64) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, start).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
    path
}

/// A safetensors file of these tensors, all of them zero.
fn hollow_safetensors(folder: &Path, name: &str, tensors: &[(String, &str, Vec<u64>)]) -> PathBuf {
    let mut entries = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let size = match *dtype {
            "F32" => 4,
            "BF16" | "F16" => 2,
            _ => 1,
        };
        let start = end;
        end += size * shape.iter().product::<u64>();
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        entries.insert(name.clone(), entry);
    }
    let header = serde_json::Value::Object(entries).to_string();
    let start = raw_files::safetensors(&header, &[]);
    hollow(folder, name, &start, start.len() as u64 + end)
}

/// Fails unless the file is refused with all of `words`, for which little is read.
#[track_caller]
fn refused(what: &str, path: &Path, words: &[&str]) {
    refused_within(8 * MIB, what, path, words);
}

#[track_caller]
fn refused_within(bound: u64, what: &str, path: &Path, words: &[&str]) {
    let error = within(bound, what, || Checkpoint::open(path).map(drop)).expect_err(what).to_string();
    println!("  {error}");
    assert!(error.contains(&*path.to_string_lossy()), "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

/// The tensors of FLUX.1-dev.
fn flux(dtype: &'static str) -> Vec<(String, &'static str, Vec<u64>)> {
    let (width, mlp) = (3072, 12288);
    let mut all = Vec::new();
    let mut linear = |name: String, outputs: u64, inputs: u64| {
        all.push((format!("{name}.weight"), dtype, vec![outputs, inputs]));
        all.push((format!("{name}.bias"), dtype, vec![outputs]));
    };
    linear("img_in".into(), width, 64);
    linear("txt_in".into(), width, 4096);
    for (embedder, inputs) in [("time_in", 256), ("vector_in", 768), ("guidance_in", 256)] {
        linear(format!("{embedder}.in_layer"), width, inputs);
        linear(format!("{embedder}.out_layer"), width, width);
    }
    linear("final_layer.adaLN_modulation.1".into(), 2 * width, width);
    linear("final_layer.linear".into(), 64, width);
    for i in 0..19 {
        for stream in ["img", "txt"] {
            let block = format!("double_blocks.{i}.{stream}");
            linear(format!("{block}_mod.lin"), 6 * width, width);
            linear(format!("{block}_attn.qkv"), 3 * width, width);
            linear(format!("{block}_attn.proj"), width, width);
            linear(format!("{block}_mlp.0"), mlp, width);
            linear(format!("{block}_mlp.2"), width, mlp);
        }
    }
    for i in 0..38 {
        linear(format!("single_blocks.{i}.linear1"), 3 * width + mlp, width);
        linear(format!("single_blocks.{i}.linear2"), width, width + mlp);
        linear(format!("single_blocks.{i}.modulation.lin"), 3 * width, width);
    }
    for norm in ["query_norm", "key_norm"] {
        for i in 0..19 {
            for stream in ["img", "txt"] {
                all.push((format!("double_blocks.{i}.{stream}_attn.norm.{norm}.scale"), dtype, vec![128]));
            }
        }
        let single = (0..38).map(|i| (format!("single_blocks.{i}.norm.{norm}.scale"), dtype, vec![128]));
        all.extend(single);
    }
    all
}

/// The tensors of the encoder of T5-XXL.
fn t5(dtype: &'static str) -> Vec<(String, &'static str, Vec<u64>)> {
    let mut all = vec![
        ("shared.weight".to_owned(), dtype, vec![32128, 4096]),
        ("encoder.final_layer_norm.weight".to_owned(), dtype, vec![4096]),
    ];
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    all.push((bias.to_owned(), dtype, vec![32, 64]));
    for i in 0..24 {
        let mut put = |name: &str, shape: &[u64]| {
            all.push((format!("encoder.block.{i}.layer.{name}.weight"), dtype, shape.to_vec()));
        };
        for layer in ["q", "k", "v", "o"] {
            put(&format!("0.SelfAttention.{layer}"), &[4096, 4096]);
        }
        put("0.layer_norm", &[4096]);
        put("1.layer_norm", &[4096]);
        put("1.DenseReluDense.wi_0", &[10240, 4096]);
        put("1.DenseReluDense.wi_1", &[10240, 4096]);
        put("1.DenseReluDense.wo", &[4096, 10240]);
    }
    all
}

#[test]
fn sound_files_of_tens_of_gigabytes_are_opened_and_planned_for_with_little_memory() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let dit = hollow_safetensors(folder.path(), "flux1-dev.safetensors", &flux("BF16"));
    let text = hollow_safetensors(folder.path(), "t5xxl_fp16.safetensors", &t5("F16"));
    assert!(std::fs::metadata(&dit).unwrap().len() > 23 * GIB / 10 * 9);
    let mut source = random_model();
    source.lora = None;
    source.dit = within(OPENING, "opening 24 GB of bf16", || Checkpoint::open(&dit).unwrap());
    source.text.t5 = within(OPENING, "opening 9.5 GB of f16", || Checkpoint::open(&text).unwrap());
    assert_eq!(FluxConfig::detect(&source.dit).unwrap(), FluxConfig::default());
    let (options, geometry) = (PipelineOptions::new(&device()), Geometry::new(512, 512));
    let error = within(8 * MIB, "refusing 64 MiB", || {
        Plan::make(&source, &options, &geometry, Budget::Bytes(64 * MIB)).unwrap_err().to_string()
    });
    println!("  {error}");
    assert!(error.contains("GiB") && error.contains("at least"), "{error}");
    // Products of 20 MiB tell how fast the machine is.
    let plan = within(64 * MIB, "planning for 8 GiB", || {
        Plan::make(&source, &options, &geometry, Budget::Bytes(8 * GIB)).unwrap()
    });
    // Without the 6 GiB of modulations, which are read once.
    assert!(plan.streamed_bytes > 8 * GIB && plan.streamed_bytes < 10 * GIB, "{plan}");
    // Half of a model: what is missing is told before anything is loaded.
    let half = hollow_safetensors(folder.path(), "half.safetensors", &flux("BF16")[20..]);
    let half = within(OPENING, "opening a part", || Checkpoint::open(&half).unwrap());
    let error = within(8 * MIB, "refusing a part", || {
        Flux::load(&half, &LoadOptions::new(&device())).map(drop).unwrap_err().to_string()
    });
    assert!(error.contains("half.safetensors") && error.contains("img_in.weight"), "{error}");
}

#[test]
fn large_safetensors_files_that_lie_are_refused_before_they_are_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let one = |shape: &str, end: u64| {
        let header = format!(r#"{{"a.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
        raw_files::safetensors(header, &[])
    };
    let sound = one("[1024,7864320]", 30 * GIB);
    let whole = sound.len() as u64 + 30 * GIB;
    let path = hollow(folder, "sound.safetensors", &sound, whole);
    within(OPENING, "opening one tensor of 30 GiB", || Checkpoint::open(&path).unwrap());
    for (name, start, length) in [
        ("cut.safetensors", sound.clone(), whole - 1),
        ("half.safetensors", sound.clone(), whole / 2),
        ("longer.safetensors", sound.clone(), whole + GIB),
        ("larger.safetensors", one("[1024,7864320]", 40 * GIB), whole),
        ("shape.safetensors", one("[1024,9000000]", 30 * GIB), whole),
        ("header.safetensors", [&(20 * GIB).to_le_bytes()[..], b"{}"].concat(), whole),
        ("endless.safetensors", [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), whole),
        ("nothing.safetensors", Vec::new(), whole),
    ] {
        refused(name, &hollow(folder, name, &start, length), &["load it anew"]);
    }
    // The longest header that is looked at has 100 MB.
    let start = [&(99_000_000u64).to_le_bytes()[..], b"{\"a\""].concat();
    let path = hollow(folder, "long.safetensors", &start, whole);
    let error = within(HEADER, "a header of 99 MB", || Checkpoint::open(&path).unwrap_err().to_string());
    assert!(error.contains("long.safetensors"), "{error}");
}

#[test]
fn large_shards_are_refused_before_they_are_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c"];
    let shards = names.map(|name| {
        let tensors = [(name.to_owned(), "BF16", vec![1024, 5 << 20])];
        let shard = format!("model-{name}.safetensors");
        (hollow_safetensors(folder.path(), &shard, &tensors), shard)
    });
    let map: serde_json::Map<_, _> = names
        .iter()
        .zip(&shards)
        .map(|(name, (_, shard))| ((*name).to_owned(), shard.as_str().into()))
        .collect();
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    within(3 * OPENING, "opening three shards of 10 GiB", || Checkpoint::open(folder.path()).unwrap());
    let last = OpenOptions::new().write(true).open(&shards[2].0).unwrap();
    last.set_len(last.metadata().unwrap().len() - 1).unwrap();
    let error = within(3 * OPENING, "a shard cut short", || {
        Checkpoint::open(folder.path()).map(drop).unwrap_err().to_string()
    });
    assert!(error.contains("model-c.safetensors") && error.contains("load it anew"), "{error}");
    // An index of tens of gigabytes is none.
    OpenOptions::new().write(true).open(&index).unwrap().set_len(30 * GIB).unwrap();
    let error =
        within(8 * MIB, "a huge index", || Checkpoint::open(&index).map(drop).unwrap_err().to_string());
    assert!(error.contains("index.json") && error.contains("too many"), "{error}");
}

/// A file of one tensor of Q4_0, of so many bytes of data.
fn gguf(bytes: u64) -> Gguf {
    let rows = bytes / (18 * 128);
    Gguf {
        tensors: vec![GgufTensor::new("a.weight", &[4096, rows], 2, 0)],
        data: Vec::new(),
        ..Gguf::sound()
    }
}

#[test]
fn large_gguf_files_that_are_cut_short_or_lie_are_refused_before_they_are_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = 18 * 128 * (30 * GIB / (18 * 128));
    let sound = gguf(data).header();
    let whole = sound.len() as u64 + data;
    let path = hollow(folder, "sound.gguf", &sound, whole);
    let opened = within(OPENING, "opening 30 GiB of Q4_0", || Checkpoint::open(&path).unwrap());
    assert_eq!(opened.storage(), "Q4_0");
    for (name, start, length) in [
        ("cut.gguf", sound.clone(), whole - 1),
        ("half.gguf", sound.clone(), whole / 2),
        ("header.gguf", sound.clone(), sound.len() as u64),
        ("larger.gguf", gguf(2 * data).header(), whole),
        ("counts.gguf", Gguf { tensor_count: Some(1 << 40), ..gguf(data) }.header(), whole),
        ("entries.gguf", Gguf { metadata_count: Some(1 << 40), ..gguf(data) }.header(), whole),
    ] {
        refused(name, &hollow(folder, name, &start, length), &["load it anew"]);
    }
}

#[test]
fn a_header_of_gigabytes_is_refused_before_it_is_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    // One array of bytes, which is stepped over, but is the better part of the file.
    let array = [&0u32.to_le_bytes()[..], &(GIB / 2).to_le_bytes()].concat();
    let file = Gguf { metadata: vec![gguf_entry("x", ARRAY, &array)], tensors: Vec::new(), ..Gguf::sound() };
    let path = hollow(folder.path(), "array.gguf", &file.bytes(), GIB);
    let _ = within(HEADER, "an array of half a GiB", || Checkpoint::open(&path).map(drop));
}

// A hole reads as names of no letters, tensors of no dimensions and strings of no length: a count that the file could just
// hold is believed until its end.

#[test]
fn a_number_of_tensors_that_no_model_has_is_refused_before_they_are_listed() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let file = Gguf { tensor_count: Some(10 << 20), tensors: Vec::new(), ..Gguf::sound() };
    refused_within(
        HEADER,
        "ten million tensors",
        &hollow(folder.path(), "x.gguf", &file.header(), GIB / 2),
        &[],
    );
}

#[test]
fn a_number_of_metadata_entries_that_no_file_has_is_refused_before_they_are_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let file = Gguf { metadata_count: Some(30 << 20), ..Gguf::sound() };
    refused_within(
        HEADER,
        "thirty million entries",
        &hollow(folder.path(), "x.gguf", &file.header()[..24], GIB / 2),
        &[],
    );
}

#[test]
fn a_number_of_strings_that_no_vocabulary_has_is_refused_before_they_are_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let array = [&STRING.to_le_bytes()[..], &(60u64 << 20).to_le_bytes()].concat();
    let entry = gguf_entry("tokenizer.ggml.tokens", ARRAY, &array);
    let file = Gguf { metadata: vec![entry], tensors: Vec::new(), ..Gguf::sound() };
    refused_within(
        HEADER,
        "sixty million strings",
        &hollow(folder.path(), "x.gguf", &file.header(), GIB / 2),
        &[],
    );
}

// LoRA and scale tensors that should be small

#[test]
fn an_alpha_of_gigabytes_is_refused_before_it_is_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let layer = "lora_unet_double_blocks_0_img_attn_qkv";
    let tensors = [
        (format!("{layer}.lora_down.weight"), "F32", vec![2, 64]),
        (format!("{layer}.lora_up.weight"), "F32", vec![192, 2]),
        (format!("{layer}.alpha"), "F32", vec![GIB / 8]),
    ];
    let path = hollow_safetensors(folder.path(), "style.safetensors", &tensors);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let error = within(8 * MIB, "an alpha of half a GiB", || {
        lora::deltas(&checkpoint, 1.0).map(drop).unwrap_err().to_string()
    });
    assert!(error.contains("style.safetensors") && error.contains("alpha"), "{error}");
}

#[test]
fn a_lora_of_gigabytes_for_another_model_is_refused_before_it_is_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let layer = "lora_unet_double_blocks_0_img_mlp_0";
    let tensors = [
        (format!("{layer}.lora_down.weight"), "F32", vec![1 << 20, 3072]),
        (format!("{layer}.lora_up.weight"), "F32", vec![12288, 1 << 20]),
    ];
    let path = hollow_safetensors(folder.path(), "style.safetensors", &tensors);
    let lora = within(OPENING, "opening a LoRA of 60 GiB", || Checkpoint::open(&path).unwrap());
    let source = random_model();
    let mut model = Flux::load(&source.dit, &LoadOptions::new(&device())).unwrap();
    let error = within(8 * MIB, "refusing it", || {
        lora::attach(&mut model, &lora, 1.0, &LoadOptions::new(&device())).map(drop).unwrap_err().to_string()
    });
    assert!(error.contains("style.safetensors") && error.contains("3072 inputs"), "{error}");
}

#[test]
fn a_scale_of_gigabytes_is_refused_before_it_is_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    for key in ["layer.scale_weight", "layer.weight_scale"] {
        let tensors =
            [("layer.weight".to_owned(), "F8_E4M3", vec![64, 64]), (key.to_owned(), "F32", vec![GIB / 8])];
        refused(key, &hollow_safetensors(folder.path(), "x.safetensors", &tensors), &[key, "one per row"]);
    }
}

#[test]
fn a_description_of_gigabytes_is_refused_before_it_is_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let tensors = [
        ("layer.weight".to_owned(), "F8_E4M3", vec![64, 64]),
        ("layer.comfy_quant".to_owned(), "U8", vec![GIB / 2]),
    ];
    refused("comfy_quant", &hollow_safetensors(folder.path(), "x.safetensors", &tensors), &["layer"]);
}

#[test]
fn settings_of_gigabytes_are_refused_before_they_are_read() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let config = hollow(folder.path(), "config.json", b"{}", GIB / 2);
    let source = random_model();
    let error = within(8 * MIB, "a config.json of half a GiB", || {
        ClipTextEncoder::load(&source.text.clip, Some(&config), &LoadOptions::new(&device()))
            .map(drop)
            .unwrap_err()
            .to_string()
    });
    println!("{error}");
}
