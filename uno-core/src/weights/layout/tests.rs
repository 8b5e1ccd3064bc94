mod awkward;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::*;

type Names = Vec<(String, Vec<usize>)>;
type Arranger = fn(&[(String, Vec<usize>)]) -> Option<Arrangement>;

/// Names and shapes of a full-size checkpoint, if they are here.
fn manifest(file: &str) -> Option<Names> {
    let named = std::env::var_os("UNO_GOLDEN").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden"));
    let Ok(text) = std::fs::read(folder.join("manifests").join(file)) else {
        assert!(std::env::var_os("UNO_REQUIRE_GOLDEN").is_none(), "{file} is not in {}", folder.display());
        eprintln!("skipped: no manifest {file}");
        return None;
    };
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let shape = |entry: &serde_json::Value| serde_json::from_value(entry["shape"].clone()).unwrap();
    Some(entries.iter().map(|(name, entry)| (name.clone(), shape(entry))).collect())
}

fn names(list: &[(&str, &[usize])]) -> Names {
    list.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
}

fn below(prefix: &str, names: &Names) -> Names {
    names.iter().map(|(name, shape)| (format!("{prefix}{name}"), shape.clone())).collect()
}

fn take(name: &str) -> Recipe {
    Recipe::Take(name.to_owned())
}

/// Each name given is used once, but for those of other models.
fn assert_covered(given: &Names, arranged: &Arrangement) {
    let mut used: Vec<_> = arranged.recipes.values().flat_map(Recipe::sources).collect();
    used.sort();
    let wanted: BTreeSet<_> = given
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !MODELS.iter().any(|m| name.starts_with(m)))
        .collect();
    assert!(used.windows(2).all(|pair| pair[0] != pair[1]), "used twice: {given:?}");
    assert!(wanted.iter().all(|name| used.contains(name)), "dropped: {given:?} -> {arranged:?}");
}

/// Rows of one of our tensors, as ranges.
type Rows = Vec<(usize, usize)>;

/// A transformer of ours as diffusers would save it; with each tensor the rows of ours that it holds.
fn as_diffusers(ours: &Names) -> (Names, BTreeMap<String, Rows>) {
    let (mut saved, mut rows) = (Names::new(), BTreeMap::new());
    let mut save = |name: String, shape: &[usize], held: Rows| {
        let mut shape = shape.to_vec();
        shape[0] = held.iter().map(|(start, end)| end - start).sum();
        assert!(rows.insert(name.clone(), held).is_none(), "{name} comes twice");
        saved.push((name, shape));
    };
    for (name, shape) in ours {
        let all = shape[0];
        if let Some((theirs, n)) = flux::NORMS.iter().find_map(|(t, o)| Some((t, matches(o, name, '.')?))) {
            save(fill(theirs, &n), shape, vec![(0, all)]);
            continue;
        }
        let (stem, end) = name.rsplit_once('.').unwrap();
        let mut found = 0;
        for (theirs, pattern, how) in LINEARS {
            let Some(n) = matches(pattern, stem, '.') else { continue };
            found += 1;
            let held = match how {
                Use::Part(3, _) => vec![(9216, all)],
                Use::Part(i, _) => vec![(i * 3072, (i + 1) * 3072)],
                Use::Swapped => vec![(all / 2, all), (0, all / 2)],
                Use::Whole | Use::Kernel => vec![(0, all)],
            };
            save(format!("{}.{end}", fill(theirs, &n)), shape, held);
        }
        assert!(found > 0, "{name} has no name in diffusers");
    }
    (saved, rows)
}

#[test]
fn a_transformer_from_diffusers_is_put_together_again() {
    for (file, tensors) in [("flux1-dev.json", 1160), ("flux1-schnell.json", 1156)] {
        let Some(ours) = manifest(file) else { return };
        let (saved, rows) = as_diffusers(&ours);
        assert_eq!(saved.len(), tensors, "{file}");
        let arranged = flux(&saved).unwrap();
        assert_eq!(arranged.layout, "diffusers");
        assert!(arranged.recipes.keys().eq(ours.iter().map(|(name, _)| name)), "{file}");
        for (name, shape) in &ours {
            let recipe = &arranged.recipes[name];
            let mut held: Rows = recipe.sources().iter().flat_map(|source| rows[source].clone()).collect();
            if let Recipe::SwapHalves(_) = recipe {
                held.reverse();
            }
            let mut next = 0;
            for (start, end) in held {
                assert_eq!(start, next, "{name}: {recipe:?}");
                next = end;
            }
            assert_eq!(next, shape[0], "{name}: {recipe:?}");
        }
        assert_covered(&saved, &arranged);
    }
}

