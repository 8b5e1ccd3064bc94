//! Lists of prompts and of training samples, as people write them: which keys are taken, and that none is left out in silence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::program::Desk;
use uno_models::eval::read_prompts;
use uno_models::train::TrainConfig;
use uno_models::train::data::{DataSource, Format, Listed, read};

/// A desk with two pictures to refer to.
fn desk() -> Desk {
    let desk = Desk::with_model();
    desk.draw("cup.png", 64, 64);
    desk.draw("lamp.png", 80, 48);
    desk
}

fn listed(list: &Path) -> uno_models::Result<Listed> {
    read(&DataSource { path: list.to_path_buf(), format: Format::List, min_score: 4.0 })
}

/// What is remarked on a prompt list, or why it is refused.
fn remarks(list: &Path) -> Result<Vec<String>, String> {
    let mut remarks = Vec::new();
    read_prompts(list, &mut |remark| remarks.push(remark.to_owned())).map_err(|e| e.to_string())?;
    Ok(remarks)
}

#[test]
fn one_reference_under_the_key_of_the_official_data_gives_the_picture_of_a_list_of_one() {
    let desk = desk();
    let list = |second: &str| {
        format!(r#"[{{"prompt": "a cup", "image_paths": ["cup.png"]}}, {{"prompt": "a lamp", {second}}}]"#)
    };
    desk.put("one.json", list(r#""image_path": "lamp.png""#));
    desk.put("many.json", list(r#""image_paths": ["lamp.png"]"#));
    let lines = "{\"prompt\": \"a cup\", \"image_paths\": [\"cup.png\"]}\n{\"prompt\": \"a lamp\", \"image_path\": \"lamp.png\"}\n";
    desk.put("one.jsonl", format!("\u{feff}{lines}"));
    for name in ["one.json", "many.json", "one.jsonl"] {
        desk.made(&format!(
            "--model model --ref_size 48 --eval_json_path {name} --save_path {}",
            name.replace('.', "_")
        ));
    }
    for picture in ["0_0.png", "1_0.png"] {
        let many = desk.picture(&format!("many_json/{picture}"));
        assert_eq!(desk.picture(&format!("one_json/{picture}")), many);
        assert_eq!(desk.picture(&format!("one_jsonl/{picture}")), many);
    }
}

#[test]
fn misspelt_keys_are_refused_with_the_entry_and_the_likely_spelling() {
    let desk = desk();
    for (key, value) in [
        ("reference_images", r#"["lamp.png"]"#),
        ("image-paths", r#"["lamp.png"]"#),
        ("img_paths", r#"["lamp.png"]"#),
        ("imagePaths", r#"["lamp.png"]"#),
        ("ref_images", r#"["lamp.png"]"#),
        ("image_pahts", r#"["lamp.png"]"#),
        ("img_path", r#""lamp.png""#),
        ("image", r#""lamp.png""#),
    ] {
        let good = r#"{"prompt": "a cup", "image_paths": ["cup.png"], "image_tgt_path": "lamp.png"}"#;
        desk.put(
            "list.json",
            format!(r#"[{good}, {{"prompt": "a lamp", "{key}": {value}, "image_tgt_path": "cup.png"}}]"#),
        );
        let quoted = format!("{key:?}");
        desk.run("--model model --eval_json_path list.json")
            .refused(&desk, &["list.json", "entry 1", &quoted, "did you mean \"image_path"]);
        let training = listed(&desk.path("list.json")).unwrap();
        let [error] = &training.errors[..] else { panic!("{key}: {:?}", training.errors) };
        assert!(
            error.entry == 1 && error.reason.contains(&quoted) && error.reason.contains("image_path"),
            "{error}"
        );
        assert_eq!(training.samples.len(), 1);
    }
}

#[test]
fn two_spellings_at_once_are_refused() {
    let desk = desk();
    for both in [
        r#""image_path": "cup.png", "image_paths": ["cup.png"]"#,
        r#""image_paths": ["cup.png"], "images": ["lamp.png"]"#,
        r#""image_paths": ["cup.png"], "image_paths": ["lamp.png"]"#,
    ] {
        desk.put("list.json", format!(r#"[{{"prompt": "a", "image_tgt_path": "cup.png", {both}}}]"#));
        let reason = remarks(&desk.path("list.json")).unwrap_err();
        assert!(reason.contains("entry 0"), "{reason}");
        let is_refused = listed(&desk.path("list.json")).map_or(true, |listed| listed.samples.is_empty());
        assert!(is_refused, "{both}");
    }
}

#[test]
fn text_alone_stays_silent_and_keys_that_may_be_meant_are_remarked_on() {
    let desk = desk();
    desk.put("text.json", r#"[{"prompt": "a cup"}, {"prompt": "a lamp", "image_paths": [], "id": 7}]"#);
    assert_eq!(remarks(&desk.path("text.json")), Ok(Vec::new()));
    desk.put("id.json", r#"[{"prompt": "a cup", "class": "cup"}, {"prompt": "b", "class": "b"}]"#);
    let [remark] = &remarks(&desk.path("id.json")).unwrap()[..] else { panic!() };
    assert!(remark.contains(r#""class" (entry 0 and 1 more)"#), "{remark}");
    let run = desk.made("--model model --eval_json_path id.json --save_path made");
    assert!(run.stderr.contains(r#"keys that are not used: "class""#), "{}", run.stderr);
    desk.put("hidden.json", r#"[{"prompt": "a cup", "thing": {"file": "cup.png"}}]"#);
    let reason = remarks(&desk.path("hidden.json")).unwrap_err();
    assert!(
        reason.contains("entry 0") && reason.contains("\"thing\"") && reason.contains("cup.png"),
        "{reason}"
    );
}

#[test]
fn values_of_another_kind_and_forms_that_are_no_list_say_what_is_wanted() {
    let desk = desk();
    for (name, text, words) in [
        (
            "a.json",
            r#"[{"prompt": "a", "image_paths": "cup.png"}]"#,
            "wanted a list of paths, or \"image_path\"",
        ),
        ("a.json", r#"[{"prompt": "a", "image_path": ["cup.png"]}]"#, "wanted one path, or \"image_paths\""),
        ("a.json", r#"[{"image_paths": ["cup.png"]}]"#, "has no \"prompt\""),
        ("a.json", r#"[{"caption": "a"}]"#, "did you mean \"prompt\"?"),
        ("a.json", "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n", "*.jsonl"),
        ("a.json", r#"{"data": []}"#, "begins with an object"),
        ("a.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": ", "entry 1"),
        ("a.json", "prompt,image\na,b\n", "wanted [{"),
    ] {
        desk.put(name, text);
        let reason = remarks(&desk.path(name)).unwrap_err();
        assert!(reason.contains(words) && reason.contains(name), "{text}: {reason}");
    }
}

#[test]
fn byte_order_marks_are_skipped_and_utf_16_is_named_in_lists_and_configurations() {
    let desk = desk();
    let list = r#"[{"prompt": "a", "image_paths": ["cup.png"], "image_tgt_path": "cup.png"}]"#;
    let toml = "output = \"out\"\n[[stages]]\nname = \"single\"\ndata = [{ path = \"list.json\" }]\nsteps = 1\nresolution = 64\n";
    let utf16 = |text: &str| -> Vec<u8> {
        format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
    };

    desk.put("list.json", format!("\u{feff}{list}"));
    desk.put("train.toml", format!("\u{feff}{toml}"));
    assert_eq!(remarks(&desk.path("list.json")), Ok(Vec::new()));
    assert_eq!(listed(&desk.path("list.json")).unwrap().samples.len(), 1);
    TrainConfig::read(&desk.path("train.toml")).unwrap();

    desk.put("list.json", utf16(list));
    desk.put("train.toml", utf16(toml));
    for reason in [
        remarks(&desk.path("list.json")).unwrap_err(),
        listed(&desk.path("list.json")).unwrap_err().to_string(),
        TrainConfig::read(&desk.path("train.toml")).unwrap_err().to_string(),
    ] {
        assert!(reason.contains("UTF-16") && reason.contains("save it as UTF-8"), "{reason}");
    }
}
