use std::path::Path;

use uno_models::unope::UnoPe;

use super::*;

/// Settings of a small job.
pub fn settings() -> JobSettings {
    JobSettings {
        prompt: "a mug \u{0} \"quoted\" 猫".into(),
        references: Vec::new(),
        width: 64,
        height: 32,
        num_steps: 2,
        guidance: 3.5,
        seed: u64::MAX - 3,
        num_images: 3,
        ref_size: 128,
        pe: UnoPe::D,
        lora_scale: 1.0,
        loras: Vec::new(),
        memory: "auto".into(),
    }
}

fn inserted(store: &Store, settings: &JobSettings, attached: bool) -> JobId {
    let id = JobId::random().unwrap();
    assert_eq!(store.insert_job(&id, settings, now(), attached).unwrap(), Inserted::Yes);
    id
}

fn state(store: &Store, id: &JobId) -> State {
    store.job(id).unwrap().unwrap().state
}

#[test]
fn a_job_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), false).unwrap();
    let id = inserted(&store, &settings(), false);
    store.begin(&id, 5.0).unwrap();
    store.set_pictures(&id, 2).unwrap();
    store.set_notices(&id, &["cut".into()]).unwrap();
    store.end(&id, State::Failed, Some("no memory"), 7.0).unwrap();
    drop(store);
    let job = Store::open(folder.path(), false).unwrap().job(&id).unwrap().unwrap();
    assert_eq!(job.settings, settings());
    assert_eq!((job.state, job.started, job.finished), (State::Failed, Some(5.0), Some(7.0)));
    assert_eq!((job.notices, job.error), (vec!["cut".to_owned()], Some("no memory".to_owned())));
    assert_eq!(job.pictures.iter().map(|p| p.seed).collect::<Vec<_>>(), [u64::MAX - 3, u64::MAX - 2]);
}

#[test]
fn jobs_are_listed_newest_first_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), false).unwrap();
    let ids: Vec<_> = (0..5).map(|_| inserted(&store, &settings(), false)).collect();
    let (first, more) = store.jobs(2, None).unwrap().unwrap();
    assert_eq!((first.iter().map(|job| &job.id).collect::<Vec<_>>(), more), (vec![&ids[4], &ids[3]], true));
    let (rest, more) = store.jobs(3, Some(&ids[3])).unwrap().unwrap();
    assert_eq!((rest.len(), more), (3, false));
    assert_eq!(store.jobs(3, Some(&JobId::random().unwrap())).unwrap(), None);
}

#[test]
fn running_jobs_go_back_into_the_queue_and_fail_the_second_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), false).unwrap();
    let (first, second) = (inserted(&store, &settings(), false), inserted(&store, &settings(), false));
    store.begin(&first, 1.0).unwrap();
    drop(store);
    store = Store::open(folder.path(), false).unwrap();
    let waiting = store.recover().unwrap();
    assert_eq!(waiting.iter().map(|job| &job.id).collect::<Vec<_>>(), [&first, &second]);
    store.begin(&first, 2.0).unwrap();
    assert_eq!(store.recover().unwrap().len(), 1);
    let failed = store.job(&first).unwrap().unwrap();
    assert_eq!((failed.state, failed.started), (State::Failed, Some(1.0)));
    assert!(failed.error.unwrap().contains("2 times"));
}

#[test]
fn finished_pictures_show_that_the_server_survives_a_job() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), false).unwrap();
    let id = inserted(&store, &settings(), false);
    for pictures in 1..4 {
        store.begin(&id, 1.0).unwrap();
        store.set_pictures(&id, pictures).unwrap();
        store.recover().unwrap();
        assert_eq!(state(&store, &id), State::Queued);
    }
    // Handed back by a server that was stopped in good order, as often as may be.
    for _ in 0..4 {
        store.begin(&id, 1.0).unwrap();
        store.hand_back(&id).unwrap();
        store.recover().unwrap();
        assert_eq!(state(&store, &id), State::Queued);
    }
}

#[test]
fn jobs_whose_client_has_gone_with_the_server_are_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), false).unwrap();
    let (waiting, running, done) = (
        inserted(&store, &settings(), true),
        inserted(&store, &settings(), true),
        inserted(&store, &settings(), true),
    );
    store.begin(&running, 1.0).unwrap();
    store.end(&done, State::Done, None, 2.0).unwrap();
    assert!(store.recover().unwrap().is_empty());
    assert_eq!(
        [&waiting, &running, &done].map(|id| state(&store, id)),
        [State::Cancelled, State::Cancelled, State::Done]
    );
}

