//! Where a model's files are found: options, folder, environment variables, hub cache, hub.
//!
//! The hub tests talk to a small server in this process, on 127.0.0.1.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use uno_models::checkpoint::{
    CheckpointFiles, CheckpointOptions, ClipTokenizerFiles, Environment, HubOptions, ModelType, Part, Source,
    T5TokenizerFiles, discover,
};

/// A sound safetensors file with one tensor of `n` bytes, each `fill`.
fn safetensors(n: usize, fill: u8) -> Vec<u8> {
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{n}],"data_offsets":[0,{n}]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.resize(bytes.len() + n, fill);
    bytes
}

fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// A folder with a whole model, as the golden one has it.
fn model_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in
        ["flux1-dev", "ae", "dit_lora", "t5/model", "clip/model"].map(|stem| format!("{stem}.safetensors"))
    {
        put(folder.path(), &name, safetensors(4, 0));
    }
    put(folder.path(), "t5/spiece.model", "\n\x05words");
    put(folder.path(), "clip/vocab.json", "{}");
    put(folder.path(), "clip/merges.txt", "#version: 0.2\n");
    folder
}

/// Options that see nothing of the machine that the test runs on.
fn options() -> CheckpointOptions {
    CheckpointOptions { environment: Environment::empty(), ..CheckpointOptions::default() }
}

fn in_folder(folder: &TempDir) -> CheckpointOptions {
    CheckpointOptions { model_dir: Some(folder.path().to_path_buf()), ..options() }
}

fn found(options: &CheckpointOptions) -> CheckpointFiles {
    discover(options, &()).unwrap_or_else(|e| panic!("{e}"))
}

