"""OpenAI's own client makes and edits pictures."""

import base64
import io
import json
import socket
import threading

import openai
import pytest
from conftest import PATIENCE, ROOT
from PIL import Image

MUG, ROBOT = (ROOT / f"examples/assets/{name}.png" for name in ("mug", "robot"))
LONG = {"size": "512x512", "n": 4, "extra_body": {"num_steps": 100}}


@pytest.fixture
def client(shared):
    return openai.OpenAI(base_url=f"{shared.url}/v1", api_key="not needed", timeout=PATIENCE, max_retries=0)


def opened(image):
    return Image.open(io.BytesIO(base64.b64decode(image.b64_json)))


def test_pictures_are_generated(client, shared):
    answer = client.images.generate(
        prompt="a mug on a beach", n=2, size="48x32", extra_body={"num_steps": 2, "seed": 11, "guidance": 3.0}
    )
    pictures = [opened(image) for image in answer.data]
    assert [picture.size for picture in pictures] == [(48, 32)] * 2
    inside = [json.loads(picture.text["uno"]) for picture in pictures]
    assert [(s["seed"], s["num_steps"], s["guidance"]) for s in inside] == [(11, 2, 3.0), (12, 2, 3.0)]
    newest = shared.get("/api/jobs", limit=1)["jobs"][0]
    assert (newest["settings"]["prompt"], newest["state"]) == ("a mug on a beach", "done")
    assert int(newest["created"]) == answer.created


def test_pictures_are_edited(client):
    with MUG.open("rb") as mug, ROBOT.open("rb") as robot:
        answer = client.images.edit(
            image=[mug, robot], prompt="a robot and a mug", size="32x32", extra_body={"num_steps": 2, "seed": 1}
        )
    inside = json.loads(opened(answer.data[0]).text["uno"])
    assert len(inside["references"]) == 2
    with MUG.open("rb") as mug:
        answer = client.images.edit(image=mug, prompt="a mug", size="32x32", extra_body={"num_steps": 2})
    assert opened(answer.data[0]).size == (32, 32)


def test_addresses_lead_to_the_pictures(client, shared):
    answer = client.images.generate(prompt="a mug", size="32x32", response_format="url", extra_body={"num_steps": 1})
    assert answer.data[0].url.startswith(shared.url)
    assert shared.client.get(answer.data[0].url).content.startswith(b"\x89PNG")


def test_the_model_is_listed_and_may_be_named(client):
    names = [model.id for model in client.models.list()]
    assert names == ["uno-tiny"]
    client.images.generate(
        prompt="",
        model=names[0],
        size="16x16",
        quality="auto",
        background="opaque",
        output_format="png",
        user="me",
        extra_body={"num_steps": 1},
    )


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"model": "gpt-image-1"}, "model"),
        ({"size": "1000x1000"}, "size"),
        ({"size": "large"}, "size"),
        ({"n": 0}, "n"),
        ({"n": 100}, "n"),
        ({"quality": "hd"}, "quality"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "webp"}, "output_format"),
        ({"moderation": "low"}, "moderation"),
        ({"stream": True}, "stream"),
        ({"extra_body": {"seed": -1}}, "seed"),
        ({"extra_body": {"num_steps": 1000}}, "num_steps"),
        ({"extra_body": {"negative_prompt": "x"}}, "negative_prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
    ],
)
def test_what_has_no_meaning_is_refused(client, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(**{"prompt": "a mug"} | options)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_edits_want_pictures_and_no_mask(client, shared):
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(image=io.BytesIO(b"no picture"), prompt="a mug")
    assert refused.value.param == "image"
    with MUG.open("rb") as mug, ROBOT.open("rb") as mask, pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(image=mug, mask=mask, prompt="a mug")
    assert "mask" in str(refused.value)
    with pytest.raises(openai.BadRequestError):
        client.images.edit(image=[MUG.read_bytes()] * 5, prompt="five mugs")
    answer = shared.client.post("/v1/images/edits", files={"prompt": (None, "no image")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n",
        b"--x\r\nContent-Disposition: form-data; name=prompt\r\n\r\na",
        b"--y\r\n\r\n--y--",
        b"--x--",
        b"\0" * 10_000,
        b"--x\r\nContent-Disposition: form-data\r\n\r\nnameless\r\n--x--",
    ],
)
def test_broken_forms_are_refused(shared, body):
    answer = shared.client.post(
        "/v1/images/edits", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 400, answer.text
    answer = shared.client.post("/v1/images/edits", content=body, headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 400, answer.text
    assert (
        shared.client.post("/v1/images/edits", content=body, headers={"Content-Type": "application/json"}).status_code
        == 415
    )


def test_a_form_with_too_much_in_it_is_refused(serve):
    server = serve("--max_upload", "10KiB")
    for files in ({"image": b"\0" * 20_000}, {"image": MUG.read_bytes()[:100], "prompt": (None, "x" * 1_000_000)}):
        answer = server.client.post("/v1/images/edits", files=files)
        assert answer.status_code == 413, answer.text


def test_who_hangs_up_no_longer_waits(server):
    body = json.dumps({"prompt": "nobody waits for it", "size": "512x512", "n": 4, "num_steps": 100})
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    connections = []
    for _ in range(2):
        connections.append(socket.create_connection(("127.0.0.1", server.port)))
        connections[-1].sendall((head + body).encode())
    jobs = []
    while [job["state"] for job in jobs] != ["queued", "running"]:
        jobs = server.get("/api/jobs")["jobs"]
    for connection in connections:
        connection.close()
    assert [server.ended(job)["state"] for job in jobs] == ["cancelled"] * 2


def test_a_job_that_others_cancel_is_told(shared, client):
    def cancel():
        while True:
            for job in shared.get("/api/jobs", limit=5)["jobs"]:
                if job["settings"]["prompt"] == "to be cancelled" and job["state"] in ("queued", "running"):
                    return shared.post(f"/api/jobs/{job['id']}/cancel")

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(openai.ConflictError):
        client.images.generate(prompt="to be cancelled", **LONG)
    thread.join(PATIENCE)
