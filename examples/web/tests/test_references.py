"""References over HTTP: uploads of all kinds, good and bad, and how the model sees them."""

import hashlib
import io
import socket

import pytest
from conftest import ROOT
from PIL import Image

MUG = ROOT / "examples/assets/mug.png"


def upload(server, content, kind="application/octet-stream"):
    return server.client.post("/api/references", content=content, headers={"Content-Type": kind} if kind else {})


def encoded(format, size=(40, 30), **options):
    bytes = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(bytes, format, **options)
    return bytes.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_is_taken_and_comes_back_as_png(shared, format):
    content = encoded(format)
    answer = upload(shared, content, f"image/{format.lower()}")
    assert answer.status_code == 201, answer.text
    reference = answer.json()
    assert reference == {"id": hashlib.sha256(content).hexdigest(), "width": 40, "height": 30}
    assert upload(shared, content, None).json() == reference
    answer = shared.client.get(f"/api/references/{reference['id']}")
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size) == ("PNG", (40, 30))


def test_photos_are_turned_upright(shared):
    exif = Image.Exif()
    exif[0x0112] = 6
    reference = upload(shared, encoded("JPEG", exif=exif)).json()
    assert (reference["width"], reference["height"]) == (30, 40)
    picture = Image.open(io.BytesIO(shared.client.get(f"/api/references/{reference['id']}").content))
    assert picture.size == (30, 40)


def test_previews_are_what_the_model_will_see(shared):
    reference = upload(shared, encoded("PNG", (640, 360))).json()
    for query, size in [
        ("", (128, 64)),
        ("?count=2", (80, 32)),
        ("?count=2&ref_size=320", (320, 176)),
        ("?ref_size=64", (64, 32)),
    ]:
        answer = shared.client.get(f"/api/references/{reference['id']}/preview{query}")
        assert Image.open(io.BytesIO(answer.content)).size == size, query
        again = shared.client.get(
            f"/api/references/{reference['id']}/preview{query}", headers={"If-None-Match": answer.headers["etag"]}
        )
        assert again.status_code == 304
    for query in (
        "count=0",
        "count=5",
        "count=x",
        "ref_size=0",
        "ref_size=15",
        "ref_size=5000",
        "ref_size=-1",
        "size=1",
    ):
        answer = shared.client.get(f"/api/references/{reference['id']}/preview?{query}")
        assert answer.status_code == 400, query
        assert answer.json()["error"]["param"] == query.split("=")[0], query


def test_a_picture_that_is_too_elongated_is_refused_where_it_is_used(shared):
    reference = upload(shared, encoded("PNG", (1000, 5))).json()
    answer = shared.client.get(f"/api/references/{reference['id']}/preview")
    assert answer.status_code == 400 and "elongated" in answer.json()["error"]["message"]
    answer = shared.client.post("/api/jobs", json={"prompt": "", "references": [reference["id"]]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "references[0]"
    assert "1000x5" in answer.json()["error"]["message"]


def test_what_is_no_picture_is_refused(shared):
    good = encoded("PNG")
    bomb = bytearray(good)
    bomb[16:24] = (30_000).to_bytes(4) * 2
    for content in (
        b"",
        b"<svg/>",
        b"\x89PNG\r\n\x1a\n",
        good[:60],
        b"\0" * 1000,
        bytes(bomb),
        b"GIF89a",
        b"RIFF\xff\xff\xff\xffWEBP",
    ):
        answer = upload(shared, content)
        assert answer.status_code == 400, content[:20]
        assert "picture" in answer.json()["error"]["message"]
    for kind in ("text/html", "application/json", "multipart/form-data"):
        assert upload(shared, good, kind).status_code == 415, kind


def test_more_bytes_than_allowed_are_refused(serve):
    server = serve("--max_upload", "2KiB")
    assert server.get("/api/model")["limits"]["upload_bytes"] == 2048
    noise = Image.effect_noise((200, 200), 90)
    content = io.BytesIO()
    noise.save(content, "PNG")
    for body in (content.getvalue(), (b"x" * 1000 for _ in range(50))):
        answer = upload(server, body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")
    assert not (server.data / "references").exists()


def test_a_huge_upload_is_refused_and_the_answer_arrives(shared):
    answer = upload(shared, b"\0" * (30 << 20))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../uno-web.sqlite",
        "%2e%2e%2funo-web.sqlite",
        "..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "x" * 64,
        "A" * 64,
        "0" * 63,
        "0" * 64,
        "0" * 65,
        "%00",
        "%ff",
        "%c0%ae%c0%ae",
        "0" * 62 + "%0a",
        ".",
        "con",
        "0" * 64 + "%00.png",
        "..%5c..%5cuno-web.sqlite",
        "*",
        "?",
        "%",
    ],
)
def test_names_lead_nowhere_else(shared, name):
    for path in (
        f"/api/references/{name}",
        f"/api/references/{name}/preview",
        f"/api/jobs/{name}",
        f"/api/jobs/{name}/pictures/0",
        f"/examples/{name}",
    ):
        # Sent as it is: clients would tidy it up.
        with socket.create_connection(("127.0.0.1", shared.port)) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        status = int(answer.split()[1])
        assert status in (400, 404), (path, answer[:200])
        assert b"SQLite" not in answer and b"root:" not in answer
    for n in ("-1", "0.png", "00x", "18446744073709551616", "..%2f0"):
        assert shared.client.get(f"/api/jobs/{'0' * 32}/pictures/{n}").status_code == 404


def test_uploads_survive_a_restart(server):
    reference = server.upload(MUG)
    assert server.stop() == 0
    server.start()
    assert server.client.get(f"/api/references/{reference['id']}").status_code == 200
    assert server.ended(server.job(references=[reference["id"]]))["state"] == "done"


def test_half_an_upload_leaves_nothing(server):
    head = (
        "POST /api/references HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + MUG.read_bytes()[:1000])
    assert server.get("/api/jobs") == {"jobs": [], "more": False}
    assert not (server.data / "references").exists()
