//! Download from the Hugging Face hub into its cache: resumable, checked, one file at a time.
//!
//! The requests go through the agent of the crate hf-hub (its TLS, its proxy settings), but not through its `download`.
//! Version 0.5 of that appends whatever comes to a partial file (also a whole file, where a server ignores `Range`), cannot
//! go on from a partial file that happens to be complete, never checks size or digest, makes file names of unchecked headers,
//! sends the token to the storage host of a redirect, waits for a silent server for ever, and asks for gzip, with which
//! storage hosts ignore `Range`. All of that is settled here.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use sha2::{Digest, Sha256};

use super::cache::{HubCache, hugging_face_home};
use super::environment::Environment;
use super::look;
use super::options::HubOptions;
use super::presets::{HubPart, Need, human_bytes};
use super::progress::Progress;
use crate::error::{Error, Result};

/// What `discover` says of it.
pub(super) const AVAILABLE: bool = true;

/// Where the hub is by default.
const ENDPOINT: &str = "https://huggingface.co";
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;
/// Bytes moved at a time.
const BLOCK: usize = 256 << 10;
/// Longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Time to find and connect to a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The hub, its cache, and who hears of downloads.
pub(super) struct Hub<'a> {
    /// Makes requests that carry the token.
    with_token: ApiRepo,
    /// Makes requests that do not.
    without_token: ApiRepo,
    endpoint: Address,
    has_token: bool,
    cache: HubCache,
    progress: &'a dyn Progress,
    options: HubOptions,
    /// Commit of each repository that this run has asked for: all files of a run come from one.
    commits: BTreeMap<&'static str, String>,
}

impl<'a> Hub<'a> {
    /// Reads endpoint and token. Nothing is sent yet.
    pub(super) fn new(
        options: &HubOptions,
        environment: &Environment,
        cache: HubCache,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let given = options.endpoint.clone().or_else(|| environment.text("HF_ENDPOINT"));
        let endpoint = given.unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = Address::parse(endpoint.trim_end_matches('/')).ok_or_else(|| {
            Error::request("HF_ENDPOINT", &endpoint, "an address such as https://huggingface.co")
        })?;
        let token = token(options, environment)?;
        let has_token = token.is_some();
        let agent = |token: Option<String>| {
            let api = ApiBuilder::from_cache(hf_hub::Cache::new(cache.root().to_path_buf()))
                .with_endpoint(endpoint.to_string())
                .with_token(token)
                .with_progress(false)
                .with_user_agent(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
                .build();
            // The repository does not matter: each request sets its own address.
            api.map(|api| api.model("uno".to_owned())).map_err(|e| Error::checkpoint("hub", e.to_string()))
        };
        let (with_token, without_token) = (agent(token)?, agent(None)?);
        let options = options.clone();
        Ok(Self {
            with_token,
            without_token,
            endpoint,
            has_token,
            cache,
            progress,
            options,
            commits: BTreeMap::new(),
        })
    }

    /// Downloads what is not in the cache yet of the part's files. Returns the folder that holds them.
    pub(super) fn fetch(&mut self, preset: &HubPart) -> Result<PathBuf> {
        let mut snapshot = None;
        for file in preset.files {
            let path = match (self.file(preset, file.name), file.need) {
                (Ok(path), _) => path,
                (Err(Failure::Absent(_)), Need::Optional) => continue,
                (Err(failure), _) => return Err(self.explain(preset, file.name, failure)),
            };
            if file.need == Need::Index {
                let refused = |reason| Error::Hub {
                    repo: preset.repo.to_owned(),
                    file: file.name.to_owned(),
                    reason: format!("{reason} ({})", path.display()),
                };
                for shard in look::shard_names(&path).map_err(refused)? {
                    self.file(preset, &shard).map_err(|failure| self.explain(preset, &shard, failure))?;
                }
            }
            snapshot = path.parent().map(Path::to_path_buf);
        }
        snapshot.ok_or_else(|| Error::checkpoint(preset.part.name(), "the repository has no file of it"))
    }

    /// One file of a repository, downloaded unless it is there.
    fn file(&mut self, preset: &HubPart, name: &str) -> Result<PathBuf, Failure> {
        let revision = self.commits.get(preset.repo).map_or("main", String::as_str);
        let url = format!("{}/{}/resolve/{revision}/{name}", self.endpoint, preset.repo);
        let about = self.insist(self.options.retries.min(2), &mut (), |_| 0, |_| self.ask(&url))?;

        let repo = self.cache.repo_folder(preset.repo);
        let snapshot = repo.join("snapshots").join(&about.commit);
        let [blob, pointer] = [repo.join("blobs").join(&about.etag), snapshot.join(name)];
        let is_complete = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.len() == about.size);
        if !is_complete(&pointer) {
            for folder in [repo.join("blobs"), repo.join("refs"), snapshot] {
                std::fs::create_dir_all(&folder).map_err(|e| Failure::disk(&folder, e))?;
            }
            let lock = self.lock(&blob.with_extension("lock"), name)?;
            // Another process may have done it all while this one waited for the lock.
            if !is_complete(&pointer) {
                if !is_complete(&blob) {
                    self.download(preset, name, &url, &about, &blob)?;
                }
                link(&blob, &pointer).map_err(|e| Failure::disk(&pointer, e))?;
            }
            drop(lock);
        }
        if revision == "main" {
            note_current(&repo.join("refs"), &about.commit).map_err(|e| Failure::disk(&repo, e))?;
        }
        self.commits.insert(preset.repo, about.commit);
        Ok(pointer)
    }

