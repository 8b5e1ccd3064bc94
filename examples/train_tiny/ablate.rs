//! The part that leaves things out: UNO without parts of UnoPE, and without its first stage, each with several seeds.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use uno_core::weights::Checkpoint;
use uno_models::Defaults;
use uno_models::unope::UnoPe;

use crate::base::FLUX;
use crate::evaluate::{Candidate, References, Row, evaluate, open};
use crate::steps::short;
use crate::uno::{PAIRS, Pictures, RATE, Stages};

#[derive(clap::Args)]
pub struct Arguments {
    /// Steps of each stage
    #[arg(long, default_value_t = 240)]
    steps: u64,
    /// Seeds of the training, from --seed on
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Learning rate after the warm-up
    #[arg(long, default_value_t = RATE)]
    rate: f64,
    /// Pictures of each number of subjects
    #[arg(long, default_value_t = 16)]
    count: usize,
    /// Pictures to train on, of each number of references; those of the part uno if they are there
    #[arg(long, default_value_t = PAIRS)]
    pairs: usize,
    /// What is left out; all of it in turn if not given
    #[arg(long, value_delimiter = ',')]
    variants: Vec<Variant>,
}

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Variant {
    /// Nothing
    Whole,
    /// Moving references in columns: each only begins below the last
    RowsOnly,
    /// Moving references in rows: each only begins to the right of the last
    ColumnsOnly,
    /// Moving references at all
    NoOffset,
    /// The stage with one reference; the other is as long as both
    NoFirstStage,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Whole => "UnoPE, progressive",
            Self::RowsOnly => "rows only",
            Self::ColumnsOnly => "columns only",
            Self::NoOffset => "no offset",
            Self::NoFirstStage => "several references from the start",
        }
    }

    fn pe(self) -> UnoPe {
        match self {
            Self::Whole | Self::NoFirstStage => UnoPe::D,
            Self::RowsOnly => UnoPe::H,
            Self::ColumnsOnly => UnoPe::W,
            Self::NoOffset => UnoPe::O,
        }
    }
}

impl Arguments {
    pub fn run(&self, out: &Path, seed: u64) -> Result<()> {
        let pictures = Pictures { seed, count: self.pairs };
        let folder = out.join("ablation");
        std::fs::create_dir_all(&folder)?;
        let variants =
            if self.variants.is_empty() { Variant::value_variants() } else { self.variants.as_slice() };
        let mut results: Vec<(Variant, Vec<Vec<Row>>)> =
            variants.iter().map(|&variant| (variant, Vec::new())).collect();
        // Seeds outside, so that what is there after each round compares like with like.
        for seed in (seed..).take(self.seeds as usize) {
            for (variant, runs) in &mut results {
                runs.push(self.rows(out, *variant, seed, &pictures)?);
            }
            let table = table(&results);
            println!("{table}");
            std::fs::write(folder.join(format!("table-{}.md", self.steps)), table)?;
        }
        Ok(())
    }

    /// Trains and judges one variant, or reads what an earlier run left.
    fn rows(&self, out: &Path, variant: Variant, seed: u64, pictures: &Pictures) -> Result<Vec<Row>> {
        let pe = variant.pe();
        let steps = if variant == Variant::NoFirstStage { [0, 2 * self.steps] } else { [self.steps; 2] };
        let base = Checkpoint::open(out.join("model").join(FLUX))?;
        // All that a result depends on, so that none of other settings is taken for it.
        let run = format!(
            "ablation/{}/{pe}-{}-{}-{seed}-rate-{}-pairs-{}-{}",
            short(&base),
            steps[0],
            steps[1],
            self.rate,
            pictures.count,
            pictures.seed
        );
        let result = out.join(format!("{run}-of-{}.json", self.count));
        if result.exists() {
            let rows: Vec<Row> = serde_json::from_slice(&std::fs::read(&result)?)
                .with_context(|| format!("{}: delete it to make it anew", result.display()))?;
            ensure!(rows.len() == 3, "{}: got {} rows, wanted 3", result.display(), rows.len());
            return Ok(rows);
        }
        println!("{}, seed {seed}", variant.name());
        let lora = Stages { steps, rate: self.rate, pe, seed }.train(out, &run, &pictures.lists(out)?)?;
        let candidate =
            Candidate { pipeline: open(out, Some(lora))?, defaults: Defaults::UNO_TINY, pe, steps: 25 };
        let rows = evaluate(&candidate, self.count, &[References::Own], pictures.seed)?.rows;
        std::fs::write(&result, serde_json::to_string_pretty(&rows)?)?;
        Ok(rows)
    }
}

/// Means and deviations over the seeds.
fn table(results: &[(Variant, Vec<Vec<Row>>)]) -> String {
    let mut table = String::from(
        "| | identity, 1 subject | 2 | 3 | rank, 1 | 2 | 3 | scene | relation, 2 | 3 |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (variant, runs) in results {
        let of = |f: &dyn Fn(&[Row]) -> f32| spread(&runs.iter().map(|rows| f(rows)).collect::<Vec<_>>());
        let cells = [
            of(&|rows| rows[0].identity),
            of(&|rows| rows[1].identity),
            of(&|rows| rows[2].identity),
            of(&|rows| rows[0].rank),
            of(&|rows| rows[1].rank),
            of(&|rows| rows[2].rank),
            of(&|rows| rows.iter().map(|row| row.scene).sum::<f32>() / rows.len() as f32),
            of(&|rows| rows[1].relation.unwrap_or_default()),
            of(&|rows| rows[2].relation.unwrap_or_default()),
        ];
        // Writing to a string does not fail.
        let _ = writeln!(table, "| {} | {} |", variant.name(), cells.join(" | "));
    }
    table
}

/// "mean ± deviation".
fn spread(values: &[f32]) -> String {
    let count = values.len().max(1) as f32;
    let mean = values.iter().sum::<f32>() / count;
    let square = values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / (count - 1.0).max(1.0);
    format!("{mean:.2} ± {:.2}", square.sqrt())
}
