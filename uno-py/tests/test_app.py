"""The Gradio app over HTTP: pictures, refusals, cancelling, files."""

from __future__ import annotations

import io
import json
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from app_server import LONG, PATIENCE, SMALL, AppServer
from common import ASSETS, pixels
from uno_rs import UnoPipeline, preprocess, read_settings

gradio = pytest.importorskip("gradio", reason="gradio is not installed (pip install uno-rs[app])")
gradio_client = pytest.importorskip("gradio_client")

ROBOT = ASSETS / "robot.png"
TEAPOT = ASSETS / "teapot.png"
GENERATE = "/gradio_generate"


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    """The app with the small model."""
    with AppServer() as running:
        yield running


@pytest.fixture
def client(server: AppServer, tmp_path: Path) -> Any:
    """A user."""
    return connect(server, tmp_path)


def connect(server: AppServer, folder: Path) -> Any:
    return gradio_client.Client(server.url, verbose=False, download_files=folder / "downloads")


def file(path: Path) -> Any:
    return gradio_client.handle_file(path)


def array(path: str) -> np.ndarray:
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def refusal(client: Any, fields: dict[str, Any]) -> str:
    """The message with which it is refused."""
    with pytest.raises(gradio_client.exceptions.AppError) as caught:
        client.predict(**fields, api_name=GENERATE)
    return str(caught.value)


# Pictures


def test_two_references_give_the_picture_that_the_pipeline_gives(
    client: Any, pipeline: UnoPipeline, tmp_path: Path
) -> None:
    shown, download, *_ = client.predict(
        **SMALL | {"image_prompt1": file(ROBOT), "image_prompt2": file(TEAPOT)}, api_name=GENERATE
    )
    wanted = pipeline(
        SMALL["prompt"],
        reference_images=[ROBOT, TEAPOT],
        width=64,
        height=80,
        guidance_scale=3.5,
        num_inference_steps=2,
        seed=7,
        progress=False,
    )
    assert np.array_equal(array(shown), pixels(wanted)[0])
    assert np.array_equal(array(download), pixels(wanted)[0])
    assert not np.array_equal(array(client.predict(**SMALL, api_name=GENERATE)[0]), pixels(wanted)[0])


def test_the_download_holds_the_settings_and_no_names_of_temporary_files(client: Any) -> None:
    fields = SMALL | {"prompt": "é 日本", "image_prompt3": file(ROBOT), "ref_long_side": 64}
    _, download, *_ = client.predict(**fields, api_name=GENERATE)
    assert Path(download).name == "uno-7.png"
    settings = read_settings(download)
    assert (settings["prompt"], settings["seed"], settings["guidance"]) == ("é 日本", 7, 3.5)
    assert (settings["width"], settings["height"], settings["num_steps"]) == (64, 80, 2)
    (reference,) = settings["references"]
    assert (reference["path"], reference["width"]) == ("reference image 0", 64)


def test_references_are_turned_as_their_exif_orientation_says(client: Any, tmp_path: Path) -> None:
    upright = PIL.Image.open(ROBOT).convert("RGB").crop((0, 0, 320, 240))
    plain, turned = tmp_path / "plain.png", tmp_path / "turned.png"
    upright.save(plain)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    upright.transpose(PIL.Image.Transpose.ROTATE_90).save(turned, exif=exif)
    one, other = (client.predict(**SMALL | {"image_prompt1": file(f)}, api_name=GENERATE)[0] for f in (plain, turned))
    assert np.array_equal(array(one), array(other))