/// The error's text, which must hold all of `words`.
#[track_caller]
fn refused(options: &CheckpointOptions, words: &[&str]) -> String {
    let text = discover(options, &()).expect_err("must be refused").to_string();
    println!("{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    text
}

#[test]
fn golden_model_folders_are_found_as_they_are() {
    let root =
        std::env::var_os("UNO_GOLDEN").map_or_else(|| PathBuf::from("../shared/golden"), PathBuf::from);
    let sets = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    let models: Vec<_> = sets.map(|set| set.join("model")).filter(|path| path.is_dir()).collect();
    if models.is_empty() {
        assert!(
            std::env::var_os("UNO_REQUIRE_GOLDEN").is_none_or(|v| v != "1"),
            "no golden models in {root:?}"
        );
        eprintln!(
            "golden_model_folders_are_found_as_they_are: skipped, no golden models in {}",
            root.display()
        );
        return;
    }
    for model in models {
        let options = CheckpointOptions { model_dir: Some(model.clone()), ..options() };
        let files = found(&options);
        println!("{}: {}", model.display(), files.model_type);
        for (part, path, source) in files.parts() {
            println!("  {part}: {} ({source})", path.display());
            assert!(path.starts_with(&model) && path.is_file());
            assert_eq!(*source, Source::Folder(model.clone()));
        }
        assert_eq!(files.parts().len(), Part::ALL.len());
    }
}

#[test]
fn an_option_wins_over_the_folder_and_the_folder_over_the_environment() {
    let folder = model_folder();
    let other = tempfile::tempdir().unwrap();
    let variables = [
        ("FLUX_DEV", "flux1-dev"),
        ("AE", "ae"),
        ("LORA", "dit_lora"),
        ("T5", "t5/model"),
        ("CLIP", "clip/model"),
    ]
    .map(|(name, stem)| (name, put(other.path(), &format!("env/{stem}.safetensors"), safetensors(1, 1))));
    put(other.path(), "env/t5/tokenizer.json", "{}");
    put(other.path(), "env/clip/tokenizer.json", "{}");
    let environment = Environment::of(variables.clone());

    // Environment alone.
    let files = found(&CheckpointOptions { environment: environment.clone(), ..options() });
    for (_, path, source) in files.parts() {
        assert!(path.starts_with(other.path()), "{path:?}");
        assert!(matches!(source, Source::Env(_)), "{source}");
    }
    assert_eq!(files.dit.source, Source::Env("FLUX_DEV"));
    assert_eq!(files.dit.files, variables[0].1);
    assert!(matches!(files.t5.tokenizer.files, T5TokenizerFiles::Json(_)));
    assert!(matches!(files.clip.tokenizer.files, ClipTokenizerFiles::Json(_)));

    // Folder and environment.
    let both = CheckpointOptions { environment, ..in_folder(&folder) };
    for (_, path, source) in found(&both).parts() {
        assert!(path.starts_with(folder.path()), "{path:?}");
        assert_eq!(*source, Source::Folder(folder.path().to_path_buf()));
    }

    // The folder lacks a part that the environment has.
    fs::remove_file(folder.path().join("ae.safetensors")).unwrap();
    assert_eq!(found(&both).ae.source, Source::Env("AE"));

    // All three.
    let own = put(other.path(), "own/some_name.safetensors", safetensors(2, 2));
    let words = put(other.path(), "own/words.model", "\n\x05words");
    let all = CheckpointOptions {
        dit: Some(own.clone()),
        ae: Some(own.clone()),
        lora: Some(own.clone()),
        t5: Some(own.clone()),
        t5_tokenizer: Some(words.clone()),
        clip: Some(own.clone()),
        clip_tokenizer: Some(folder.path().join("clip/vocab.json")),
        ..both
    };
    let files = found(&all);
    for (part, path, source) in files.parts() {
        assert_eq!(*source, Source::Option(part.option()));
        assert!(path == own || path == words || part == Part::ClipTokenizer, "{path:?}");
    }
    assert_eq!(files.t5.tokenizer.files, T5TokenizerFiles::SentencePiece(words));
    assert!(matches!(files.clip.tokenizer.files, ClipTokenizerFiles::VocabMerges { .. }));

    // Weights elsewhere, without a tokenizer beside them: the folder's tokenizer serves.
    let files = found(&CheckpointOptions { t5: Some(own), ..in_folder(&model_folder()) }.clone());
    assert_eq!(files.t5.weights.source, Source::Option("t5"));
    assert!(matches!(files.t5.tokenizer.source, Source::Folder(_)));
}

#[test]
fn a_named_path_that_is_missing_is_an_error_and_nothing_else_is_tried() {
    let folder = model_folder();
    let nowhere = folder.path().join("no/such.safetensors");
    let shown = nowhere.to_str().unwrap();
    type Set = fn(&mut CheckpointOptions, PathBuf);
    let options_of: [(&str, Set); 7] = [
        ("dit", |o, p| o.dit = Some(p)),
        ("ae", |o, p| o.ae = Some(p)),
        ("t5", |o, p| o.t5 = Some(p)),
        ("t5_tokenizer", |o, p| o.t5_tokenizer = Some(p)),
        ("clip", |o, p| o.clip = Some(p)),
        ("clip_tokenizer", |o, p| o.clip_tokenizer = Some(p)),
        ("lora", |o, p| o.lora = Some(p)),
    ];
    for (name, set) in options_of {
        let mut options = in_folder(&folder);
        set(&mut options, nowhere.clone());
        refused(&options, &[&format!("option {name}"), shown, "is not there"]);
    }
    for (name, model_type, stem) in [
        ("FLUX_DEV", ModelType::FluxDev, "flux1-dev"),
        ("FLUX_DEV_FP8", ModelType::FluxDevFp8, "flux1-dev"),
        ("FLUX_SCHNELL", ModelType::FluxSchnell, "flux1-dev"),
        ("AE", ModelType::FluxDev, "ae"),
        ("LORA", ModelType::FluxDev, "dit_lora"),
        ("T5", ModelType::FluxDev, "t5/model"),
        ("CLIP", ModelType::FluxDev, "clip/model"),
    ] {
        let folder = model_folder();
        fs::remove_file(folder.path().join(format!("{stem}.safetensors"))).unwrap();
        let options = CheckpointOptions {
            environment: Environment::of([(name, &nowhere)]),
            model_type: Some(model_type),
            ..in_folder(&folder)
        };
        refused(&options, &[&format!("environment variable {name}"), shown, "is not there"]);
    }
    // The official code takes the name of a repository in T5 and CLIP.
    let options = CheckpointOptions {
        t5: Some("xlabs-ai/xflux_text_encoders".into()),
        model_dir: Some("black-forest-labs/FLUX.1-dev".into()),
        ..options()
    };
    refused(&options, &["model folder", "is not there", "name of a hub repository is not taken"]);
    refused(&CheckpointOptions { model_dir: None, ..options }, &["option t5", "hub repository is not taken"]);
    refused(
        &CheckpointOptions { model_dir: Some(folder.path().join("ae.safetensors")), ..in_folder(&folder) },
        &["is not a folder"],
    );
}

#[test]
fn the_variable_of_the_dit_goes_with_the_model_type() {
    let folder = model_folder();
    let [dev, fp8, schnell] =
        ["a", "b", "c"].map(|name| put(folder.path(), &format!("{name}.safetensors"), safetensors(1, 0)));
    fs::remove_file(folder.path().join("flux1-dev.safetensors")).unwrap();
    let with = |variables: &[(&str, &PathBuf)], model_type| CheckpointOptions {
        environment: Environment::of(variables.iter().copied()),
        model_type,
        ..in_folder(&folder)
    };
    let all = [("FLUX_DEV", &dev), ("FLUX_DEV_FP8", &fp8), ("FLUX_SCHNELL", &schnell)];
    for (model_type, path) in
        [(ModelType::FluxDev, &dev), (ModelType::FluxDevFp8, &fp8), (ModelType::FluxSchnell, &schnell)]
    {
        assert_eq!(found(&with(&all, Some(model_type))).dit.files, *path);
        // Where nothing else decides, the variable that is set does.
        let alone: Vec<_> = all.into_iter().filter(|(_, p)| p == &path).collect();
        let files = found(&with(&alone, None));
        assert_eq!((files.model_type, &files.dit.files), (model_type, path));
    }
    // The official fp8 is made from the same file.
    let files = found(&with(&all[..1], Some(ModelType::FluxDevFp8)));
    assert_eq!((files.dit.files, files.dit.source), (dev.clone(), Source::Env("FLUX_DEV")));
    refused(
        &with(&all[..2], Some(ModelType::FluxSchnell)),
        &["DiT", "flux1-schnell.safetensors", "FLUX_SCHNELL"],
    );
    // Set to nothing is not set.
    let nothing = PathBuf::new();
    refused(&with(&[("FLUX_DEV", &nothing)], None), &["DiT", "FLUX_DEV"]);
}

#[test]
fn a_folder_says_by_itself_which_model_it_holds() {
    let folder = model_folder();
    assert_eq!(found(&in_folder(&folder)).model_type, ModelType::FluxDev);
    let fp8 = CheckpointOptions { model_type: Some(ModelType::FluxDevFp8), ..in_folder(&folder) };
    assert_eq!(found(&fp8).dit.files, folder.path().join("flux1-dev.safetensors"));

    // Both are there: the option decides.
    let schnell = put(folder.path(), "flux1-schnell.safetensors", safetensors(1, 0));
    assert_eq!(found(&in_folder(&folder)).model_type, ModelType::FluxDev);
    let asked = CheckpointOptions { model_type: Some(ModelType::FluxSchnell), ..in_folder(&folder) };
    assert_eq!(found(&asked).dit.files, schnell);

    // Only schnell is there.
    fs::remove_file(folder.path().join("flux1-dev.safetensors")).unwrap();
    let files = found(&in_folder(&folder));
    assert_eq!((files.model_type, files.dit.files), (ModelType::FluxSchnell, schnell.clone()));
    let asked = CheckpointOptions { model_type: Some(ModelType::FluxDev), ..in_folder(&folder) };
    refused(&asked, &["DiT", "flux1-dev.safetensors", "that is flux-schnell, but model_type says flux-dev"]);

    // Only fp8 is there.
    fs::rename(schnell, folder.path().join("flux1-dev-fp8.safetensors")).unwrap();
    assert_eq!(found(&in_folder(&folder)).model_type, ModelType::FluxDevFp8);
}

#[test]
fn model_types_have_their_official_names() {
    for model_type in ModelType::ALL {
        assert_eq!(model_type.to_string().parse::<ModelType>().unwrap(), model_type);
    }
    assert_eq!("FLUX_DEV_FP8".parse::<ModelType>().unwrap(), ModelType::FluxDevFp8);
    let error = "flux-pro".parse::<ModelType>().unwrap_err().to_string();
    assert!(error.contains("flux-pro") && error.contains("flux-schnell"), "{error}");
}

#[test]
fn a_folder_that_lacks_parts_is_described_in_one_error() {
    let folder = model_folder();
    let rename = |from: &str, to: &str| fs::rename(folder.path().join(from), folder.path().join(to)).unwrap();
    rename("ae.safetensors", "VAE.safetensors");
    let text = refused(
        &in_folder(&folder),
        &[
            "autoencoder",
            "has none of ae.safetensors, ae.sft, ae.safetensors.index.json",
            "holds: VAE.safetensors, clip/, dit_lora.safetensors",
            "did you mean VAE.safetensors? rename it to ae.safetensors",
            "option ae",
            "environment variable AE",
            "335.3 MB",
            "FLUX.1-dev Non-Commercial License",
            "https://huggingface.co/black-forest-labs/FLUX.1-dev",
        ],
    );
    assert!(!text.contains("DiT"), "{text}");

    rename("flux1-dev.safetensors", "flux1_dev.safetensors");
    rename("t5", "t5_files");
    rename("clip/merges.txt", "clip/merge.txt");
    refused(
        &in_folder(&folder),
        &[
            "5 parts of the model: missing, or not to be used\n- DiT",
            "- DiT:",
            "did you mean flux1_dev.safetensors? rename it to flux1-dev.safetensors",
            "- autoencoder:",
            "- T5:",
            "has no folder t5/ with any of model.safetensors",
            "- T5 tokenizer:",
            "spiece.model, tokenizer.json",
            "- CLIP tokenizer:",
            "merges.txt is not there (vocab.json and merges.txt belong together)",
        ],
    );
}

#[test]
fn a_t5_path_with_clip_in_it_is_still_t5() {
    let folder = model_folder();
    let home = tempfile::tempdir().unwrap();
    fs::rename(folder.path().join("t5"), home.path().join("clip-vit-not-really")).unwrap();
    fs::rename(folder.path().join("clip"), home.path().join("t5-not-really")).unwrap();
    let [t5, clip] = ["clip-vit-not-really", "t5-not-really"].map(|name| home.path().join(name));
    let environment = Environment::of([("T5", &t5), ("CLIP", &clip)]);
    let by_variable = found(&CheckpointOptions { environment, ..in_folder(&folder) });
    let by_option =
        found(&CheckpointOptions { t5: Some(t5.clone()), clip: Some(clip.clone()), ..in_folder(&folder) });
    for files in [by_variable, by_option] {
        assert_eq!(files.t5.weights.files, t5.join("model.safetensors"));
        assert_eq!(files.t5.tokenizer.files, T5TokenizerFiles::SentencePiece(t5.join("spiece.model")));
        assert_eq!(files.clip.weights.files, clip.join("model.safetensors"));
    }
}

#[test]
fn without_a_lora_the_model_is_whole_if_none_is_wanted() {
    let folder = model_folder();
    let plain = CheckpointOptions { use_lora: false, ..in_folder(&folder) };
    assert_eq!(found(&plain).lora, None, "the LoRA that is there is left alone");
    let lora = folder.path().join("dit_lora.safetensors");
    fs::remove_file(&lora).unwrap();
    assert_eq!(found(&plain).lora, None);
    refused(&in_folder(&folder), &["LoRA", "dit_lora.safetensors", "bytedance-research/UNO"]);
    refused(&CheckpointOptions { lora: Some(lora), ..plain }, &["lora", "use_lora"]);

    // A checkpoint folder of a training run.
    put(folder.path(), "checkpoint-10/dit_lora.safetensors", safetensors(1, 0));
    put(folder.path(), "checkpoint-10/dit_lora_ema.safetensors", safetensors(1, 0));
    let trained = CheckpointOptions { lora: Some(folder.path().join("checkpoint-10")), ..in_folder(&folder) };
    assert!(found(&trained).lora.unwrap().files.ends_with("checkpoint-10/dit_lora.safetensors"));
}

#[test]
fn shards_are_found_by_their_index_and_must_all_be_there() {
    let folder = model_folder();
    let index = |stem: &str, shards: &[&str]| {
        let map: BTreeMap<_, _> = shards.iter().map(|shard| (format!("tensor of {shard}"), *shard)).collect();
        let json = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
        put(folder.path(), &format!("{stem}.safetensors.index.json"), json)
    };
    for (stem, name) in [("flux1-dev", "flux1-dev"), ("t5/model", "model")] {
        let shards = [1, 2].map(|i| format!("{name}-0000{i}-of-00002.safetensors"));
        let first = folder.path().join(stem).parent().unwrap().to_path_buf();
        fs::rename(folder.path().join(format!("{stem}.safetensors")), first.join(&shards[0])).unwrap();
        index(stem, &[&shards[0], &shards[1]]);
        refused(&in_folder(&folder), &["2 shards, of which 1 are not beside it", &shards[1]]);
        put(&first, &shards[1], "<!DOCTYPE html>");
        refused(
            &in_folder(&folder),
            &[&format!("has a shard, {}, that is a web page", shards[1]), "web page"],
        );
        put(&first, &shards[1], safetensors(1, 0));
        let files = found(&in_folder(&folder));
        assert!(
            files.parts().iter().any(|(_, path, _)| path.ends_with(format!("{name}.safetensors.index.json")))
        );
    }
    let given = folder.path().join("flux1-dev.safetensors.index.json");
    let given = CheckpointOptions { dit: Some(given.clone()), ..in_folder(&folder) };
    assert_eq!(found(&given).dit.source, Source::Option("dit"));

    let evil = index("evil", &["../../etc/passwd.safetensors"]);
    refused(
        &CheckpointOptions { dit: Some(evil), ..in_folder(&folder) },
        &["option dit", "../../etc/passwd", "plain"],
    );
}

#[test]
fn what_is_not_safetensors_is_told_apart() {
    let folder = model_folder();
    let home = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], &[&str]); 8] = [
        (
            "a.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n",
            &["git-lfs pointer", "git lfs pull"],
        ),
        ("a.safetensors", b"<!doctype html><title>Sign in</title>", &["web page"]),
        ("a.safetensors", b"{\"error\":\"Invalid username or password.\"}", &["JSON"]),
        ("a.safetensors", b"", &["is empty"]),
        ("a.safetensors", b"\xff\0\0\0\0\0\0\0{\"a\":", &["cut short"]),
        (
            "a.ckpt",
            b"PK\x03\x04",
            &[
                "pickle files can run code when read",
                "use the safetensors file ae.safetensors from https://huggingface.co/black-forest-labs/FLUX.1-dev instead",
            ],
        ),
        ("a.safetensors", b"PK\x03\x04", &["pickle files can run code when read", "ae.safetensors"]),
        ("a.gguf", b"GGUF\x03\0\0\0", &["cut short", "load it anew"]),
    ];
    for (name, bytes, words) in cases {
        let path = put(home.path(), name, bytes);
        let text = refused(&CheckpointOptions { ae: Some(path.clone()), ..in_folder(&folder) }, words);
        assert!(text.contains("autoencoder: option ae: ") && text.contains(path.to_str().unwrap()), "{text}");
        // The same under its proper name in the folder.
        if name.ends_with(".safetensors") {
            fs::copy(path, folder.path().join("ae.safetensors")).unwrap();
            refused(&in_folder(&folder), words);
        }
    }
    fs::remove_file(folder.path().join("ae.safetensors")).unwrap();
    fs::create_dir(folder.path().join("ae.safetensors")).unwrap();
    refused(&in_folder(&folder), &["ae.safetensors is a folder"]);
}

