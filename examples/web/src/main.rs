//! cargo run --release --bin uno-web
//!
//! A page, an HTTP API and a queue around one model. Without a model it serves the small one inside the program. `--help` lists
//! the options, docs/serving.md describes the rest.

#![allow(unreachable_pub, reason = "nothing of a program is reached from outside")]

mod app;
mod arguments;
mod backup;
mod body;
mod connections;
mod disk;
mod downloads;
mod drain;
mod error;
mod folder;
mod guard;
mod halt;
mod job;
mod log;
mod metrics;
mod model;
mod plan;
mod png;
mod progress;
mod queue;
mod rebuild;
mod references;
mod routes;
mod serve;
mod settings;
mod stop;
mod store;
mod worker;

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::sync::{Semaphore, watch};

use app::App;
use arguments::Arguments;
use connections::ConnectionLimits;
use guard::Guard;
use metrics::Metrics;
use model::Model;
use queue::Queue;
use references::References;
use settings::Limits;
use store::Store;
use worker::Worker;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse_from(arguments::with_dashes(std::env::args_os()));
    match run(arguments) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", worker::message(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if let Some(file) = &arguments.backup {
        let jobs = backup::backup(&arguments.data, file)?;
        println!("{}: the database with {jobs} jobs", file.display());
        return Ok(());
    }

    // 1. What can be checked before anything is opened.
    let token = arguments.token()?;
    let address = arguments.address(token.as_ref())?;
    log::start(arguments.log);
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }

    // 2. The address and the data folder: both are of one server at a time.
    let listener = std::net::TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address}; is another server there? --port takes another port")
    })?;
    let store = Arc::new(Store::open(&arguments.data, arguments.rebuild)?);
    let references = Arc::new(References::new(store.clone(), arguments.max_upload.0));
    if arguments.rebuild {
        rebuild::rebuild(&store, &references, &arguments.add_lora)?;
    }
    store.tidy()?;

    // 3. The queue with what an earlier server left, and the thread that works at it.
    let (model, metrics) = (Arc::new(Model::open(&arguments)?), Arc::new(Metrics::default()));
    let queue = Queue::open(store.clone(), metrics.clone(), arguments.queue as usize)?;
    let queue = Arc::new(queue);
    let worker = Worker {
        queue: queue.clone(),
        store: store.clone(),
        references: references.clone(),
        model: model.clone(),
        metrics: metrics.clone(),
    };
    let worker = worker.start()?;

    // 4. Requests, until a signal.
    let (close, closing) = watch::channel(false);
    let limits = ConnectionLimits::new(arguments.max_connections_per_address);
    let app = Arc::new(App {
        queue: queue.clone(),
        store: store.clone(),
        references: references.clone(),
        model,
        metrics: metrics.clone(),
        limits: Limits::new(&arguments),
        guard: Guard::new(token, arguments.allow_host),
        closing: closing.clone(),
        streams: Arc::new(Semaphore::new(serve::STREAMS)),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let local = listener.local_addr()?;
        let mut out = std::io::stdout();
        writeln!(out, "http://{local}").and_then(|()| out.flush())?;
        tokio::spawn(references::sweep_for_ever(references));
        tokio::spawn(disk::look_for_ever(store, metrics));
        tokio::spawn(stop::on_signal(queue, worker, arguments.grace, close));
        serve::run(listener, app::router(app), limits, closing).await;
        Ok(())
    })
}
