"""Memory: plans, budgets, what does not fit, further LoRAs, and that no plan changes the picture."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import ASSETS, ROOT, pixels, read_safetensors
from uno_rs import CheckpointError, UnoPipeline

PROMPT = "A robot beside a teapot"
TINY = ROOT / "uno-models" / "assets" / "tiny"
REFERENCE: dict[str, Any] = {"reference_images": ASSETS / "robot.png", "ref_size": 64}
SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 2, "progress": False}


def load(**options: Any) -> UnoPipeline:
    return UnoPipeline.from_pretrained(progress=False, **options)


def picture(pipeline: UnoPipeline) -> np.ndarray:
    return pixels(pipeline(PROMPT, seed=4, **REFERENCE, **SMALL))[0]


def write_safetensors(file: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Writes float32 tensors."""
    import json

    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = np.ascontiguousarray(tensor, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


# Plans


def test_a_plan_is_made_unless_it_is_turned_off() -> None:
    plan = load().memory_plan
    assert plan is not None
    for words in ("memory: ", "nine tenths of the", "transformer", "text encoders", "autoencoder", "expected peak: "):
        assert words in plan
    assert load(memory=None).memory_plan is None


def test_every_plan_gives_the_same_picture() -> None:
    wanted = picture(load(memory=None))
    plans = set()
    for options in ({"memory": "64GiB"}, {"memory": "least"}, {"offload": True}, {"memory": "auto"}):
        pipeline = load(merge_lora=False, **options)
        plans.add(pipeline.memory_plan)
        # Twice, since what was streamed was let go of.
        for _ in range(2):
            assert np.array_equal(picture(pipeline), wanted), options
    assert any("streamed from disk at each step" in plan for plan in plans if plan)
    assert any("in memory" in plan for plan in plans if plan)


def test_offload_is_the_least_memory() -> None:
    plan = load(offload=True).memory_plan
    assert plan is not None
    assert "as little as possible" in plan and "streamed from disk at each prompt" in plan
    with pytest.raises(ValueError, match="give one of the two"):
        load(offload=True, memory="6GiB")


def test_what_cannot_fit_is_refused_with_the_numbers_and_what_would() -> None:
    with pytest.raises(ValueError, match=r"memory: got 0\.00 GiB, wanted at least \d+\.\d\d GiB.*smaller picture"):
        load(memory="1MiB")
    with pytest.raises(ValueError, match="at least"):
        load(memory="1GiB", plan_size=(8192, 8192))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "plenty"}, "6GiB"),
        ({"memory": ""}, "6GiB"),
        ({"memory": "-1GiB"}, "6GiB"),
        ({"plan_size": (0, 512)}, "plan_size: got 0, wanted 16 to 8192"),
        ({"plan_size": (512, 8193)}, "plan_size: got 8193"),
        ({"plan_references": 65}, "plan_references: got 65, wanted 0 to 64"),
        ({"plan_batch": 0}, "plan_batch: got 0, wanted 1"),
        ({"loras": [("style.safetensors", float("nan"))]}, "style.safetensors"),
    ],
)
def test_memory_that_cannot_be_is_a_value_error(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    if "loras" in options:
        file = write_safetensors(tmp_path / "style.safetensors", style_lora())
        options, message = {"loras": [(file, float("nan"))]}, "LoRA scale"
    with pytest.raises(ValueError, match=message):
        load(**options)


@pytest.mark.parametrize(
    "options", [{"memory": 6}, {"plan_size": 512}, {"plan_references": -1}, {"loras": "style.safetensors"}]
)
def test_memory_of_a_wrong_type_is_a_type_error(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        load(**options)


def test_larger_pictures_more_references_and_more_pictures_need_more() -> None:
    def peak(**options: Any) -> float:
        # References of the size that the official model takes.
        plan = UnoPipeline.from_pretrained(TINY, memory="least", progress=False, **options).memory_plan
        assert plan is not None
        return float(plan.split("denoising ")[1].split(" GiB")[0])

    small = peak(plan_size=(256, 256))
    for options in (
        {"plan_size": (2048, 2048)},
        {"plan_size": (256, 256), "plan_references": 32},
        {"plan_size": (256, 256), "plan_batch": 32},
    ):
        assert peak(**options) > small


def test_a_request_beyond_the_plan_is_made_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = load(memory="4GiB", plan_size=(32, 32), plan_references=0)
    assert pipeline(PROMPT, **SMALL | {"width": 32}).notices == []
    capsys.readouterr()
    beyond = [
        pipeline(PROMPT, **SMALL),
        pipeline([PROMPT, "a"], **SMALL | {"width": 32}),
        pipeline(PROMPT, **REFERENCE, **SMALL | {"width": 32}),
    ]
    for result in beyond:
        (notice,) = result.notices
        assert "more memory than was planned for" in notice and "plan_size" in notice
    assert capsys.readouterr().err.count("planned for") == 3
    # Nobody asked for a bound, and the model is small.
    assert load(plan_size=(32, 32), plan_references=0)(PROMPT, **SMALL).notices == []


# LoRAs


def style_lora(width: int = 160, block: int = 0) -> dict[str, np.ndarray]:
    """A LoRA with kohya's names for one layer, of uno-tiny unless another width is given."""
    rng = np.random.default_rng(5)
    layer = f"lora_unet_double_blocks_{block}_img_attn_proj"
    return {
        f"{layer}.lora_down.weight": rng.standard_normal((4, width)) * 0.3,
        f"{layer}.lora_up.weight": rng.standard_normal((width, 4)) * 0.3,
        f"{layer}.alpha": np.array(4.0),
    }


def test_further_loras_are_added_with_their_factors(tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "style.safetensors", style_lora())
    plain = picture(load(merge_lora=False))
    whole = load(merge_lora=False, loras=[file])
    assert not np.array_equal(picture(whole), plain)
    # Given as a string with a factor of 1, and twice with half of it.
    assert np.array_equal(picture(load(merge_lora=False, loras=[(str(file), 1.0)])), picture(whole))
    halves = picture(load(merge_lora=False, loras=[(file, 0.5), (file, 0.5)]))
    assert np.abs(halves.astype(int) - picture(whole)).max() <= 1
    assert np.array_equal(picture(load(merge_lora=False, loras=[(file, 0.0)])), plain)
    # Merged, streamed, and without UNO's own.
    merged = picture(load(merge_lora=True, loras=[file]))
    assert np.abs(merged.astype(int) - picture(whole)).max() <= 2
    assert np.array_equal(picture(load(memory="least", merge_lora=False, loras=[file])), picture(whole))
    alone = load(lora_scale=0.0, loras=[file], merge_lora=False)
    assert not np.array_equal(picture(alone), picture(load(lora_scale=0.0, merge_lora=False)))


def test_a_folder_of_peft_is_a_lora_with_its_configuration(tmp_path: Path) -> None:
    layer = "base_model.model.single_transformer_blocks.0.attn.to_q"
    encoder = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    rng = np.random.default_rng(6)
    down, up = rng.standard_normal((4, 64)) * 0.3, rng.standard_normal((64, 4)) * 0.3
    of_clip = rng.standard_normal((4, 32)) * 0.3, rng.standard_normal((64, 4)) * 0.3

    def halves(factor: float) -> dict[str, np.ndarray]:
        return {
            f"{layer}.lora_A.weight": down,
            f"{layer}.lora_B.weight": up * factor,
            f"{encoder}.lora_A.weight": of_clip[0],
            f"{encoder}.lora_B.weight": of_clip[1] * factor,
        }

    (tmp_path / "style").mkdir()
    write_safetensors(tmp_path / "style" / "adapter_model.safetensors", halves(1.0))
    config = tmp_path / "style" / "adapter_config.json"
    config.write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 12}')
    by_hand = write_safetensors(tmp_path / "by_hand.safetensors", halves(3.0))

    def made(*loras: Path) -> np.ndarray:
        return picture(UnoPipeline.from_pretrained(TINY, loras=loras, merge_lora=False, progress=False))

    assert np.abs(made(tmp_path / "style").astype(int) - made(by_hand)).max() <= 1
    assert not np.array_equal(made(tmp_path / "style"), made())
    config.write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 12, "use_dora": true}')
    with pytest.raises(CheckpointError, match="use_dora is true"):
        made(tmp_path / "style")


