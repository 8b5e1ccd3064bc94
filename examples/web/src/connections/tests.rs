use super::*;

const LIMITS: ConnectionLimits =
    ConnectionLimits { all: 4, health: 2, address: usize::MAX, counts_loopback: false };

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn admit(connections: &Arc<Connections>, count: usize, from: &str) -> Vec<Place> {
    (0..count).map(|_| connections.admit(address(from))).collect()
}

/// Whether a connection was told to close.
async fn is_closed(place: &Place) -> bool {
    tokio::time::timeout(Duration::ZERO, place.activity.closed()).await.is_ok()
}

/// Lets the last byte be an hour ago.
fn silence(place: &Place) {
    let mut state = place.activity.lock();
    state.last = state.last.checked_sub(Duration::from_secs(3600)).unwrap();
}

#[tokio::test]
async fn the_one_that_is_silent_for_longest_goes() {
    let connections = Arc::new(Connections::new(LIMITS));
    let places = admit(&connections, 4, "127.0.0.1");
    places[0].activity.heard();
    let next = connections.admit(address("127.0.0.1"));
    assert_eq!(next.crowd, None);
    assert!(is_closed(&places[1]).await);
    for i in [0, 2, 3] {
        assert!(!is_closed(&places[i]).await, "{i}");
    }
}

#[tokio::test]
async fn answers_under_way_are_not_cut_off_and_health_has_places_of_its_own() {
    let connections = Arc::new(Connections::new(LIMITS));
    let places = admit(&connections, 4, "127.0.0.1");
    places.iter().for_each(|place| {
        place.activity.set_answering(true);
        silence(place);
    });
    let more = admit(&connections, 3, "127.0.0.1");
    assert!(more.iter().all(|place| place.crowd == Some(Crowd::Server)));
    assert!(is_closed(&more[0]).await, "the oldest of the places for health");
    assert!(!is_closed(&more[1]).await && !is_closed(&more[2]).await);
    for place in &places {
        assert!(!is_closed(place).await);
    }
    places[2].activity.set_answering(false);
    assert_eq!(connections.admit(address("127.0.0.1")).crowd, None);
    assert!(is_closed(&places[2]).await);
}

#[tokio::test]
async fn a_body_that_does_not_come_goes_after_those_that_ask_nothing() {
    let connections = Arc::new(Connections::new(LIMITS));
    let places = admit(&connections, 4, "127.0.0.1");
    for place in &places[..3] {
        // Its handler waits for the body.
        place.activity.set_answering(true);
        place.activity.set_receiving(true);
    }
    silence(&places[0]);
    let _first = connections.admit(address("127.0.0.1"));
    assert!(is_closed(&places[3]).await, "it asks nothing");
    _first.activity.set_answering(true);
    let second = connections.admit(address("127.0.0.1"));
    assert!(is_closed(&places[0]).await && second.crowd.is_none());
    second.activity.set_answering(true);
    // The other two bodies are on their way.
    assert_eq!(connections.admit(address("127.0.0.1")).crowd, Some(Crowd::Server));
    assert!(!is_closed(&places[1]).await && !is_closed(&places[2]).await);
}

#[tokio::test]
async fn a_client_that_takes_its_answer_slowly_is_not_cut_off() {
    let connections = Arc::new(Connections::new(LIMITS));
    let places = admit(&connections, 4, "127.0.0.1");
    places[0].activity.sent(true);
    silence(&places[0]);
    let _next = connections.admit(address("127.0.0.1"));
    assert!(!is_closed(&places[0]).await);
    places[0].activity.sent(false);
    silence(&places[0]);
    let _next = connections.admit(address("127.0.0.1"));
    assert!(is_closed(&places[0]).await);
}

#[tokio::test]
async fn an_address_over_its_limit_disturbs_only_itself() {
    let limits = ConnectionLimits { all: 100, address: 2, ..LIMITS };
    let connections = Arc::new(Connections::new(limits));
    let other = admit(&connections, 1, "192.0.2.7");
    silence(&other[0]);
    let places = admit(&connections, 3, "192.0.2.1");
    assert!(is_closed(&places[0]).await);
    places[1..].iter().for_each(|place| place.activity.set_answering(true));
    assert_eq!(connections.admit(address("192.0.2.1")).crowd, Some(Crowd::Address));
    // The same address in the other notation.
    assert_eq!(connections.admit(address("::ffff:192.0.2.1")).crowd, Some(Crowd::Address));
    assert_eq!(connections.admit(address("192.0.2.2")).crowd, None);
    assert!(!is_closed(&other[0]).await);
}

#[test]
fn a_network_of_version_6_is_one_client() {
    assert_eq!(client(address("2001:db8:1:2:3:4:5:6")), client(address("2001:db8:1:2:ffff::1")));
    assert_ne!(client(address("2001:db8:1:2::1")), client(address("2001:db8:1:3::1")));
    assert!(client(address("::1")).is_loopback());
    assert!(client(address("::ffff:127.0.0.1")).is_loopback());
}

#[test]
fn loopback_is_limited_only_on_request() {
    let crowds = |of_one_address, count| {
        let connections = Arc::new(Connections::new(ConnectionLimits::new(of_one_address)));
        let places = admit(&connections, count, "127.0.0.1");
        places.iter().for_each(|place| place.activity.set_answering(true));
        connections.admit(address("127.0.0.1")).crowd
    };
    assert_eq!(crowds(None, OF_ONE_ADDRESS as usize), None);
    assert_eq!(crowds(Some(3), 3), Some(Crowd::Address));
    assert_eq!(crowds(Some(0), 300), None);
}

#[tokio::test]
async fn a_place_that_is_left_is_free_again() {
    let connections = Arc::new(Connections::new(LIMITS));
    let mut places = admit(&connections, 4, "127.0.0.1");
    drop(places.pop());
    let _next = connections.admit(address("127.0.0.1"));
    for place in &places {
        assert!(!is_closed(place).await);
    }
    assert!(connections.close_one());
    places.clear();
}
