"""The pipeline as people use it: arguments, outputs, callbacks, threads, errors."""

from __future__ import annotations

import gc
import inspect
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import uno_rs
from common import ASSETS, ROOT, pack, pixels
from uno_rs import UnoOutput, UnoPipeline, read_settings

PROMPT = "A robot beside a teapot"
ROBOT = ASSETS / "robot.png"
TEAPOT = ASSETS / "teapot.png"
#: As small and quick as a generation can be.
SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 2, "progress": False}
#: Long enough to be stopped on the way.
LONG: dict[str, Any] = SMALL | {"num_inference_steps": 5000}

# Arguments


def test_everything_after_the_prompt_is_keyword_only_and_named_as_in_diffusers() -> None:
    parameters = inspect.signature(UnoPipeline.__call__).parameters
    assert [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY] == ["self", "prompt"]
    of_diffusers = {
        "prompt", "height", "width", "num_inference_steps", "guidance_scale", "num_images_per_prompt", "latents",
        "output_type", "callback_on_step_end",
    }  # fmt: skip
    assert of_diffusers <= set(parameters)
    defaults = {name: p.default for name, p in parameters.items()}
    assert (defaults["num_inference_steps"], defaults["seed"], defaults["pe"]) == (25, 3407, "d")
    for maker in (UnoPipeline.from_pretrained, UnoPipeline.from_files):
        positional = [name for name, p in inspect.signature(maker).parameters.items() if p.kind is not p.KEYWORD_ONLY]
        assert positional in ([], ["path_or_repo"])


def test_positional_arguments_after_the_prompt_are_refused(pipeline: UnoPipeline) -> None:
    with pytest.raises(TypeError, match="positional"):
        pipeline(PROMPT, 64, 64)  # type: ignore[misc]


def test_one_prompt_gives_one_picture_and_its_settings(pipeline: UnoPipeline) -> None:
    result = pipeline(PROMPT, seed=7, guidance_scale=3.5, **SMALL)
    assert isinstance(result, UnoOutput)
    assert len(result) == len(result.images) == len(result.metadata) == 1
    (image,) = result.images
    assert isinstance(image, PIL.Image.Image)
    assert (image.mode, image.size) == ("RGB", (48, 32))
    settings = result.metadata[0]
    assert (settings["prompt"], settings["seed"], settings["guidance"]) == (PROMPT, 7, 3.5)
    assert (settings["width"], settings["height"], settings["num_steps"]) == (48, 32, 2)
    assert settings["software"] == f"uno-rs {uno_rs.__version__}"
    assert all(len(part["fingerprint"]) == 64 for part in settings["model"])
    assert result.seconds > 0


def test_a_list_of_prompts_gives_for_each_what_it_gives_alone(pipeline: UnoPipeline) -> None:
    prompts = [PROMPT, "", "A clock on the beach"]
    together = pixels(pipeline(prompts, seed=5, **SMALL))
    assert len(together) == 3
    for prompt, picture in zip(prompts, together):
        assert np.array_equal(picture, pixels(pipeline(prompt, seed=5, **SMALL))[0])


def test_several_images_per_prompt_count_seeds_up_and_start_anew_for_each_prompt(pipeline: UnoPipeline) -> None:
    result = pipeline(["a", "b"], seed=10, num_images_per_prompt=2, **SMALL)
    assert [(m["prompt"], m["seed"]) for m in result.metadata] == [("a", 10), ("a", 11), ("b", 10), ("b", 11)]
    assert np.array_equal(pixels(result)[3], pixels(pipeline("b", seed=11, **SMALL))[0])


def test_a_sequence_of_seeds_gives_each_picture_its_own(pipeline: UnoPipeline) -> None:
    for seeds in ([4, 2**64 - 1], (4, 2**64 - 1), np.array([4, 2**64 - 1], dtype=np.uint64)):
        result = pipeline(["a", "b"], seed=seeds, **SMALL)
        assert [m["seed"] for m in result.metadata] == [4, 2**64 - 1]
    assert pipeline("a", seed=np.int64(9), **SMALL).metadata[0]["seed"] == 9


