"""Servers for the tests: the built program, each on a free port of 127.0.0.1 with a data folder of its own.

`cargo build --release --bin uno-web` first; the program is looked for where cargo puts it (CARGO_TARGET_DIR, else
target).
"""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

# What the page's tests share asserts, too.
pytest.register_assert_rewrite("browser")

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/uno-web"
# Computing may take its time on a busy machine; nothing here depends on how long it takes.
PATIENCE = 600


class Server:
    """A running server. It can be stopped and started again, with the same port and data."""

    def __init__(self, data, *args, env=None):
        self.data, self.args, self.env = data, [str(arg) for arg in args], env or {}
        self.port = 0
        self.process = None
        self.start()

    def start(self):
        command = [PROGRAM, "--data", self.data, "--port", str(self.port), *self.args]
        environment = {name: value for name, value in os.environ.items() if name != "UNO_WEB_TOKEN"} | self.env
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log = []
        reader = threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True)
        reader.start()
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            self.process.wait(PATIENCE)
            reader.join(PATIENCE)
            raise RuntimeError(f"the server did not start: {''.join(self.log)}")
        self.port = int(self.url.rsplit(":", 1)[1])
        token = self.args[self.args.index("--token") + 1] if "--token" in self.args else self.env.get("UNO_WEB_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, headers=headers)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        """Waits for the end; its exit code."""
        code = self.process.wait(PATIENCE)
        self.client.close()
        return code

    def stop(self):
        """Stops it in good order; its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self):
        """Ends it at once, as a crash would."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        return self.wait()

    def get(self, path, **params):
        return expect(self.client.get(path, params=params or None))

    def post(self, path, value=None):
        answer = (
            self.client.post(path, content=json.dumps(value), headers={"Content-Type": "application/json"})
            if value is not None
            else self.client.post(path)
        )
        return expect(answer)

    def upload(self, path):
        return expect(
            self.client.post("/api/references", content=Path(path).read_bytes(), headers={"Content-Type": "image/png"})
        )

    def job(self, prompt="a mug on a beach", **settings):
        """Puts a small job into the queue."""
        return self.post("/api/jobs", {"prompt": prompt, "width": 32, "height": 32, "num_steps": 2} | settings)

    def ended(self, job):
        """Waits until a job has ended; the job."""
        return self.until(job, lambda job: job["state"] in ("done", "failed", "cancelled"))

    def until(self, job, is_so):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            job = self.get(f"/api/jobs/{job['id']}")
            if is_so(job):
                return job
            assert job["state"] in ("queued", "running"), job
            time.sleep(0.05)
        raise TimeoutError(job)

    def memory(self):
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


def expect(answer):
    assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    return answer.json() if answer.content else None


@pytest.fixture
def serve(tmp_path):
    """`serve(*arguments)` starts a server; all are stopped at the end."""
    made = []

    def serve(*args, data=None, env=None):
        data = data or tmp_path / f"data {len(made)}"
        made.append(Server(data, *args, env=env))
        return made[-1]

    yield serve
    for server in made:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def server(serve):
    """A server with default options and an empty history."""
    return serve()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A server for tests that leave it as it is, or do not care what others have left there."""
    server = Server(tmp_path_factory.mktemp("shared"), "--queue", "1000")
    yield server
    assert server.stop() == 0
