//! What is measured per step, as files that spreadsheets, scripts and TensorBoard read: `metrics.csv`, `metrics.jsonl`,
//! `events.out.tfevents.*`.

mod tensorboard;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::output::write_atomically;

pub use tensorboard::EventFile;

/// A named number per step, in three files of one folder.
pub struct Metrics {
    columns: Vec<&'static str>,
    csv: Lines,
    jsonl: Lines,
    events: Option<EventFile>,
}

impl Metrics {
    /// Opens the files in `folder` for metrics of these names. Lines of steps beyond `done`, written before an interruption and
    /// now to be done again, are removed; earlier ones stay. `tensorboard` also writes an event file.
    ///
    /// # Errors
    ///
    /// The folder cannot be written to, or its `metrics.csv` has other columns.
    pub fn open(folder: &Path, columns: &[&'static str], done: u64, tensorboard: bool) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::write(folder))?;
        let header = format!("step,{}", columns.join(","));
        let csv = folder.join("metrics.csv");
        let step_of_csv = |line: &str| match line.split_once(',')?.0 {
            "step" => Some(0),
            step => step.parse().ok(),
        };
        let mut csv_lines = Lines::open(&csv, done, step_of_csv)?;
        match &csv_lines.first {
            None => csv_lines.write(&header)?,
            Some(first) if *first == header => {}
            Some(first) => {
                return Err(Error::format(
                    &csv,
                    format!(
                        "has the columns {first:?}, wanted {header:?}; move it away or choose another folder"
                    ),
                ));
            }
        }
        let step_of_json =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64();
        Ok(Self {
            columns: columns.to_vec(),
            csv: csv_lines,
            jsonl: Lines::open(&folder.join("metrics.jsonl"), done, step_of_json)?,
            events: tensorboard.then(|| EventFile::create(folder, done)).transpose()?,
        })
    }

    /// Writes one number per column. What is not finite is empty in CSV and `null` in JSON.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn log(&mut self, step: u64, values: &[f64]) -> Result<()> {
        let cell = |x: &f64| if x.is_finite() { x.to_string() } else { String::new() };
        let cells: Vec<String> = values.iter().map(cell).collect();
        self.csv.write(&format!("{step},{}", cells.join(",")))?;
        let mut object = serde_json::Map::from_iter([("step".to_owned(), step.into())]);
        object.extend(self.columns.iter().zip(values).map(|(name, x)| ((*name).to_owned(), (*x).into())));
        self.jsonl.write(&serde_json::Value::Object(object).to_string())?;
        if let Some(events) = &mut self.events {
            events.scalars(step, self.columns.iter().copied().zip(values.iter().copied()))?;
        }
        Ok(())
    }
}

/// A file of lines that is appended to.
struct Lines {
    path: PathBuf,
    file: File,
    first: Option<String>,
}

impl Lines {
    /// Opens `path`, without the lines whose step is beyond `done` and without a last line that was cut off.
    fn open(path: &Path, done: u64, step: impl Fn(&str) -> Option<u64>) -> Result<Self> {
        let mut kept = Vec::new();
        if path.exists() {
            let lines = BufReader::new(File::open(path).map_err(Error::read(path))?).lines();
            for line in lines {
                let line = line.map_err(Error::read(path))?;
                if step(&line).is_some_and(|step| step <= done) {
                    kept.push(line);
                }
            }
            write_atomically(path, |out| kept.iter().try_for_each(|line| writeln!(out, "{line}")))?;
        }
        let file = File::options().create(true).append(true).open(path).map_err(Error::write(path))?;
        Ok(Self { path: path.to_path_buf(), file, first: kept.into_iter().next() })
    }

    fn write(&mut self, line: &str) -> Result<()> {
        // One call per line, so that a reader never sees half of one.
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(Error::write(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: PathBuf) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn steps_after_the_one_that_is_resumed_are_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["loss", "rate"];
        let mut metrics = Metrics::open(folder.path(), &names, 0, false).unwrap();
        for step in 1..=3 {
            metrics.log(step, &[1.5 / step as f64, f64::NAN]).unwrap();
        }
        drop(metrics);
        let mut metrics = Metrics::open(folder.path(), &names, 2, false).unwrap();
        metrics.log(3, &[9.0, 1.0]).unwrap();
        assert_eq!(read(folder.path().join("metrics.csv")), "step,loss,rate\n1,1.5,\n2,0.75,\n3,9,1\n");
        let json = read(folder.path().join("metrics.jsonl"));
        assert_eq!(json.lines().count(), 3);
        assert!(json.contains(r#""rate":null"#) && json.ends_with("\"rate\":1.0,\"step\":3}\n"), "{json}");
    }

    #[test]
    fn other_columns_are_not_mixed_into_a_file() {
        let folder = tempfile::tempdir().unwrap();
        Metrics::open(folder.path(), &["loss"], 0, false).unwrap();
        let error = Metrics::open(folder.path(), &["a"], 0, false).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("step,loss"), "{error}");
    }
}
