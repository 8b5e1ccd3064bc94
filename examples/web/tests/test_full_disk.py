"""A disk that is full or read-only: jobs wait, new ones are refused with words, and all goes on by itself."""

import shutil
import subprocess
import time

import pytest
from browser import generate
from conftest import PATIENCE, PROGRAM, ROOT
from playwright.sync_api import expect

pytest_plugins = ["browser"]

MUG = ROOT / "examples/assets/mug.png"


def mount(*args):
    run = subprocess.run(["mount", *map(str, args)], capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"mount is not permitted here: {run.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", disk)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def broken(tmp_path):
    """A file system of a file, which becomes read-only as after an error of the disk: `broken(disk)`."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("no mkfs.ext4")
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount("-o", "loop", image, disk)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass


def until(is_so):
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def until_stage(server, job, stage):
    server.until(job, lambda job: (job["progress"] or {}).get("stage") == stage)


def health(server):
    answer = server.client.get("/health")
    return answer.status_code, answer.json()["status"], answer.json()["storage"]


def metric(server, name):
    (line,) = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def check_refusals(server, folder, words):
    """New jobs and uploads are refused with the folder's name and the free space."""
    requests = [
        lambda: server.client.post("/api/jobs", json={"prompt": "one more"}),
        lambda: server.client.post("/api/references", content=MUG.read_bytes(), headers={"Content-Type": "image/png"}),
        lambda: server.client.post("/v1/images/generations", json={"prompt": "one more"}),
    ]
    for request in requests:
        answer = request()
        assert answer.status_code == 507, answer.text
        error = answer.json()["error"]
        assert error["type"] == "server_error"
        assert str(folder) in error["message"] and words in error["message"] and " free" in error["message"]


def test_a_full_disk_keeps_jobs_waiting_and_they_go_on_when_there_is_space(serve, disk):
    server = serve(data=disk / "data")
    reference = server.upload(MUG)["id"]
    before = server.ended(server.job("before", references=[reference]))
    assert health(server) == (200, "ok", "ok")
    running = server.job("under way", width=256, height=256, num_steps=30, num_images=3)
    waiting = [server.job(f"waiting {i}") for i in range(3)]
    server.until(running, lambda job: job["progress"] and job["progress"]["step"])
    fill(disk)
    until(lambda: health(server) == (503, "degraded", "full"))
    check_refusals(server, disk / "data", "the disk is full")
    until_stage(server, running, "waiting for space on the disk")
    assert metric(server, "uno_web_storage_writable") == 0
    assert metric(server, "uno_web_storage_free_bytes") < 1 << 20
    storage = server.get("/api/storage")
    assert storage["status"] == "full" and str(disk / "data") in storage["message"]
    # What is there is there.
    assert server.client.get(before["pictures"][0]["url"]).status_code == 200
    assert server.client.get(f"/api/references/{reference}").status_code == 200
    assert server.client.get(f"/api/references/{reference}/preview").status_code == 200
    states = [server.get(f"/api/jobs/{job['id']}")["state"] for job in (before, running, *waiting)]
    assert states == ["done", "running", "queued", "queued", "queued"]
    (disk / "filler").unlink()
    ended = [server.ended(job) for job in (running, *waiting)]
    assert [job["state"] for job in ended] == ["done"] * 4
    assert len(ended[0]["pictures"]) == 3
    for job in ended:
        for picture in job["pictures"]:
            assert server.client.get(picture["url"]).content.startswith(b"\x89PNG")
    until(lambda: health(server) == (200, "ok", "ok"))
    assert metric(server, "uno_web_storage_writable") == 1
    assert server.ended(server.job("after", references=[reference]))["state"] == "done"
    # What had waited is what would have been made anyway.
    again = server.ended(server.job(**{k: v for k, v in running["settings"].items() if k in SAME}))
    for one, other in zip(ended[0]["pictures"], again["pictures"], strict=True):
        assert server.client.get(one["url"]).content == server.client.get(other["url"]).content


SAME = ("prompt", "width", "height", "num_steps", "num_images", "seed")


