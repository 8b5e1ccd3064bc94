//! The history anew, from the pictures themselves: rows for pictures that the database does not know.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use tracing::{info, warn};
use uno_models::output::Settings;
use uno_models::request::{MAX_SIDE, MAX_STEPS};

use crate::arguments::AddedLora;
use crate::folder::{listed, pictures_in};
use crate::job::{Job, JobId, JobSettings, LoraScale, Reference, State, is_hex};
use crate::references::References;
use crate::store::{Store, settings_of};

/// Records a job for each folder of pictures that has none, oldest first, and gives their number. What has no settings is left
/// as it is, and said.
///
/// # Errors
///
/// A database that cannot be written to; then nothing is recorded.
pub fn rebuild(store: &Store, references: &References, loras: &[AddedLora]) -> Result<usize> {
    let (mut jobs, mut left) = (Vec::new(), Vec::new());
    let strays = store.strays().jobs.clone();
    for id in &strays {
        match found_job(store, references, loras, id) {
            Some(job) => jobs.push(job),
            None => left.push(id.clone()),
        }
    }
    jobs.sort_by(|one, other| {
        one.created.total_cmp(&other.created).then_with(|| one.id.as_str().cmp(other.id.as_str()))
    });
    store.insert_found(&jobs)?;
    store.look_for_strays()?;
    info!(jobs = jobs.len(), "taken into the history from the settings beside the pictures");
    if !left.is_empty() {
        warn!(
            count = left.len(),
            "folders of pictures without readable settings are left as they are: {}",
            listed(&left)
        );
    }
    Ok(jobs.len())
}

/// The job that has made the pictures in a folder; `None` if they do not tell.
fn found_job(store: &Store, references: &References, loras: &[AddedLora], id: &JobId) -> Option<Job> {
    let folder = store.folder().pictures_of(id);
    let there = pictures_in(&folder);
    let (n, settings) = there.iter().find_map(|&n| match settings_of(&folder, n) {
        Ok(settings) if is_sensible(&settings) => Some((n, settings)),
        Ok(_) => None,
        Err(error) => {
            warn!("{error}");
            None
        }
    })?;
    // One that is missing in between keeps its place: pictures are told by their numbers.
    let count = there.last()? + 1;
    let mut notices = vec!["taken into the history from the settings beside the pictures".to_owned()];
    if there.len() < count {
        notices.push(format!("{} of {count} pictures are missing", count - there.len()));
    }
    let settings = job_settings(&settings, n, count, references, loras, &mut notices);
    let times: Vec<_> = there.iter().filter_map(|n| modified(&folder.join(format!("{n}.png")))).collect();
    let (first, last) =
        times.iter().fold((f64::INFINITY, 0.0f64), |(first, last), time| (first.min(*time), last.max(*time)));
    let first = if first.is_finite() { first } else { last };
    Some(Job {
        pictures: Job::pictures_of(id, &settings, count),
        id: id.clone(),
        state: State::Done,
        created: first,
        started: Some(first),
        finished: Some(last),
        settings,
        position: None,
        progress: None,
        notices,
        error: None,
    })
}

/// Whether settings are such as this program writes: the files may have been anybody's.
fn is_sensible(settings: &Settings) -> bool {
    let is_side = |side: usize| (1..=MAX_SIDE).contains(&side);
    is_side(settings.width)
        && is_side(settings.height)
        && (1..=MAX_STEPS).contains(&settings.num_steps)
        && settings.references.iter().all(|reference| is_hex(&reference.file.sha256, 64))
}

/// The settings of a job whose picture `n` has these; what cannot be told is noticed.
fn job_settings(
    settings: &Settings,
    n: usize,
    count: usize,
    references: &References,
    loras: &[AddedLora],
    notices: &mut Vec<String>,
) -> JobSettings {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for record in &settings.references {
        let sha256 = &record.file.sha256;
        match references.size_of(sha256) {
            Ok((width, height)) => found.push(Reference { id: sha256.clone(), width, height }),
            Err(error) if seen.insert(sha256) => {
                notices.push(format!("the reference {}… is missing", sha256.get(..8).unwrap_or_default()));
                info!("{error}");
            }
            Err(_) => {}
        }
    }
    let named = |(i, scale): (usize, &f64)| LoraScale { name: lora_name(settings, i, loras), scale: *scale };
    JobSettings {
        prompt: settings.prompt.clone(),
        references: found,
        width: settings.width,
        height: settings.height,
        num_steps: settings.num_steps,
        guidance: settings.guidance,
        seed: settings.seed.wrapping_sub(n as u64),
        num_images: count,
        ref_size: settings.ref_size,
        pe: settings.pe,
        lora_scale: settings.lora_scale.unwrap_or(0.0),
        loras: settings.add_lora_scales.iter().enumerate().map(named).collect(),
        memory: "auto".to_owned(),
    }
}

