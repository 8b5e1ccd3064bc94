//! `examples/train_lora` as a user runs it: killed without warning again and again, and resumed.

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
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/train_lora");
        let text = std::fs::read_to_string(example.join("example.toml")).unwrap();
        let text =
            text.replace("checkpoint_every = 10", "checkpoint_every = 1").replace("steps = 20", "steps = 6");
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

#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_bytes() {
    let (straight, killed) = (Desk::new(), Desk::new());
    straight.finish(false);
    for round in 0..12u64 {
        let mut run = killed.start(round > 0);
        // Different moments: while it loads, computes, writes.
        std::thread::sleep(Duration::from_millis(300 + 170 * round));
        let is_done = run.try_wait().unwrap().is_some();
        run.kill().unwrap();
        run.wait().unwrap();
        if is_done {
            break;
        }
    }
    killed.finish(true);
    assert!(straight.result() == killed.result());
    let left = std::fs::read_dir(killed.0.path().join("out/multi")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
}

#[test]
fn mistakes_are_told_in_words_before_anything_is_loaded() {
    let desk = Desk::new();
    let text = std::fs::read_to_string(desk.0.path().join("run.toml")).unwrap();
    std::fs::write(desk.0.path().join("run.toml"), text.replace("accumulation = 2", "acumulation = 2"))
        .unwrap();
    let output = desk.start(false).wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("acumulation") && !told.contains("panicked"), "{told}");
}
