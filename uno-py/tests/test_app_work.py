"""What the app does beside Gradio: work that can be stopped, previews, the time left."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from contextlib import aclosing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from uno_rs import Defaults, UnoPipeline, noise
from uno_rs.app.inputs import Request
from uno_rs.app.preview import Pace, Preview, duration
from uno_rs.app.work import Finished, Started, Step, Waiting, Worker


def request(**changes: object) -> Request:
    fields = {"prompt": "a", "width": 64, "height": 80, "guidance": 4.0, "num_steps": 3, "seed": 5}
    return Request(**{**fields, "ref_size": None, "references": [], **changes})  # type: ignore[arg-type]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "uno-app generation"]


def wait_for_threads() -> None:
    for thread in threads():
        thread.join(600)
    assert not threads()


def test_a_generation_tells_its_steps_and_ends_with_a_file(pipeline: UnoPipeline, tmp_path: Path) -> None:
    async def run() -> list[object]:
        return [update async for update in Worker(pipeline).run(request(), str(tmp_path))]

    first, *steps, last = asyncio.run(run())
    assert isinstance(first, Started)
    assert all(isinstance(step, Step) and step.total == 3 for step in steps) and steps
    assert isinstance(last, Finished)
    assert last.path.name == "uno-5.png" and last.path.parent.parent == tmp_path
    assert [path.name for path in last.path.parent.iterdir()] == ["uno-5.png"]
    wait_for_threads()


def test_closing_stops_the_work_and_leaves_no_file(pipeline: UnoPipeline, tmp_path: Path) -> None:
    async def run() -> None:
        long = request(num_steps=5000)
        async with aclosing(Worker(pipeline).run(long, str(tmp_path))) as updates:
            async for update in updates:
                if isinstance(update, Step):
                    return

    asyncio.run(run())
    wait_for_threads()
    assert not list(tmp_path.iterdir())


def test_cancelling_the_task_stops_the_work_at_once_for_who_waits(pipeline: UnoPipeline, tmp_path: Path) -> None:
    worker = Worker(pipeline)

    async def consume() -> None:
        async for _ in worker.run(request(num_steps=5000), str(tmp_path)):
            pass

    async def run() -> None:
        task = asyncio.create_task(consume())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    wait_for_threads()


def test_one_waits_for_the_other_and_both_can_be_stopped(pipeline: UnoPipeline, tmp_path: Path) -> None:
    worker = Worker(pipeline)

    async def run() -> list[object]:
        first = worker.run(request(num_steps=5000), str(tmp_path))
        second = worker.run(request(), str(tmp_path))
        seen: list[object] = [await anext(first), await anext(second)]
        await first.aclose()
        seen += [update async for update in second]
        return seen

    seen = asyncio.run(run())
    assert isinstance(seen[0], Started) and isinstance(seen[1], Waiting)
    assert isinstance(seen[2], Started) and isinstance(seen[-1], Finished)
    wait_for_threads()


def test_stopping_the_worker_ends_all_that_goes_on(pipeline: UnoPipeline, tmp_path: Path) -> None:
    worker = Worker(pipeline)

    async def run() -> None:
        updates = worker.run(request(num_steps=5000), str(tmp_path))
        await anext(updates)
        worker.stop()
        await asyncio.to_thread(wait_for_threads)
        await updates.aclose()

    asyncio.run(run())
    assert not list(tmp_path.iterdir())


def test_what_the_pipeline_raises_comes_out(pipeline: UnoPipeline, tmp_path: Path) -> None:
    async def run() -> None:
        thin = PIL.Image.new("RGB", (900, 9))
        async for _ in Worker(pipeline).run(request(references=[thin]), str(tmp_path)):
            pass

    with pytest.raises(ValueError, match="too elongated"):
        asyncio.run(run())
    wait_for_threads()


def test_previews_show_the_latent_that_the_last_step_shows_as_it_is(pipeline: UnoPipeline) -> None:
    asked = request(num_steps=2)
    latents: list[np.ndarray] = []
    pipeline(
        "a",
        width=64,
        height=80,
        num_inference_steps=2,
        progress=False,
        callback_on_step_end=lambda _, __, ___, tensors: latents.append(tensors["latents"]),
    )
    preview = Preview(pipeline, asked)
    assert preview.after(0, latents[0], is_shown=False) is None
    url = preview.after(1, latents[1], is_shown=True)
    assert url is not None
    with PIL.Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) as image:
        assert np.array_equal(np.asarray(image), pipeline.preview(latents[1], height=80, width=64))


def test_a_pipeline_shows_latents_packed_or_not(pipeline: UnoPipeline) -> None:
    from common import pack

    latents = noise(3, 80, 64)
    picture = pipeline.preview(latents)
    assert (picture.dtype, picture.shape) == (np.uint8, (10, 8, 3))
    assert np.array_equal(pipeline.preview(pack(latents), height=80, width=64), picture)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((1, 20, 64), {}, "without height and width"),
        ((1, 20, 64), {"height": 80, "width": 80}, r"\(1, 25, 4 \* C\)"),
        ((1, 20, 63), {"height": 80, "width": 64}, "latents"),
        ((2, 20, 64), {"height": 80, "width": 64}, "latents"),
        ((1, 0, 64), {"height": 0, "width": 0}, "latents"),
        ((1, 3, 4, 4), {}, r"\[1, 16, h, w\]"),
        ((2, 16, 4, 4), {}, r"\[1, 16, h, w\]"),
        ((16, 4), {}, "4 dimensions"),
        ((1, 16, 0, 4), {}, "empty"),
    ],
)
def test_latents_of_another_shape_are_refused(
    pipeline: UnoPipeline, shape: tuple[int, ...], size: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.preview(np.zeros(shape, np.float32), **size)


def test_a_pipeline_says_what_its_model_was_made_for(pipeline: UnoPipeline) -> None:
    defaults = pipeline.defaults
    assert defaults == Defaults(width=128, height=128, guidance_scale=4.0, ref_sizes=(128, 80))
    assert [defaults.ref_size(n) for n in range(4)] == [128, 128, 80, 80]
    settings = pipeline("a", num_inference_steps=1, progress=False).metadata[0]
    assert (settings["width"], settings["height"], settings["guidance"]) == (128, 128, 4.0)


def test_the_time_left_is_told_from_the_second_step_on() -> None:
    pace = Pace(10)
    assert pace.left(1) is None
    left = pace.left(2)
    assert left is not None and left >= 0


def test_durations_are_in_words() -> None:
    texts = [duration(seconds) for seconds in (0.1, 59.4, 61, 3599, 7260)]
    assert texts == ["1 s", "59 s", "1 min 1 s", "59 min 59 s", "2 h 1 min"]
