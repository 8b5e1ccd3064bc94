//! Who gets in: names of this server against DNS rebinding, origins against other sites, and the token.
//!
//! A page of any site can make a browser send requests to 127.0.0.1, and can let its own name resolve to that address, so that the
//! browser takes this server for a part of that site. The first is seen by `Origin` and `Sec-Fetch-Site`, the second by `Host`.

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::app::Shared;
use crate::arguments::{HostName, Token};
use crate::error::{ApiError, Result};
use crate::routes::page;

/// What the page may do: load its own parts, show pictures from memory, and speak to this server.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The rules of one server.
pub struct Guard {
    token: Option<Token>,
    hosts: Vec<HostName>,
}

impl Guard {
    /// `hosts` are names of this server beside localhost and addresses of numbers.
    pub fn new(token: Option<Token>, hosts: Vec<HostName>) -> Self {
        Self { token, hosts }
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<()> {
        let host = self.check_host(uri, headers)?;
        self.check_origin(&host, headers)?;
        self.check_token(uri.path(), headers)
    }

    /// Whether the request is for a name of this server.
    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<Authority> {
        let host = only(headers, &header::HOST)?
            .ok_or_else(|| forbidden("Host: got none, wanted the name of this server"))?;
        let authority = host.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
        let named = authority.filter(|authority| self.is_known(authority.host()));
        // A request to a proxy has a name in its first line, too.
        let is_same = |named: &Authority| uri.authority().is_none_or(|other| other == named);
        named.filter(is_same).ok_or_else(|| {
            let host: String = host.chars().take(80).collect();
            forbidden(format!(
                "Host: got {host:?}, which is no name of this server; wanted localhost, an address of numbers, or a name that the \
                 server was started with (--allow_host NAME)"
            ))
        })
    }

    fn is_known(&self, host: &str) -> bool {
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        // A name can be made to resolve to anything; an address cannot.
        host.parse::<std::net::Ipv4Addr>().is_ok()
            || address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
            || host.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.0.eq_ignore_ascii_case(host))
    }

    /// Whether the request comes from a page of this server, or from no page at all.
    fn check_origin(&self, host: &Authority, headers: &HeaderMap) -> Result<()> {
        let refused =
            |what: &str| forbidden(format!("{what}: the request comes from a page of another site"));
        if let Some(origin) = only(headers, &header::ORIGIN)? {
            let is_own = origin.parse::<Uri>().is_ok_and(|origin| {
                let usual = if origin.scheme_str() == Some("https") { 443 } else { 80 };
                origin.authority().is_some_and(|authority| {
                    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
                    let is_host =
                        authority.host().eq_ignore_ascii_case(host.host()) && port(authority) == port(host);
                    // A proxy may give the request another Host than the browser did.
                    is_host || self.hosts.iter().any(|known| known.0.eq_ignore_ascii_case(authority.host()))
                })
            });
            return if is_own { Ok(()) } else { Err(refused("Origin")) };
        }
        let said = |name: &'static str| headers.get(name).and_then(|value| value.to_str().ok());
        let is_other = matches!(said("sec-fetch-site"), Some("cross-site" | "same-site"));
        // Links from elsewhere to the page are fine.
        if is_other && said("sec-fetch-mode") != Some("navigate") {
            return Err(refused("Sec-Fetch-Site"));
        }
        Ok(())
    }

    fn check_token(&self, path: &str, headers: &HeaderMap) -> Result<()> {
        let Some(token) = &self.token else { return Ok(()) };
        if matches!(path, "/health" | "/openapi.json") || page::is_part(path) {
            return Ok(());
        }
        let given = only(headers, &header::AUTHORIZATION)?.and_then(|value| value.split_once(' '));
        let given =
            given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        match given {
            Some(given) if bool::from(given.as_bytes().ct_eq(token.as_bytes())) => Ok(()),
            Some(_) => Err(unauthorized("the token is wrong")),
            None => Err(unauthorized("a token is wanted: send `Authorization: Bearer TOKEN`")),
        }
    }
}

/// A header that may be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| forbidden(format!("{name}: got what is no text")))
        }
        _ => Err(forbidden(format!("{name}: got several, wanted one"))),
    }
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, message)
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, message)
}