#[test]
#[cfg(unix)]
fn a_broken_link_is_called_one() {
    let folder = model_folder();
    let lora = folder.path().join("dit_lora.safetensors");
    fs::remove_file(&lora).unwrap();
    std::os::unix::fs::symlink("../nowhere", &lora).unwrap();
    refused(&in_folder(&folder), &["LoRA", "is a link to a file that is not there"]);
}

/// The smallest file that passes for GGUF at a look.
const GGUF: &[u8] = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn the_layouts_of_diffusers_and_comfyui_are_found() {
    let diffusers = tempfile::tempdir().unwrap();
    for weights in [
        "transformer/diffusion_pytorch_model",
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
        "text_encoder_2/model",
    ] {
        put(diffusers.path(), &format!("{weights}.safetensors"), safetensors(1, 0));
    }
    put(diffusers.path(), "tokenizer/vocab.json", "{}");
    put(diffusers.path(), "tokenizer/merges.txt", "#");
    put(diffusers.path(), "tokenizer_2/spiece.model", "x");
    put(diffusers.path(), "dit_lora.safetensors", safetensors(1, 0));
    let files = found(&in_folder(&diffusers));
    assert_eq!(files.dit.files, diffusers.path().join("transformer/diffusion_pytorch_model.safetensors"));
    assert_eq!(files.t5.weights.files, diffusers.path().join("text_encoder_2/model.safetensors"));

    let comfy = model_folder();
    for part in ["flux1-dev.safetensors", "t5/model.safetensors", "clip/model.safetensors"] {
        fs::remove_file(comfy.path().join(part)).unwrap();
    }
    put(comfy.path(), "t5xxl_fp16.safetensors", safetensors(1, 0));
    put(comfy.path(), "clip_l.safetensors", safetensors(1, 0));
    put(comfy.path(), "flux1-dev-Q8_0.gguf", GGUF);
    let files = found(&in_folder(&comfy));
    assert_eq!(files.dit.files, comfy.path().join("flux1-dev-Q8_0.gguf"));
    assert_eq!(files.t5.weights.files, comfy.path().join("t5xxl_fp16.safetensors"));
    assert_eq!(files.clip.weights.files, comfy.path().join("clip_l.safetensors"));

    put(comfy.path(), "flux1-dev-Q4_K_S.gguf", GGUF);
    refused(
        &in_folder(&comfy),
        &["several files", "flux1-dev-Q4_K_S.gguf, flux1-dev-Q8_0.gguf", "option dit"],
    );
}

#[test]
fn what_is_not_read_is_named_in_a_folder_that_lacks_a_part() {
    let empty = tempfile::tempdir().unwrap();
    refused(&in_folder(&empty), &["7 parts of the model", "holds: nothing"]);

    let pickled = tempfile::tempdir().unwrap();
    put(pickled.path(), "dit_lora.bin", "PK\x03\x04");
    refused(
        &in_folder(&pickled),
        &[
            "dit_lora.bin: pickle files can run code when read",
            "dit_lora.safetensors from https://huggingface.co/bytedance-research/UNO",
        ],
    );
}

