//! The part that makes its own data: diptychs of the base, filtered pairs, UNO's first stage on them, second references made by
//! that, UNO's second stage. No rendered picture is trained on after the base.

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use uno_core::image::Pixels;
use uno_models::Defaults;
use uno_models::eval::Shard;
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::synthesis::{
    Area, Class, Results, Stage, Status, SubjectEntry, Synthesis, SynthesisConfig, SynthesisEvent, Taxonomy,
};
use uno_models::tiny::evaluation::locate;
use uno_models::tiny::world::caption::{Detail, of_subject, subject_in};
use uno_models::tiny::world::{Kind, Look, Scene, Subject};
use uno_models::train::shares::Shares;
use uno_models::unope::UnoPe;

use crate::steps::PARTS;
use crate::uno::{RATE, Stages};

#[derive(clap::Args)]
pub struct Arguments {
    /// Diptychs to make
    #[arg(long, default_value_t = 1200)]
    count: usize,
    /// Steps of UNO's first and second stage
    #[arg(long, num_args = 2, default_values_t = [2400, 3600])]
    steps: Vec<u64>,
    /// Steps of the sampler
    #[arg(long, default_value_t = 12)]
    num_steps: usize,
    /// Guidance of diptychs and of second references
    #[arg(long, default_value_t = 4.0)]
    guidance: f32,
    /// Least score of a pair, 0 to 4
    #[arg(long, default_value_t = 3.0)]
    min_score: f64,
}

impl Arguments {
    pub fn run(&self, out: &Path, seed: u64) -> Result<()> {
        let [first, second] = *self.steps.as_slice() else { anyhow::bail!("--steps takes two numbers") };
        let folder = std::path::absolute(out.join("synthesis"))?;
        std::fs::create_dir_all(&folder)?;
        write_taxonomy(&folder.join("taxonomy.json"))?;
        let endpoint = Endpoint::start()?;
        // The LoRA of stage 1 is not there yet: the first half of the stages does without.
        let (synthesis, pairs) = self.synthesize(&folder, &endpoint, None, seed)?;
        let one = vec![pairs.one_reference, turned(&synthesis, &folder.join("turned"))?];
        let train = |steps: [u64; 2], two: Option<PathBuf>| {
            // Twice: they are the fewest.
            let several = one.iter().cloned().chain([two.clone(), two].into_iter().flatten()).collect();
            Stages { steps, rate: RATE, pe: UnoPe::D, seed }.train(
                out,
                "synthesis/uno",
                &[one.clone(), several],
            )
        };
        let lora = train([first, 0], None)?;
        let kept = folder.join("stage1.safetensors");
        std::fs::copy(lora, &kept)?;
        let (_, samples) = self.synthesize(&folder, &endpoint, Some(&kept), seed)?;
        let lora = train([first, second], samples.two_references)?;
        std::fs::copy(lora, folder.join("dit_lora.safetensors"))?;
        Ok(())
    }

    fn synthesize(
        &self,
        folder: &Path,
        endpoint: &Endpoint,
        lora: Option<&PathBuf>,
        seed: u64,
    ) -> Result<(Synthesis, Results)> {
        let endpoint = json!({ "url": endpoint.url, "model": "uno-tiny's renderer" });
        let (side, width) = (128, 256);
        let mut config = json!({
            "output": "work", "seed": seed, "count": self.count, "taxonomy": "taxonomy.json",
            "model": { "dir": "../model", "lora": lora },
            "diptych": {
                "side_by_side": [[width, side]], "stacked": [[side, width]], "num_steps": self.num_steps,
                "guidance": self.guidance, "template": "{subject} {first scene}, {second scene} with {companion}",
            },
            "split": { "margin": 1 },
            "judgement": { "endpoint": endpoint, "min_score": self.min_score, "workers": 2 },
        });
        if lora.is_some() {
            config["detection"] = json!({ "endpoint": endpoint, "workers": 2, "margin": MARGIN });
            config["regeneration"] = json!({
                "size": [side, side], "ref_size": Defaults::UNO_TINY.ref_sizes[0], "num_steps": self.num_steps,
                "guidance": self.guidance,
            });
        }
        let path = folder.join("synthesis.json");
        std::fs::write(&path, format!("{config:#}\n"))?;
        let synthesis = Synthesis::open(SynthesisConfig::read(&path)?)?;
        // Pictures are small: several at a time, each on its share of the cores.
        let failed = Shares::new(PARTS)?.run(|share| {
            let shard: Shard = format!("{share}/{PARTS}").parse()?;
            synthesis.run(&Stage::ALL, shard, &|event| {
                if let SynthesisEvent::Advances { stage, done, total, .. } = event
                    && (done % 50 == 0 || done == total)
                {
                    println!("{} {done}/{total} of share {share}", stage.name());
                }
                ControlFlow::Continue(())
            })
        })?;
        let failed: usize = failed.iter().map(Vec::len).sum();
        ensure!(failed == 0, "{failed} items could not be worked on; the same command tries them again");
        let results = synthesis.write_results()?;
        println!("{}", serde_json::to_string(&results.funnel)?);
        Ok((synthesis, results))
    }
}

