//! Token ids of T5 and CLIP against the official implementation. They are equal or wrong; there is no tolerance.

mod common;

use std::path::Path;

use common::{Cases, each, id_rows};
use serde::Deserialize;
use uno_core::text::{ClipTokenizer, Encoding, T5Tokenizer};

#[derive(Deserialize)]
struct Case {
    prompt: String,
    t5: Vec<u32>,
    clip: Vec<u32>,
}

fn tokenizers(set: &Path) -> (T5Tokenizer, ClipTokenizer) {
    let model = set.join("model");
    (T5Tokenizer::from_dir(model.join("t5")).unwrap(), ClipTokenizer::from_dir(model.join("clip")).unwrap())
}

/// Whether the ids are as wanted; if not, says where they begin to differ.
fn same(what: &str, prompt: &str, got: &Encoding, wanted: &[u32]) -> bool {
    if got.ids == wanted {
        return true;
    }
    let place = got.ids.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    let near =
        |ids: &[u32]| format!("{:?}", ids.iter().skip(place.saturating_sub(2)).take(8).collect::<Vec<_>>());
    let (ours, theirs) = (near(&got.ids), near(wanted));
    println!("{what}: {prompt:?} differs at token {place}: got {ours}, wanted {theirs}");
    false
}

#[test]
fn token_ids_of_all_prompts_are_equal() {
    for (file, set) in each("cases/tokens.json") {
        let (t5, clip) = tokenizers(&set);
        let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert!(!cases.is_empty(), "{} holds no prompts", file.display());
        let (mut wrong, mut cut) = (0, 0);
        for Case { prompt, t5: t5_ids, clip: clip_ids } in &cases {
            let ours = t5.encode(prompt, t5_ids.len()).unwrap();
            wrong += usize::from(!same("T5", prompt, &ours, t5_ids));
            cut += usize::from(ours.dropped > 0);
            let ours = clip.encode(prompt, clip_ids.len()).unwrap();
            wrong += usize::from(!same("CLIP", prompt, &ours, clip_ids));
            cut += usize::from(ours.dropped > 0);
        }
        let tokens: usize = cases.iter().map(|case| case.t5.len() + case.clip.len()).sum();
        println!(
            "{}: {} prompts, {tokens} ids, {cut} lists cut: {wrong} lists differ",
            file.display(),
            cases.len()
        );
        assert_eq!(wrong, 0, "{}", file.display());
    }
}

#[test]
fn prompts_and_token_ids_of_the_text_encoder_cases_agree() {
    for (file, set) in each("cases/text.safetensors") {
        let cases = Cases::open(&file);
        let Some(prompts) = cases.metadata.get("prompts") else { continue };
        let prompts: Vec<String> = serde_json::from_str(prompts).unwrap();
        let (t5, clip) = tokenizers(&set);
        let mut wrong = 0;
        for ((prompt, t5_ids), clip_ids) in
            prompts.iter().zip(id_rows(&file, "t5_ids")).zip(id_rows(&file, "clip_ids"))
        {
            wrong += usize::from(!same("T5", prompt, &t5.encode(prompt, t5_ids.len()).unwrap(), &t5_ids));
            wrong +=
                usize::from(!same("CLIP", prompt, &clip.encode(prompt, clip_ids.len()).unwrap(), &clip_ids));
        }
        println!("{}: {} prompts: {wrong} lists differ", file.display(), prompts.len());
        assert_eq!(wrong, 0, "{}", file.display());
    }
}
