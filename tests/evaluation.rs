//! Scores against the script of transformers and torch in tests/reference, and runs that stop, go on and are shared.
#![cfg(feature = "vision")]

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::device;
use common::program::example;
use uno_models::eval::{Entry, Evaluation, EvaluationEvent, Scorer, ScorerFiles, Shard, Views, read_prompts};
use uno_models::picture::{DecodeOptions, Picture};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vision")
}

fn scorer(views: Views) -> Scorer {
    let files = ScorerFiles {
        dino: fixtures().join("dino"),
        clip: fixtures().join("clip"),
        ..ScorerFiles::default()
    };
    Scorer::open(&files, views, &device()).unwrap()
}

fn picture(i: usize) -> PathBuf {
    fixtures().join(format!("{i}.png"))
}

fn open(i: usize) -> Picture {
    Picture::open(picture(i), &DecodeOptions::default()).unwrap()
}

fn silent(_: EvaluationEvent) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Two prompts with two pictures each, and a place for results.
fn evaluation(folder: &Path) -> Evaluation {
    let pictures = folder.join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    for (i, j, which) in [(0, 0, 0), (0, 1, 3), (1, 0, 2), (1, 1, 1)] {
        std::fs::copy(picture(which), pictures.join(format!("{i}_{j}.png"))).unwrap();
    }
    let entry = |prompt: &str, images: &[usize]| Entry {
        prompt: prompt.into(),
        image_paths: images.iter().map(|&i| picture(i)).collect(),
    };
    Evaluation {
        entries: vec![entry("a robot", &[0]), entry("a robot beside a teapot", &[0, 1])],
        pictures,
        per_prompt: 2,
        shard: Shard::ALL,
        out: folder.join("out"),
    }
}

#[test]
fn scores_are_those_of_the_script_of_transformers_and_torch() {
    let wanted: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("scores.json")).unwrap()).unwrap();
    let scorer = scorer(Views::Given);
    let got = scorer.score(&open(3), wanted["prompt"].as_str().unwrap(), &[picture(0), picture(1)]).unwrap();
    for (name, got) in [("dino", got.dino), ("clip_i", got.clip_i), ("clip_t", Some(got.clip_t))] {
        let (got, wanted) = (got.unwrap(), wanted[name].as_f64().unwrap());
        println!("{name}: {got:.7}, the script: {wanted:.7}");
        assert!((got - wanted).abs() < 1e-4, "{name}: {got} is not {wanted}");
    }
}

#[test]
fn the_same_picture_has_a_score_of_one_and_a_lost_subject_shows_in_the_least() {
    let scorer = scorer(Views::Given);
    let same = scorer.score(&open(0), "a robot", &[picture(0)]).unwrap();
    for (name, score) in [("DINO", same.dino), ("CLIP-I", same.clip_i), ("subject", same.subject)] {
        assert!((score.unwrap() - 1.0).abs() < 1e-6, "{name}: {score:?}");
    }
    let lost = scorer.score(&open(0), "a robot", &[picture(0), picture(2)]).unwrap();
    assert!((lost.subjects[0].found.score - 1.0).abs() < 1e-6);
    assert_eq!(lost.subject, Some(lost.subjects[1].found.score));
    assert!(lost.subject < Some(0.9999), "{:?}", lost.subject);
    let none = scorer.score(&open(0), "a robot", &[]).unwrap();
    assert_eq!((none.dino, none.clip_i, none.subject), (None, None, None));
}

#[test]
fn views_of_a_folder_are_all_its_pictures() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..3 {
        std::fs::copy(picture(i), folder.path().join(format!("0{i}.png"))).unwrap();
    }
    std::fs::write(folder.path().join("prompts.txt"), "no picture").unwrap();
    let reference = [folder.path().join("00.png")];
    let all = scorer(Views::Folder).score(&open(3), "", &reference).unwrap();
    assert_eq!(all.subjects[0].views, 3);
    let given = scorer(Views::Given);
    let each = (0..3).map(|i| given.score(&open(3), "", &[picture(i)]).unwrap().dino.unwrap());
    assert!((all.dino.unwrap() - each.sum::<f64>() / 3.0).abs() < 1e-12);
}

#[test]
fn a_run_that_stops_goes_on_and_shares_give_the_same_result_as_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let scorer = scorer(Views::Given);
    let whole = evaluation(&folder.path().join("whole"));
    let stop = |event: EvaluationEvent| match event {
        EvaluationEvent::Scored { done: 2, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let error = whole.run(&scorer, None, &stop).unwrap_err().to_string();
    assert!(error.contains("2 of 4"), "{error}");
    let first = whole.out.join("scores/0_0.json");
    let written = std::fs::metadata(&first).unwrap().modified().unwrap();
    assert_eq!(whole.run(&scorer, None, &silent).unwrap(), 4);
    assert_eq!(std::fs::metadata(&first).unwrap().modified().unwrap(), written, "not scored twice");

    let mut shared = evaluation(&folder.path().join("shared"));
    for (shard, scored) in [("1/3", 1), ("0/3", 3), ("2/3", 4)] {
        shared.shard = shard.parse().unwrap();
        assert_eq!(shared.run(&scorer, None, &silent).unwrap(), scored);
    }
    let [whole_report, shared_report] = [&whole, &shared].map(|evaluation| evaluation.report().unwrap());
    assert_eq!(whole_report.all, shared_report.all);
    assert_eq!(
        whole_report.by_subject.keys().collect::<Vec<_>>(),
        ["0", "1"].map(String::from).iter().collect::<Vec<_>>()
    );
    assert_eq!(whole_report.made.unknown, 4, "these pictures hold no settings");

    // A picture that has changed is scored again; one that is gone is named.
    std::fs::copy(picture(2), whole.pictures.join("0_0.png")).unwrap();
    whole.run(&scorer, None, &silent).unwrap();
    assert_ne!(whole.report().unwrap().all, whole_report.all);
    std::fs::remove_file(whole.pictures.join("1_1.png")).unwrap();
    let error = whole.run(&scorer, None, &silent).unwrap_err().to_string();
    assert!(error.contains("3 of 4") && error.contains("1_1.png"), "{error}");
}

#[test]
fn the_page_holds_every_picture_and_no_markup_of_a_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let mut evaluation = evaluation(folder.path());
    evaluation.entries[0].prompt = "a <script>robot</script>".into();
    evaluation.run(&scorer(Views::Given), None, &silent).unwrap();
    let page = folder.path().join("report.html");
    evaluation.report().unwrap().write_html(&page).unwrap();
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<img ").count(), 4 + 3);
    assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
}