#[test]
fn references_of_jobs_are_kept_and_others_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), false).unwrap();
    let reference = |id: &str| Reference { id: id.into(), width: 4, height: 3 };
    store.insert_reference(&reference("used")).unwrap();
    store.insert_reference(&reference("unused")).unwrap();
    let with = JobSettings { references: vec![reference("used"), reference("used")], ..settings() };
    let id = inserted(&store, &with, false);
    assert_eq!(store.idle_references(0.0).unwrap(), Vec::<String>::new());
    assert_eq!(store.idle_references(f64::MAX).unwrap(), ["unused"]);
    assert!(!store.forget_reference("unused", 0.0).unwrap(), "used in the meantime");
    assert!(store.forget_reference("unused", f64::MAX).unwrap());
    assert!(!store.forget_reference("used", f64::MAX).unwrap());
    assert_eq!(store.use_reference("unused").unwrap(), None);
    assert_eq!(store.use_reference("used").unwrap(), Some(reference("used")));
    store.remove_job(&id).unwrap();
    assert_eq!(store.idle_references(now() - 60.0).unwrap(), Vec::<String>::new());
    assert_eq!(store.idle_references(f64::MAX).unwrap(), ["used"]);
    assert!(store.forget_reference("used", f64::MAX).unwrap());
    let missing = store.insert_job(&id, &with, 0.0, false).unwrap();
    assert_eq!(missing, Inserted::NoReference("used".into()));
    assert_eq!(store.job(&id).unwrap(), None, "nothing is left of it");
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), false).unwrap();
    assert!(refusal(folder.path(), false).contains("another server"));
    drop(store);
    assert!(Store::open(folder.path(), false).is_ok());
}

/// What is said when a folder is not opened; nothing in it has changed then.
fn refusal(folder: &Path, rebuild: bool) -> String {
    let before = files(folder);
    let error = Store::open(folder, rebuild).err().unwrap();
    let changed: Vec<_> = files(folder).into_iter().filter(|file| !before.contains(file)).collect();
    assert!(changed.iter().all(|(name, _)| name == "uno-web.lock" || name.ends_with("-shm")), "{changed:?}");
    format!("{error:#}")
}

/// All files below a folder, with what is in them.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.push((name, std::fs::read(path).unwrap()));
                }
            }
        }
    }
    found
}

fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A job that has ended, with a picture.
fn finished(store: &Store) -> JobId {
    let id = inserted(store, &settings(), false);
    put(store.folder().path(), &format!("pictures/{id}/0.png"), "a picture");
    store.end(&id, State::Done, None, 1.0).unwrap();
    id
}

#[test]
fn a_new_database_is_refused_beside_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let id = finished(&Store::open(path, false).unwrap());
    let database = path.join("uno-web.sqlite");
    let whole = std::fs::read(&database).unwrap();
    for state in ["missing", "empty", "without tables", "without jobs"] {
        std::fs::remove_file(&database).unwrap();
        match state {
            "missing" => {}
            "empty" => std::fs::write(&database, "").unwrap(),
            "without tables" => {
                Connection::open(&database)
                    .unwrap()
                    .execute_batch("CREATE TABLE x (y); DROP TABLE x")
                    .unwrap();
            }
            _ => {
                std::fs::write(&database, &whole).unwrap();
                Connection::open(&database).unwrap().execute_batch("DELETE FROM job").unwrap();
            }
        }
        let error = refusal(path, false);
        assert!(error.contains("--rebuild") && error.contains(id.as_str()), "{state}: {error}");
        let store = Store::open(path, true).unwrap();
        assert_eq!(store.strays().jobs, std::slice::from_ref(&id), "{state}");
        assert!(path.join(format!("pictures/{id}/0.png")).exists());
        drop(store);
    }
    std::fs::write(&database, &whole).unwrap();
    assert_eq!(state(&Store::open(path, false).unwrap(), &id), State::Done);
}

#[test]
fn pictures_that_an_older_database_does_not_know_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), false).unwrap();
    let old = finished(&store);
    let copy = folder.path().parent().unwrap().join(format!("{old}.sqlite"));
    crate::backup::backup(folder.path(), &copy).unwrap();
    let new = finished(&store);
    drop(store);
    std::fs::rename(&copy, folder.path().join("uno-web.sqlite")).unwrap();
    let store = Store::open(folder.path(), false).unwrap();
    store.tidy().unwrap();
    assert_eq!(store.strays().jobs, std::slice::from_ref(&new));
    for id in [&old, &new] {
        assert!(store.folder().pictures_of(id).join("0.png").exists());
    }
}

#[test]
fn folders_of_others_are_refused_and_new_ones_marked() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "letter.txt", "mine");
    put(folder.path(), "references/thesis.pdf", "mine");
    for rebuild in [false, true] {
        let error = refusal(folder.path(), rebuild);
        assert!(error.contains("letter.txt") && error.contains("new or an empty folder"), "{error}");
    }
    assert!(!folder.path().join("uno-web.lock").exists(), "nothing was left there");
    let inside = folder.path().join("uno-web");
    drop(Store::open(&inside, false).unwrap());
    assert!(inside.join("uno-web.json").exists());
    put(&inside, "letter.txt", "mine");
    drop(Store::open(&inside, false).unwrap());
    let empty = tempfile::tempdir().unwrap();
    put(empty.path(), "lost+found/x", "");
    drop(Store::open(empty.path(), false).unwrap());
}