/// Room around what is cut out.
const MARGIN: f64 = 0.15;

/// Pairs the other way round, as a list in `folder`: the subject cut out of the second panel, then the first panel, which has
/// it alone. Without them all targets have two subjects, and so has whatever stage 1 makes of one.
fn turned(synthesis: &Synthesis, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let (mut entries, stages) = (Vec::new(), synthesis.config().stages());
    for item in synthesis.items()? {
        let panels = item.split.as_ref().and_then(|split| split.value.as_ref());
        let (Status::Done, Some(panels)) = (item.status(&stages), panels) else { continue };
        let [first, second] = panels.files.each_ref().map(|file| synthesis.path(file));
        let picture = Picture::open(second, &DecodeOptions::default())?.to_rgb();
        let (width, height) = picture.dimensions();
        let pixels = Pixels { width: width as usize, height: height as usize, rgb: picture.as_raw().clone() };
        let subject = subject_in(&item.plan.subject).context("a subject that is not of this world")?;
        let area = Area(locate(&pixels, subject, 2).area(width, height)).with_margin(MARGIN, width, height);
        let reference = folder.join(format!("{}.png", item.id));
        area.cut(&picture).save(&reference)?;
        entries.push(json!({
            "prompt": item.plan.first_caption(), "image_paths": [reference], "image_tgt_path": first,
        }));
    }
    let list = folder.join("list.json");
    std::fs::write(&list, serde_json::to_string_pretty(&entries)?)?;
    Ok(list)
}

/// All subjects of the world but those that are held out.
fn write_taxonomy(path: &Path) -> Result<()> {
    let scenes: Vec<String> = Scene::ALL.iter().map(|scene| scene.word().to_owned()).collect();
    let entry = |kind: Kind, look: Look| SubjectEntry {
        description: of_subject(Subject { kind, look }, Detail::Looks),
        name: None,
        scenes: scenes.clone(),
    };
    let class = |&kind: &Kind| Class {
        name: kind.word().to_owned(),
        subjects: Look::all().filter(|look| !look.is_held_out()).map(|look| entry(kind, look)).collect(),
    };
    let taxonomy = Taxonomy { classes: Kind::ALL.iter().map(class).collect() };
    Ok(std::fs::write(path, serde_json::to_string_pretty(&taxonomy)?)?)
}

/// The program `tiny_endpoint`, which lies beside this one; ended with this.
struct Endpoint {
    process: Child,
    url: String,
}

impl Endpoint {
    fn start() -> Result<Self> {
        let name = format!("tiny_endpoint{}", std::env::consts::EXE_SUFFIX);
        let program = std::env::current_exe()?.with_file_name(name);
        let mut process = Command::new(&program)
            .args(["--port", "0", "--threads", "2"])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("{}: `cargo build --release --examples` builds it", program.display())
            })?;
        let mut url = String::new();
        let out = process.stdout.take().context("the endpoint's output")?;
        BufReader::new(out).read_line(&mut url)?;
        Ok(Self { process, url: url.trim().to_owned() })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