    /// Asks what a file is: commit, digest, size. No data is transferred.
    fn ask(&self, url: &str) -> Result<About, Failure> {
        let (mut commit, mut linked_etag, mut linked_size, mut etag) = (None, None, None, None);
        let last = self.follow(url, Some("bytes=0-0"), |hop, at_hub| {
            if at_hub {
                commit = commit.take().or(hop.commit.take());
                linked_etag = linked_etag.take().or(hop.linked_etag.take());
                linked_size = linked_size.or(hop.linked_size);
                etag = hop.etag.take().or(etag.take());
            }
            // With the size known there is no need to ask the storage host too.
            at_hub
                && linked_size.is_some()
                && linked_etag.is_some()
                && commit.is_some()
                && hop.location.is_some()
        })?;
        let size = linked_size.or_else(|| last.total());
        let no_hub = |what: &str| {
            Failure::Final(format!(
                "{} answers without {what}, unlike a Hugging Face hub; a proxy or a login page may stand between, or \
                 HF_ENDPOINT may be wrong",
                self.endpoint
            ))
        };
        // Both become names of files, so they must be names and nothing else.
        let commit = commit.filter(|c| is_plain_name(c)).ok_or_else(|| no_hub("a sound X-Repo-Commit"))?;
        let is_linked = linked_etag.is_some();
        let etag =
            linked_etag.or(etag).map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        let etag = etag.filter(|etag| is_plain_name(etag)).ok_or_else(|| no_hub("a sound ETag"))?;
        let size = size.filter(|&size| size > 0).ok_or_else(|| no_hub("the size of the file"))?;
        // The hub's own large files carry their SHA-256 there; other ETags are git's digests or of unknown make.
        let is_sha256 = is_linked && etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(About { commit, etag, size, is_sha256 })
    }

    /// Downloads into `blob` by way of a partial file that the next call can go on from.
    fn download(
        &self,
        preset: &HubPart,
        name: &str,
        url: &str,
        about: &About,
        blob: &Path,
    ) -> Result<(), Failure> {
        // The name that hf-hub gives it too, so each goes on from what the other left.
        let mut part = Partial::open(blob.with_extension("part"), about)?;
        if part.length > 0 && part.length < about.size {
            let (done, all) = (human_bytes(part.length), human_bytes(about.size));
            self.progress.note(&format!("{name}: going on from {done} of {all}"));
        }
        self.progress.starting(preset, name, about.size);
        self.progress.advanced(preset, name, part.length, about.size);
        let retries = self.options.retries;
        self.insist(
            retries,
            &mut part,
            |part| part.length,
            |part| self.transfer(preset, name, url, about, part),
        )?;
        part.finish(about, blob)?;
        self.progress.finished(preset, name);
        Ok(())
    }

