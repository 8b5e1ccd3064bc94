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
    let store = Store::open(folder.path()).unwrap();
    let id = inserted(&store, &settings(), false);
    store.begin(&id, 5.0).unwrap();
    store.set_pictures(&id, 2).unwrap();
    store.set_notices(&id, &["cut".into()]).unwrap();
    store.end(&id, State::Failed, Some("no memory"), 7.0).unwrap();
    drop(store);
    let job = Store::open(folder.path()).unwrap().job(&id).unwrap().unwrap();
    assert_eq!(job.settings, settings());
    assert_eq!((job.state, job.started, job.finished), (State::Failed, Some(5.0), Some(7.0)));
    assert_eq!((job.notices, job.error), (vec!["cut".to_owned()], Some("no memory".to_owned())));
    assert_eq!(job.pictures.iter().map(|p| p.seed).collect::<Vec<_>>(), [u64::MAX - 3, u64::MAX - 2]);
}

#[test]
fn jobs_are_listed_newest_first_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
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
    let mut store = Store::open(folder.path()).unwrap();
    let (first, second) = (inserted(&store, &settings(), false), inserted(&store, &settings(), false));
    store.begin(&first, 1.0).unwrap();
    drop(store);
    store = Store::open(folder.path()).unwrap();
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
    let store = Store::open(folder.path()).unwrap();
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
    let store = Store::open(folder.path()).unwrap();
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
    let store = Store::open(folder.path()).unwrap();
    let reference = |id: &str| Reference { id: id.into(), width: 4, height: 3 };
    store.insert_reference(&reference("used")).unwrap();
    store.insert_reference(&reference("unused")).unwrap();
    let with = JobSettings { references: vec![reference("used"), reference("used")], ..settings() };
    let id = inserted(&store, &with, false);
    assert_eq!(store.forget_references(0.0).unwrap(), Vec::<String>::new());
    assert_eq!(store.forget_references(f64::MAX).unwrap(), ["unused"]);
    assert_eq!(store.use_reference("unused").unwrap(), None);
    assert_eq!(store.use_reference("used").unwrap(), Some(reference("used")));
    store.remove_job(&id).unwrap();
    assert_eq!(store.forget_references(now() - 60.0).unwrap(), Vec::<String>::new());
    assert_eq!(store.forget_references(f64::MAX).unwrap(), ["used"]);
    let missing = store.insert_job(&id, &with, 0.0, false).unwrap();
    assert_eq!(missing, Inserted::NoReference("used".into()));
    assert!(!store.has_job(&id).unwrap(), "nothing is left of it");
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let error = Store::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("another server"), "{error}");
    drop(store);
    assert!(Store::open(folder.path()).is_ok());
}

#[test]
fn databases_of_others_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uno-web.sqlite");
    std::fs::write(
        &path,
        "no database, but more than a hundred bytes long, so that it looks like one ".repeat(20),
    )
    .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(format!("{:#}", Store::open(folder.path()).err().unwrap()).contains("uno-web.sqlite"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::remove_file(&path).unwrap();
    drop(Store::open(folder.path()).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = format!("{:#}", Store::open(folder.path()).err().unwrap());
    assert!(error.contains("version 9"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = format!("{:#}", Store::open(&file.join("data")).err().unwrap());
    assert!(error.contains("file/data"), "{error}");
}