#[test]
fn either_form_of_a_tokenizer_is_taken_but_not_half_of_one() {
    let folder = model_folder();
    let clip = folder.path().join("clip");
    assert_eq!(
        found(&in_folder(&folder)).clip.tokenizer.files,
        ClipTokenizerFiles::VocabMerges { vocab: clip.join("vocab.json"), merges: clip.join("merges.txt") }
    );
    let json = put(&clip, "tokenizer.json", "\u{feff}{}");
    assert_eq!(found(&in_folder(&folder)).clip.tokenizer.files, ClipTokenizerFiles::Json(json.clone()));
    fs::write(&json, "not json").unwrap();
    refused(&in_folder(&folder), &["CLIP tokenizer", "JSON"]);
    fs::remove_file(json).unwrap();
    fs::remove_file(clip.join("vocab.json")).unwrap();
    refused(&in_folder(&folder), &["CLIP tokenizer", "vocab.json", "belong together"]);
    let given = CheckpointOptions { clip_tokenizer: Some(clip.join("merges.txt")), ..in_folder(&folder) };
    refused(&given, &["option clip_tokenizer", "vocab.json"]);
    fs::remove_file(clip.join("merges.txt")).unwrap();
    refused(&in_folder(&folder), &["CLIP tokenizer", "tokenizer.json, vocab.json, merges.txt"]);

    let t5 = folder.path().join("t5");
    fs::write(t5.join("spiece.model"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    refused(&in_folder(&folder), &["T5 tokenizer", "git-lfs"]);
    // The config is told where there is one.
    let folder = model_folder();
    assert_eq!(found(&in_folder(&folder)).clip.config, None);
    let config = put(folder.path(), "clip/config.json", "{}");
    assert_eq!(found(&in_folder(&folder)).clip.config, Some(config));
}

#[test]
fn only_what_is_named_counts_as_named() {
    assert!(!options().names_anything());
    assert!(
        !CheckpointOptions { environment: Environment::of([("HF_HOME", "/x"), ("AE", "")]), ..options() }
            .names_anything()
    );
    for name in ["FLUX_DEV", "FLUX_DEV_FP8", "FLUX_SCHNELL", "AE", "T5", "CLIP", "LORA"] {
        let environment = Environment::of([(name, "/x")]);
        assert!(CheckpointOptions { environment, ..options() }.names_anything(), "{name}");
    }
    assert!(CheckpointOptions { model_dir: Some("x".into()), ..options() }.names_anything());
    assert!(CheckpointOptions { clip_tokenizer: Some("x".into()), ..options() }.names_anything());
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Names of the files of a whole model on the hub, with contents.
fn hub_files() -> BTreeMap<&'static str, Vec<u8>> {
    let t5 = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let index = serde_json::json!({"weight_map": {"a": t5[0], "b": t5[1], "c": t5[0]}}).to_string();
    BTreeMap::from([
        ("black-forest-labs/FLUX.1-dev/flux1-dev.safetensors", safetensors(900_000, 1)),
        ("black-forest-labs/FLUX.1-dev/ae.safetensors", safetensors(1000, 2)),
        ("xlabs-ai/xflux_text_encoders/config.json", b"{}".to_vec()),
        ("xlabs-ai/xflux_text_encoders/model.safetensors.index.json", index.into_bytes()),
        ("xlabs-ai/xflux_text_encoders/model-00001-of-00002.safetensors", safetensors(3000, 3)),
        ("xlabs-ai/xflux_text_encoders/model-00002-of-00002.safetensors", safetensors(4000, 4)),
        ("xlabs-ai/xflux_text_encoders/spiece.model", b"\n\x05words".to_vec()),
        ("openai/clip-vit-large-patch14/model.safetensors", safetensors(5000, 5)),
        ("openai/clip-vit-large-patch14/tokenizer.json", b"{}".to_vec()),
        ("bytedance-research/UNO/dit_lora.safetensors", safetensors(600_000, 6)),
    ])
}

/// A hub cache that holds `files`, as the Python tools leave it.
fn hub_cache(root: &Path, files: &BTreeMap<&'static str, Vec<u8>>) {
    for (name, bytes) in files {
        let (repo, file) = name.rsplit_once('/').unwrap();
        let repo = root.join(format!("models--{}", repo.replace('/', "--")));
        put(&repo, &format!("snapshots/{COMMIT}/{file}"), bytes);
        put(&repo, "refs/main", COMMIT);
    }
}

#[test]
fn the_hub_cache_is_used_without_any_network() {
    let home = tempfile::tempdir().unwrap();
    hub_cache(&home.path().join("hub"), &hub_files());
    let environment = Environment::of([("HF_HOME", home.path())]);
    let cached = CheckpointOptions { environment, ..options() };
    for offline in [false, true] {
        let files = found(&CheckpointOptions { offline, ..cached.clone() });
        for (_, path, source) in files.parts() {
            assert!(path.starts_with(home.path()), "{path:?}");
            assert!(matches!(source, Source::HubCache(_)), "{source}");
        }
        assert!(files.t5.weights.files.ends_with("model.safetensors.index.json"));
        assert!(files.t5.config.is_some() && files.clip.config.is_none());
    }
    let by_folder = HubOptions { cache_dir: Some(home.path().join("hub")), ..HubOptions::default() };
    assert_eq!(found(&CheckpointOptions { hub: by_folder, ..options() }), found(&cached));

    // Who names a folder wants the model in it, not a mixture.
    let folder = model_folder();
    fs::remove_file(folder.path().join("ae.safetensors")).unwrap();
    let named = CheckpointOptions { model_dir: Some(folder.path().to_path_buf()), ..cached.clone() };
    refused(&named, &["autoencoder", "has none of ae.safetensors, ae.sft, ae.safetensors.index.json"]);
    let mixed = CheckpointOptions { allow_download: true, offline: true, ..named };
    assert!(matches!(found(&mixed).ae.source, Source::HubCache("black-forest-labs/FLUX.1-dev")));

    // A path that was named wins over the cache, and its absence is not covered up.
    let named =
        CheckpointOptions { ae: Some(folder.path().join("clip/model.safetensors")), ..cached.clone() };
    assert_eq!(found(&named).ae.source, Source::Option("ae"));
    refused(
        &CheckpointOptions { ae: Some("/no/such".into()), ..cached.clone() },
        &["option ae: /no/such is not there"],
    );

    // Half a download is not a part.
    let shards = home.path().join("hub/models--xlabs-ai--xflux_text_encoders/snapshots").join(COMMIT);
    fs::remove_file(shards.join("model-00002-of-00002.safetensors")).unwrap();
    let text = refused(&CheckpointOptions { offline: true, ..cached }, &["T5: not found"]);
    if cfg!(feature = "hub") {
        let root = home.path().join("hub").display().to_string();
        for word in ["Offline mode", "HF_HUB_OFFLINE=1", &root] {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    }
}

#[test]
#[cfg(not(feature = "hub"))]
fn a_build_without_the_hub_says_so_and_names_the_files() {
    let options = CheckpointOptions { allow_download: true, ..options() };
    refused(
        &options,
        &["built without download", "flux1-dev.safetensors", "https://huggingface.co/bytedance-research/UNO"],
    );
}

#[cfg(feature = "hub")]
mod hub {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    use uno_models::checkpoint::{HubPart, Progress};

    use super::*;

    const LORA: &str = "bytedance-research/UNO/dit_lora.safetensors";
    const LORA_FOLDER: &str = "models--bytedance-research--UNO";
    /// SHA-256 of the LoRA in [`hub_files`].
    const LORA_SHA256: &str = "2a37e6a631649cab467daf3744eefd3d02047f2ee5322f4f3d388d5d122d7f3f";

    /// A request, as it came.
    #[derive(Clone, Debug)]
    struct Request {
        path: String,
        headers: BTreeMap<String, String>,
    }

    impl Request {
        fn header(&self, name: &str) -> Option<&str> {
            self.headers.get(name).map(String::as_str)
        }

        /// Whether it asks for a file's data, and not only what the file is.
        fn is_for_data(&self) -> bool {
            self.header("range") != Some("bytes=0-0")
        }

        /// `owner/name/file` of a request to the hub.
        fn file(&self) -> Option<String> {
            let parts: Vec<_> = self.path.trim_start_matches('/').split('/').collect();
            match parts[..] {
                [owner, name, "resolve", _, file] => Some(format!("{owner}/{name}/{file}")),
                _ => None,
            }
        }
    }

    /// An answer.
    #[derive(Clone, Debug, Default)]
    struct Reply {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
        /// Send only so many bytes of the body, then close.
        cut: Option<usize>,
        /// After what was sent, stay silent for so long before closing.
        silence: Duration,
    }

    impl Reply {
        fn status(status: u16) -> Self {
            Self { status, ..Self::default() }
        }

        fn with(mut self, name: &str, value: impl ToString) -> Self {
            self.headers.retain(|(n, _)| n != name);
            self.headers.push((name.to_owned(), value.to_string()));
            self
        }

        fn without(mut self, name: &str) -> Self {
            self.headers.retain(|(n, _)| n != name);
            self
        }

        /// `bytes`, or the part of them that was asked for.
        fn of(bytes: &[u8], request: &Request) -> Self {
            let range = request
                .header("range")
                .and_then(|r| r.strip_prefix("bytes="))
                .and_then(|r| r.split_once('-'));
            let total = bytes.len();
            let Some((start, end)) = range else {
                return Self { status: 200, body: bytes.to_vec(), ..Self::default() };
            };
            let start: usize = start.parse().unwrap();
            let end = end.parse().map_or(total, |end: usize| total.min(end + 1));
            if start >= total {
                return Self::status(416).with("Content-Range", format!("bytes */{total}"));
            }
            let reply = Self { status: 206, body: bytes[start..end].to_vec(), ..Self::default() };
            reply.with("Content-Range", format!("bytes {start}-{}/{total}", end - 1))
        }
    }

    /// A server on 127.0.0.1 that stops when dropped, and after a minute in any case.
    struct Server {
        address: String,
        log: Arc<Mutex<Vec<Request>>>,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    impl Server {
        fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let (log, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
            let (its_log, its_stop) = (log.clone(), stop.clone());
            let thread = std::thread::spawn(move || {
                let end = Instant::now() + Duration::from_secs(60);
                std::thread::scope(|scope| {
                    while !its_stop.load(Ordering::Relaxed) && Instant::now() < end {
                        match listener.accept() {
                            Ok((stream, _)) => {
                                let (log, answer) = (&its_log, &answer);
                                scope.spawn(move || serve(stream, log, answer).ok());
                            }
                            Err(_) => std::thread::sleep(Duration::from_millis(2)),
                        }
                    }
                });
            });
            Self { address, log, stop, thread: Some(thread) }
        }

        /// A hub that has these files.
        fn hub(files: BTreeMap<&'static str, Vec<u8>>) -> Self {
            Self::start(move |request| hub_reply(&files, request))
        }

        fn requests(&self) -> Vec<Request> {
            self.log.lock().unwrap().clone()
        }

        /// Files whose data was asked for, with the range asked for.
        fn data_requests(&self) -> Vec<(String, Option<String>)> {
            let requests = self.requests().into_iter().filter(Request::is_for_data);
            requests
                .map(|r| (r.file().unwrap_or(r.path.clone()), r.header("range").map(str::to_owned)))
                .collect()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            self.thread.take().map(JoinHandle::join);
        }
    }

    fn serve(
        stream: TcpStream,
        log: &Mutex<Vec<Request>>,
        answer: &dyn Fn(&Request) -> Reply,
    ) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        let mut lines = BufReader::new(stream.try_clone()?.take(64 << 10)).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let request = Request { path, headers };
        log.lock().unwrap().push(request.clone());
        let reply = answer(&request);
        let mut head = format!("HTTP/1.1 {} Some\r\nConnection: close\r\n", reply.status);
        if !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
            head += &format!("Content-Length: {}\r\n", reply.body.len());
        }
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut stream = stream;
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())])?;
        stream.flush()?;
        std::thread::sleep(reply.silence);
        stream.shutdown(Shutdown::Write)
    }

    fn hub_reply(files: &BTreeMap<&'static str, Vec<u8>>, request: &Request) -> Reply {
        match request.file().and_then(|file| files.get_key_value(file.as_str())) {
            None => Reply::status(404)
                .with("X-Error-Code", "EntryNotFound")
                .with("X-Error-Message", "Entry not found"),
            Some((name, bytes)) => {
                let etag = format!("\"etag-{}-{}\"", name.replace(['/', '.'], "-"), bytes.len());
                Reply::of(bytes, request).with("X-Repo-Commit", COMMIT).with("ETag", etag)
            }
        }
    }

    /// Everything but the LoRA is in a folder; the LoRA is to come from `hub`.
    struct Case {
        folder: TempDir,
        cache: TempDir,
        options: CheckpointOptions,
    }

    impl Case {
        fn new(hub: &Server) -> Self {
            let (folder, cache) = (model_folder(), tempfile::tempdir().unwrap());
            fs::remove_file(folder.path().join("dit_lora.safetensors")).unwrap();
            let options = CheckpointOptions {
                model_dir: Some(folder.path().to_path_buf()),
                allow_download: true,
                hub: hub_options(hub, &cache),
                ..options()
            };
            Self { folder, cache, options }
        }

        /// The LoRA's bytes, as downloaded.
        fn lora(&self) -> Vec<u8> {
            let lora = found(&self.options).lora.unwrap();
            assert!(lora.files.starts_with(self.cache.path()));
            fs::read(lora.files).unwrap()
        }

        fn blobs(&self) -> Vec<PathBuf> {
            let entries = fs::read_dir(self.cache.path().join(LORA_FOLDER).join("blobs"))
                .into_iter()
                .flatten()
                .flatten();
            let paths = entries.map(|entry| entry.path());
            paths.filter(|path| path.extension().is_none_or(|e| e != "lock")).collect()
        }
    }

    fn hub_options(hub: &Server, cache: &TempDir) -> HubOptions {
        HubOptions {
            endpoint: Some(hub.address.clone()),
            cache_dir: Some(cache.path().to_path_buf()),
            retries: 0,
            backoff: Duration::from_millis(5),
            stall_timeout: Duration::from_secs(20),
            ..HubOptions::default()
        }
    }

    /// Writes down what it hears.
    #[derive(Default)]
    struct Heard {
        planned: Mutex<Vec<HubPart>>,
        started: Mutex<Vec<(String, u64)>>,
        finished: Mutex<Vec<String>>,
        notes: Mutex<Vec<String>>,
        done: AtomicU64,
        declines: bool,
        cancels_at: Option<u64>,
    }

    impl Progress for Heard {
        fn plan(&self, parts: &[HubPart]) -> bool {
            self.planned.lock().unwrap().extend(parts);
            !self.declines
        }
        fn starting(&self, _: &HubPart, file: &str, bytes: u64) {
            self.started.lock().unwrap().push((file.to_owned(), bytes));
        }
        fn advanced(&self, _: &HubPart, _: &str, done: u64, total: u64) {
            assert!(done <= total);
            self.done.store(done, Ordering::Relaxed);
        }
        fn finished(&self, _: &HubPart, file: &str) {
            self.finished.lock().unwrap().push(file.to_owned());
        }
        fn note(&self, message: &str) {
            self.notes.lock().unwrap().push(message.to_owned());
        }
        fn cancelled(&self) -> bool {
            self.cancels_at.is_some_and(|at| self.done.load(Ordering::Relaxed) >= at)
        }
    }

    #[test]
    fn a_whole_model_is_downloaded_once_and_never_again() {
        let hub = Server::hub(hub_files());
        let cache = tempfile::tempdir().unwrap();
        let options = CheckpointOptions { allow_download: true, hub: hub_options(&hub, &cache), ..options() };
        let heard = Heard::default();
        let files = discover(&options, &heard).unwrap();
        for (part, path, source) in files.parts() {
            println!("{part}: {} ({source})", path.display());
            assert!(matches!(source, Source::Download(_)), "{source}");
        }
        assert_eq!(
            fs::read(&files.dit.files).unwrap(),
            hub_files()["black-forest-labs/FLUX.1-dev/flux1-dev.safetensors"]
        );
        assert!(files.t5.config.is_some(), "taken where it is there");
        assert!(files.clip.config.is_none(), "not missed where it is not");
        let asked: BTreeMap<_, _> = hub.data_requests().into_iter().collect();
        assert_eq!(asked.len(), 10, "{asked:?}");
        assert_eq!(hub.data_requests().len(), 10, "each file once");

        // The caller could tell sizes and licences beforehand.
        let planned = heard.planned.lock().unwrap();
        assert_eq!(planned.len(), Part::ALL.len());
        let dit = planned.iter().find(|preset| preset.part == Part::Dit).unwrap();
        assert_eq!((dit.bytes / 1_000_000_000, dit.gated), (23, true));
        assert!(dit.licence.name.contains("Non-Commercial") && dit.licence.url.contains("LICENSE"));
        assert_eq!(
            heard.started.lock().unwrap()[0],
            ("flux1-dev.safetensors".to_owned(), fs::metadata(&files.dit.files).unwrap().len())
        );
        assert_eq!(heard.finished.lock().unwrap().len(), 10);

        // All of a repository comes from the commit that its first file came from.
        let shard = hub.requests().into_iter().find(|r| r.path.contains("model-00001")).unwrap();
        assert!(shard.path.contains(&format!("/resolve/{COMMIT}/")), "{}", shard.path);

        let before = hub.requests().len();
        let again = found(&options);
        assert_eq!(hub.requests().len(), before, "nothing is asked of the hub when all is there");
        for ((_, path, source), (_, first, _)) in again.parts().into_iter().zip(files.parts()) {
            assert_eq!(path, first);
            assert!(matches!(source, Source::HubCache(_)), "{source}");
        }

        // One file lost: that one is loaded again, no other.
        let lora = &files.lora.as_ref().unwrap().files;
        fs::remove_file(fs::canonicalize(lora).unwrap()).unwrap();
        assert_eq!(found(&options).lora.unwrap().source, Source::Download("bytedance-research/UNO"));
        assert_eq!(hub.data_requests()[10..], [(LORA.to_owned(), None)]);
    }

    #[test]
    fn a_download_that_broke_off_goes_on_where_it_stopped() {
        let bytes = &hub_files()[LORA];
        let half = bytes.len() / 2;
        let is_first = AtomicBool::new(true);
        let hub = Server::start(move |request| {
            let reply = hub_reply(&hub_files(), request).with("X-Linked-ETag", format!("\"{LORA_SHA256}\""));
            let cut = request.is_for_data() && is_first.swap(false, Ordering::Relaxed);
            Reply { cut: cut.then_some(half), ..reply }
        });
        let case = Case::new(&hub);
        refused(&case.options, &["bytedance-research/UNO/dit_lora.safetensors", "are kept", "run again"]);
        assert_eq!(
            case.blobs(),
            [case.cache.path().join(LORA_FOLDER).join("blobs").join(format!("{LORA_SHA256}.part"))]
        );
        let kept = fs::metadata(&case.blobs()[0]).unwrap().len();
        assert_eq!(kept, half as u64);
        assert!(
            !case
                .cache
                .path()
                .join(LORA_FOLDER)
                .join("snapshots")
                .join(COMMIT)
                .join("dit_lora.safetensors")
                .exists()
        );

        assert_eq!(&case.lora(), bytes);
        assert_eq!(
            hub.data_requests(),
            [(LORA.to_owned(), None), (LORA.to_owned(), Some(format!("bytes={half}-"))),]
        );
        assert_eq!(case.blobs().len(), 1, "the partial file became the file");
    }

    #[test]
    fn a_connection_that_breaks_again_and_again_is_taken_up_again_in_one_call() {
        let hub = Server::start(|request| {
            let reply = hub_reply(&hub_files(), request);
            Reply { cut: request.is_for_data().then_some(150_000), ..reply }
        });
        let mut case = Case::new(&hub);
        case.options.hub.retries = 1;
        let heard = Heard::default();
        let files = discover(&case.options, &heard).unwrap();
        assert_eq!(fs::read(files.lora.unwrap().files).unwrap(), hub_files()[LORA]);
        let ranges: Vec<_> = hub.data_requests().into_iter().map(|(_, range)| range).collect();
        assert_eq!(ranges.len(), 5, "{ranges:?}");
        assert_eq!(ranges[1].as_deref(), Some("bytes=150000-"));
        assert!(heard.notes.lock().unwrap()[0].contains("trying again"));
    }

    #[test]
    fn a_server_that_ignores_the_range_does_not_spoil_the_file() {
        let is_first = AtomicBool::new(true);
        let hub = Server::start(move |request| {
            if !request.is_for_data() {
                return hub_reply(&hub_files(), request);
            }
            let whole = Request { headers: BTreeMap::new(), ..request.clone() };
            let cut = is_first.swap(false, Ordering::Relaxed).then_some(100_000);
            Reply { cut, ..hub_reply(&hub_files(), &whole) }
        });
        let mut case = Case::new(&hub);
        case.options.hub.retries = 1;
        assert_eq!(case.lora(), hub_files()[LORA]);
        assert_eq!(hub.data_requests()[1].1.as_deref(), Some("bytes=100000-"));
    }

    #[test]
    fn a_partial_file_that_is_complete_needs_no_more_data() {
        let hub = Server::hub(hub_files());
        let case = Case::new(&hub);
        let bytes = &hub_files()[LORA];
        let etag = format!("etag-{}-{}", LORA.replace(['/', '.'], "-"), bytes.len());
        put(case.cache.path(), &format!("{LORA_FOLDER}/blobs/{etag}.part"), bytes);
        assert_eq!(&case.lora(), bytes);
        assert_eq!(hub.data_requests(), []);

        // One that is too long is of no use.
        let case = Case::new(&hub);
        put(case.cache.path(), &format!("{LORA_FOLDER}/blobs/{etag}.part"), [&bytes[..], b"x"].concat());
        assert_eq!(&case.lora(), bytes);
        assert_eq!(hub.data_requests(), [(LORA.to_owned(), None)]);

        // A blob that is there only lacks its link.
        let case = Case::new(&hub);
        put(case.cache.path(), &format!("{LORA_FOLDER}/blobs/{etag}"), bytes);
        assert_eq!(&case.lora(), bytes);
        assert_eq!(hub.data_requests().len(), 1);
    }

    #[test]
    fn a_file_with_another_digest_is_not_kept() {
        let wrong = LORA_SHA256.replace(|c: char| c.is_ascii_digit(), "a");
        let hub = Server::start(move |request| {
            hub_reply(&hub_files(), request).with("X-Linked-ETag", format!("\"{wrong}\""))
        });
        let case = Case::new(&hub);
        refused(&case.options, &["SHA-256", "was removed", "run again"]);
        assert!(case.blobs().is_empty());

        // A spoilt partial file shows too, and the next run begins anew.
        let hub = Server::start(|request| {
            hub_reply(&hub_files(), request).with("X-Linked-ETag", format!("\"{LORA_SHA256}\""))
        });
        let case = Case::new(&hub);
        put(case.cache.path(), &format!("{LORA_FOLDER}/blobs/{LORA_SHA256}.part"), "spoilt");
        refused(&case.options, &["SHA-256", "was removed"]);
        assert_eq!(case.lora(), hub_files()[LORA]);
    }

    #[test]
    fn the_token_goes_to_the_hub_and_to_nobody_else() {
        let storage = Server::start(|request| Reply::of(&hub_files()[LORA], request));
        let elsewhere = storage.address.clone();
        let hub = Server::start(move |request| {
            let size = hub_files()[LORA].len();
            match request.path.strip_prefix("/moved") {
                // As the hub does where a repository has been renamed: a redirect within it.
                None => Reply::status(307).with("Location", format!("/moved{}", request.path)),
                Some(_) => Reply::status(302)
                    .with("Location", format!("{elsewhere}/signed?a=b&c=d"))
                    .with("X-Repo-Commit", COMMIT)
                    .with("X-Linked-Size", size)
                    .with("X-Linked-ETag", format!("\"{LORA_SHA256}\"")),
            }
        });
        let home = tempfile::tempdir().unwrap();
        let token_file = put(home.path(), "token", "hf_from_file\n");
        let sources: [(&str, Environment, Option<&str>); 5] = [
            ("hf_given", Environment::of([("HF_TOKEN", "hf_other")]), Some("hf_given")),
            ("hf_a", Environment::of([("HF_TOKEN", "hf_a"), ("HUGGING_FACE_HUB_TOKEN", "hf_b")]), None),
            ("hf_b", Environment::of([("HUGGING_FACE_HUB_TOKEN", " hf_b\n")]), None),
            ("hf_from_file", Environment::of([("HF_HOME", home.path())]), None),
            ("hf_from_file", Environment::of([("HF_TOKEN_PATH", &token_file)]), None),
        ];
        for (expected, environment, given) in sources {
            hub.log.lock().unwrap().clear();
            storage.log.lock().unwrap().clear();
            let mut case = Case::new(&hub);
            case.options.environment = environment;
            case.options.hub.token = given.map(str::to_owned);
            assert!(!format!("{:?}", case.options).contains("hf_"), "the token must not be printed");
            assert_eq!(case.lora(), hub_files()[LORA]);
            let at_hub = hub.requests();
            assert_eq!(at_hub.len(), 4, "two questions, each redirected once");
            for request in at_hub {
                assert_eq!(request.header("authorization"), Some(format!("Bearer {expected}").as_str()));
            }
            let at_storage = storage.requests();
            assert_eq!(at_storage.len(), 1);
            assert_eq!(at_storage[0].path, "/signed?a=b&c=d");
            assert_eq!(at_storage[0].header("authorization"), None);
            assert_eq!(at_storage[0].header("accept-encoding"), Some("identity"));
        }
        let mut case = Case::new(&hub);
        case.options.hub.token = Some("hf_a\r\nX-Evil: 1".to_owned());
        let text = refused(&case.options, &["token"]);
        assert!(!text.contains("hf_a"), "{text}");
    }

    #[test]
    fn a_gated_repository_says_what_to_accept_where_and_how_to_give_a_token() {
        let status = Arc::new(AtomicUsize::new(401));
        let its_status = status.clone();
        let hub = Server::start(move |_| {
            Reply::status(its_status.load(Ordering::Relaxed) as u16)
                .with("X-Error-Code", "GatedRepo")
                .with("X-Error-Message", "Access to model FLUX.1-dev is restricted.")
        });
        let case = Case::new(&hub);
        let mut options = CheckpointOptions {
            lora: Some(case.folder.path().join("ae.safetensors")),
            ..case.options.clone()
        };
        fs::remove_file(case.folder.path().join("flux1-dev.safetensors")).unwrap();
        let licence = [
            "black-forest-labs/FLUX.1-dev/flux1-dev.safetensors",
            "FLUX.1-dev Non-Commercial License",
            "https://huggingface.co/black-forest-labs/FLUX.1-dev",
            "HF_TOKEN=hf_...",
            "hf auth login",
            "restricted",
        ];
        refused(&options, &licence);
        refused(&options, &["gated and no token was given"]);
        options.hub.token = Some("hf_x".to_owned());
        refused(&options, &licence);
        refused(&options, &["does not accept the token", "expired"]);
        status.store(403, Ordering::Relaxed);
        refused(&options, &licence);
        refused(&options, &["account of the token may not read"]);
        // Nothing was tried twice: it would not help.
        assert_eq!(hub.requests().len(), 6);
        // Whatever repository the hub says is gated is.
        options.lora = None;
        options.dit = Some(case.folder.path().join("ae.safetensors"));
        options.hub.token = None;
        refused(&options, &["bytedance-research/UNO", "gated and no token", "accept the Apache License 2.0"]);
    }

    #[test]
    fn offline_asks_nothing_of_the_network() {
        let hub = Server::hub(hub_files());
        let case = Case::new(&hub);
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].map(|name| CheckpointOptions {
            environment: Environment::of([(name, "True")]),
            ..case.options.clone()
        });
        let option = CheckpointOptions { offline: true, ..case.options.clone() };
        for options in offline.iter().chain([&option]) {
            refused(
                options,
                &["LoRA", "dit_lora.safetensors", "Offline mode", case.cache.path().to_str().unwrap()],
            );
        }
        let unasked = CheckpointOptions { allow_download: false, ..case.options.clone() };
        refused(&unasked, &["LoRA", "not allowed", "allow_download"]);
        assert_eq!(hub.requests().len(), 0);
        assert_eq!(fs::read_dir(case.cache.path()).unwrap().count(), 0, "nothing was made either");
        let environment = Environment::of([("HF_HUB_OFFLINE", "0")]);
        assert!(discover(&CheckpointOptions { environment, ..case.options.clone() }, &()).is_ok());
    }

    #[test]
    fn a_mistyped_path_shows_before_anything_is_downloaded() {
        let hub = Server::hub(hub_files());
        let case = Case::new(&hub);
        let options = CheckpointOptions { t5: Some("/no/such".into()), ..case.options.clone() };
        refused(&options, &["option t5: /no/such is not there"]);
        assert_eq!(hub.requests().len(), 0);
    }

    #[test]
    fn a_download_can_be_declined_and_cancelled() {
        let hub = Server::hub(hub_files());
        let case = Case::new(&hub);
        let declines = Heard { declines: true, ..Heard::default() };
        let text = discover(&case.options, &declines).unwrap_err().to_string();
        assert!(text.contains("declined") && text.contains("LoRA"), "{text}");
        assert_eq!(hub.requests().len(), 0);

        let cancels = Heard { cancels_at: Some(1), ..Heard::default() };
        let text = discover(&case.options, &cancels).unwrap_err().to_string();
        assert!(text.contains("cancelled after") && text.contains("are kept"), "{text}");
        assert_eq!(case.lora(), hub_files()[LORA]);
        let kept = hub.data_requests()[1].1.clone().unwrap();
        assert_ne!(kept, "bytes=0-");
    }

    #[test]
    fn failures_that_pass_are_tried_again_and_others_are_not() {
        for status in [429, 500, 503] {
            let count = AtomicUsize::new(0);
            let hub = Server::start(move |request| {
                // The first question and the first transfer fail.
                match count.fetch_add(1, Ordering::Relaxed) {
                    0 | 2 => Reply::status(status).with("Retry-After", 0),
                    _ => hub_reply(&hub_files(), request),
                }
            });
            let mut case = Case::new(&hub);
            refused(&case.options, &[&format!("HTTP {status}")]);
            case.options.hub.retries = 1;
            assert_eq!(case.lora(), hub_files()[LORA], "{status}");
        }
        for status in [400, 404, 418] {
            let hub = Server::start(move |_| Reply::status(status));
            let mut case = Case::new(&hub);
            case.options.hub.retries = 3;
            refused(
                &case.options,
                &["bytedance-research/UNO/dit_lora.safetensors", "fetch the file by hand", "option lora"],
            );
            assert_eq!(hub.requests().len(), 1, "{status}");
        }
        let hub = Server::start(|_| Reply::status(404).with("X-Error-Message", "Repo\tnot found"));
        refused(&Case::new(&hub).options, &["no such file (Reponot found)", &hub.address]);
    }

    #[test]
    fn no_network_is_said_so() {
        let hub = Server::hub(hub_files());
        let mut case = Case::new(&hub);
        drop(hub);
        case.options.hub.retries = 1;
        refused(&case.options, &["no answer from 127.0.0.1", "check the network and the proxy"]);
        for endpoint in ["ftp://x", "huggingface.co", "https://", "https://user@huggingface.co"] {
            case.options.hub.endpoint = None;
            case.options.environment = Environment::of([("HF_ENDPOINT", endpoint)]);
            refused(&case.options, &["HF_ENDPOINT", endpoint]);
        }
    }

    #[test]
    fn a_silent_server_is_not_waited_for_for_ever() {
        let is_first = AtomicBool::new(true);
        let hub = Server::start(move |request| {
            let reply = hub_reply(&hub_files(), request);
            if request.is_for_data() && is_first.swap(false, Ordering::Relaxed) {
                Reply { cut: Some(100_000), silence: Duration::from_secs(3), ..reply }
            } else {
                reply
            }
        });
        let mut case = Case::new(&hub);
        case.options.hub.stall_timeout = Duration::from_secs(1);
        case.options.hub.retries = 2;
        assert_eq!(case.lora(), hub_files()[LORA]);
        assert_eq!(hub.data_requests()[1].1.as_deref(), Some("bytes=100000-"));
    }

    #[test]
    fn answers_that_no_hub_gives_are_refused() {
        type Change = fn(Reply) -> Reply;
        let changes: [(&str, Change); 14] = [
            ("X-Repo-Commit", |r| r.without("X-Repo-Commit")),
            ("X-Repo-Commit", |r| r.with("X-Repo-Commit", "../../../../escaped")),
            ("X-Repo-Commit", |r| r.with("X-Repo-Commit", "/escaped")),
            ("X-Repo-Commit", |r| r.with("X-Repo-Commit", "")),
            ("ETag", |r| r.without("ETag")),
            ("ETag", |r| r.with("ETag", "\"../../../escaped\"")),
            ("ETag", |r| r.with("X-Linked-ETag", "\"/escaped\"")),
            ("ETag", |r| r.with("ETag", "\"a.part\"")),
            ("ETag", |r| r.with("ETag", "a".repeat(200))),
            ("size", |r| r.without("Content-Range")),
            ("size", |r| r.with("Content-Range", "bytes 0-0/99999999999999999999999999")),
            ("size", |r| r.with("Content-Range", "bytes 0-0/0")),
            ("size", |r| r.with("Content-Range", "nonsense")),
            ("size", |r| Reply { status: 200, ..r }.with("Content-Length", 0)),
        ];
        for (what, change) in changes {
            let hub = Server::start(move |request| change(hub_reply(&hub_files(), request)));
            let case = Case::new(&hub);
            refused(&case.options, &["unlike a Hugging Face hub", what]);
            assert_eq!(fs::read_dir(case.cache.path()).unwrap().count(), 0, "{what}: something was written");
        }
        // A login page in between.
        let hub = Server::start(|_| Reply {
            status: 200,
            body: b"<html>Log in</html>".to_vec(),
            ..Reply::default()
        });
        refused(&Case::new(&hub).options, &["unlike a Hugging Face hub", "login page"]);
        // Redirects that lead nowhere.
        for location in ["/again", "", "ftp://x/y", "http://", "http://a b/", "http://a@b/"] {
            let hub = Server::start(move |_| Reply::status(302).with("Location", location));
            let text = refused(&Case::new(&hub).options, &["redirects"]);
            assert!(hub.requests().len() <= 11, "{text}");
        }
        let hub = Server::start(|_| Reply::status(302));
        refused(&Case::new(&hub).options, &["redirects, but not to an address"]);
    }

    #[test]
    fn a_range_other_than_the_one_asked_for_is_not_written_into_the_file() {
        let is_first = AtomicBool::new(true);
        let hub = Server::start(move |request| {
            let reply = hub_reply(&hub_files(), request);
            match (request.is_for_data(), request.header("range")) {
                (true, None) => {
                    Reply { cut: is_first.swap(false, Ordering::Relaxed).then_some(1000), ..reply }
                }
                (true, Some(_)) => {
                    let range = BTreeMap::from([("range".to_owned(), "bytes=500-".to_owned())]);
                    hub_reply(&hub_files(), &Request { headers: range, ..request.clone() })
                }
                _ => reply,
            }
        });
        let mut case = Case::new(&hub);
        case.options.hub.retries = 2;
        assert_eq!(case.lora(), hub_files()[LORA]);

        // More bytes than were announced.
        let hub = Server::start(|request| {
            let mut reply = hub_reply(&hub_files(), request);
            if request.is_for_data() {
                reply.body.push(0);
            }
            reply
        });
        let case = Case::new(&hub);
        refused(&case.options, &["other bytes than those asked for"]);
        let bytes = &hub_files()[LORA];
        let etag = format!("etag-{}-{}", LORA.replace(['/', '.'], "-"), bytes.len());
        put(case.cache.path(), &format!("{LORA_FOLDER}/blobs/{etag}.part"), &bytes[..10]);
        refused(&case.options, &["sent more bytes than the file has"]);
    }

    #[test]
    fn an_index_from_the_hub_cannot_name_files_elsewhere() {
        for shard in [
            "../../../escaped.safetensors",
            "/etc/escaped.safetensors",
            "a/b.safetensors",
            "a%2fb.safetensors",
            "a.bin",
        ] {
            let mut files = hub_files();
            let index = serde_json::json!({"weight_map": {"a": shard}}).to_string();
            files.insert("xlabs-ai/xflux_text_encoders/model.safetensors.index.json", index.into_bytes());
            let hub = Server::hub(files);
            let case = Case::new(&hub);
            fs::remove_dir_all(case.folder.path().join("t5")).unwrap();
            refused(
                &case.options,
                &["xlabs-ai/xflux_text_encoders/model.safetensors.index.json", "wanted a plain"],
            );
            assert!(hub.requests().iter().all(|request| !request.path.contains("escaped")));
        }
    }

    #[test]
    fn what_was_downloaded_but_is_no_model_is_refused() {
        let mut files = hub_files();
        files.insert(LORA, b"<!DOCTYPE html><html>Sorry</html>".to_vec());
        let hub = Server::hub(files);
        refused(&Case::new(&hub).options, &["was downloaded, but cannot be used", "web page"]);
    }

    #[test]
    fn two_programs_at_once_download_a_file_once() {
        let hub = Server::start(|request| {
            let reply = hub_reply(&hub_files(), request);
            // Long enough for the second to arrive.
            if request.is_for_data() {
                std::thread::sleep(Duration::from_millis(300));
            }
            reply
        });
        let case = Case::new(&hub);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert_eq!(case.lora(), hub_files()[LORA]));
            }
        });
        assert_eq!(hub.data_requests().len(), 1, "{:?}", hub.data_requests());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_said_so() {
        let hub = Server::hub(hub_files());
        let case = Case::new(&hub);
        let etag = format!("etag-{}-{}", LORA.replace(['/', '.'], "-"), hub_files()[LORA].len());
        let blobs = case.cache.path().join(LORA_FOLDER).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        // A device on which every write fails for want of space.
        std::os::unix::fs::symlink("/dev/full", blobs.join(format!("{etag}.part"))).unwrap();
        refused(
            &case.options,
            &["cannot write", "No space left", "free some space", "HF_HOME", "still to come"],
        );
    }
}