    /// One connection's worth of a file.
    fn transfer(
        &self,
        preset: &HubPart,
        name: &str,
        url: &str,
        about: &About,
        part: &mut Partial,
    ) -> Result<(), Failure> {
        if part.length == about.size {
            return Ok(());
        }
        let range = (part.length > 0).then(|| format!("bytes={}-", part.length));
        let mut reply = self.follow(url, range.as_deref(), |_, _| false)?;
        match (reply.status, reply.content_range) {
            (206, Some((start, total))) if start == part.length && total.is_none_or(|t| t == about.size) => {}
            // The server ignored the range: what comes is the whole file.
            (200, _) if reply.content_length.is_none_or(|length| length == about.size) => part.clear()?,
            (status, _) => {
                part.clear()?;
                let reason = format!("HTTP {status} with other bytes than those asked for; beginning anew");
                return Err(Failure::Passing(reason, None));
            }
        }
        let mut block = vec![0; BLOCK];
        while part.length < about.size {
            if self.progress.cancelled() {
                return Err(Failure::Cancelled(part.kept("cancelled", about)));
            }
            let read = match reply.body.read(&mut block) {
                Ok(0) => return Err(Failure::Passing(part.kept("the connection ended early", about), None)),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(Failure::Passing(
                        part.kept(&format!("the connection broke ({e})"), about),
                        None,
                    ));
                }
            };
            let data = block.get(..read).unwrap_or_default();
            if data.len() as u64 > about.size - part.length {
                part.clear()?;
                return Err(Failure::Passing("sent more bytes than the file has".to_owned(), None));
            }
            part.append(data, about)?;
            self.progress.advanced(preset, name, part.length, about.size);
        }
        Ok(())
    }

    /// Tries `action` until it succeeds, fails for good, or has failed more than `retries` times in a row without `achieved`
    /// growing.
    fn insist<S, T>(
        &self,
        retries: u32,
        state: &mut S,
        achieved: impl Fn(&S) -> u64,
        mut action: impl FnMut(&mut S) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut failures = 0;
        loop {
            let before = achieved(state);
            let (reason, wait) = match action(state) {
                Err(Failure::Passing(reason, wait)) => (reason, wait),
                other => return other,
            };
            failures = if achieved(state) > before { 1 } else { failures + 1 };
            if failures > retries {
                let tries =
                    if failures > 1 { format!("; given up after {failures} tries") } else { String::new() };
                return Err(Failure::Final(format!("{reason}{tries}")));
            }
            let doubled = self.options.backoff.saturating_mul(1 << (failures - 1).min(10));
            let wait = wait.unwrap_or(doubled).min(MAX_WAIT);
            self.progress.note(&format!("{reason}; trying again in {:.0} s", wait.as_secs_f32().ceil()));
            std::thread::sleep(wait);
            if self.progress.cancelled() {
                return Err(Failure::Cancelled("cancelled".to_owned()));
            }
        }
    }

    /// A GET that follows redirects by hand, so that the token goes to the hub and to no other host. `stop` sees each answer
    /// (and whether it is the hub's) and may end the chase there.
    fn follow(
        &self,
        url: &str,
        range: Option<&str>,
        mut stop: impl FnMut(&mut Reply, bool) -> bool,
    ) -> Result<Reply, Failure> {
        let mut address =
            Address::parse(url).ok_or_else(|| Failure::Final(format!("{url} is not an address")))?;
        for _ in 0..=MAX_REDIRECTS {
            let at_hub = address.same_host(&self.endpoint);
            let mut reply = self.get(&address, range, at_hub)?;
            let stopped = stop(&mut reply, at_hub);
            match reply.status {
                200 | 206 | 416 => return Ok(reply),
                301 | 302 | 303 | 307 | 308 => {
                    if stopped {
                        return Ok(reply);
                    }
                    let next = reply.location.as_deref().and_then(|location| address.join(location));
                    address = next.ok_or_else(|| {
                        Failure::Final(format!(
                            "{} redirects, but not to an address that can be followed",
                            address.host
                        ))
                    })?;
                    if self.endpoint.secure && !address.secure {
                        return Err(Failure::Final(format!(
                            "redirects to {}, without encryption",
                            address.host
                        )));
                    }
                }
                _ => return Err(self.refused(&address, at_hub, reply)),
            }
        }
        Err(Failure::Final(format!("redirects more than {MAX_REDIRECTS} times")))
    }

    fn get(&self, address: &Address, range: Option<&str>, at_hub: bool) -> Result<Reply, Failure> {
        let agent = if at_hub { &self.with_token } else { &self.without_token };
        let mut request = agent
            .info_request()
            .uri(address.to_string())
            .config()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Compressed answers have no ranges.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(self.options.stall_timeout))
            .timeout_per_read(Some(self.options.stall_timeout));
        if address.is_this_machine() {
            request = request.proxy(None);
        }
        let mut request = request.build();
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        let response = request
            .call()
            .map_err(|e| Failure::Passing(format!("no answer from {}: {e}", address.host), None))?;
        let (head, body) = response.into_parts();
        let text =
            |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let number = |name: &str| text(name).and_then(|value| value.trim().parse::<u64>().ok());
        Ok(Reply {
            status: head.status.as_u16(),
            commit: text("x-repo-commit"),
            linked_etag: text("x-linked-etag"),
            linked_size: number("x-linked-size"),
            etag: text("etag"),
            location: text("location"),
            content_length: number("content-length"),
            content_range: text("content-range").and_then(|value| parse_content_range(&value)),
            error_code: text("x-error-code").unwrap_or_default(),
            error_message: text("x-error-message").unwrap_or_default(),
            retry_after: number("retry-after").map(Duration::from_secs),
            body: Box::new(body.into_reader()),
        })
    }

    /// What an answer that is no success means.
    fn refused(&self, address: &Address, at_hub: bool, reply: Reply) -> Failure {
        let said = match printable(&reply.error_message) {
            message if message.is_empty() => String::new(),
            message => format!(" ({message})"),
        };
        match reply.status {
            401 | 403 if at_hub => {
                Failure::Denied { status: reply.status, gated: reply.error_code == "GatedRepo", said }
            }
            // Addresses of storage hosts are signed for a short time; a new try gets a new one.
            401 | 403 => Failure::Passing(format!("{} refused (HTTP {})", address.host, reply.status), None),
            404 | 410 => Failure::Absent(said),
            408 | 425 | 429 | 500..=599 => Failure::Passing(
                format!("{} answered HTTP {}{said}", address.host, reply.status),
                reply.retry_after,
            ),
            status => Failure::Final(format!("{} answered HTTP {status}{said}", address.host)),
        }
    }

    /// Keeps other processes from writing the same file; waits for one that does. The lock goes with the returned file.
    fn lock(&self, path: &Path, name: &str) -> Result<File, Failure> {
        let file = File::create(path).map_err(|e| Failure::disk(path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                self.progress.note(&format!("{name}: waiting for another process that is downloading it"));
                file.lock().map_err(|e| Failure::disk(path, e))?;
            }
            // Some network file systems have no locks; the digest is checked in any case.
            Err(TryLockError::Error(_)) => {}
        }
        Ok(file)
    }

    /// A failure in words: what happened, and what to do.
    fn explain(&self, preset: &HubPart, file: &str, failure: Failure) -> Error {
        let by_hand = format!(
            "or fetch the file by hand from {} and name it with option {}",
            preset.page(),
            preset.part.option()
        );
        let reason = match failure {
            Failure::Passing(reason, _) | Failure::Final(reason) => {
                format!("{reason}; run again, check the network and the proxy (HTTPS_PROXY), {by_hand}")
            }
            Failure::Disk(reason) | Failure::Cancelled(reason) => reason,
            Failure::Absent(said) => format!(
                "the hub has no such file{said}; check HF_ENDPOINT (in use: {}), {by_hand}",
                self.endpoint
            ),
            Failure::Denied { status, gated, said } => self.denied(preset, status, gated, &said),
        };
        Error::Hub { repo: preset.repo.to_owned(), file: file.to_owned(), reason }
    }

    /// Which licence to accept, where, and how to give a token.
    fn denied(&self, preset: &HubPart, status: u16, gated: bool, said: &str) -> String {
        let how = "set HF_TOKEN=hf_..., or run `hf auth login`; tokens are made at https://huggingface.co/settings/tokens \
                   (type: Read)";
        let (page, licence) = (preset.page(), preset.licence);
        let gate =
            format!("log in at {page} and accept the {} there (its text: {})", licence.name, licence.url);
        match (gated || preset.gated, self.has_token, status) {
            (true, false, _) => format!(
                "the repository is gated and no token was given{said}. 1. {gate}. 2. Give a token of that account: {how}"
            ),
            (true, true, 403) => format!(
                "the account of the token may not read this gated repository{said}. With that account, {gate}. A \
                 fine-grained token also needs the permission to read public gated repositories; or give another: {how}"
            ),
            (true, true, _) => format!(
                "the hub does not accept the token{said}; it may be mistyped or expired. Give another: {how}. Its account \
                 must have accepted the {} at {page}",
                licence.name
            ),
            (false, true, _) => format!(
                "the hub refused (HTTP {status}){said}; the token may be mistyped or expired. Unset it, or give another: {how}"
            ),
            (false, false, _) => format!(
                "the hub refused (HTTP {status}){said}; look at {page} whether it has to be accepted there. Then give a \
                 token: {how}"
            ),
        }
    }
}

