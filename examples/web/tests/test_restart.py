"""What survives: crashes, stops in good order, and second servers."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest
from conftest import PATIENCE, PROGRAM, ROOT

LONG = {"width": 512, "height": 512, "num_steps": 100, "num_images": 4}
MUG = ROOT / "examples/assets/mug.png"


def stamp(path):
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, path.read_bytes()


def test_a_crash_loses_nothing_and_does_nothing_twice(server):
    reference = server.upload(MUG)["id"]
    done = server.ended(server.job("done before"))
    running = server.job("under way", references=[reference], width=128, height=128, num_steps=12, num_images=4, seed=5)
    waiting = [server.job(f"waiting {i}", num_steps=1) for i in range(3)]
    gone = server.job("cancelled before")
    server.post(f"/api/jobs/{gone['id']}/cancel")
    running = server.until(running, lambda job: len(job["pictures"]) >= 2)
    folder = server.data / "pictures"
    before = {path: stamp(path) for path in folder.rglob("*.png")}
    server.kill()
    server.start()
    found = {job["id"]: job for job in server.get("/api/jobs")["jobs"]}
    assert len(found) == 6
    assert found[done["id"]] == done
    assert found[gone["id"]]["state"] == "cancelled"
    assert len(found[running["id"]]["pictures"]) >= 2
    ended = [server.ended(job) for job in (running, *waiting)]
    assert [job["state"] for job in ended] == ["done"] * 4
    assert sorted(ended, key=lambda job: job["finished"]) == ended, "in their old order"
    assert ended[0]["started"] == running["started"]
    assert [picture["seed"] for picture in ended[0]["pictures"]] == [5, 6, 7, 8]
    for path, seen in before.items():
        assert stamp(path) == seen, path
    assert len(list(folder.rglob("*.png"))) == 1 + 4 + 3
    # What the job would have made in one go.
    again = server.ended(
        server.job("under way", references=[reference], width=128, height=128, num_steps=12, num_images=4, seed=5)
    )
    for one, other in zip(ended[0]["pictures"], again["pictures"], strict=True):
        assert server.client.get(one["url"]).content == server.client.get(other["url"]).content


def test_a_job_that_ends_the_server_twice_fails(server):
    job = server.job("deadly", **LONG)
    after = server.job("harmless")
    for _ in range(2):
        server.until(job, lambda job: job["state"] == "running")
        server.kill()
        server.start()
    job = server.get(f"/api/jobs/{job['id']}")
    assert job["state"] == "failed"
    assert "2 times" in job["error"]
    assert server.ended(after)["state"] == "done"


def test_the_history_survives_many_crashes(server):
    ids = []
    for _ in range(5):
        ids += [server.job(num_steps=1)["id"] for _ in range(3)]
        server.kill()
        server.start()
    for id in ids:
        server.ended({"id": id})
    assert [job["id"] for job in server.get("/api/jobs")["jobs"]] == ids[::-1]


def test_a_stop_lets_the_picture_under_way_be_finished(serve):
    server = serve("--grace", PATIENCE)
    job = server.job(width=64, height=64, num_steps=20, num_images=4)
    server.until(job, lambda job: job["progress"] and job["progress"]["step"])
    server.signal(signal.SIGTERM)
    # It still answers, and takes nothing more.
    while server.client.get("/health").status_code == 200:
        pass
    try:
        answer = server.client.post("/api/jobs", json={"prompt": "too late"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
    except Exception as error:  # It may be gone already.
        assert server.process.wait(PATIENCE) == 0, error
    assert server.wait() == 0
    server.start()
    job = server.get(f"/api/jobs/{job['id']}")
    assert job["state"] in ("queued", "running", "done")
    assert len(job["pictures"]) >= 1
    assert server.ended(job)["state"] == "done"


def test_a_stop_without_grace_puts_the_job_back(serve):
    server = serve("--grace", "0")
    job = server.job(**LONG)
    for _ in range(3):  # More often than a job may crash.
        server.until(job, lambda job: job["state"] == "running")
        assert server.stop() == 0
        server.start()
    server.until(job, lambda job: job["state"] == "running")
    server.post(f"/api/jobs/{job['id']}/cancel")
    assert server.ended(job)["state"] == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_event_streams_end_with_the_server(serve, number):
    server = serve("--grace", "0")
    with server.client.stream("GET", "/api/events") as stream:
        server.job()
        server.signal(number)
        for _ in stream.iter_lines():
            pass
    assert server.wait() == 0


def test_a_second_signal_ends_the_server_at_once(serve):
    server = serve("--grace", PATIENCE)
    job = server.until(server.job(**LONG), lambda job: job["state"] == "running")
    server.signal(signal.SIGINT)
    while server.client.get("/health").status_code == 200:
        pass
    server.signal(signal.SIGINT)
    assert server.wait() == 1
    server.start()
    assert server.get(f"/api/jobs/{job['id']}")["state"] in ("queued", "running")


def test_clients_that_wait_are_told_that_the_server_stops(serve):
    server = serve("--grace", "0")
    answers = []

    def ask():
        settings = {"prompt": "", "size": "512x512", "num_steps": 100}
        answers.append(server.client.post("/v1/images/generations", json=settings))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(server.get("/api/jobs")["jobs"]) < 2:
        time.sleep(0.05)
    assert server.stop() == 0
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [503, 503]
    server.start()
    assert {job["state"] for job in server.get("/api/jobs")["jobs"]} == {"cancelled"}


def test_a_second_server_on_the_same_folder_is_refused(server, serve):
    with pytest.raises(RuntimeError, match="another server uses this folder"):
        serve(data=server.data)
    assert server.ended(server.job())["state"] == "done"


def test_a_port_that_is_taken_is_told(server, tmp_path):
    run = subprocess.run(
        [PROGRAM, "--port", str(server.port), "--data", tmp_path / "other"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1 and "--port" in run.stderr
    assert not (tmp_path / "other").exists()


def test_the_first_line_is_the_address_and_the_log_is_json_where_that_is_wanted(serve):
    server = serve("--log", "json")
    assert server.url == f"http://127.0.0.1:{server.port}"
    server.ended(server.job("a secret prompt"))
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log]
    assert any(line.get("path") == "/api/jobs" and line["status"] == 202 for line in lines)
    assert "secret" not in "".join(server.log)
    assert not server.process.stdout.read()


def test_data_is_for_its_owner_alone(server):
    server.ended(server.job())
    assert oct(os.stat(server.data).st_mode & 0o777) == "0o700"


def test_a_model_that_is_not_there_is_told(tmp_path):
    run = subprocess.run(
        [PROGRAM, "--model", tmp_path / "nowhere", "--port", "0", "--data", tmp_path / "data"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "nowhere" in run.stderr and "panick" not in run.stderr
