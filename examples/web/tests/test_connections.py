"""Connections that say nothing, or not enough: beside any number of them `/health` answers, and pictures are made."""

import contextlib
import http.client
import resource
import socket

import httpx
import pytest
from conftest import PATIENCE

# A probe gives up after this; so does the test.
PROBE = 5
POST = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: 1000\r\n\r\n"
SILENT = {
    "nothing is sent": "",
    "half a head": "GET /api/jobs HTTP/1.1\r\nHost: local",
    "half a body": POST.format("/api/jobs", "application/json") + '{"prompt"',
    "half a picture": POST.format("/api/references", "image/png") + "\x89PNG",
    "kept alive": "GET /api/model HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "event streams": "GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.fixture(autouse=True, scope="module")
def _enough_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def silent(server, count, request, source="127.0.0.1"):
    """So many connections that send a request, or a part of one, and nothing more."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE, source_address=(source, 0))
            connections.append(stack.enter_context(contextlib.closing(connection)))
            # The server may close it at any time.
            with contextlib.suppress(OSError):
                connection.sendall(request.encode("latin-1"))
        yield connections


def health(server):
    """What a probe gets, on a new connection."""
    return httpx.get(f"{server.url}/health", timeout=PROBE)


@pytest.mark.parametrize("count", [530, 2000])
@pytest.mark.parametrize("request_", SILENT.values(), ids=SILENT.keys())
def test_health_answers_beside_connections_that_say_nothing(server, count, request_):
    with silent(server, count, request_):
        for _ in range(3):
            assert health(server).json()["status"] == "ok"


def test_pictures_are_made_beside_connections_that_say_nothing(server):
    with silent(server, 600, SILENT["half a head"]), silent(server, 300, SILENT["event streams"]):
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            job = client.post("/api/jobs", json={"prompt": "a mug", "width": 32, "height": 32, "num_steps": 1})
            assert job.status_code == 202
        assert server.ended(job.json())["state"] == "done"


def test_event_streams_go_on_beside_connections_that_say_nothing(server):
    with httpx.stream("GET", f"{server.url}/api/events", timeout=PATIENCE) as stream:
        lines = stream.iter_lines()
        with silent(server, 1200, SILENT["half a head"]):
            job = server.job("heard by all")
            assert any(f'"id":"{job["id"]}"' in line and '"state":"done"' in line for line in lines)


def test_health_answers_with_every_connection_at_work(server):
    """Streams, waiting for pictures over OpenAI's endpoint, and pictures that are being uploaded."""
    long = server.job("a long one", width=512, height=512, num_steps=100, num_images=4)
    server.until(long, lambda job: job["state"] == "running")
    body = '{"prompt": "x", "size": "16x16"}'
    wait = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    wait += f"Content-Length: {len(body)}\r\n\r\n{body}"
    streams, uploads = SILENT["event streams"], SILENT["half a picture"]
    with silent(server, 256, streams), silent(server, 99, wait), silent(server, 157, uploads) as sending:
        for connection in sending:
            connection.sendall(b"x")
        for _ in range(3):
            assert health(server).json()["status"] == "ok"
    server.post(f"/api/jobs/{long['id']}/cancel")


def answers(connection, path="/api/model"):
    """The status of an answer on a connection, or None where it was closed."""
    try:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.read()
    except (OSError, http.client.HTTPException):
        return None
    return answer.status


def test_an_address_has_so_many_connections_and_disturbs_nobody_else(serve):
    server = serve("--max_connections_per_address", 4)
    streams = SILENT["event streams"]
    with silent(server, 1, "", "127.0.0.3") as other, silent(server, 4, streams, "127.0.0.2") as busy:
        for connection in busy:
            assert connection.recv(12) == b"HTTP/1.1 200"
        with silent(server, 3, "", source="127.0.0.2") as more:
            assert answers(more[0]) == 429
            assert answers(more[1], "/health") == 200
            assert answers(more[2], "/nowhere") == 429
        assert answers(other[0]) == 200
    with silent(server, 4, SILENT["half a head"], "127.0.0.2") as half, silent(server, 1, "", "127.0.0.2") as one:
        assert answers(one[0]) == 200
        assert answers(half[0]) is None, "the one that was silent for longest is closed"


def test_an_address_of_this_machine_has_no_limit_of_its_own(server):
    # A proxy here brings the connections of all its clients.
    with silent(server, 200, SILENT["event streams"]) as streams:
        for connection in streams:
            connection.settimeout(PATIENCE)
            assert connection.recv(12) == b"HTTP/1.1 200"


def test_too_many_event_streams_are_told(server):
    with silent(server, 257, SILENT["event streams"]) as streams:
        answers = sorted(connection.recv(12) for connection in streams)
    assert answers == [b"HTTP/1.1 200"] * 256 + [b"HTTP/1.1 503"]