/// What the hub says of a file.
struct About {
    commit: String,
    etag: String,
    size: u64,
    is_sha256: bool,
}

/// An answer: what is used of its head, and its body.
struct Reply {
    status: u16,
    commit: Option<String>,
    linked_etag: Option<String>,
    linked_size: Option<u64>,
    etag: Option<String>,
    location: Option<String>,
    content_length: Option<u64>,
    /// First byte, and all bytes if known.
    content_range: Option<(u64, Option<u64>)>,
    error_code: String,
    error_message: String,
    retry_after: Option<Duration>,
    body: Box<dyn Read>,
}

impl Reply {
    /// Size of the whole file.
    fn total(&self) -> Option<u64> {
        match self.status {
            206 => self.content_range.and_then(|(_, total)| total),
            200 => self.content_length,
            _ => None,
        }
    }
}

/// `bytes 5-9/10` -> `(5, Some(10))`.
fn parse_content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Why a request or a download did not succeed.
enum Failure {
    /// It may succeed if tried again, after the time that the server asked for.
    Passing(String, Option<Duration>),
    /// It would fail again.
    Final(String),
    /// The caller wanted no more of it.
    Cancelled(String),
    /// This machine could not store it.
    Disk(String),
    /// The hub has no such repository or file; what it said.
    Absent(String),
    /// The hub refused this user.
    Denied { status: u16, gated: bool, said: String },
}