def test_settings_name_further_loras_and_whether_they_are_merged(tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "style.safetensors", style_lora())
    settings = load(loras=[(file, 0.7)], merge_lora=True)(PROMPT, **SMALL).metadata[0]
    assert settings["add_lora_scales"] == [0.7] and settings["lora_merged"] is True
    (part,) = [part for part in settings["model"] if part["part"] == "add_lora.0"]
    assert part["path"].endswith("style.safetensors") and len(part["fingerprint"]) == 64
    kept = load(memory=None, loras=[(file, 0.7)])(PROMPT, **SMALL).metadata[0]
    assert kept["lora_merged"] is False


def test_loras_may_be_given_to_single_files_too(tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "style.safetensors", style_lora(width=64))
    made = UnoPipeline.from_files(
        dit=TINY / "flux1-dev.safetensors",
        ae=TINY / "ae.safetensors",
        t5=TINY / "t5",
        clip=TINY / "clip",
        lora=TINY / "dit_lora.safetensors",
        loras=[(file, 0.5)],
        memory="2GiB",
        merge_lora=False,
        progress=False,
    )
    wanted = UnoPipeline.from_pretrained(TINY, loras=[(file, 0.5)], merge_lora=False, progress=False)
    assert np.array_equal(picture(made), picture(wanted))
    assert made.memory_plan is not None and made.memory_plan.count("LoRA") >= 2


def test_a_lora_that_does_not_fit_names_its_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing.safetensors"
    with pytest.raises(FileNotFoundError, match="missing.safetensors"):
        load(loras=[missing])
    for tensors, message in (
        (style_lora(width=96), "96"),
        (style_lora(block=7), "double_blocks.7"),
        ({"a.weight": np.zeros((2, 2))}, "is no LoRA"),
        (dict(list(style_lora().items())[:1]), "half is missing"),
    ):
        file = write_safetensors(tmp_path / "style.safetensors", tensors)
        with pytest.raises(CheckpointError, match=message) as error:
            load(loras=[file])
        assert "style.safetensors" in str(error.value)


def test_a_transformer_in_another_layout_gives_the_same_picture(tmp_path: Path) -> None:
    # The transformer as float32 under ComfyUI's prefix: another layout, the same picture.
    tensors, _ = read_safetensors(TINY / "flux1-dev.safetensors")
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    file = write_safetensors(tmp_path / "unet.safetensors", prefixed)
    parts: dict[str, Any] = {"ae": TINY / "ae.safetensors", "t5": TINY / "t5", "clip": TINY / "clip"}
    parts |= {"lora": TINY / "dit_lora.safetensors", "merge_lora": False, "progress": False}
    ours = UnoPipeline.from_files(dit=TINY / "flux1-dev.safetensors", **parts)
    theirs = UnoPipeline.from_files(dit=file, **parts)
    assert np.abs(picture(theirs).astype(int) - picture(ours)).max() <= 1
    assert theirs.memory_plan is not None and "F32" in theirs.memory_plan
