//! Synthesis on diptychs of uno-tiny's world, with the program `tiny_endpoint` as language model: a server in a process of its own,
//! which may misbehave.
#![cfg(feature = "synthesis")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::program::example;
use image::RgbImage;
use uno_models::synthesis::{
    Area, Item, Layout, Outcome, Stage, Status, Synthesis, SynthesisConfig, Taxonomy,
};
use uno_models::tiny::world::caption::{Detail, of_subject};
use uno_models::tiny::world::{Composition, Kind, Look, Relation, Scene, Subject};
use uno_models::train::data::{DataSource, Format, read};

const SIDE: usize = 96;

/// The endpoint, ended with the test.
struct Server {
    process: Child,
    url: String,
    log: PathBuf,
}

impl Server {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let log = folder.join("answers.log");
        let mut process = Command::new(example("tiny_endpoint"))
            .args(["--port", "0", "--log"])
            .arg(&log)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { process, url: url.trim().to_owned(), log }
    }

    /// What was answered, in order.
    fn answers(&self) -> Vec<String> {
        std::fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The subject of a description.
fn subject(description: &str) -> Subject {
    let mut all = Kind::ALL.iter().flat_map(|&kind| Look::all().map(move |look| Subject { kind, look }));
    all.find(|&subject| of_subject(subject, Detail::Looks) == description).unwrap()
}

fn render(scene: usize, subjects: Vec<Subject>) -> RgbImage {
    let composition =
        Composition { scene: Scene::ALL[scene], subjects, relation: Relation::LeftOf, seed: scene as u64 };
    RgbImage::from_raw(SIDE as u32, SIDE as u32, composition.render(SIDE).rgb).unwrap()
}

/// A folder with a configuration, a taxonomy and `count` diptychs; in every third the second panel shows another look.
fn folder(url: &str, count: usize) -> tempfile::TempDir {
    // Longer than an answer takes on a busy machine, shorter than the server's silence.
    let timeout = 15.0;
    let folder = tempfile::tempdir().unwrap();
    let looks: Vec<Look> = Look::all().step_by(31).collect();
    let scenes: Vec<&str> = Scene::ALL.iter().map(|scene| scene.word()).collect();
    let class = |&kind: &Kind| {
        let entry = |&look: &Look| serde_json::json!({ "description": of_subject(Subject { kind, look }, Detail::Looks), "scenes": scenes });
        serde_json::json!({ "name": kind.word(), "subjects": looks.iter().map(entry).collect::<Vec<_>>() })
    };
    let classes: Vec<_> = Kind::ALL.iter().map(class).collect();
    let taxonomy = folder.path().join("taxonomy.json");
    std::fs::write(&taxonomy, serde_json::json!({ "classes": classes }).to_string()).unwrap();
    let model = root().join("uno-models/assets/tiny");
    let config = format!(
        "output = \"out\"\nseed = 3\ncount = {count}\ntaxonomy = \"taxonomy.json\"\n\
         [model]\ndir = {model:?}\nlora = {:?}\n\
         [split]\nmargin = 1\n\
         [similarity]\ndinov2 = {:?}\nthreshold = -1.0\n\
         [judgement]\nendpoint = {{ url = \"{url}\", model = \"tiny\", timeout_seconds = {timeout}, attempts = 12, wait_seconds = 0.01 }}\n\
         min_score = 3.5\n\
         [detection]\nendpoint = {{ url = \"{url}\", model = \"tiny\", timeout_seconds = {timeout}, attempts = 12, wait_seconds = 0.01 }}\n\
         [regeneration]\nsize = [32, 32]\nref_size = 32\nnum_steps = 1\n",
        model.join("dit_lora.safetensors"),
        root().join("tests/fixtures/vision/dinov2"),
    );
    std::fs::write(folder.path().join("synthesis.toml"), config).unwrap();
    let taxonomy = Taxonomy::read(&taxonomy).unwrap();
    for index in 0..count {
        let plan = taxonomy.plan(3, index).unwrap();
        let mut item = Item::new(index, plan);
        let mut first = subject(&item.plan.subject);
        let companion = subject(&item.plan.companion);
        let second = render(1 + index % 3, vec![first, companion]);
        if index % 3 == 2 {
            first.look =
                *looks.iter().find(|look| **look != first.look && look.first != first.look.first).unwrap();
        }
        let first = render(4, vec![first]);
        let side = SIDE as u32;
        let (size, place) = match item.plan.layout {
            Layout::SideBySide => ((2 * side, side), (i64::from(side), 0)),
            Layout::Stacked => ((side, 2 * side), (0, i64::from(side))),
        };
        let mut diptych = RgbImage::new(size.0, size.1);
        image::imageops::replace(&mut diptych, &first, 0, 0);
        image::imageops::replace(&mut diptych, &second, place.0, place.1);
        let file = PathBuf::from(format!("diptychs/{index:06}.png"));
        std::fs::create_dir_all(folder.path().join("out/diptychs")).unwrap();
        diptych.save(folder.path().join("out").join(&file)).unwrap();
        item.diptych = Some(Outcome::kept(file));
        item.write(&folder.path().join(format!("out/items/{index:06}.json"))).unwrap();
    }
    folder
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(example("synthesize"));
    command.current_dir(folder).args(["--config", "synthesis.toml"]);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

/// All results but the report's: items, lists and labels.
fn results(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let out = folder.join("out");
    let items = std::fs::read_dir(out.join("items")).unwrap().map(|entry| entry.unwrap().path());
    // A kill between writing a file and renaming it leaves a temporary one, which nothing reads.
    let items = items.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let lists =
        ["one_reference.json", "two_references.json", "labels/split1.json"].map(|name| out.join(name));
    let mut all: Vec<_> = items
        .chain(lists)
        .map(|path| (path.strip_prefix(&out).unwrap().display().to_string(), std::fs::read(path).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn all_stages_leave_data_that_training_reads_and_a_report() {
    let logs = tempfile::tempdir().unwrap();
    let server = Server::start(logs.path(), &[]);
    let folder = folder(&server.url, 6);
    let output = command(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let out = folder.path().join("out");
    let config = SynthesisConfig::read(&folder.path().join("synthesis.toml")).unwrap();
    assert_eq!(config.stages(), Stage::ALL);
    let synthesis = Synthesis::open(config).unwrap();
    let funnel = synthesis.funnel().unwrap();
    println!("{funnel:?}");
    let kept = |stage: Stage| funnel.stages.iter().find(|count| count.stage == stage).unwrap().kept;
    assert_eq!((funnel.items, kept(Stage::Split)), (6, 6));
    // Items 2 and 5 show another look in the second panel.
    for index in 0..6 {
        let status = synthesis.item(index).unwrap().status(&Stage::FIRST);
        let is_rejected = matches!(status, Status::Rejected(Stage::Judgement, _));
        assert_eq!(is_rejected, index % 3 == 2, "{index}: {status:?}");
    }
    assert!(kept(Stage::Detection) >= 3, "{funnel:?}");
    // The regenerated pictures are those of random weights.
    assert!(funnel.done < 4);

    let listed = |file: &str, format, min_score| {
        let source = DataSource { path: out.join(file), format, min_score };
        let listed = read(&source).unwrap();
        assert!(listed.errors.is_empty());
        for (_, sample) in &listed.samples {
            for path in sample.references.iter().chain([&sample.target]) {
                image::open(path).unwrap();
            }
        }
        listed.samples
    };
    let plain = listed("one_reference.json", Format::List, 0.0);
    let labelled = listed("labels/split1.json", Format::Uno1m, 3.5);
    assert_eq!(plain.len(), 4);
    for ((_, plain), (_, labelled)) in plain.iter().zip(&labelled) {
        assert_eq!(plain.prompt, labelled.prompt);
        let same =
            |a: &Path, b: &Path| std::fs::canonicalize(a).unwrap() == std::fs::canonicalize(b).unwrap();
        assert!(same(&plain.target, &labelled.target) && same(&plain.references[0], &labelled.references[0]));
    }
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("judgement") && page.matches("<img ").count() >= 8);

    // Run again, nothing is left to do and nothing is asked.
    let answers = server.answers().len();
    let before = results(folder.path());
    assert!(command(folder.path()).output().unwrap().status.success());
    assert_eq!((server.answers().len(), results(folder.path())), (answers, before));
}

#[test]
fn a_server_that_refuses_fails_babbles_and_hangs_changes_nothing_in_the_result() {
    let logs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let sound = Server::start(logs[0].path(), &[]);
    let faulty = Server::start(logs[1].path(), &["--faults", "--threads", "8"]);
    let folders = [&sound, &faulty].map(|server| folder(&server.url, 4));
    for folder in &folders {
        let output = command(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(results(folders[0].path()), results(folders[1].path()));
    // Nothing is lost, and nothing is asked again that was answered.
    let [wanted, got] = [&sound, &faulty].map(|server| {
        let mut answers = server.answers();
        answers.sort();
        answers
    });
    assert_eq!(wanted, got);
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), got.len());
}

#[test]
fn a_run_that_is_killed_goes_on_without_asking_again_for_what_is_written() {
    let logs = tempfile::tempdir().unwrap();
    let server = Server::start(logs.path(), &[]);
    let [killed, whole] = [(); 2].map(|()| folder(&server.url, 5));
    let mut run = command(killed.path()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(run.stderr.take().unwrap()).lines();
    let reached = lines.map_while(Result::ok).any(|line| line.starts_with("judgement 2/"));
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(reached);
    let answered = server.answers().len();
    let output = command(killed.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let in_all = server.answers().len();
    assert!(command(whole.path()).output().unwrap().status.success());
    assert_eq!(results(killed.path()), results(whole.path()));
    let once = server.answers().len() - in_all;
    // What the kill hit is asked again: at most three rounds of each of four workers.
    assert!(in_all - once <= 12 && answered > 0, "{in_all} answers for {once} questions");
}

#[test]
fn shares_of_the_work_make_the_same_as_one_run() {
    let logs = tempfile::tempdir().unwrap();
    let server = Server::start(logs.path(), &[]);
    let [shared, whole] = [(); 2].map(|()| folder(&server.url, 4));
    for shard in ["1/2", "0/2"] {
        assert!(command(shared.path()).args(["--shard", shard]).output().unwrap().status.success());
    }
    assert!(command(whole.path()).output().unwrap().status.success());
    assert_eq!(results(shared.path()), results(whole.path()));
}

#[test]
fn what_no_repetition_mends_ends_the_run_and_says_why() {
    let dead = folder("http://127.0.0.1:9/v1", 2);
    let output = command(dead.path()).output().unwrap();
    assert!(!output.status.success());
    assert!(
        said(&output).contains("12 attempts failed") && said(&output).contains("run the same command again"),
        "{}",
        said(&output)
    );
    let item = Item::read(&dead.path().join("out/items/000000.json")).unwrap();
    assert_eq!(item.status(&Stage::ALL), Status::Waits(Stage::Judgement));

    let logs = tempfile::tempdir().unwrap();
    let server = Server::start(logs.path(), &[]);
    let wrong = folder(&server.url.replace("/v1", "/v2"), 2);
    let output = command(wrong.path()).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("status 404"), "{}", said(&output));
    assert!(!said(&output).contains("attempts failed"), "asked once only: {}", said(&output));

    // A folder that was begun with other settings.
    let begun = folder(&server.url, 2);
    assert!(command(begun.path()).args(["--stages", "split"]).output().unwrap().status.success());
    let path = begun.path().join("synthesis.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("seed = 3", "seed = 4")).unwrap();
    let output = command(begun.path()).output().unwrap();
    assert!(said(&output).contains("begun with another seed: 3, now 4"), "{}", said(&output));
}

#[test]
fn boxes_may_come_from_a_file_and_the_base_model_makes_diptychs() {
    let folder = folder("http://127.0.0.1:9/v1", 1);
    std::fs::remove_file(folder.path().join("out/items/000000.json")).unwrap();
    let path = folder.path().join("synthesis.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let start = text.find("[judgement]").unwrap();
    let end = text.find("[regeneration]").unwrap();
    let sizes = "[diptych]\nside_by_side = [[64, 32]]\nstacked = [[32, 64]]\nnum_steps = 1\n";
    let text = format!(
        "{}{sizes}[detection]\nboxes = \"boxes.json\"\n{}",
        &text[..start].replace("margin = 1", "margin = 1\nmin_strength = 0.0\nmin_contrast = 0.0"),
        &text[end..]
    );
    std::fs::write(&path, text).unwrap();
    std::fs::write(folder.path().join("boxes.json"), r#"{"000000": [2, 3, 20, 22]}"#).unwrap();
    let output = command(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let item = Item::read(&folder.path().join("out/items/000000.json")).unwrap();
    assert_eq!(item.detection.as_ref().unwrap().value, Some(Area([2, 3, 20, 22])));
    let out = folder.path().join("out");
    let picture = |file: &str| image::open(out.join(file)).unwrap();
    let diptych = picture("diptychs/000000.png");
    assert_eq!(diptych.width() * diptych.height(), 64 * 32);
    assert_eq!((picture("cut_outs/000000.png").width(), picture("regenerated/000000.png").width()), (18, 32));
    let listed =
        read(&DataSource { path: out.join("two_references.json"), format: Format::List, min_score: 0.0 });
    assert_eq!(listed.unwrap().samples[0].1.references.len(), 2);
    assert!(!out.join("labels").exists(), "nothing was judged");
}