def test_a_reference_may_be_a_path_a_pil_image_or_an_array(pipeline: UnoPipeline) -> None:
    image = PIL.Image.open(ROBOT).convert("RGB")
    array = np.asarray(image)
    floats = array.astype(np.float32) / 255
    path = pixels(pipeline(PROMPT, reference_images=[ROBOT], ref_size=64, **SMALL))[0]
    for reference in (ROBOT, str(ROBOT), image, array, floats, [image], (array,), np.asfortranarray(array)):
        assert np.array_equal(path, pixels(pipeline(PROMPT, reference_images=reference, ref_size=64, **SMALL))[0])
    assert not np.array_equal(path, pixels(pipeline(PROMPT, **SMALL))[0])


def test_several_references_are_taken_in_their_order(pipeline: UnoPipeline) -> None:
    def one(*references: Path) -> np.ndarray:
        return pixels(pipeline(PROMPT, reference_images=references, ref_size=64, **SMALL))[0]

    assert not np.array_equal(one(ROBOT, TEAPOT), one(TEAPOT, ROBOT))
    assert not np.array_equal(one(ROBOT, TEAPOT), one(ROBOT))


def test_settings_name_the_references_and_their_hashes(pipeline: UnoPipeline) -> None:
    import hashlib

    image = PIL.Image.new("RGB", (40, 50), (200, 30, 30))
    arguments = SMALL | {"ref_size": 64, "exif_orientation": False}
    settings = pipeline(PROMPT, reference_images=[ROBOT, image], **arguments).metadata[0]
    file, memory = settings["references"]
    assert file["path"] == str(ROBOT.resolve())
    assert file["sha256"] == hashlib.sha256(ROBOT.read_bytes()).hexdigest()
    assert memory["sha256"] == hashlib.sha256(image.tobytes()).hexdigest()
    assert (memory["width"], memory["height"]) == (48, 64)
    assert settings["exif_orientation"] is False


def test_exif_orientation_is_honoured_unless_turned_off(pipeline: UnoPipeline, tmp_path: Path) -> None:
    upright = PIL.Image.open(ROBOT).convert("RGB").crop((0, 0, 64, 48))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / "turned.png"
    upright.transpose(PIL.Image.Transpose.ROTATE_90).save(turned, exif=exif)
    wanted = uno_rs.preprocess(upright, long_side=64)
    assert np.array_equal(uno_rs.preprocess(turned, long_side=64), wanted)
    assert uno_rs.preprocess(turned, long_side=64, exif_orientation=False).shape == (64, 48, 3)


def test_given_latents_replace_drawn_noise(pipeline: UnoPipeline) -> None:
    drawn = uno_rs.noise(11, SMALL["height"], SMALL["width"])
    wanted = pixels(pipeline(PROMPT, seed=11, **SMALL))[0]
    for latents in (drawn, drawn.astype(np.float64), np.asfortranarray(drawn)):
        result = pipeline(PROMPT, latents=latents, **SMALL)
        assert np.array_equal(pixels(result)[0], wanted)
    assert result.metadata[0]["noise"] is None


def test_output_types_are_the_same_picture_in_other_forms(pipeline: UnoPipeline) -> None:
    pil = np.stack(pixels(pipeline(["a", "b"], **SMALL)))
    array = pipeline(["a", "b"], output_type="np", **SMALL).images
    assert isinstance(array, np.ndarray)
    assert (array.dtype, array.shape) == (np.float32, (2, 32, 48, 3))
    assert np.array_equal(np.rint(array * 255), pil)
    latents = pipeline(["a", "b"], output_type="latent", **SMALL).images
    assert isinstance(latents, np.ndarray)
    assert (latents.dtype, latents.shape) == (np.float32, (2, 16, 4, 6))