def test_a_seed_of_minus_one_is_another_one_each_time(client: Any) -> None:
    seeds = [read_settings(client.predict(**SMALL | {"seed": -1}, api_name=GENERATE)[1])["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1] and all(0 <= seed < 2**32 for seed in seeds)


def test_users_at_once_get_what_each_asked_for(server: AppServer, pipeline: UnoPipeline, tmp_path: Path) -> None:
    def one(seed: int) -> np.ndarray:
        user = connect(server, tmp_path / str(seed))
        return array(user.predict(**SMALL | {"seed": seed}, api_name=GENERATE)[0])

    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(one, range(4)))
    for seed, picture in enumerate(pictures):
        wanted = pipeline(
            SMALL["prompt"],
            width=64,
            height=80,
            guidance_scale=3.5,
            num_inference_steps=2,
            seed=seed,
            progress=False,
        )
        assert np.array_equal(picture, pixels(wanted)[0])


def test_progress_names_steps_and_shows_what_the_picture_looks_like(client: Any) -> None:
    job = client.submit(**SMALL | {"width": 256, "height": 256, "num_steps": 20}, api_name=GENERATE)
    shown = [outputs[2] for outputs in job]
    assert "Reading the prompt" in shown[0] or "Waiting" in shown[0]
    assert any("Step 1 of 20" in text and "data:image/png;base64," in text for text in shown)
    assert shown[-1] == ""


def test_the_last_answer_says_how_the_picture_was_made(client: Any) -> None:
    *_, settings, notices = client.predict(**SMALL | {"image_prompt1": file(ROBOT)}, api_name=GENERATE)
    text = json.dumps(settings)
    assert "seed 7, 64x80, 2 steps, guidance 3.5, reference 128x128" in text
    assert "prompt" not in json.dumps(notices)


def test_references_are_shown_as_the_model_sees_them(client: Any, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    PIL.Image.open(ROBOT).crop((0, 0, 512, 200)).save(wide)
    gallery = client.predict(-1, None, file(wide), None, file(TEAPOT), api_name="/references")
    entries = gallery["value"] if isinstance(gallery, dict) else gallery
    assert len(entries) == 2
    for entry, picture, place in zip(entries, (wide, TEAPOT), (2, 4)):
        wanted = preprocess(picture, long_side=80)
        assert np.array_equal(array(entry["image"]), wanted)
        assert entry["caption"] == f"{place}: {wanted.shape[1]}x{wanted.shape[0]}"


# Refusals


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 100, "Generation Width: got 100, wanted a multiple of 16 from 64 to 512"),
        ("width", 48, "Generation Width: got 48"),
        ("height", 528, "Generation Height: got 528"),
        ("height", 64.5, "Generation Height: got 64.5"),
        ("height", "64", "Generation Height: got '64'"),
        ("height", None, "Generation Height: got nothing"),
        ("num_steps", 0, "Number of steps: got 0, wanted 1 to 50"),
        ("num_steps", 51, "Number of steps: got 51"),
        ("num_steps", True, "Number of steps: got True"),
        ("guidance", 0.5, "Guidance: got 0.5, wanted 1 to 5"),
        ("guidance", "<b>much</b>", "Guidance: got '&lt;b&gt;much&lt;/b&gt;'"),
        ("seed", -2, "Seed (-1 for random): got -2, wanted -1, or a whole number from 0 to 9007199254740991"),
        ("seed", 1.5, "Seed (-1 for random): got 1.5"),
        ("seed", 2**53, "Seed (-1 for random): got 9007199254740992"),
        ("ref_long_side", 0, "Long side of Ref Images: got 0, wanted -1, or a whole number from 32 to 128"),
        ("ref_long_side", 129, "Long side of Ref Images: got 129"),
        ("prompt", 3, "Prompt: got 3, wanted a text"),
        ("prompt", "x" * 4001, "Prompt: got 4001 characters, wanted at most 4000"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_fields_name(
    client: Any, field: str, value: object, message: str
) -> None:
    assert message in refusal(client, SMALL | {field: value})


@pytest.mark.parametrize("name", ["text.png", "cut.png", "shape.svg", "page.pdf"])
def test_a_reference_that_is_no_whole_picture_is_named(client: Any, tmp_path: Path, name: str) -> None:
    contents = {
        "text.png": b"no picture",
        "cut.png": ROBOT.read_bytes()[:3000],
        "shape.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>',
        "page.pdf": b"%PDF-1.4\n",
    }
    path = tmp_path / name
    path.write_bytes(contents[name])
    message = refusal(client, SMALL | {"image_prompt2": file(path)})
    assert "Ref Img2: is" in message and "PNG, JPEG, WEBP, BMP, GIF or TIFF" in message
    assert str(tmp_path) not in message and "/gradio" not in message


def test_a_reference_that_is_too_elongated_is_refused(client: Any, tmp_path: Path) -> None:
    thin = tmp_path / "thin.png"
    PIL.Image.new("RGB", (900, 9)).save(thin)
    assert "too elongated: 900x9" in refusal(client, SMALL | {"image_prompt1": file(thin)})


def test_a_reference_with_too_many_pixels_is_refused_before_it_is_decoded(client: Any, tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    PIL.Image.new("1", (60_000, 60_000)).save(huge)
    assert "Ref Img1: has more than" in refusal(client, SMALL | {"image_prompt1": file(huge)})


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", str(ROBOT), "../../a.png", "a\0.png", "http://127.0.0.1:9/a.png", "https://example.org/a.png"],
)
@pytest.mark.parametrize("has_meta", [True, False])
def test_files_that_were_not_uploaded_are_refused(server: AppServer, path: str, has_meta: bool) -> None:
    picture: dict[str, Any] = {"path": path, "orig_name": "a.png"}
    if has_meta:
        picture["meta"] = {"_type": "gradio.FileData"}
    answer = call(server, SMALL | {"image_prompt1": picture})
    assert "event: error" in answer and "event: complete" not in answer, answer
    assert has_meta or "Ref Img1: got no uploaded file, wanted one" in answer, answer


def call(server: AppServer, fields: dict[str, Any]) -> str:
    """All events of a generation that is asked for without Gradio's client, which would look at it first."""
    address = f"{server.url.rstrip('/')}/gradio_api/call/gradio_generate"
    body = json.dumps({"data": list(fields.values())}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def test_files_and_queues_beyond_the_limits_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    big = io.BytesIO()
    PIL.Image.fromarray(noise).save(big, format="PNG")
    path = tmp_path / "big.png"
    path.write_bytes(big.getvalue())
    with AppServer("--max_upload", "10KiB", "--queue", 1) as server:
        client = connect(server, tmp_path)
        with pytest.raises(Exception, match="(?i)too large|maximum|exceed|413"):
            client.predict(**SMALL | {"image_prompt1": file(path)}, api_name=GENERATE)
        jobs = [connect(server, tmp_path).submit(**LONG, api_name=GENERATE)]
        wait_for_steps(jobs[0])
        jobs.append(connect(server, tmp_path).submit(**LONG, api_name=GENERATE))
        while server_queue(jobs[1]) is None:
            pass
        with pytest.raises(Exception, match="(?i)queue is full"):
            connect(server, tmp_path).predict(**SMALL, api_name=GENERATE)


# Cancelling, and the end


def wait_for_steps(job: Any) -> None:
    """Waits until a first step is done."""
    for outputs in job:
        if "Step" in outputs[2]:
            return
    raise AssertionError("it ended without a step")


def server_queue(job: Any) -> int | None:
    """The place of a job in the queue, as soon as it has one."""
    rank = job.status().rank
    return None if rank is None else int(rank)


def test_a_cancelled_generation_ends_and_others_follow(server: AppServer, tmp_path: Path) -> None:
    job = connect(server, tmp_path).submit(**LONG, api_name=GENERATE)
    wait_for_steps(job)
    job.cancel()
    other = connect(server, tmp_path)
    shown, *_ = other.predict(**SMALL, api_name=GENERATE)
    assert array(shown).shape == (80, 64, 3)
    assert not [path for path in server.files() if path.name == "uno-99.png"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_its_end_no_temporary_files_are_left(tmp_path: Path, number: int) -> None:
    with AppServer() as server:
        client = connect(server, tmp_path)
        client.predict(**SMALL | {"image_prompt1": file(ROBOT)}, api_name=GENERATE)
        job = client.submit(**LONG, api_name=GENERATE)
        wait_for_steps(job)
        assert server.files()
        assert server.stop(number) == 0
        assert not server.files()
        assert "Traceback" not in "".join(server.log), "".join(server.log)


def test_an_app_is_made_for_a_pipeline_of_ones_own(pipeline: UnoPipeline, tmp_path: Path) -> None:
    from app_server import free_port
    from uno_rs.app import create_app, launch_options

    with pytest.raises(ValueError, match="queue: got 0"):
        create_app(pipeline, queue=0)
    app = create_app(pipeline)
    assert isinstance(app, gradio.Blocks)
    assert not app.analytics_enabled
    _, address, public = app.launch(**launch_options(port=free_port()), prevent_thread_lock=True, quiet=True)
    try:
        assert address.startswith("http://127.0.0.1:") and public is None
        client = gradio_client.Client(address, verbose=False, download_files=tmp_path)
        assert array(client.predict(**SMALL, api_name=GENERATE)[0]).shape == (80, 64, 3)
    finally:
        app.close(verbose=False)