#[test]
fn parts_are_joined_in_the_order_of_our_rows() {
    let given = names(&[
        ("transformer_blocks.3.attn.to_v.bias", &[4]),
        ("transformer_blocks.3.attn.to_q.bias", &[4]),
        ("transformer_blocks.3.attn.to_k.bias", &[4]),
        ("single_transformer_blocks.10.proj_mlp.weight", &[16, 4]),
        ("single_transformer_blocks.10.attn.to_k.weight", &[4, 4]),
        ("single_transformer_blocks.10.attn.to_v.weight", &[4, 4]),
        ("single_transformer_blocks.10.attn.to_q.weight", &[4, 4]),
        ("norm_out.linear.weight", &[8, 4]),
    ]);
    let recipes = flux(&given).unwrap().recipes;
    let joined = |block: &str, parts: &[&str]| {
        Recipe::JoinRows(parts.iter().map(|part| format!("{block}.{part}")).collect())
    };
    let qkv = ["attn.to_q.bias", "attn.to_k.bias", "attn.to_v.bias"];
    let linear1 = ["attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight", "proj_mlp.weight"];
    assert_eq!(recipes.len(), 3);
    assert_eq!(recipes["double_blocks.3.img_attn.qkv.bias"], joined("transformer_blocks.3", &qkv));
    assert_eq!(recipes["single_blocks.10.linear1.weight"], joined("single_transformer_blocks.10", &linear1));
    let swapped = Recipe::SwapHalves("norm_out.linear.weight".to_owned());
    assert_eq!(recipes["final_layer.adaLN_modulation.1.weight"], swapped);
}

#[test]
fn an_autoencoder_from_diffusers_gets_our_names() {
    let Some(ours) = manifest("ae.json") else { return };
    let rename = |name: &str| {
        let mut name = name.to_owned();
        for level in 0..4 {
            name =
                name.replace(&format!("decoder.up.{level}."), &format!("decoder.up_blocks.{}.", 3 - level));
        }
        for (from, to) in [
            (".down.", ".down_blocks."),
            (".block.", ".resnets."),
            ("downsample.", "downsamplers.0."),
            ("upsample.", "upsamplers.0."),
            ("nin_shortcut", "conv_shortcut"),
            (".mid.block_1.", ".mid_block.resnets.0."),
            (".mid.block_2.", ".mid_block.resnets.1."),
            (".mid.attn_1.proj_out.", ".mid_block.attentions.0.to_out.0."),
            (".mid.attn_1.norm.", ".mid_block.attentions.0.group_norm."),
            (".mid.attn_1.", ".mid_block.attentions.0.to_"),
            ("coder.norm_out", "coder.conv_norm_out"),
        ] {
            name = name.replace(from, to);
        }
        name
    };
    let linear = |name: &str| name.contains(".attn_1.") && !name.contains("norm") && name.ends_with("weight");
    let saved: Names = ours
        .iter()
        .map(|(name, shape)| (rename(name), if linear(name) { shape[..2].to_vec() } else { shape.clone() }))
        .collect();
    for prefix in ["", "vae."] {
        let saved = below(prefix, &saved);
        let arranged = autoencoder(&saved).unwrap();
        assert_eq!(arranged.layout, "diffusers");
        let wanted = ours.iter().map(|(name, _)| {
            let theirs = format!("{prefix}{}", rename(name));
            (name.clone(), if linear(name) { Recipe::AsKernel(theirs) } else { Recipe::Take(theirs) })
        });
        assert_eq!(arranged.recipes, wanted.collect());
    }
    let kernels = autoencoder(&names(&[
        ("encoder.down_blocks.0.resnets.0.conv1.bias", &[4]),
        ("encoder.mid_block.attentions.0.to_q.weight", &[4, 4, 1, 1]),
    ]));
    let theirs = take("encoder.mid_block.attentions.0.to_q.weight");
    assert_eq!(kernels.unwrap().recipes["encoder.mid.attn_1.q.weight"], theirs, "a kernel already");
}

