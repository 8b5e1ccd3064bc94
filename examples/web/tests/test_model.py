"""The model that is served: its LoRAs, and what happens when something of it fails."""

import io
import json

import pytest
from conftest import ROOT
from PIL import Image

LORA = ROOT / "uno-models/assets/uno-tiny/dit_lora.safetensors"
MUG = ROOT / "examples/assets/mug.png"


def made(server, **settings):
    """The pixels of a job's picture, and the settings inside it."""
    job = server.ended(server.job(seed=3, **settings))
    assert job["state"] == "done", job
    picture = Image.open(io.BytesIO(server.client.get(job["pictures"][0]["url"]).content))
    return picture.tobytes(), json.loads(picture.text["uno"])


def test_loras_are_chosen_by_name(serve):
    server = serve("--add_lora", f"style={LORA}@0.5", "--add_lora", f"second style={LORA}")
    assert server.get("/api/model")["loras"] == [
        {"name": "style", "scale": 0.5},
        {"name": "second style", "scale": 1.0},
    ]
    usual, inside = made(server)
    assert inside["add_lora_scales"] == [0.5, 1.0]
    none, inside = made(server, loras=[])
    assert "add_lora_scales" not in inside
    assert usual != none
    one, inside = made(server, loras=[{"name": "style"}])
    assert inside["add_lora_scales"] == [0.5]
    # In whichever order they are asked for, they are added in their own.
    both, inside = made(server, loras=[{"name": "second style", "scale": 1}, {"name": "style", "scale": 0.5}])
    assert inside["add_lora_scales"] == [0.5, 1.0]
    assert both == usual
    off, inside = made(server, loras=[{"name": "style", "scale": 0}])
    assert "add_lora_scales" not in inside
    assert off == none
    for loras, param in (
        ([{"name": "stile"}], "loras[0].name"),
        ([{"name": "style", "scale": 11}], "loras[0].scale"),
        ([{"name": "style"}, {"name": "style"}], "loras[1].name"),
    ):
        answer = server.client.post("/api/jobs", json={"prompt": "", "loras": loras})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_a_job_whose_lora_is_gone_after_a_restart_fails_and_says_so(serve):
    server = serve("--add_lora", f"style={LORA}", "--grace", "0")
    long = server.until(
        server.job(width=512, height=512, num_steps=100, loras=[]), lambda job: job["state"] == "running"
    )
    waiting = server.job(loras=[{"name": "style"}])
    server.stop()
    server.args = ["--grace", "0"]
    server.start()
    server.post(f"/api/jobs/{long['id']}/cancel")
    job = server.ended(waiting)
    assert job["state"] == "failed" and "style" in job["error"] and "--add_lora" in job["error"]
    assert server.ended(server.job())["state"] == "done"


@pytest.mark.parametrize("lora", ["style=nowhere.safetensors", f"style={MUG}", "nameless.safetensors"])
def test_loras_that_cannot_be_used_end_the_start(serve, lora):
    with pytest.raises(RuntimeError, match="did not start"):
        serve("--add_lora", lora)


def test_a_model_without_its_lora_takes_no_scale(serve):
    server = serve("--lora_scale", "0", "--model", ROOT / "uno-models/assets/tiny")
    model = server.get("/api/model")
    assert model["defaults"]["lora_scale"] == 0
    answer = server.client.post("/api/jobs", json={"prompt": "", "lora_scale": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora_scale")
    _, inside = made(server)
    assert inside["lora_scale"] is None


def test_a_reference_that_was_lost_fails_its_job_and_no_other(server):
    reference = server.upload(MUG)["id"]
    (server.data / "references" / reference).write_bytes(b"not what it was")
    job = server.ended(server.job(references=[reference]))
    assert job["state"] == "failed" and reference in job["error"], job
    assert server.client.get(f"/api/references/{reference}").status_code == 500
    assert server.ended(server.job())["state"] == "done"


def test_a_folder_that_cannot_be_written_fails_the_job_and_no_other(server):
    blocked = server.job(width=512, height=512)
    (server.data / "pictures").mkdir(exist_ok=True)
    (server.data / "pictures" / blocked["id"]).write_bytes(b"in the way")
    job = server.ended(blocked)
    assert job["state"] == "failed" and "cannot write" in job["error"], job
    assert server.ended(server.job())["state"] == "done"