impl Failure {
    fn disk(path: &Path, e: std::io::Error) -> Self {
        Self::Disk(disk_reason(path, &e))
    }
}

fn disk_reason(path: &Path, e: &std::io::Error) -> String {
    let remedy = match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space, or set HF_HOME to a folder on a larger disk"
        }
        _ => "set HF_HOME to a folder that can be written",
    };
    format!("cannot write {}: {e}; {remedy}", path.display())
}

/// A file that is being downloaded, with the digest of what is there.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    digest: Option<Sha256>,
}

impl Partial {
    /// Opens or makes it. What an earlier run left is kept, unless it is longer than the file.
    fn open(path: PathBuf, about: &About) -> Result<Self, Failure> {
        let disk = |e| Failure::disk(&path, e);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(disk)?;
        let length = file.metadata().map_err(disk)?.len();
        let digest = about.is_sha256.then(Sha256::new);
        let mut partial = Self { path, file, length, digest };
        if length > about.size {
            partial.clear()?;
        } else {
            partial.read_over().map_err(|e| Failure::disk(&partial.path, e))?;
        }
        Ok(partial)
    }

    /// Goes to the end, taking what is there into the digest on the way.
    fn read_over(&mut self) -> std::io::Result<()> {
        if let Some(digest) = &mut self.digest {
            let mut block = vec![0; BLOCK];
            let mut left = self.length;
            while left > 0 {
                let read = self.file.read(&mut block)?;
                digest.update(block.get(..read).unwrap_or_default());
                left = if read == 0 { 0 } else { left.saturating_sub(read as u64) };
            }
        }
        self.file.seek(SeekFrom::Start(self.length)).map(|_| ())
    }

    /// Begins anew.
    fn clear(&mut self) -> Result<(), Failure> {
        if self.length > 0 {
            let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
            emptied.map_err(|e| Failure::disk(&self.path, e))?;
            self.length = 0;
            self.digest = self.digest.take().map(|_| Sha256::new());
        }
        Ok(())
    }