#[test]
fn the_program_makes_what_is_missing_scores_it_and_says_what_is_wrong() {
    let desk = tempfile::tempdir().unwrap();
    let list = desk.path().join("list.json");
    let robot = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/assets/robot.png");
    let entries = serde_json::json!([{ "prompt": "a robot on a beach", "image_paths": [robot] }]);
    std::fs::write(&list, entries.to_string()).unwrap();
    assert_eq!(read_prompts(&list, &mut |_| {}).unwrap().len(), 1);
    let run = |arguments: &[&str]| {
        let output = Command::new(example("evaluate"))
            .current_dir(desk.path())
            .args([
                "--prompts",
                "list.json",
                "--pictures",
                "pictures",
                "--num-images-per-prompt",
                "2",
                "--dino",
            ])
            .arg(fixtures().join("dino"))
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let clip = fixtures().join("clip");
    let clip = clip.to_str().unwrap();
    let (ok, said) = run(&["--clip", clip]);
    assert!(!ok && said.contains("holds 0 of 2 pictures") && said.contains("name a model"), "{said}");
    let (ok, said) = run(&["--clip", "nowhere"]);
    assert!(!ok && said.contains("CLIP for scores"), "{said}");
    let small = ["--clip", clip, "--embedded", "--num-steps", "2", "--size", "64", "64"];
    let (ok, said) = run(&small);
    assert!(ok && said.contains("CLIP-I") && said.contains("2 pictures"), "{said}");
    let result: serde_json::Value =
        serde_json::from_slice(&std::fs::read(desk.path().join("pictures/evaluation/result.json")).unwrap())
            .unwrap();
    assert_eq!(result["made"]["seeds"], serde_json::json!([3407, 3408]));
    assert_eq!(result["made"]["size"], serde_json::json!([[64, 64]]));
    assert_eq!(result["protocol"]["views"], "given");
    let (ok, said) = run(&small);
    assert!(ok && said.contains("2 of 2"), "{said}");

    // Files of somebody else are not replaced: known before the work.
    for name in ["result.json", "report.html"] {
        let path = desk.path().join("pictures/evaluation").join(name);
        let ours = std::fs::read(&path).unwrap();
        std::fs::write(&path, "{\"mine\": 1}").unwrap();
        let (ok, said) = run(&small);
        assert!(!ok && said.contains(name) && said.contains("not replaced"), "{said}");
        assert!(!said.contains("of 2 pictures"), "{said}");
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"mine\": 1}");
        std::fs::write(&path, ours).unwrap();
    }
}

#[test]
fn the_best_of_several_pictures_is_kept_and_why_is_said_and_written() {
    let desk = tempfile::tempdir().unwrap();
    let robot = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/assets/robot.png");
    let run = |arguments: &[&str]| {
        let output = Command::new(example("generate"))
            .current_dir(desk.path())
            .args(["--prompt", "a robot", "--width", "64", "--height", "64", "--num_steps", "1"])
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (robot, dino) = (robot.to_str().unwrap(), fixtures().join("dino"));
    let dino = dino.to_str().unwrap();
    let best =
        ["--image_paths", robot, "--seed", "5", "--best_of", "3", "--dino", dino, "--save_path", "best"];
    let (ok, said) = run(&best);
    assert!(ok && said.contains("the best of 3: 5 (") && said.contains(" 7 ("), "{said}");
    let read = |path: &str| std::fs::read(desk.path().join(path)).unwrap();
    let json = |path: &str| serde_json::from_slice::<serde_json::Value>(&read(path)).unwrap();
    let choice = json("best/0_0.best_of.json");
    let candidates = choice["candidates"].as_array().unwrap();
    let highest = candidates.iter().map(|c| c["score"].as_f64().unwrap()).fold(f64::MIN, f64::max);
    let chosen = candidates.iter().find(|c| c["score"].as_f64() == Some(highest)).unwrap();
    assert_eq!(choice["chosen"], chosen["seed"]);
    assert_eq!(json("best/0_0.json")["seed"], chosen["seed"]);

    // It is the picture that its seed gives alone.
    let seed = chosen["seed"].to_string();
    let (ok, said) = run(&["--image_paths", robot, "--seed", &seed, "--save_path", "alone"]);
    assert!(ok, "{said}");
    assert_eq!(read("best/0_0.png"), read("alone/0_0.png"));

    let (ok, said) = run(&["--image_paths", robot, "--best_of", "2"]);
    assert!(!ok && said.contains("--dino"), "{said}");
    let (ok, said) = run(&["--best_of", "2", "--dino", dino]);
    assert!(!ok && said.contains("references; got none"), "{said}");
}
