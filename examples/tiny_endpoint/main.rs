//! cargo run --release --example tiny_endpoint -- --port 8000
//!
//! An endpoint that speaks OpenAI's chat completions and answers a synthesis' questions about uno-tiny's world: with the
//! renderer, which knows how every subject looks. So the whole of a synthesis runs without a language model. On demand it
//! misbehaves as servers do (`--faults`).

mod answers;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, Server};

/// Answers questions about uno-tiny's world.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Port on this machine; 0 takes one that is free
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Questions that are answered at the same time
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Of each eleven requests two are refused for now (429), one fails (500), two are answered with nonsense, and one not at all
    #[arg(long)]
    faults: bool,
    /// Writes a line for each answer: what was asked for, and a fingerprint of the question
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// What goes wrong with each of eleven requests; see [`serve`]. A prime number, so that no client that asks in step meets faults alone.
const FAULTS: [usize; 11] = [0, 1, 2, 0, 3, 0, 4, 0, 1, 3, 0];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let server =
        Server::http(("127.0.0.1", arguments.port)).map_err(|e| anyhow!("port {}: {e}", arguments.port))?;
    let address = server.server_addr().to_ip().context("an address of this machine")?;
    // Programs that start this one read the address from here.
    println!("http://{address}/v1");
    std::io::stdout().flush()?;
    let log =
        arguments.log.as_ref().map(|path| std::fs::OpenOptions::new().create(true).append(true).open(path));
    let log = Mutex::new(log.transpose()?);
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                while let Ok(request) = server.recv() {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let fault = if arguments.faults { FAULTS[number % FAULTS.len()] } else { 0 };
                    if let Err(error) = serve(request, fault, &log) {
                        eprintln!("{error:#}");
                    }
                }
            });
        }
    });
    Ok(())
}

/// Answers one request, well or (`fault` 1 to 4) badly.
fn serve(mut request: Request, fault: usize, log: &Mutex<Option<std::fs::File>>) -> Result<()> {
    let mut body = String::new();
    request.as_reader().read_to_string(&mut body)?;
    if request.method() != &Method::Post || request.url() != "/v1/chat/completions" {
        return reply(request, 404, &json!({ "error": "POST /v1/chat/completions is all there is" }), None);
    }
    match fault {
        1 => return reply(request, 429, &json!({ "error": "too many questions" }), Some("0")),
        2 => return reply(request, 500, &json!({ "error": "something broke" }), None),
        3 => return reply(request, 200, &completion("{ \"parts\": [1"), None),
        4 => {
            // Longer than anybody waits.
            std::thread::sleep(Duration::from_secs(17));
            return Ok(());
        }
        _ => {}
    }
    let question: Value = match serde_json::from_str(&body) {
        Ok(question) => question,
        Err(error) => return reply(request, 400, &json!({ "error": error.to_string() }), None),
    };
    match answers::answer(&question) {
        Ok((name, answer)) => {
            let mut log = log.lock().map_err(|_| anyhow!("a thread that wrote the log failed"))?;
            if let Some(log) = log.as_mut() {
                let print = question.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
                });
                writeln!(log, "{name} {print:016x}")?;
            }
            drop(log);
            reply(request, 200, &completion(&answer.to_string()), None)
        }
        Err(error) => reply(request, 400, &json!({ "error": format!("{error:#}") }), None),
    }
}

fn completion(content: &str) -> Value {
    json!({ "object": "chat.completion", "choices": [{ "index": 0, "message": { "role": "assistant", "content": content } }] })
}

fn reply(request: Request, status: u16, body: &Value, retry_after: Option<&str>) -> Result<()> {
    let header = |name: &str, value: &str| {
        Header::from_bytes(name, value).map_err(|()| anyhow!("header {name}: {value} cannot be sent"))
    };
    let mut response = Response::from_string(body.to_string())
        .with_status_code(status)
        .with_header(header("Content-Type", "application/json")?);
    if let Some(seconds) = retry_after {
        response.add_header(header("Retry-After", seconds)?);
    }
    Ok(request.respond(response)?)
}
