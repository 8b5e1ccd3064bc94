//! Which connections are open, and which one goes when there are too many.
//!
//! A connection takes a place before its client has said what it wants, and may never say it. So nobody waits for a place: when all
//! are taken, the connection goes that has been silent for longest among those that no answer is being made for. Where there is
//! none such, the new one gets one of a few places of which only `/health` is answered.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Notify;
use tracing::warn;

use crate::error::ApiError;

/// Most connections at a time.
const CONNECTIONS: usize = 512;
/// Places beside them, of which only `/health` is answered.
const HEALTH_CONNECTIONS: usize = 64;
/// Most connections of one address, where the command line says nothing.
pub const OF_ONE_ADDRESS: u32 = 128;
/// A body of which nothing came for so long may be given up for a new connection.
const SILENT_BODY: Duration = Duration::from_secs(1);
/// How often the log says that connections are closed for others.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(10);

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Most in all.
    all: usize,
    /// Most places beside them, of which only `/health` is answered.
    health: usize,
    /// Most of one address.
    address: usize,
    /// Whether that holds for addresses of this machine, too.
    counts_loopback: bool,
}

impl ConnectionLimits {
    /// `of_one_address` as on the command line: 0 is no limit. Without one there is a limit for other machines only, since
    /// a proxy on this one brings the connections of all its clients.
    pub fn new(of_one_address: Option<u32>) -> Self {
        let address = match of_one_address.unwrap_or(OF_ONE_ADDRESS) {
            0 => usize::MAX,
            most => most as usize,
        };
        let counts_loopback = of_one_address.is_some();
        Self { all: CONNECTIONS, health: HEALTH_CONNECTIONS, address, counts_loopback }
    }
}

/// Why of a connection only `/health` is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// All places are taken.
    Server,
    /// Its address has as many as it may.
    Address,
}

/// The open connections.
pub struct Connections {
    limits: ConnectionLimits,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    places: HashMap<u64, Taken>,
    warned: Option<Instant>,
}

struct Taken {
    client: IpAddr,
    crowd: Option<Crowd>,
    activity: Arc<Activity>,
}

/// The place of one connection, until it is dropped.
pub struct Place {
    connections: Arc<Connections>,
    number: u64,
    /// What happens on the connection.
    pub activity: Arc<Activity>,
    /// Why only `/health` is answered; `None` if everything is.
    pub crowd: Option<Crowd>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().places.remove(&self.number);
    }
}