#[test]
fn folders_of_earlier_versions_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let id = finished(&Store::open(folder.path(), false).unwrap());
    let database = Connection::open(folder.path().join("uno-web.sqlite")).unwrap();
    database.execute_batch("DROP TABLE folder; DROP TABLE removal; PRAGMA user_version = 1").unwrap();
    drop(database);
    std::fs::remove_file(folder.path().join("uno-web.json")).unwrap();
    put(folder.path(), "letter.txt", "mine");
    put(folder.path(), "references/thesis.pdf", "mine");
    let store = Store::open(folder.path(), false).unwrap();
    assert_eq!(state(&store, &id), State::Done);
    assert!(store.strays().jobs.is_empty());
    drop(store);
    assert!(
        folder.path().join("uno-web.json").exists() && folder.path().join("references/thesis.pdf").exists()
    );
}

#[test]
fn a_database_of_another_folder_is_recognized() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ids = [&one, &other].map(|folder| finished(&Store::open(folder.path(), false).unwrap()));
    std::fs::copy(other.path().join("uno-web.sqlite"), one.path().join("uno-web.sqlite")).unwrap();
    let error = refusal(one.path(), false);
    assert!(error.contains("another data folder") && error.contains("--rebuild"), "{error}");
    let store = Store::open(one.path(), true).unwrap();
    assert_eq!(store.strays().jobs, std::slice::from_ref(&ids[0]));
    assert_eq!(store.job(&ids[1]).unwrap(), None);
    drop(store);
    let aside: Vec<_> = files(one.path())
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.contains("quarantine"))
        .collect();
    assert!(aside.iter().any(|name| name.ends_with("/uno-web.sqlite")), "{aside:?}");
}

#[test]
fn garbled_databases_are_named_and_put_aside_on_request_only() {
    let folder = tempfile::tempdir().unwrap();
    let id = finished(&Store::open(folder.path(), false).unwrap());
    let path = folder.path().join("uno-web.sqlite");
    let whole = std::fs::read(&path).unwrap();
    let text = "no database, but more than a hundred bytes long, so that it looks like one ".repeat(20);
    let mut torn = whole.clone();
    torn[4096..].fill(0xa5);
    let cut = whole[..whole.len() / 2].to_vec();
    for (n, garbled) in [text.into_bytes(), torn, cut].into_iter().enumerate() {
        std::fs::write(&path, &garbled).unwrap();
        let error = refusal(folder.path(), false);
        assert!(error.contains("uno-web.sqlite is damaged") && error.contains("--rebuild"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), garbled);
        let store = Store::open(folder.path(), true).unwrap();
        assert_eq!(store.strays().jobs, std::slice::from_ref(&id));
        drop(store);
        let kept = files(folder.path()).into_iter().filter(|(_, content)| *content == garbled);
        assert_eq!(kept.count(), 1, "case {n}");
    }
}

#[test]
fn databases_of_other_programs_and_newer_versions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), false).unwrap());
    let path = folder.path().join("uno-web.sqlite");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    for rebuild in [false, true] {
        let error = refusal(folder.path(), rebuild);
        assert!(error.contains("version 9") && error.contains("newer"), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE recipe (name TEXT)").unwrap();
    for rebuild in [false, true] {
        let error = refusal(folder.path(), rebuild);
        assert!(error.contains("another program"), "{error}");
    }
}

#[test]
fn a_removal_that_was_interrupted_is_finished_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), false).unwrap();
    let (removed, kept) = (finished(&store), finished(&store));
    put(folder.path(), &format!("pictures/{kept}/notes.txt"), "mine");
    store.remove_job(&removed).unwrap();
    drop(store);
    let store = Store::open(folder.path(), false).unwrap();
    assert!(store.strays().jobs.is_empty(), "it was to be removed");
    store.tidy().unwrap();
    assert!(!store.folder().pictures_of(&removed).exists());
    store.remove_job(&kept).unwrap();
    store.remove_pictures(&kept);
    let left = files(store.folder().path()).into_iter().filter(|(name, _)| name.starts_with("pictures"));
    assert_eq!(left.map(|(name, _)| name).collect::<Vec<_>>(), [format!("pictures/{kept}/notes.txt")]);
    drop(store);
    // No job is left, and what is left is no picture: a new database would be no loss.
    drop(Store::open(folder.path(), false).unwrap());
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = format!("{:#}", Store::open(&file.join("data"), false).err().unwrap());
    assert!(error.contains("file/data"), "{error}");
}