    fn append(&mut self, data: &[u8], about: &About) -> Result<(), Failure> {
        self.file.write_all(data).map_err(|e| {
            let missing = human_bytes(about.size.saturating_sub(self.length));
            let reason = disk_reason(&self.path, &e);
            Failure::Disk(format!("{reason} ({missing} of it are still to come; what is there is kept)"))
        })?;
        self.length += data.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(data);
        }
        Ok(())
    }

    /// Checks the whole and gives it its name.
    fn finish(self, about: &About, blob: &Path) -> Result<(), Failure> {
        let disk = |e| Failure::disk(&self.path, e);
        self.file.sync_all().map_err(disk)?;
        let length = self.file.metadata().map_err(disk)?.len();
        let digest = self.digest.map(|digest| format!("{:x}", digest.finalize()));
        let wrong = if length != about.size {
            Some(format!("has {length} bytes, not the {} that the hub names", about.size))
        } else if digest.is_some_and(|digest| !digest.eq_ignore_ascii_case(&about.etag)) {
            Some("has another SHA-256 than the hub names".to_owned())
        } else {
            None
        };
        drop(self.file);
        match wrong {
            None => std::fs::rename(&self.path, blob).map_err(|e| Failure::disk(blob, e)),
            Some(reason) => {
                std::fs::remove_file(&self.path).map_err(|e| Failure::disk(&self.path, e))?;
                Err(Failure::Final(format!("what was downloaded {reason}, and was removed")))
            }
        }
    }

    /// `reason`, and how much is kept for the next time.
    fn kept(&self, reason: &str, about: &About) -> String {
        format!("{reason} after {} of {} bytes, which are kept", self.length, about.size)
    }
}

/// Writes down which commit is the main branch's, where all tools look for it.
fn note_current(refs: &Path, commit: &str) -> std::io::Result<()> {
    let main = refs.join("main");
    if std::fs::read_to_string(&main).is_ok_and(|known| known == commit) {
        return Ok(());
    }
    std::fs::create_dir_all(refs)?;
    let mut file = tempfile::NamedTempFile::new_in(refs)?;
    file.write_all(commit.as_bytes())?;
    file.persist(main)?;
    Ok(())
}

/// Makes `pointer` stand for `blob`, as the other tools do: by a relative link, else (Windows without the right to make
/// links) by moving it.
fn link(blob: &Path, pointer: &Path) -> std::io::Result<()> {
    if look::is_there(pointer) {
        std::fs::remove_file(pointer)?;
    }
    let name = blob.file_name().unwrap_or_default();
    let relative = Path::new("..").join("..").join("blobs").join(name);
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(relative, pointer);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(relative, pointer);
    #[cfg(not(any(unix, windows)))]
    let linked: std::io::Result<()> = Err(ErrorKind::Unsupported.into());
    linked.or_else(|_| std::fs::rename(blob, pointer))
}

/// A web address, cut where it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    secure: bool,
    /// Host and port in lower case, without the port that goes without saying.
    host: String,
    /// What follows, beginning with `/` or empty.
    path: String,
}

impl Address {
    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let (host, path) = rest.split_at_checked(rest.find(['/', '?', '#']).unwrap_or(rest.len()))?;
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix(if secure { ":443" } else { ":80" }).unwrap_or(&host).to_owned();
        // A name and password before an @ could make one host look like another.
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        let path = path.split('#').next().unwrap_or_default();
        let sound = !host.is_empty() && host.chars().all(plain) && path.bytes().all(|b| b.is_ascii_graphic());
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        sound.then_some(Self { secure, host, path })
    }

    /// The address that a `Location` names, seen from here.
    fn join(&self, location: &str) -> Option<Self> {
        let here = format!("http{}://", if self.secure { "s" } else { "" });
        if location.contains("://") && !location.starts_with('/') {
            Self::parse(location)
        } else if location.starts_with("//") {
            Self::parse(&format!("{}{location}", here.trim_end_matches("//")))
        } else if location.starts_with('/') {
            Self::parse(&format!("{here}{}{location}", self.host))
        } else {
            let folder = self.path.split('?').next().unwrap_or_default();
            let folder = folder.rsplit_once('/').map_or("", |(folder, _)| folder);
            Self::parse(&format!("{here}{}{folder}/{location}", self.host))
        }
    }

    fn same_host(&self, other: &Self) -> bool {
        self.secure == other.secure && self.host == other.host
    }

    /// Whether a proxy would be out of place.
    fn is_this_machine(&self) -> bool {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        ["localhost", "127.0.0.1", "[::1]"].iter().any(|own| *own == name || *own == self.host)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http{}://{}{}", if self.secure { "s" } else { "" }, self.host, self.path)
    }
}