impl Connections {
    pub fn new(limits: ConnectionLimits) -> Self {
        Self { limits, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection from `address`. Others may be closed for it.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Place {
        let client = client(address);
        let ConnectionLimits { all, health, address, counts_loopback } = self.limits;
        let mut open = self.lock();
        let is_counted = counts_loopback || !client.is_loopback();
        let crowd = if is_counted && !open.has_room(address, |taken| taken.client == client) {
            Some(Crowd::Address)
        } else if !open.has_room(all, |_| true) {
            Some(Crowd::Server)
        } else {
            None
        };
        if crowd.is_some() {
            open.make_room_for_health(health);
        }
        open.last += 1;
        let (number, activity) = (open.last, Arc::new(Activity::default()));
        open.places.insert(number, Taken { client, crowd, activity: activity.clone() });
        Place { connections: self.clone(), number, activity, crowd }
    }

    /// Closes the connection that has been silent for longest, if one may be closed; whether there was one.
    pub fn close_one(&self) -> bool {
        self.lock().close_silent(|_| true)
    }
}

impl Open {
    /// Whether there is room among the ordinary connections that `is_meant` picks, of which there may be `most`; one of them is
    /// closed if that makes room.
    fn has_room(&mut self, most: usize, is_meant: impl Fn(&Taken) -> bool) -> bool {
        let is_ordinary = |taken: &Taken| taken.crowd.is_none() && is_meant(taken);
        let count = self.places.values().filter(|taken| is_ordinary(taken)).count();
        if count < most {
            return true;
        }
        if self.warned.is_none_or(|warned| warned.elapsed() >= BETWEEN_WARNINGS) {
            self.warned = Some(Instant::now());
            warn!(connections = count, "no more connections are taken; silent ones are closed for new ones");
        }
        self.close_silent(is_ordinary)
    }

    /// Closes the connection that has been silent for longest among those that `is_meant` picks and that no answer is being made
    /// for; whether there was one. Those whose body does not come are the last that are taken.
    fn close_silent(&mut self, is_meant: impl Fn(&Taken) -> bool) -> bool {
        let meant = self.places.iter().filter(|(_, taken)| is_meant(taken));
        let silent = meant.filter_map(|(number, taken)| Some((taken.activity.silence()?, *number)));
        let longest = silent.min_by_key(|(silence, _)| (silence.is_of_body, silence.since));
        longest.is_some_and(|(_, number)| self.close(number))
    }

    fn make_room_for_health(&mut self, most: usize) {
        let crowd = self.places.iter().filter(|(_, taken)| taken.crowd.is_some());
        let (count, oldest) = (crowd.clone().count(), crowd.map(|(number, _)| *number).min());
        if count >= most
            && let Some(number) = oldest
        {
            self.close(number);
        }
    }

    fn close(&mut self, number: u64) -> bool {
        let taken = self.places.remove(&number);
        taken.is_some_and(|taken| {
            taken.activity.close.notify_one();
            true
        })
    }
}

/// What counts as one client: an address, and of version 6 the network that a single customer gets.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into()
        }
        address => address,
    }
}

/// What happens on a connection.
pub struct Activity {
    state: Mutex<State>,
    close: Notify,
}

struct State {
    /// When the last byte came or went.
    last: Instant,
    /// The body of a request is awaited.
    is_receiving: bool,
    /// An answer is being made or sent.
    is_answering: bool,
    /// The client takes nothing of what is sent.
    is_blocked: bool,
}

/// How long a connection has been silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Silence {
    since: Instant,
    is_of_body: bool,
}

impl Default for Activity {
    fn default() -> Self {
        let last = Instant::now();
        let state = State { last, is_receiving: false, is_answering: false, is_blocked: false };
        Self { state: Mutex::new(state), close: Notify::new() }
    }
}

impl Activity {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes came.
    pub fn heard(&self) {
        self.lock().last = Instant::now();
    }

    /// Bytes were sent, or the client took none.
    pub fn sent(&self, is_blocked: bool) {
        let mut state = self.lock();
        state.is_blocked = is_blocked;
        if !is_blocked {
            state.last = Instant::now();
        }
    }

    /// Whether the body of a request is awaited.
    pub fn set_receiving(&self, is_receiving: bool) {
        self.lock().is_receiving = is_receiving;
    }

    /// Whether an answer is being made or sent.
    pub fn set_answering(&self, is_answering: bool) {
        self.lock().is_answering = is_answering;
    }

    /// Since when nothing happens, where the connection may be closed for another one.
    fn silence(&self) -> Option<Silence> {
        let state = self.lock();
        let (since, is_of_body) = (state.last, state.is_receiving);
        let is_closable = match (state.is_receiving, state.is_answering || state.is_blocked) {
            (true, _) => since.elapsed() >= SILENT_BODY,
            (false, is_busy) => !is_busy,
        };
        is_closable.then_some(Silence { since, is_of_body })
    }

    /// Waits until the connection has to be closed for another one.
    pub async fn closed(&self) {
        self.close.notified().await;
    }
}

/// Answers requests of a connection that has no ordinary place: `/health`, and what is the matter.
pub async fn answer_in_a_crowd(request: Request, next: Next) -> Response {
    let Some(crowd) = request.extensions().get::<Crowd>().copied() else { return next.run(request).await };
    let mut response = match request.uri().path() {
        "/health" => next.run(request).await,
        _ => ApiError::too_many_connections(crowd).into_response(),
    };
    // The next request may have an ordinary place.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests;