/// The name of a further LoRA: the server's for a file of that name, else the file's.
fn lora_name(settings: &Settings, i: usize, loras: &[AddedLora]) -> String {
    let part = format!("add_lora.{i}");
    let Some(record) = settings.model.iter().find(|record| record.part == part) else { return part };
    let known = loras.iter().find(|lora| lora.path.file_name() == record.path.file_name());
    let stem = || record.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    known.map(|lora| lora.name.clone()).or_else(stem).unwrap_or(part)
}

/// When a file was written, in seconds since 1970.
fn modified(path: &Path) -> Option<f64> {
    let time = path.metadata().ok()?.modified().ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use image::RgbImage;
    use uno_models::Request;
    use uno_models::output::{FileRecord, ReferenceRecord, save};
    use uno_models::request::Sample;

    use super::*;
    use crate::png::encode_png;

    /// Pictures as the worker saves them, by a request with this seed.
    fn save_pictures(store: &Store, id: &JobId, numbers: &[usize], references: &[&str]) {
        for &n in numbers {
            let sample = Sample { prompt: format!("job {id}"), seed: 7u64.wrapping_add(n as u64) };
            let mut settings = Settings::new(&Request::new(""), &sample, [32, 16]);
            settings.num_steps = 3;
            settings.lora_scale = Some(0.5);
            settings.add_lora_scales = vec![0.25];
            settings.references = references
                .iter()
                .map(|sha256| ReferenceRecord {
                    file: FileRecord { path: (*sha256).into(), sha256: (*sha256).to_owned() },
                    width: 16,
                    height: 16,
                })
                .collect();
            let path = store.folder().pictures_of(id).join(format!("{n}.png"));
            save(&path, &RgbImage::new(32, 16), &settings).unwrap();
        }
    }

    #[tokio::test]
    async fn jobs_come_back_from_the_settings_beside_their_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path(), false).unwrap());
        let references = Arc::new(References::new(store.clone(), 1 << 20));
        let upload = |side| encode_png(&RgbImage::new(side, 20)).unwrap().into();
        let reference = references.add(upload(40)).await.unwrap();
        let (whole, gap, bare) =
            (JobId::random().unwrap(), JobId::random().unwrap(), JobId::random().unwrap());
        let missing = "0".repeat(64);
        save_pictures(&store, &whole, &[0, 1], &[&reference.id, &missing, &reference.id]);
        save_pictures(&store, &gap, &[1, 3], &[]);
        save_pictures(&store, &bare, &[0], &[]);
        // Of one the JSON is gone: the picture tells, too.
        fs::remove_file(store.folder().pictures_of(&gap).join("1.json")).unwrap();
        // Another tells nothing.
        fs::remove_file(store.folder().pictures_of(&bare).join("0.json")).unwrap();
        fs::write(store.folder().pictures_of(&bare).join("0.png"), "no picture").unwrap();
        drop((references, store));
        fs::remove_file(folder.path().join("uno-web.sqlite")).unwrap();

        let store = Arc::new(Store::open(folder.path(), true).unwrap());
        let references = Arc::new(References::new(store.clone(), 1 << 20));
        assert_eq!(rebuild(&store, &references, &[]).unwrap(), 2);
        let job = store.job(&whole).unwrap().unwrap();
        assert_eq!((job.state, job.settings.seed, job.pictures.len()), (State::Done, 7, 2));
        assert_eq!(
            (job.settings.prompt.as_str(), job.settings.num_steps),
            (format!("job {whole}").as_str(), 3)
        );
        assert_eq!(job.settings.references, [reference.clone(), reference.clone()]);
        assert_eq!(job.settings.lora_scale, 0.5);
        assert_eq!(job.settings.loras, [LoraScale { name: "add_lora.0".into(), scale: 0.25 }]);
        assert!(job.notices.iter().any(|notice| notice.contains("00000000")), "{:?}", job.notices);
        let job = store.job(&gap).unwrap().unwrap();
        assert_eq!((job.settings.seed, job.pictures.len()), (7, 4));
        assert!(job.notices.iter().any(|notice| notice.contains("2 of 4")), "{:?}", job.notices);
        assert_eq!(store.job(&bare).unwrap(), None);
        assert_eq!(store.strays().jobs, std::slice::from_ref(&bare), "it is left as it is");
        assert_eq!(store.idle_references(f64::MAX).unwrap(), Vec::<String>::new(), "a job has it");
        assert_eq!(rebuild(&store, &references, &[]).unwrap(), 0, "nothing is taken in twice");
    }

    #[tokio::test]
    async fn references_of_pictures_without_a_row_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path(), false).unwrap());
        let references = Arc::new(References::new(store.clone(), 1 << 20));
        let reference = references.add(encode_png(&RgbImage::new(40, 20)).unwrap().into()).await.unwrap();
        save_pictures(&store, &JobId::random().unwrap(), &[0], &[&reference.id]);
        store.look_for_strays().unwrap();
        references.sweep_before(f64::MAX);
        assert!(references.open(&reference).is_ok());
    }
}
