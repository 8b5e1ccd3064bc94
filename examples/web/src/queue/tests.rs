use std::path::Path;

use axum::http::StatusCode;

use super::*;
use crate::store::tests::settings;

fn queue(folder: &Path, most: usize) -> Queue {
    let store = Arc::new(Store::open(folder, false).unwrap());
    Queue::open(store, Arc::default(), most).unwrap()
}

fn submit(queue: &Queue) -> Job {
    queue.submit(settings(), false).unwrap()
}

#[test]
fn jobs_are_taken_in_their_order_and_positions_follow() {
    let folder = tempfile::tempdir().unwrap();
    let queue = queue(folder.path(), 10);
    let ids = [submit(&queue).id, submit(&queue).id, submit(&queue).id];
    assert_eq!(ids.each_ref().map(|id| queue.job(id).unwrap().position), [Some(0), Some(1), Some(2)]);
    let (running, _) = queue.next().unwrap();
    assert_eq!((&running.id, running.state), (&ids[0], State::Running));
    assert_eq!(ids.each_ref().map(|id| queue.job(id).unwrap().position), [None, Some(1), Some(2)]);
    queue.finish(&Outcome::Done);
    assert_eq!(ids.each_ref().map(|id| queue.job(id).unwrap().position), [None, Some(0), Some(1)]);
    assert_eq!(queue.cancel(&ids[1]).unwrap().state, State::Cancelled);
    assert_eq!(queue.next().unwrap().0.id, ids[2]);
    let states = queue.list(10, None).unwrap().0.into_iter().map(|job| job.state).collect::<Vec<_>>();
    assert_eq!(states, [State::Running, State::Cancelled, State::Done]);
}

#[test]
fn a_full_queue_says_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let queue = queue(folder.path(), 2);
    submit(&queue);
    queue.next().unwrap();
    submit(&queue);
    submit(&queue);
    let error = queue.submit(settings(), false).unwrap_err();
    assert_eq!(error.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(error.message().contains("2 jobs wait"), "{}", error.message());
}

#[test]
fn a_running_job_is_cancelled_by_its_worker_only() {
    let folder = tempfile::tempdir().unwrap();
    let queue = queue(folder.path(), 2);
    let id = submit(&queue).id;
    let (_, halt) = queue.next().unwrap();
    assert_eq!(halt.get(), None);
    assert_eq!(queue.cancel(&id).unwrap().state, State::Running);
    queue.interrupt();
    assert_eq!(halt.get(), Some(Reason::Cancelled), "the first reason holds");
    assert_eq!(queue.remove(&id).unwrap_err().status(), StatusCode::CONFLICT);
    queue.finish(&Outcome::Cancelled);
    assert_eq!(queue.cancel(&id).unwrap_err().status(), StatusCode::CONFLICT);
    queue.remove(&id).unwrap();
    assert_eq!(queue.cancel(&id).unwrap_err().status(), StatusCode::NOT_FOUND);
    assert_eq!(queue.remove(&id).unwrap_err().status(), StatusCode::NOT_FOUND);
}

#[test]
fn a_stopping_queue_takes_and_begins_nothing_and_keeps_all() {
    let folder = tempfile::tempdir().unwrap();
    let first = queue(folder.path(), 5);
    let ids = [submit(&first).id, submit(&first).id];
    first.next().unwrap();
    first.set_pictures(1).unwrap();
    first.stop();
    assert_eq!(first.submit(settings(), false).unwrap_err().status(), StatusCode::SERVICE_UNAVAILABLE);
    first.interrupt();
    first.finish(&Outcome::HandedBack);
    assert!(first.next().is_none());
    drop(first);
    let second = queue(folder.path(), 5);
    let (job, _) = second.next().unwrap();
    assert_eq!((&job.id, job.pictures.len()), (&ids[0], 1));
    assert_eq!(second.waiting()[0].id, ids[1]);
}

#[test]
fn a_disk_that_takes_nothing_keeps_jobs_waiting_and_refuses_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Arc::new(queue(folder.path(), 5));
    let id = submit(&queue).id;
    let disk = queue.store.disk();
    disk.note(Trouble::Full);
    let error = queue.submit(settings(), false).unwrap_err();
    assert_eq!(error.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert!(error.message().contains("the disk is full"), "{}", error.message());
    let (this, (tell, hear)) = (queue.clone(), std::sync::mpsc::channel());
    let worker = std::thread::spawn(move || tell.send(this.next().unwrap().0.id));
    assert!(hear.recv_timeout(2 * LOOK).is_err(), "it is not begun");
    assert_eq!(queue.job(&id).unwrap().state, State::Queued);
    queue.store.look_at_disk();
    assert_eq!(hear.recv().unwrap(), id, "it goes on by itself");
    worker.join().unwrap().unwrap();
    submit(&queue);
}

#[test]
fn listeners_hear_of_everything_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let queue = queue(folder.path(), 5);
    let id = submit(&queue).id;
    let (unfinished, mut updates) = queue.follow();
    assert_eq!(unfinished.len(), 1);
    submit(&queue);
    queue.next().unwrap();
    queue.notice("a prompt was cut").unwrap();
    queue.notice("a prompt was cut").unwrap();
    queue.set_pictures(1).unwrap();
    queue.finish(&Outcome::Failed("no reason".into()));
    queue.remove(&id).unwrap();
    let mut heard = Vec::new();
    while let Ok(update) = updates.try_recv() {
        heard.push(match update {
            Update::Job(job) => {
                format!("{} {} {}", job.state.name(), job.pictures.len(), job.notices.len())
            }
            Update::Moved => "moved".into(),
            Update::Removed(_) => "removed".into(),
            Update::Preview(_) => "preview".into(),
        });
    }
    let wanted =
        ["queued 0 0", "running 0 0", "running 0 1", "running 1 1", "failed 1 1", "moved", "removed"];
    assert_eq!(heard, wanted);
}