def test_a_stop_with_a_full_disk_loses_nothing(serve, disk):
    server = serve("--grace", "0", data=disk / "data")
    running = server.job("under way", width=256, height=256, num_steps=30, num_images=2)
    waiting = server.job("waiting")
    for _ in range(3):  # More often than a job may crash.
        server.until(running, lambda job: job["progress"] and job["progress"]["step"])
        fill(disk)
        until(lambda: health(server) == (503, "degraded", "full"))
        assert server.stop() == 0
        run = subprocess.run(
            [PROGRAM, "--data", disk / "data", "--port", "0"], capture_output=True, text=True, check=False, timeout=60
        )
        assert run.returncode == 1
        assert "the disk is full" in run.stderr and str(disk / "data") in run.stderr and " free" in run.stderr
        (disk / "filler").unlink()
        server.start()
    assert [server.ended(job)["state"] for job in (running, waiting)] == ["done", "done"]


def test_removing_a_job_makes_space_on_a_full_disk(serve, disk):
    server = serve(data=disk / "data")
    jobs = [server.ended(server.job(f"job {i}", width=512, height=512, num_steps=1, num_images=4)) for i in range(2)]
    fill(disk)
    until(lambda: health(server) == (503, "degraded", "full"))
    for job in jobs:
        assert server.client.delete(f"/api/jobs/{job['id']}").status_code == 204
        assert not (disk / "data/pictures" / job["id"]).exists()
    assert server.get("/api/jobs")["jobs"] == []
    assert server.stop() == 0


def test_a_job_whose_picture_waits_for_the_disk_can_be_cancelled(serve, disk):
    server = serve(data=disk / "data")
    running = server.job("under way", width=256, height=256, num_steps=30)
    server.until(running, lambda job: job["progress"] and job["progress"]["step"])
    fill(disk)
    until_stage(server, running, "waiting for space on the disk")
    server.post(f"/api/jobs/{running['id']}/cancel")
    (disk / "filler").unlink()
    assert server.ended(running)["state"] == "cancelled"
    until(lambda: health(server) == (200, "ok", "ok"))
    assert server.ended(server.job("after"))["state"] == "done"


def test_a_disk_that_is_read_only_at_the_start_is_named(serve, disk):
    server = serve(data=disk / "data")
    job = server.ended(server.job())
    assert server.stop() == 0
    mount("-o", "remount,ro", disk)
    for folder in (disk / "data", disk / "new"):
        run = subprocess.run(
            [PROGRAM, "--data", folder, "--port", "0"], capture_output=True, text=True, check=False, timeout=60
        )
        assert run.returncode == 1
        assert "read-only" in run.stderr and str(folder) in run.stderr and "mount it writable" in run.stderr
    mount("-o", "remount,rw", disk)
    server.start()
    assert server.get("/api/jobs")["jobs"] == [job]


def test_a_disk_that_becomes_read_only_keeps_everything(serve, broken, tmp_path):
    server = serve(data=broken / "data")
    before = server.ended(server.job("before"))
    running = server.job("under way", width=256, height=256, num_steps=30, num_images=3)
    waiting = server.job("waiting")
    server.until(running, lambda job: job["progress"] and job["progress"]["step"])
    # As the kernel does after an error.
    mount("-o", "remount,abort", broken)
    answer = server.client.post("/api/jobs", json={"prompt": "one more"})
    assert answer.status_code == 507, answer.text
    until(lambda: health(server) == (503, "degraded", "read_only"))
    check_refusals(server, broken / "data", "read-only")
    assert server.client.get(before["pictures"][0]["url"]).status_code == 200
    until_stage(server, running, "waiting for the disk")
    assert server.get(f"/api/jobs/{waiting['id']}")["state"] == "queued"
    assert server.stop() == 0
    subprocess.run(["umount", broken], check=True)
    mount("-o", "loop", tmp_path / "image", broken)
    server.start()
    assert server.get(f"/api/jobs/{before['id']}") == before
    assert [server.ended(job)["state"] for job in (running, waiting)] == ["done", "done"]


def test_the_page_says_so_for_as_long_as_it_is_so(serve, disk, open_page):
    server = serve(data=disk / "data")
    page = open_page(server, allow=["507"])
    expect(page.locator("#storage")).to_be_hidden()
    fill(disk)
    banner = page.locator("#storage")
    expect(banner).to_be_visible()
    expect(banner).to_contain_text("the disk is full")
    expect(banner).to_contain_text(str(disk / "data"))
    generate(page, "one more")
    expect(page.locator("#error-general")).to_contain_text("the disk is full")
    (disk / "filler").unlink()
    expect(banner).to_be_hidden()
    generate(page, "one more")
    expect(page.locator("#stage [data-action=reuse]")).to_be_visible()
