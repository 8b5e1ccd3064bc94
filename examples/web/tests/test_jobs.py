"""Jobs over HTTP: their way from the queue to a picture, and what is refused."""

import base64
import io
import json

import pytest
from conftest import ROOT
from PIL import Image

MUG, ROBOT = (ROOT / f"examples/assets/{name}.png" for name in ("mug", "robot"))
LONG = {"width": 512, "height": 512, "num_steps": 100, "num_images": 4}


def settings_in(png):
    return json.loads(Image.open(io.BytesIO(png)).text["uno"])


def events_of(stream):
    """Server-sent events as they come: name and data."""
    name = None
    for line in stream.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_job_becomes_pictures_with_their_settings_inside(server):
    reference = server.upload(MUG)
    answer = server.client.post(
        "/api/jobs",
        json={
            "prompt": "a mug",
            "references": [reference["id"]],
            "width": 48,
            "height": 32,
            "num_steps": 2,
            "seed": 7,
            "num_images": 2,
        },
    )
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/api/jobs/{job['id']}"
    assert (job["state"], job["position"], job["pictures"]) == ("queued", 0, [])
    assert job["settings"] == {
        "prompt": "a mug",
        "references": [reference],
        "width": 48,
        "height": 32,
        "num_steps": 2,
        "guidance": 4.0,
        "seed": 7,
        "num_images": 2,
        "ref_size": 128,
        "pe": "d",
        "lora_scale": 1.0,
        "loras": [],
        "memory": "auto",
    }
    job = server.ended(job)
    assert (job["state"], job["position"], job["progress"], job["error"]) == ("done", None, None, None)
    assert job["created"] <= job["started"] <= job["finished"]
    assert [picture["seed"] for picture in job["pictures"]] == [7, 8]
    pictures = [server.client.get(picture["url"]) for picture in job["pictures"]]
    for n, answer in enumerate(pictures):
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).size == (48, 32)
        inside = settings_in(answer.content)
        assert (inside["prompt"], inside["seed"], inside["model_type"]) == ("a mug", 7 + n, "embedded")
        assert inside["references"][0]["sha256"] == reference["id"]
    assert pictures[0].content != pictures[1].content
    named = server.client.get(job["pictures"][0]["url"], params={"download": 1})
    assert named.headers["content-disposition"] == f'attachment; filename="uno-{job["id"][:8]}-0.png"'
    again = server.client.get(job["pictures"][0]["url"], headers={"If-None-Match": named.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_same_seed_is_the_same_picture(shared):
    one, other = (shared.ended(shared.job(seed=5)) for _ in range(2))
    first, second = (shared.client.get(job["pictures"][0]["url"]).content for job in (one, other))
    assert Image.open(io.BytesIO(first)).tobytes() == Image.open(io.BytesIO(second)).tobytes()


def test_what_is_left_out_is_what_the_model_was_made_for(shared):
    model = shared.get("/api/model")
    settings = shared.post("/api/jobs", {"prompt": ""})
    shared.post(f"/api/jobs/{settings['id']}/cancel")
    settings = settings["settings"]
    for name in ("width", "height", "num_steps", "guidance", "pe", "lora_scale", "memory"):
        assert settings[name] == model["defaults"][name], name
    assert settings["ref_size"] == model["defaults"]["ref_sizes"][0]
    assert 0 <= settings["seed"] < 2**32


def test_a_seed_of_64_bits_is_kept(shared):
    job = shared.job(seed=2**64 - 1)
    assert shared.ended(job)["pictures"][0]["seed"] == 2**64 - 1


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("prompt", [None, 1, "x" * 4001]),
        ("width", [0, -16, 15, 100, 1040, 2**63, 2**64, "16", 16.5]),
        ("height", [0, 1, 8192]),
        ("num_steps", [0, -1, 101, 2**70, "2"]),
        ("guidance", [-1, 101, 1e38, 1e39, "4"]),
        ("seed", [-1, 2**64, 1.5, "1"]),
        ("num_images", [0, 5]),
        ("ref_size", [0, 15, 1025, 2**32]),
        ("pe", ["x", "", "D"]),
        ("lora_scale", [11, -11, "1"]),
        ("memory", ["6TiB", "", "x" * 100_000]),
        ("references", [["0" * 64], ["../../etc/passwd"], ["\u0000"], [""], [1], "x", ["0" * 64] * 5]),
        ("loras", [[{"name": "nobody"}], [{}], ["x"], [["x", 1]]]),
        ("promt", ["unknown"]),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_field(shared, field, values):
    for value in values:
        body = json.dumps({"prompt": "a mug"} | {field: value})
        answer = shared.client.post("/api/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (field, value, answer.text)
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert (error["param"] or "").split("[")[0].split(".")[0] in (field, "name"), (value, error)
        assert len(error["message"]) < 1000, error


def test_a_size_with_too_many_pixels_is_refused(serve):
    server = serve("--max_pixels", "4096")
    answer = server.client.post("/api/jobs", json={"prompt": "", "width": 128, "height": 64})
    assert answer.status_code == 400
    assert "8192 pixels in all, wanted at most 4096" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'"x"',
        b'{"prompt": "\xff"}',
        b"{}",
        b"[" * 100_000,
        b'{"prompt": "", "prompt": ""}',
        b'{"prompt": "\\ud800"}',
    ],
)
def test_what_is_no_json_object_is_refused(shared, body):
    answer = shared.client.post("/api/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_other_types_of_bodies_are_refused(shared):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"):
        answer = shared.client.post("/api/jobs", content=b'{"prompt": ""}', headers={"Content-Type": kind})
        assert answer.status_code == 415, kind
        assert "application/json" in answer.json()["error"]["message"]


def test_bodies_that_are_too_large_are_refused(shared):
    for body in (json.dumps({"prompt": "x" * 1_000_000}), (b"x" * 65536 for _ in range(100))):
        answer = shared.client.post("/api/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413, answer.text


def test_jobs_wait_in_their_order(server):
    first, second, third = server.job(**LONG), server.job("second"), server.job("third")
    server.until(first, lambda job: job["state"] == "running")
    assert [server.get(f"/api/jobs/{job['id']}")["position"] for job in (first, second, third)] == [None, 1, 2]
    cancelled = server.post(f"/api/jobs/{second['id']}/cancel")
    assert (cancelled["state"], cancelled["position"]) == ("cancelled", None)
    assert server.get(f"/api/jobs/{third['id']}")["position"] == 1
    assert server.post(f"/api/jobs/{first['id']}/cancel")["state"] == "running"
    assert server.ended(first)["state"] == "cancelled"
    assert server.ended(third)["state"] == "done"
    assert [job["id"] for job in server.get("/api/jobs")["jobs"]] == [third["id"], second["id"], first["id"]]


def test_a_cancelled_job_keeps_its_finished_pictures(server):
    job = server.until(
        server.job(**LONG | {"width": 128, "height": 128, "num_steps": 30}), lambda job: len(job["pictures"]) == 1
    )
    server.post(f"/api/jobs/{job['id']}/cancel")
    job = server.ended(job)
    assert job["state"] == "cancelled"
    assert 1 <= len(job["pictures"]) < 4
    for picture in job["pictures"]:
        assert server.client.get(picture["url"]).status_code == 200
    assert server.client.get(f"/api/jobs/{job['id']}/pictures/{len(job['pictures'])}").status_code == 404


def test_what_has_ended_is_not_cancelled_and_what_has_not_is_not_removed(server):
    long = server.job(**LONG)
    for answer in (server.client.delete(f"/api/jobs/{long['id']}"),):
        assert (answer.status_code, answer.json()["error"]["type"]) == (409, "conflict_error")
    server.post(f"/api/jobs/{long['id']}/cancel")
    server.ended(long)
    assert server.client.post(f"/api/jobs/{long['id']}/cancel").status_code == 409


def test_a_removed_job_is_gone_with_its_pictures(server):
    job = server.ended(server.job())
    url = job["pictures"][0]["url"]
    etag = server.client.get(url).headers["etag"]
    answer = server.client.delete(f"/api/jobs/{job['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/pictures/0")):
        answer = server.client.request(method, f"/api/jobs/{job['id']}{path}")
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error"), path
    assert server.client.get(url, headers={"If-None-Match": etag}).status_code == 404
    assert server.get("/api/jobs") == {"jobs": [], "more": False}
    assert not list((server.data / "pictures").iterdir())


def test_jobs_are_listed_in_pages(server):
    ids = [server.job(f"number {i}", num_steps=1, width=16, height=16)["id"] for i in range(7)]
    newest_first, last = [], None
    while True:
        page = server.get("/api/jobs", limit=3, **({"before": last} if last else {}))
        newest_first += [job["id"] for job in page["jobs"]]
        if not page["more"]:
            break
        last = newest_first[-1]
    assert newest_first == ids[::-1]
    for query in (
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=-1",
        "before=x",
        f"before={'0' * 32}",
        "unknown=1",
        "limit=1&limit=2",
    ):
        answer = server.client.get(f"/api/jobs?{query}")
        assert answer.status_code == 400, query
        assert answer.json()["error"]["param"] == query.split("=")[0], query


def test_a_full_queue_says_when_to_try_again(serve):
    server = serve("--queue", "1")
    running = server.until(server.job(**LONG), lambda job: job["state"] == "running")
    waiting = server.job()
    answer = server.client.post("/api/jobs", json={"prompt": "one too many"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(answer.headers["retry-after"]) >= 1
    server.post(f"/api/jobs/{running['id']}/cancel")
    assert server.ended(waiting)["state"] == "done"


def test_events_tell_the_whole_story_of_a_job(server):
    with server.client.stream("GET", "/api/events") as all_jobs:
        assert all_jobs.headers["content-type"] == "text/event-stream"
        job = server.job("watched", width=64, height=64, num_steps=8, num_images=2)
        with server.client.stream("GET", f"/api/jobs/{job['id']}/events") as of_one:
            one = list(events_of(of_one))  # It ends with the job.
        events, everything = events_of(all_jobs), []
        for name, data in events:
            everything.append((name, data))
            if data.get("state") == "done":
                break
        server.client.delete(f"/api/jobs/{job['id']}")
        assert next(events) == ("removed", {"id": job["id"]})
    assert one[-1] == everything[-1] == ("job", data)
    jobs = [data for name, data in everything if name == "job"]
    assert jobs[0] == job
    states = [job["state"] for job in jobs]
    assert sorted(states, key=["queued", "running", "done"].index) == states and set(states) == {
        "queued",
        "running",
        "done",
    }
    progress = [job["progress"] for job in jobs if job["progress"]]
    fractions = [p["fraction"] for p in progress]
    assert fractions == sorted(fractions) and 0 <= fractions[0] <= fractions[-1] <= 1
    assert {p["stage"] for p in progress} >= {"encoding prompts", "denoising", "decoding"}
    assert {p["picture"] for p in progress} == {0, 1}
    assert progress[0]["seconds_left"] is None and progress[-1]["seconds_left"] >= 0
    previews = [data for name, data in everything if name == "preview"]
    assert previews and {p["id"] for p in previews} == {job["id"]}
    picture = Image.open(io.BytesIO(base64.b64decode(previews[-1]["image"].removeprefix("data:image/png;base64,"))))
    assert picture.size == (8, 8)


def test_events_begin_with_the_jobs_that_have_not_ended(server):
    server.ended(server.job("ended"))
    running, waiting = server.job(**LONG), server.job("waiting")
    server.until(running, lambda job: job["state"] == "running")
    with server.client.stream("GET", "/api/events") as stream:
        events = events_of(stream)
        first = [next(data for name, data in events if name == "job") for _ in range(2)]
    assert [job["id"] for job in first] == [running["id"], waiting["id"]]
    assert first[1]["position"] == 1


def test_events_of_a_job_that_has_ended_end_at_once(shared):
    job = shared.ended(shared.job())
    with shared.client.stream("GET", f"/api/jobs/{job['id']}/events") as stream:
        assert list(events_of(stream)) == [("job", job)]


def test_two_references_are_placed_and_recorded(shared):
    ids = [shared.upload(path)["id"] for path in (MUG, ROBOT)]
    job = shared.ended(shared.job("a robot and a mug", references=ids, pe="h", ref_size=64))
    assert job["state"] == "done", job
    inside = settings_in(shared.client.get(job["pictures"][0]["url"]).content)
    assert [r["sha256"] for r in inside["references"]] == ids
    assert [(r["width"], r["height"]) for r in inside["references"]] == [(64, 64)] * 2
    assert (inside["pe"], inside["ref_size"]) == ("h", 64)


def test_notices_are_kept(shared):
    job = shared.ended(shared.job("word " * 700))
    assert job["state"] == "done"
    assert any("too long" in notice for notice in job["notices"]), job


def test_the_lora_scale_of_a_job_is_used(shared):
    pictures = []
    for scale in (1.0, 0.0, 0.5, 1.0):
        job = shared.ended(shared.job(seed=3, lora_scale=scale))
        png = shared.client.get(job["pictures"][0]["url"]).content
        assert settings_in(png)["lora_scale"] == (scale or None)
        pictures.append(Image.open(io.BytesIO(png)).tobytes())
    assert pictures[0] == pictures[3]
    assert len(set(pictures)) > 1


def test_memory_can_be_chosen_and_changes_nothing_else(shared):
    png = [
        shared.client.get(shared.ended(shared.job(seed=4, memory=memory))["pictures"][0]["url"]).content
        for memory in ("auto", "least")
    ]
    first, second = (Image.open(io.BytesIO(bytes)).tobytes() for bytes in png)
    assert first == second