def test_sides_are_rounded_down_to_multiples_of_16_and_it_is_said(
    pipeline: UnoPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    result = pipeline(PROMPT, **SMALL | {"height": 47, "width": 63})
    assert result.images[0].size == (48, 32)
    assert any("63x47" in notice and "48x32" in notice for notice in result.notices)
    assert "63x47" in capsys.readouterr().err


def test_repeating_a_generation_gives_the_same_bytes(pipeline: UnoPipeline) -> None:
    first, second = (pixels(pipeline(PROMPT, reference_images=ROBOT, ref_size=64, **SMALL))[0] for _ in range(2))
    assert np.array_equal(first, second)


def test_other_places_of_references_schedules_and_noise_give_other_pictures(pipeline: UnoPipeline) -> None:
    def one(**options: Any) -> bytes:
        return pixels(pipeline(PROMPT, reference_images=ROBOT, ref_size=64, **SMALL | options))[0].tobytes()

    others = [
        {}, {"pe": "h"}, {"pe": "w"}, {"pe": "o"}, {"noise": "torch-cpu"}, {"noise_dtype": "float32"},
        {"schedule": "flux", "height": 256, "num_inference_steps": 3}, {"height": 256, "num_inference_steps": 3},
        {"reference_seed": 1}, {"seed": 1}, {"guidance_scale": 2.0},
    ]  # fmt: skip
    assert len({one(**options) for options in others}) == len(others)


def test_offloading_and_merging_hardly_change_the_picture(pipeline: UnoPipeline) -> None:
    wanted = pixels(pipeline(PROMPT, reference_images=ROBOT, ref_size=64, **SMALL))[0].astype(int)
    for options in ({"offload": True}, {"merge_lora": True}):
        other = UnoPipeline.from_pretrained(progress=False, **options)  # type: ignore[arg-type]
        for _ in range(2):
            got = pixels(other(PROMPT, reference_images=ROBOT, ref_size=64, **SMALL))[0]
            assert np.abs(got - wanted).max() <= 2


def test_a_lora_scale_of_zero_is_plain_flux() -> None:
    plain = UnoPipeline.from_pretrained(lora_scale=0.0, progress=False)(PROMPT, **SMALL)
    half = UnoPipeline.from_pretrained(lora_scale=0.5, progress=False)(PROMPT, **SMALL)
    assert not np.array_equal(pixels(plain)[0], pixels(half)[0])
    assert half.metadata[0]["lora_scale"] == 0.5


def test_a_device_by_another_name_computes_alike() -> None:
    def load(device: str) -> UnoPipeline:
        return UnoPipeline.from_pretrained(device=device, memory="2GiB", progress=False)

    wanted = load("cpu")
    made = wanted(PROMPT, **SMALL)
    for device in ["CPU", "flex", "cpu:0", *(["auto"] if list(uno_rs.BACKENDS) == ["cpu"] else [])]:
        pipeline = load(device)
        assert (pipeline.device, repr(pipeline)) == ("cpu", repr(wanted)), device
        # Weights as they are stored take less than all of them in f32.
        assert pipeline.memory_plan == wanted.memory_plan, device
        same = pipeline(PROMPT, **SMALL)
        assert same.metadata == made.metadata, device
        assert np.array_equal(pixels(same), pixels(made)), device


def test_tiles_of_the_autoencoder_are_recorded() -> None:
    tiled = UnoPipeline.from_pretrained(memory="150MiB", plan_size=(512, 512), progress=False)
    assert tiled.memory_plan is not None and "overlapping tiles" in tiled.memory_plan
    assert tiled(PROMPT, **SMALL).metadata[0]["vae_tile"] in (96, 64, 48, 32)
    whole = UnoPipeline.from_pretrained(memory=None, progress=False)
    assert whole(PROMPT, **SMALL).metadata[0]["vae_tile"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": -64}, "width: got -64, wanted 16 to 8192 pixels"),
        ({"height": -1}, "height: got -1, wanted 16 to 8192 pixels"),
        ({"height": 1 << 80}, "height: got .*, wanted 16 to 8192 pixels"),
        ({"num_inference_steps": -2}, "num_steps: got -2, wanted 1 to 10000"),
        ({"ref_size": -1}, "ref_size: got -1, wanted 16 to 8192 pixels"),
        ({"reference_seed": -1}, "reference_seed: got -1, wanted 0 to "),
        ({"reference_cache": -1}, "reference_cache: got -1, wanted 1 step"),
        ({"seed": -1}, "seed: got -1, wanted 0 to "),
    ],
)
def test_numbers_below_zero_are_told_what_is_taken(
    pipeline: UnoPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(PROMPT, **SMALL | options)


def test_a_pipeline_says_what_it_is(pipeline: UnoPipeline) -> None:
    assert (pipeline.model_type, pipeline.device) == ("embedded", "cpu")
    assert repr(pipeline) == 'UnoPipeline(embedded, device="cpu", dtype=F32)'


def test_files_can_be_given_one_by_one() -> None:
    model = ROOT / "uno-models" / "assets" / "tiny"
    made = UnoPipeline.from_files(
        dit=model / "flux1-dev.safetensors",
        ae=model / "ae.safetensors",
        t5=model / "t5",
        clip=model / "clip",
        lora=model / "dit_lora.safetensors",
        progress=False,
    )
    wanted = UnoPipeline.from_pretrained(model, progress=False)(PROMPT, **SMALL)
    assert np.array_equal(pixels(made(PROMPT, **SMALL))[0], pixels(wanted)[0])
    assert made.model_type == "flux-dev"


# Callbacks, progress, Ctrl-C


def test_a_callback_receives_what_that_of_diffusers_receives(pipeline: UnoPipeline) -> None:
    seen: list[tuple[Any, int, float, np.ndarray]] = []

    def callback(pipe: UnoPipeline, step: int, time: float, tensors: dict[str, Any]) -> dict[str, Any]:
        assert list(tensors) == ["latents"]
        seen.append((pipe, step, time, tensors["latents"]))
        return tensors

    arguments = SMALL | {"num_inference_steps": 4, "output_type": "latent"}
    result = pipeline(["a", "b"], callback_on_step_end=callback, **arguments)
    assert all(pipe is pipeline for pipe, *_ in seen)
    assert [step for _, step, *_ in seen] == [0, 1, 2, 3]
    times = uno_rs.schedule(4, (SMALL["width"] // 8) * (SMALL["height"] // 8) // 256)
    assert np.allclose([time for _, _, time, _ in seen], times[:-1], atol=1e-6)
    assert all(latents.shape == (2, 6, 64) and latents.dtype == np.float32 for *_, latents in seen)
    assert np.array_equal(seen[-1][3], pack(np.asarray(result.images)))


def test_a_callback_may_return_nothing_but_no_other_latents(pipeline: UnoPipeline) -> None:
    wanted = pixels(pipeline(PROMPT, **SMALL))[0]
    for answer in (None, {}):
        result = pipeline(PROMPT, callback_on_step_end=lambda *_, answer=answer: answer, **SMALL)
        assert np.array_equal(pixels(result)[0], wanted)

    def other(_pipe: UnoPipeline, _step: int, _time: float, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] * 2}

    def replaced(_pipe: UnoPipeline, _step: int, _time: float, tensors: dict[str, Any]) -> None:
        tensors["latents"] = tensors["latents"] * 2

    def in_place(_pipe: UnoPipeline, _step: int, _time: float, tensors: dict[str, Any]) -> None:
        tensors["latents"] *= 2

    for callback, message in ((other, "not supported"), (replaced, "not supported"), (in_place, "read-only")):
        with pytest.raises(ValueError, match=message):
            pipeline(PROMPT, callback_on_step_end=callback, **SMALL)


class Own(Exception):
    """An exception that is none of ours."""


def test_an_exception_in_a_callback_stops_the_work_and_surfaces_unchanged(pipeline: UnoPipeline) -> None:
    raised = Own("enough", 42)
    steps = []

    def callback(_pipe: UnoPipeline, step: int, *_: object) -> None:
        steps.append(step)
        if step == 3:
            raise raised

    with pytest.raises(Own) as caught:
        pipeline(PROMPT, callback_on_step_end=callback, **LONG)
    assert caught.value is raised
    assert caught.value.args == ("enough", 42)
    assert steps == [0, 1, 2, 3]
    assert any(entry.name == "callback" for entry in caught.traceback)


@pytest.mark.parametrize("base", [SystemExit, GeneratorExit, KeyboardInterrupt])
def test_exceptions_that_are_no_errors_surface_too(pipeline: UnoPipeline, base: type[BaseException]) -> None:
    def callback(*_: object) -> None:
        raise base

    with pytest.raises(base):
        pipeline(PROMPT, callback_on_step_end=callback, **LONG)


def test_ctrl_c_during_a_callback_stops_the_work(pipeline: UnoPipeline) -> None:
    steps = []

    def callback(_pipe: UnoPipeline, step: int, *_: object) -> None:
        steps.append(step)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pipeline(PROMPT, callback_on_step_end=callback, **LONG)
    assert len(steps) <= 4


def test_ctrl_c_from_outside_stops_the_work_within_a_step_and_the_pipeline_works_on(pipeline: UnoPipeline) -> None:
    wanted = pixels(pipeline(PROMPT, **SMALL))[0]
    steps: list[int] = []
    at_signal: list[int] = []
    running = threading.Event()

    def callback(_pipe: UnoPipeline, step: int, *_: object) -> None:
        steps.append(step)
        if step == 5:
            running.set()

    def interrupt() -> None:
        running.wait()
        at_signal.append(len(steps))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline(PROMPT, callback_on_step_end=callback, **LONG)
    finally:
        running.set()
        thread.join()
    # One step may end between the count and the signal, one more is under way.
    assert len(steps) <= at_signal[0] + 2
    assert np.array_equal(pixels(pipeline(PROMPT, **SMALL))[0], wanted)


def test_ctrl_c_without_a_callback_ends_a_program() -> None:
    program = """
        import os, signal, threading, time
        from uno_rs import UnoPipeline
        pipeline = UnoPipeline.from_pretrained(progress=False)
        def interrupt():
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            pipeline("a", height=32, width=32, num_inference_steps=10000, progress=False)
        except KeyboardInterrupt:
            pipeline("a", height=32, width=32, num_inference_steps=1, progress=False)
            print("interrupted, and used again")
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "interrupted, and used again", done.stderr


def test_a_bar_is_shown_with_tqdm_and_not_without(
    pipeline: UnoPipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tqdm")
    shown = SMALL | {"progress": True}
    pipeline(PROMPT, **shown)
    err = capsys.readouterr().err
    assert "denoising" in err and "2/2" in err
    pipeline(PROMPT, **SMALL)
    assert capsys.readouterr().err == ""
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(pipeline(PROMPT, **shown)) == 1
    assert capsys.readouterr().err == ""


def test_a_bar_is_closed_when_the_work_is_stopped(pipeline: UnoPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = pytest.importorskip("tqdm.auto")
    closed = []

    class Bar(auto.tqdm):  # type: ignore[name-defined,misc]
        def close(self) -> None:
            closed.append(self.n)
            super().close()

    monkeypatch.setattr(auto, "tqdm", Bar)

    def callback(_pipe: UnoPipeline, step: int, *_: object) -> None:
        if step == 2:
            raise Own

    with pytest.raises(Own):
        pipeline(PROMPT, callback_on_step_end=callback, **LONG | {"progress": True})
    assert closed and closed[0] == 3


# Threads and memory


def test_the_interpreter_lock_is_released_during_work(pipeline: UnoPipeline) -> None:
    count = 0
    stop = threading.Event()
    counts: list[int] = []

    def counting() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1

    def callback(*_: object) -> None:
        counts.append(count)

    thread = threading.Thread(target=counting)
    thread.start()
    try:
        pipeline(PROMPT, callback_on_step_end=callback, height=128, width=128, num_inference_steps=20, progress=False)
    finally:
        stop.set()
        thread.join()
    moved = sum(after > before for before, after in zip(counts, counts[1:]))
    print(f"another thread moved on during {moved} of {len(counts) - 1} steps, to {counts[-1]}")
    # On a busy machine the other thread may miss some of them.
    assert moved >= len(counts) // 2


def test_four_threads_on_one_pipeline_get_what_each_gets_alone(pipeline: UnoPipeline) -> None:
    def one(i: int) -> bytes:
        reference = [None, ROBOT, TEAPOT, [ROBOT, TEAPOT]][i % 4]
        result = pipeline(f"prompt {i}", seed=i, reference_images=reference, ref_size=48 + 16 * (i % 3), **SMALL)
        return pixels(result)[0].tobytes()

    alone = [one(i) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(12))) == alone


def test_an_exception_in_one_thread_leaves_the_others_alone(pipeline: UnoPipeline) -> None:
    wanted = pixels(pipeline(PROMPT, **SMALL))[0].tobytes()

    def stop(*_: object) -> None:
        raise Own

    def one(i: int) -> bytes | None:
        if i % 2:
            with pytest.raises(Own):
                pipeline(PROMPT, callback_on_step_end=stop, **LONG)
            return None
        return pixels(pipeline(PROMPT, **SMALL))[0].tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(12))) == [None if i % 2 else wanted for i in range(12)]


def test_a_pipeline_is_collected_after_it_was_stopped_and_a_new_one_works() -> None:
    wanted = None
    for _ in range(3):
        made = UnoPipeline.from_pretrained(progress=False)
        picture = pixels(made(PROMPT, **SMALL))[0]
        wanted = picture if wanted is None else wanted
        assert np.array_equal(picture, wanted)

        def stop(pipe: UnoPipeline, *_: object) -> None:
            raise Own

        with pytest.raises(Own):
            made(PROMPT, callback_on_step_end=stop, **LONG)
        assert np.array_equal(pixels(made(PROMPT, **SMALL))[0], wanted)
        gone = weakref.ref(made)
        del made
        gc.collect()
        assert gone() is None


MEMORY = """
    import gc, threading
    import psutil
    from uno_rs import UnoPipeline

    class Stop(Exception): pass
    def stop(pipe, step, *_):
        if step == 1:
            raise Stop
    small = dict(height=64, width=64, num_inference_steps=3, ref_size=64, reference_images=ROBOT, progress=False)

    def use(pipeline, i):
        # Encodings of prompts are remembered (up to 64 MB of them), so that these come again.
        pipeline(f"prompt {i % 8}", seed=i, **small)
        try:
            pipeline("stopped", callback_on_step_end=stop, **small)
        except Stop:
            pass

    def anew(i):
        use(UnoPipeline.from_pretrained(progress=False), i)

    kept = UnoPipeline.from_pretrained(progress=False)
    def threads(i):
        all = [threading.Thread(target=use, args=(kept, j)) for j in range(4)]
        for thread in all: thread.start()
        for thread in all: thread.join()

    process = psutil.Process()
    # Threads make four generations at once.
    work, rounds = dict(kept=(lambda i: use(kept, i), 50), anew=(anew, 50), threads=(threads, 13))[KIND]
    for i in range(rounds):
        work(i)
        if i == rounds // 5:
            gc.collect()
            before = process.memory_info().rss
    gc.collect()
    print((process.memory_info().rss - before) / 2**20)
"""


@pytest.mark.parametrize("kind", ["kept", "anew", "threads"])
def test_memory_stays_flat_over_50_generations(kind: str) -> None:
    pytest.importorskip("psutil")
    program = f"ROBOT, KIND = {str(ROBOT)!r}, {kind!r}\n" + textwrap.dedent(MEMORY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    growth = float(done.stdout)
    print(f"{kind}: {growth:+.1f} MB from the 10th to the 50th")
    assert growth < 8


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_type": "pt"}, "output_type.*'pt'"),
        ({"num_images_per_prompt": 0}, "at least 1"),
        ({"seed": -1}, "seed.*-1"),
        ({"seed": 2**64}, "seed"),
        ({"seed": [1, 2, 3]}, "3 seeds for 1 picture"),
        ({"height": 0}, "height"),
        ({"width": 100_000}, "width"),
        ({"num_inference_steps": 0}, "step"),
        ({"num_inference_steps": 10**9}, "step"),
        ({"guidance_scale": float("nan")}, "guidance"),
        ({"pe": "x"}, "pe"),
        ({"noise": "numpy"}, "noise.*numpy"),
        ({"noise_dtype": "float16"}, "noise_dtype.*float16"),
        ({"schedule": "karras"}, "schedule.*karras"),
        ({"ref_size": 3}, "ref_size"),
        ({"latents": np.zeros((1, 16, 3, 3), np.float32)}, "latents"),
        ({"latents": np.zeros((16, 4, 6), np.float32)}, "latents.*4 dimensions"),
        ({"latents": np.zeros((1, 16, 0, 6), np.float32)}, "latents.*empty"),
        ({"reference_images": np.zeros((4, 4, 5), np.uint8)}, "reference image 0.*shape"),
        ({"reference_images": np.full((4, 4), 2.0)}, "0 to 1"),
        ({"reference_images": np.zeros((4, 4, 3), np.int32)}, "int32"),
        ({"reference_images": np.zeros((16, 4000, 3), np.uint8)}, "4000"),
    ],
)
def test_what_cannot_be_done_is_a_value_error_that_says_why(
    pipeline: UnoPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(PROMPT, **SMALL | options)


@pytest.mark.parametrize(
    "options",
    [
        {"reference_images": [3]},
        {"reference_images": [[ROBOT]]},
        {"seed": 1.5},
        {"seed": "7"},
        {"height": "64"},
        {"num_inference_steps": 2.5},
        {"guidance_scale": "much"},
        {"prompt": [3]},
        {"prompt": None},
    ],
)
def test_arguments_of_a_wrong_type_are_type_errors(pipeline: UnoPipeline, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        pipeline(**{"prompt": PROMPT} | SMALL | options)


def test_no_prompt_is_a_value_error(pipeline: UnoPipeline) -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        pipeline([], **SMALL)


def test_files_that_are_missing_are_file_not_found_errors(pipeline: UnoPipeline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        pipeline(PROMPT, reference_images="nowhere.png", **SMALL)
    with pytest.raises(FileNotFoundError, match="nowhere/at-all.*bytedance-research/UNO"):
        UnoPipeline.from_pretrained("nowhere/at-all")
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        uno_rs.AutoEncoder(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        read_settings(tmp_path / "nowhere.png")


def test_a_reference_that_is_no_picture_names_itself(pipeline: UnoPipeline, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(OSError, match="broken.png"):
        pipeline(PROMPT, reference_images=broken, **SMALL)


def test_damaged_and_missing_model_files_are_checkpoint_errors(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "uno-models" / "assets" / "tiny", model)
    dit = model / "flux1-dev.safetensors"
    dit.write_bytes(dit.read_bytes()[:1000])
    with pytest.raises(uno_rs.CheckpointError, match="flux1-dev.safetensors"):
        UnoPipeline.from_pretrained(model, progress=False)
    dit.unlink()
    with pytest.raises((uno_rs.CheckpointError, FileNotFoundError), match="flux1-dev"):
        UnoPipeline.from_pretrained(model, progress=False, local_files_only=True)
    shutil.copy(model / "ae.safetensors", dit)
    with pytest.raises(uno_rs.CheckpointError, match="flux1-dev.safetensors"):
        UnoPipeline.from_pretrained(model, progress=False)
    assert issubclass(uno_rs.CheckpointError, uno_rs.UnoError)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    import json
    import struct

    model = tmp_path / "model"
    shutil.copytree(ROOT / "uno-models" / "assets" / "tiny", model)
    file = model / "flux1-dev.safetensors"
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    entry = json.loads(data[8 : 8 + length])["img_in.weight"]
    start = 8 + length + entry["data_offsets"][0]
    data[start : start + 2] = b"\xc0\x7f"
    file.write_bytes(data)
    damaged = UnoPipeline.from_pretrained(model, progress=False)
    with pytest.raises(uno_rs.NonFiniteError, match=r"img_in\.weight"):
        damaged(PROMPT, **SMALL)
    with pytest.raises(uno_rs.NonFiniteError, match="latents"):
        damaged(PROMPT, latents=np.full((1, 16, 4, 6), np.nan, np.float32), **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "abacus"}, "abacus"),
        ({"device": "cuda"}, "cuda"),
        ({"dtype": "int4"}, "int4"),
        ({"model_type": "sdxl"}, "sdxl"),
        ({"lora_scale": float("nan")}, "LoRA scale"),
    ],
)
def test_options_of_loading_that_cannot_be_are_value_errors(options: dict[str, Any], message: str) -> None:
    if options.get("device") in uno_rs.BACKENDS:
        pytest.skip("built with this backend")
    model = ROOT / "uno-models" / "assets" / "tiny"
    with pytest.raises(ValueError, match=message):
        UnoPipeline.from_pretrained(model, progress=False, **options)


# Results


def test_a_result_shows_its_pictures_and_settings_in_a_notebook(pipeline: UnoPipeline) -> None:
    result = pipeline('<b>bold</b> & "quoted"', seed=6, **SMALL | {"height": 47})
    shown = result._repr_html_()
    assert shown is not None
    assert shown.count("data:image/png;base64,") == 1
    assert "<b>bold</b>" not in shown and "&lt;b&gt;bold&lt;/b&gt; &amp; &quot;quoted&quot;" in shown
    assert "seed 6" in shown and "2 steps" in shown and "48x32" in shown
    assert pipeline("a", output_type="np", **SMALL)._repr_html_() is None


def test_saved_pictures_hold_their_settings(pipeline: UnoPipeline, tmp_path: Path) -> None:
    result = pipeline(["é 日本", "b"], reference_images=ROBOT, ref_size=64, **SMALL)
    paths = result.save(tmp_path / "new" / "folder")
    assert [os.path.basename(path) for path in paths] == ["0.png", "1.png"]
    for path, picture, settings in zip(paths, pixels(result), result.metadata):
        with PIL.Image.open(path) as image:
            assert np.array_equal(np.asarray(image), picture)
            assert image.text["Description"] == settings["prompt"]  # type: ignore[attr-defined]
        # Folders stay on this machine.
        recorded = read_settings(path)
        assert [reference["path"] for reference in recorded["references"]] == [ROBOT.name]
        assert settings["references"][0]["path"] == str(ROBOT)
        assert str(ROBOT.parent).encode() not in Path(path).read_bytes()
        assert with_names(recorded) == with_names(settings)
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["0.png", "1.png"]
    with pytest.raises(ValueError, match="output_type"):
        pipeline("a", output_type="np", **SMALL).save(tmp_path)


def with_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the names of files in place of their paths."""
    lists = {
        key: [record | {"path": os.path.basename(record["path"])} for record in settings[key]]
        for key in ("references", "model")
    }
    return settings | lists


def test_only_earlier_results_are_replaced(pipeline: UnoPipeline, tmp_path: Path) -> None:
    result = pipeline(["a", "b"], **SMALL)
    result.save(tmp_path)
    result.save(tmp_path)
    mine = tmp_path / "1.png"
    PIL.Image.new("RGB", (16, 16)).save(mine)
    (tmp_path / "0.png").unlink()
    before = mine.read_bytes()
    with pytest.raises(FileExistsError, match="1.png.*not replaced"):
        result.save(tmp_path)
    assert mine.read_bytes() == before
    assert os.listdir(tmp_path) == ["1.png"]


def test_a_picture_without_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    PIL.Image.new("RGB", (16, 16)).save(path)
    with pytest.raises(ValueError, match="plain.png"):
        read_settings(path)


def test_settings_are_exchanged_with_the_rust_program(pipeline: UnoPipeline, tmp_path: Path) -> None:
    program = ROOT / "target" / "release" / "examples" / "generate"
    if not program.exists():
        pytest.skip("examples/generate is not built (cargo build --release --example generate)")

    def run(*arguments: object) -> None:
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path, timeout=300
        )
        assert done.returncode == 0, done.stderr

    result = pipeline(PROMPT, seed=3, reference_images=[ROBOT, TEAPOT], ref_size=64, **SMALL)
    (ours,) = result.save(tmp_path / "ours")
    # The picture names its references without their folders: they are found by what they hold.
    run("--from", ours, "--image_paths", TEAPOT, ROBOT, "--save_path", tmp_path / "theirs")
    (theirs,) = (tmp_path / "theirs").rglob("*.png")
    with PIL.Image.open(theirs) as image:
        assert np.array_equal(np.asarray(image), pixels(result)[0])

    for file in (theirs, theirs.with_suffix(".json")):
        assert with_names(read_settings(file)) == with_names(result.metadata[0])


def test_approximations_are_off_recorded_and_refused_where_they_mean_nothing(pipeline: UnoPipeline) -> None:
    options = {**SMALL, "num_inference_steps": 6, "reference_images": ROBOT}
    exact = pipeline(PROMPT, **options)
    assert not {"first_block_cache", "reference_cache", "int8"} & exact.metadata[0].keys()
    assert np.array_equal(pixels(pipeline(PROMPT, **options, reference_cache=1)), pixels(exact))
    near = pipeline(PROMPT, **options, reference_cache=2, first_block_cache=0.5)
    assert (near.metadata[0]["reference_cache"], near.metadata[0]["first_block_cache"]) == (2, 0.5)
    assert any("first-block cache" in notice for notice in near.notices)
    assert not np.array_equal(pixels(near), pixels(exact))
    with pytest.raises(ValueError, match="first_block_cache.*above 0"):
        pipeline(PROMPT, **options, first_block_cache=0.0)
    with pytest.raises(ValueError, match="int8.*Q8_0"):
        UnoPipeline.from_pretrained(int8=True, progress=False)
