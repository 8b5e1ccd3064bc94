"""Many requests, slow ones, and a long time: none stops the others, and memory stays as it is."""

import concurrent.futures
import socket
import threading
import time

import httpx
import pytest
from conftest import PATIENCE, ROOT

TINY = {"prompt": "one of many", "width": 16, "height": 16, "num_steps": 1}
LONG = {"prompt": "a long one", "width": 512, "height": 512, "num_steps": 100, "num_images": 4}


def flood(server, count):
    def ask(i):
        return httpx.post(f"{server.url}/api/jobs", json=TINY | {"seed": i}, timeout=PATIENCE)

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        return list(pool.map(ask, range(count)))


def all_jobs(server):
    jobs, last = [], {}
    while True:
        page = server.get("/api/jobs", limit=200, **last)
        jobs += page["jobs"]
        if not page["more"]:
            return jobs
        last = {"before": jobs[-1]["id"]}


@pytest.mark.parametrize("queue", [500, 50])
def test_200_requests_are_all_taken_or_told_to_come_back(serve, queue):
    server = serve("--queue", queue)
    long = server.until(server.job(**LONG), lambda job: job["state"] == "running")
    answers = flood(server, 200)
    taken = [answer.json() for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert {answer.status_code for answer in refused} <= {429}
    assert len(taken) == min(200, queue)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    server.post(f"/api/jobs/{long['id']}/cancel")
    for job in taken:
        server.ended(job)
    ended = all_jobs(server)
    assert [job["state"] for job in ended] == ["done"] * len(taken) + ["cancelled"]
    assert {job["id"] for job in taken} == {job["id"] for job in ended[:-1]}
    order = sorted(ended[:-1], key=lambda job: job["started"])
    assert order == ended[:-1][::-1], "first come, first served"


def test_slow_clients_stop_nobody(server):
    """Heads and bodies that never end, and answers that nobody reads."""

    def connect(request):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(request.encode())
        return connection

    post = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: 1000\r\n\r\n"
    slow = [connect("GET /api/jobs HTTP/1.1\r\nHost: local") for _ in range(40)]
    slow += [connect(post.format("/api/jobs", "application/json") + '{"prompt"') for _ in range(40)]
    slow += [connect(post.format("/api/references", "image/png") + "\x89PNG") for _ in range(40)]
    slow += [connect(post.format("/v1/images/edits", "multipart/form-data; boundary=x") + "--x\r\n") for _ in range(40)]
    slow += [connect("GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(40)]
    assert server.ended(server.job())["state"] == "done"
    assert server.get("/health")["status"] == "ok"
    # Those that send nothing more are let go; event streams go on.
    for connection in slow[:160]:
        connection.settimeout(PATIENCE)
        while connection.recv(65536):
            pass
        connection.close()
    for connection in slow[160:]:
        connection.settimeout(PATIENCE)
        assert b"200 OK" in connection.recv(65536)
        connection.close()
    assert server.ended(server.job())["state"] == "done"


def test_more_connections_than_are_taken_wait_for_their_turn(server):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(600)]
    assert server.get("/health")["status"] == "ok"
    for connection in idle:
        connection.close()


def test_requests_that_are_none_are_refused(server):
    job = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for request in (
        b"\0" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        job + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        job + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(request)
            answer = connection.recv(65536)
        assert answer == b"" or 400 <= int(answer.split()[1]) < 500, (request[:80], answer[:200])
    assert server.get("/health")["status"] == "ok"


def test_a_listener_that_does_not_read_is_let_go_and_others_hear_everything(server):
    deaf = socket.create_connection(("127.0.0.1", server.port))
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    heard = set()

    def listen():
        with httpx.stream("GET", f"{server.url}/api/events", timeout=PATIENCE) as stream:
            for line in stream.iter_lines():
                if '"state":"done"' in line:
                    heard.add(line.split('"id":"')[1][:32])
                if len(heard) == 60:
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    time.sleep(1)
    jobs = [server.job(**TINY) for _ in range(60)]
    thread.join(PATIENCE)
    assert heard == {job["id"] for job in jobs}
    deaf.close()


def test_memory_stays_as_it_is(server):
    reference = server.upload(ROOT / "examples/assets/mug.png")["id"]

    def work(rounds):
        for i in range(rounds):
            jobs = [server.job(f"number {i} of many", references=[reference] * (i % 3), num_steps=2) for _ in range(4)]
            server.post(f"/api/jobs/{jobs[3]['id']}/cancel") if i % 2 else None
            for job in jobs:
                server.ended(job)
            server.client.get(f"/api/references/{reference}/preview?ref_size={64 + 16 * (i % 8)}")
            server.client.post("/api/jobs", json={"prompt": 1})
            with server.client.stream("GET", "/api/events"):
                pass
        return server.memory()

    work(25)
    before = work(5)
    after = work(50)
    print(f"resident memory: {before / 1e6:.1f} MB, {(after - before) / 1e6:+.1f} MB over 200 jobs")
    assert after - before < 20e6


def test_connections_go_on_after_answers_that_came_before_the_end_of_a_body(server):
    head = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nOrigin: {}\r\nContent-Length: {}\r\n\r\n"
    body = b"x" * 300_000
    cases = [
        ("/api/jobs", "application/json", "http://evil.example", 403),
        ("/nowhere", "text/plain", server.url, 404),
        ("/api/model", "text/plain", server.url, 405),
        ("/api/jobs", "text/plain", server.url, 415),
        ("/api/jobs", "application/json", server.url, 413),
    ]
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(PATIENCE)
        for path, kind, origin, status in cases:
            connection.sendall(
                head.format(path, kind, origin.replace("127.0.0.1", "localhost"), len(body))
                .replace("Host: localhost", f"Host: localhost:{server.port}")
                .encode()
            )
            answer = connection.recv(65536)
            assert int(answer.split()[1]) == status, answer
            connection.sendall(body)
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        assert b"200 OK" in connection.recv(65536)
