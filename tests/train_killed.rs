//! `examples/train_lora` as a user runs it: ended by signals again and again, on a full disk, twice at once, and resumed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let program = folder.join("examples").join(format!("train_lora{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "{} is not there; `cargo build --release --example train_lora`",
        program.display()
    );
    program
}

/// A run of the example's configuration with a checkpoint at each step.
struct Desk(tempfile::TempDir);

impl Desk {
    /// `steps` in the first stage and three in the second.
    fn new(steps: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/train_lora");
        let text = std::fs::read_to_string(example.join("example.toml")).unwrap();
        let text = text.replace("checkpoint_every = 10", "checkpoint_every = 1\nkeep_checkpoints = 3");
        let text = text.replace("steps = 20", &format!("steps = {steps}"));
        let text = text.replace("steps = 10", "steps = 3").replace("num_steps = 4", "num_steps = 1");
        let text = text.replace("../assets", &example.join("../assets").display().to_string());
        std::fs::write(folder.path().join("run.toml"), text).unwrap();
        for list in ["example_single.json", "example_multi.json"] {
            let text = std::fs::read_to_string(example.join(list)).unwrap();
            let assets = example.join("../assets").display().to_string();
            std::fs::write(folder.path().join(list), text.replace("../assets", &assets)).unwrap();
        }
        Self(folder)
    }

    fn start(&self, resume: bool) -> Child {
        let mut command = Command::new(program());
        command
            .arg("--config")
            .arg(self.0.path().join("run.toml"))
            .arg("--output")
            .arg(self.0.path().join("out"));
        if resume {
            command.args(["--resume", "latest"]);
        }
        for variable in ["AE", "FLUX_DEV", "FLUX_DEV_FP8", "FLUX_SCHNELL", "T5", "CLIP", "LORA"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn finish(&self, resume: bool) {
        let output = self.start(resume).wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn result(&self) -> Vec<Vec<u8>> {
        let folder = self.0.path().join("out/multi/checkpoint-3");
        let names = [
            "dit_lora.safetensors",
            "dit_lora_ema.safetensors",
            "optimizer.safetensors",
            "state.json",
            "0.png",
        ];
        names.iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect()
    }
}

/// Sends a signal.
#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn a_run_of_200_steps_that_is_ended_40_times_gives_the_same_bytes() {
    let (straight, ended) = (Desk::new(197), Desk::new(197));
    straight.finish(false);
    let mut checkpoints = 0;
    for round in 0..40u64 {
        let mut run = ended.start(round > 0);
        // Different moments: while it loads, computes, writes.
        std::thread::sleep(Duration::from_millis(150 + 37 * (round % 20)));
        let name = ["TERM", "HUP", "INT", "KILL"][round as usize % 4];
        if run.try_wait().unwrap().is_none() {
            signal(&run, name);
        }
        let output = run.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!told.contains("panicked") && !told.contains("error"), "{name}: {told}");
        checkpoints += told.matches("stopped: ").count();
    }
    println!("{checkpoints} of 30 signals that can be heard ended with a checkpoint of their own");
    ended.finish(true);
    assert!(straight.result() == ended.result());
    let left = std::fs::read_dir(ended.0.path().join("out/multi")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
}

/// Waits until a run has made its first checkpoint.
fn wait_for_a_checkpoint(desk: &Desk) {
    for _ in 0..600 {
        if desk.0.path().join("out/single/checkpoint-1").exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("no checkpoint within a minute");
}

#[cfg(unix)]
#[test]
fn a_closed_terminal_ends_a_run_with_a_checkpoint() {
    let desk = Desk::new(5000);
    let mut run = desk.start(false);
    wait_for_a_checkpoint(&desk);
    // Nobody reads any more, as when a terminal closes.
    drop(run.stderr.take());
    signal(&run, "HUP");
    assert!(run.wait().unwrap().success());
    assert!(!desk.0.path().join("out/run.lock").exists());
    let last = uno_models::train::checkpoint::list(&desk.0.path().join("out"), "single").pop().unwrap();
    assert!(last.1.join("optimizer.safetensors").is_file());
}

#[cfg(unix)]
#[test]
fn a_second_run_in_the_same_folder_is_refused_until_the_first_has_ended() {
    let desk = Desk::new(5000);
    let run = desk.start(false);
    wait_for_a_checkpoint(&desk);
    let second = desk.start(true).wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && told.contains(&format!("process {} on", run.id())), "{told}");
    signal(&run, "KILL");
    run.wait_with_output().unwrap();
    assert!(desk.0.path().join("out/run.lock").exists(), "a killed run leaves its lock");
    let third = desk.start(true);
    std::thread::sleep(Duration::from_secs(2));
    signal(&third, "TERM");
    let told = String::from_utf8_lossy(&third.wait_with_output().unwrap().stderr).into_owned();
    assert!(told.contains("stopped"), "{told}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_as_one_and_leaves_the_last_checkpoint() {
    let desk = Desk::new(6);
    let out = desk.0.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "none"]).arg(&out).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: a file system of 3 MB cannot be mounted here");
        return;
    }
    let output = desk.start(false).wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let kept: Vec<_> = uno_models::train::checkpoint::list(&out, "single");
    let left = std::fs::read_dir(out.join("single")).into_iter().flatten().flatten();
    let unfinished = left.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count();
    assert!(Command::new("umount").arg(&out).status().unwrap().success());
    assert!(!output.status.success() && told.contains("cannot write"), "{told}");
    assert!(told.contains("No space left on device") && !told.contains("cannot read"), "{told}");
    assert!(unfinished == 0, "{unfinished} unfinished checkpoints are left");
    println!("{} checkpoints were made before the disk was full", kept.len());
}

#[test]
fn mistakes_are_told_in_words_before_anything_is_loaded() {
    let desk = Desk::new(6);
    let text = std::fs::read_to_string(desk.0.path().join("run.toml")).unwrap();
    std::fs::write(desk.0.path().join("run.toml"), text.replace("accumulation = 2", "acumulation = 2"))
        .unwrap();
    let output = desk.start(false).wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("acumulation") && !told.contains("panicked"), "{told}");
}