#[test]
fn a_t5_from_llama_cpp_gets_our_names() {
    let Some(ours) = manifest("t5-v1_1-xxl-encoder.json") else { return };
    let ends = [
        ("layer.0.layer_norm", "attn_norm"),
        ("layer.1.layer_norm", "ffn_norm"),
        ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
        ("layer.0.SelfAttention.", "attn_"),
        ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
        ("layer.1.DenseReluDense.wi_1", "ffn_up"),
        ("layer.1.DenseReluDense.wo", "ffn_down"),
        ("encoder.final_layer_norm", "enc.output_norm"),
        ("encoder.block.", "enc.blk."),
        ("shared.", "token_embd."),
    ];
    let rename = |name: &str| ends.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
    // The second name of the embedding is not in such files.
    let ours: Names = ours.into_iter().filter(|(name, _)| !name.contains("embed_tokens")).collect();
    let mut saved: Names = ours.iter().map(|(name, shape)| (rename(name), shape.clone())).collect();
    let mut wanted: BTreeMap<_, _> =
        ours.iter().map(|(name, _)| (name.clone(), take(&rename(name)))).collect();
    let arranged = t5(&saved).unwrap();
    assert_eq!((arranged.layout, &arranged.recipes), ("GGUF (llama.cpp names)", &wanted));
    saved.extend(names(&[("dec.blk.0.attn_q.weight", &[4, 4]), ("output.weight", &[4, 4])]));
    wanted.insert("decoder.blk.0.attn_q.weight".to_owned(), take("dec.blk.0.attn_q.weight"));
    wanted.insert("lm_head.weight".to_owned(), take("output.weight"));
    assert_eq!(t5(&saved).unwrap().recipes, wanted);
}

#[test]
fn each_model_is_picked_out_of_a_file_with_all_of_them() {
    let parts: [(&str, &str, Arranger); 4] = [
        ("model.diffusion_model.", "flux1-dev.json", flux),
        ("vae.", "ae.json", autoencoder),
        ("text_encoders.t5xxl.transformer.", "t5-v1_1-xxl-encoder.json", t5),
        ("text_encoders.clip_l.transformer.", "clip-vit-large-patch14-text.json", clip),
    ];
    let mut all = names(&[("stray", &[1])]);
    for (prefix, file, _) in parts {
        let Some(ours) = manifest(file) else { return };
        all.extend(below(prefix, &ours));
    }
    all.extend(names(&[("text_encoders.t5xxl.logit_scale", &[]), ("text_encoders.clip_l.logit_scale", &[])]));
    for (prefix, file, arrange) in parts {
        let ours = manifest(file).unwrap();
        let mut wanted: BTreeMap<_, _> =
            ours.iter().map(|(name, _)| (name.clone(), take(&format!("{prefix}{name}")))).collect();
        assert_eq!(arrange(&below(prefix, &ours)).unwrap().recipes, wanted, "{file} alone");
        wanted.insert("stray".to_owned(), take("stray"));
        if let Some(wrapper) = prefix.strip_suffix("transformer.") {
            wanted.insert("logit_scale".to_owned(), take(&format!("{wrapper}logit_scale")));
        }
        let arranged = arrange(&all).unwrap();
        assert_eq!((arranged.layout, arranged.recipes), ("ComfyUI all-in-one", wanted), "{file}");
    }
}

#[test]
fn our_own_names_and_those_of_other_models_are_left_alone() {
    let models: [(&str, Arranger); 5] = [
        ("flux1-dev.json", flux),
        ("flux1-schnell.json", flux),
        ("ae.json", autoencoder),
        ("t5-v1_1-xxl-encoder.json", t5),
        ("clip-vit-large-patch14-text.json", clip),
    ];
    for (file, _) in models {
        let Some(mut ours) = manifest(file) else { return };
        ours.push(("not.known".to_owned(), vec![2, 0]));
        for (_, arrange) in models {
            assert_eq!(arrange(&ours), None, "{file}");
        }
    }
    for arrange in [flux, autoencoder, t5, clip] {
        assert_eq!(arrange(&[]), None);
    }
}

#[test]
fn what_was_arranged_has_our_names() {
    let Some(ours) = manifest("flux1-dev.json") else { return };
    let (saved, _) = as_diffusers(&ours);
    let again: Names = flux(&saved).unwrap().recipes.into_keys().map(|name| (name, vec![2, 2])).collect();
    assert_eq!(flux(&again), None);
}