/// Lets a request through, or answers it.
pub async fn check(State(app): State<Shared>, request: Request, next: Next) -> Response {
    match app.guard.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Adds what tells browsers to be careful.
pub async fn add_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(token: Option<&str>) -> Guard {
        Guard::new(token.map(|token| token.parse().unwrap()), vec!["pictures.example.org".parse().unwrap()])
    }

    fn status(guard: &Guard, path: &str, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        guard.check(&path.parse().unwrap(), &map).map_or_else(|error| error.status().as_u16(), |()| 200)
    }

    #[test]
    fn only_names_of_this_server_are_hosts() {
        let guard = guard(None);
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.168.1.5",
            "Pictures.Example.org:443",
        ] {
            assert_eq!(status(&guard, "/", &[("host", host)]), 200, "{host}");
        }
        for host in [
            "example.org",
            "localhost.example.org",
            "localhost@evil.example",
            "127.0.0.1.evil.example",
            "evil-pictures.example.org",
            "127.1",
            "",
            "[::1",
        ] {
            assert_eq!(status(&guard, "/", &[("host", host)]), 403, "{host}");
        }
        assert_eq!(status(&guard, "/", &[]), 403);
        assert_eq!(status(&guard, "/", &[("host", "localhost"), ("host", "localhost")]), 403);
        assert_eq!(status(&guard, "http://evil.example/", &[("host", "localhost")]), 403);
    }

    #[test]
    fn only_pages_of_this_server_are_origins() {
        let guard = guard(None);
        let with =
            |host: &str, origin: &str| status(&guard, "/api/jobs", &[("host", host), ("origin", origin)]);
        assert_eq!(with("127.0.0.1:8080", "http://127.0.0.1:8080"), 200);
        assert_eq!(with("localhost", "http://localhost"), 200);
        assert_eq!(with("localhost:443", "https://localhost"), 200);
        assert_eq!(with("[::1]:8080", "http://[::1]:8080"), 200);
        assert_eq!(with("127.0.0.1:8080", "https://pictures.example.org"), 200, "behind a proxy");
        for origin in [
            "null",
            "http://evil.example",
            "http://127.0.0.1:3000",
            "http://127.0.0.1",
            "http://localhost:8080",
            "http://127.0.0.1:8080.evil.example",
            "http://evil-pictures.example.org",
            "",
        ] {
            assert_eq!(with("127.0.0.1:8080", origin), 403, "{origin}");
        }
    }

    #[test]
    fn other_sites_may_link_to_the_page_but_fetch_nothing() {
        let guard = guard(None);
        let with = |site: &str, mode: &str| {
            status(
                &guard,
                "/api/plan",
                &[("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)],
            )
        };
        assert_eq!(with("cross-site", "no-cors"), 403);
        assert_eq!(with("same-site", "no-cors"), 403);
        assert_eq!(with("same-origin", "cors"), 200);
        assert_eq!(with("none", "navigate"), 200);
        assert_eq!(with("cross-site", "navigate"), 200);
    }

    #[test]
    fn the_token_opens_and_nothing_else_does() {
        let guard = guard(Some("open-sesame"));
        let with = |path: &str, token: &str| {
            status(&guard, path, &[("host", "localhost"), ("authorization", token)])
        };
        assert_eq!(with("/api/jobs", "Bearer open-sesame"), 200);
        assert_eq!(with("/api/jobs", "bearer  open-sesame "), 200);
        for token in [
            "",
            "open-sesame",
            "Bearer",
            "Bearer ",
            "Bearer open",
            "Bearer open-sesame2",
            "Basic open-sesame",
        ] {
            assert_eq!(with("/api/jobs", token), 401, "{token}");
        }
        for path in ["/", "/app.js", "/style.css", "/icon.svg", "/health", "/openapi.json"] {
            assert_eq!(status(&guard, path, &[("host", "localhost")]), 200, "{path}");
        }
        for path in
            ["/metrics", "/examples/mug.png", "/v1/models", "/nowhere", "/health/", "//", "/app.js/.."]
        {
            assert_eq!(status(&guard, path, &[("host", "localhost")]), 401, "{path}");
        }
    }
}