/// A name that is a name in every file system, and no way out of a folder.
fn is_plain_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// What a server said, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The token, from the first place that has one.
fn token(options: &HubOptions, environment: &Environment) -> Result<Option<String>> {
    let from_file = || {
        let path = environment
            .path("HF_TOKEN_PATH")
            .or_else(|| hugging_face_home(environment).map(|home| home.join("token")))?;
        std::fs::read_to_string(path).ok()
    };
    let given = options.token.clone().filter(|token| !token.trim().is_empty());
    let token = given
        .or_else(|| environment.text("HF_TOKEN"))
        .or_else(|| environment.text("HUGGING_FACE_HUB_TOKEN"))
        .or_else(from_file)
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty());
    match token {
        Some(token) if !token.bytes().all(|b| b.is_ascii_graphic()) => Err(Error::request(
            "Hugging Face token",
            "one with spaces or other characters that tokens do not have",
            "the token as shown at https://huggingface.co/settings/tokens (hf_...)",
        )),
        token => Ok(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_one_that_hf_hub_reads() {
        let root = tempfile::tempdir().unwrap();
        let cache = HubCache::locate(
            &HubOptions { cache_dir: Some(root.path().to_path_buf()), ..HubOptions::default() },
            &Environment::empty(),
        );
        let repo = cache.unwrap().repo_folder("owner/name");
        for folder in ["blobs", "snapshots/abc"] {
            std::fs::create_dir_all(repo.join(folder)).unwrap();
        }
        let [blob, pointer] = ["blobs/etag", "snapshots/abc/file.txt"].map(|name| repo.join(name));
        for content in ["one", "two"] {
            std::fs::write(&blob, content).unwrap();
            link(&blob, &pointer).unwrap();
            note_current(&repo.join("refs"), "abc").unwrap();
            let found =
                hf_hub::Cache::new(root.path().to_path_buf()).model("owner/name".to_owned()).get("file.txt");
            assert_eq!(found.as_ref(), Some(&pointer));
            assert_eq!(std::fs::read_to_string(&pointer).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(repo.join("refs")).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn addresses_are_cut_where_the_host_ends() {
        let parse = |url| Address::parse(url).map(|a| (a.secure, a.host, a.path));
        let parts = |secure, host: &str, path: &str| Some((secure, host.to_owned(), path.to_owned()));
        assert_eq!(parse("https://huggingface.co"), parts(true, "huggingface.co", ""));
        assert_eq!(parse("HTTPS://HuggingFace.co:443/a?b#c"), parts(true, "huggingface.co", "/a?b"));
        assert_eq!(parse("http://127.0.0.1:80?x"), parts(false, "127.0.0.1", "/?x"));
        assert_eq!(parse("http://[::1]:8080/"), parts(false, "[::1]:8080", "/"));
        for bad in [
            "",
            "huggingface.co",
            "file:///etc",
            "https:///x",
            "https://a@b",
            "https://a b/",
            "https://a/\u{e9}",
            "https://a\\b",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let [hub, own, port] = ["https://hf.co/x", "http://localhost:9/x", "https://hf.co:444"]
            .map(|a| Address::parse(a).unwrap());
        assert!(hub.same_host(&Address::parse("https://HF.co:443/y").unwrap()));
        assert!(!hub.same_host(&port) && !hub.same_host(&Address::parse("http://hf.co").unwrap()));
        assert!(own.is_this_machine() && Address::parse("http://[::1]").unwrap().is_this_machine());
        assert!(!Address::parse("http://localhost.evil.com").unwrap().is_this_machine());
    }

    #[test]
    fn locations_are_seen_from_where_they_were_named() {
        let here = Address::parse("https://hf.co/a/b?c=/d").unwrap();
        for (location, expected) in [
            ("/x?y=http://z", "https://hf.co/x?y=http://z"),
            ("x", "https://hf.co/a/x"),
            ("//cdn.hf.co/x", "https://cdn.hf.co/x"),
            ("http://cdn/x", "http://cdn/x"),
        ] {
            assert_eq!(here.join(location).unwrap().to_string(), expected);
        }
        assert_eq!(here.join("ftp://x"), None);
        assert_eq!(here.join("javascript:alert(1)").unwrap().host, "hf.co", "stays where it is");
    }

    #[test]
    fn ranges_and_names_from_servers_are_checked() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes */10", "bytes 5/10", "bytes -1-9/10", "items 5-9/10"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
        assert!(is_plain_name("0a-B_9"));
        for bad in ["", ".", "..", "a/b", "a\\b", "a.part", "C:", "\u{e9}", &"a".repeat(129)] {
            assert!(!is_plain_name(bad), "{bad}");
        }
        assert_eq!(printable("a\x1b[31m\nb"), "a[31mb");
    }
}
