"""Every component and whole generations against values of the official implementation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import uno_rs
from common import COMPONENT, EXACT, check, dit_path, each, load_set, lora_path, pack, read_safetensors, relative_error
from uno_rs import AutoEncoder, ClipTokenizer, T5Tokenizer, TextEncoder, Transformer


@pytest.mark.parametrize(("folder", "file"), each("cases/tokens.json"))
def test_token_ids_of_all_prompts_are_equal(folder: Path, file: Path) -> None:
    t5, clip = T5Tokenizer(folder / "model" / "t5"), ClipTokenizer(folder / "model" / "clip")
    cases = json.loads(file.read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        assert t5.encode(case["prompt"], max_length=len(case["t5"])) == case["t5"], case["prompt"]
        assert clip.encode(case["prompt"], max_length=len(case["clip"])) == case["clip"], case["prompt"]
    print(f"{folder.name}: {len(cases)} prompts equal")


@pytest.mark.parametrize("kind", ["t5", "clip"])
@pytest.mark.parametrize(("folder", "file"), each("cases/text.safetensors"))
def test_text_states_agree(folder: Path, file: Path, kind: str) -> None:
    tensors, _ = read_safetensors(file)
    encoder = TextEncoder(folder / "model" / kind)
    assert encoder.kind == kind
    got = np.concatenate([encoder.encode(ids.tolist()) for ids in tensors[f"{kind}_ids"]])
    check(f"{folder.name}: {kind} states", relative_error(got, tensors[f"{kind}_out"]), COMPONENT)


@pytest.mark.parametrize(("folder", "file"), each("cases/ae.safetensors"))
def test_the_autoencoder_agrees_in_both_directions(folder: Path, file: Path) -> None:
    tensors, _ = read_safetensors(file)
    ae = AutoEncoder(folder / "model" / "ae.safetensors")
    check(f"{folder.name}: latent", relative_error(ae.encode(tensors["image"]), tensors["latent_mode"]), COMPONENT)
    check(f"{folder.name}: picture", relative_error(ae.decode(tensors["z"]), tensors["decoded"]), COMPONENT)


@pytest.mark.parametrize(("folder", "file"), each("preprocess/index.json"))
def test_references_are_scaled_and_cropped_to_the_same_bytes(folder: Path, file: Path) -> None:
    cases = json.loads(file.read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        # Pillow, and with it the official code, ignores EXIF orientation.
        options = {"long_side": case["long_side"], "exif_orientation": False}
        path = file.parent / case["input"]
        wanted = np.asarray(PIL.Image.open(file.parent / case["output"]).convert("RGB"))
        got = uno_rs.preprocess(path, **options)
        assert got.dtype == np.uint8
        if path.suffix == ".jpg":
            # Builds of libjpeg decode to values one or two levels apart; what follows is the same.
            assert np.abs(got.astype(int) - wanted).max() <= 6
        else:
            assert np.array_equal(got, wanted), case["input"]
        with PIL.Image.open(path) as image:
            assert np.array_equal(uno_rs.preprocess(image, **options), got), f"{case['input']} as PIL image"
            if image.mode in ("L", "RGB", "RGBA"):
                array = np.asarray(image)
                assert np.array_equal(uno_rs.preprocess(array, **options), got), f"{case['input']} as array"
                floats = array.astype(np.float32) / 255
                assert np.array_equal(uno_rs.preprocess(floats, **options), got), f"{case['input']} as floats"
    print(f"{folder.name}: {len(cases)} pictures, as path, PIL image and array")


@pytest.mark.parametrize(("folder", "file"), each("cases/unope.json"))
def test_positions_are_equal(folder: Path, file: Path) -> None:
    for case in json.loads(file.read_text(encoding="utf-8")):
        latent, *references = [(h // 2, w // 2) for h, w in [case["latent_hw"], *case["ref_latent_hw"]]]
        ids = uno_rs.unope_ids(latent, references, pe=case["pe"], text_tokens=7)
        sizes = [7, *(rows * columns for rows, columns in [latent, *references])]
        text, image, *others = np.split(ids, np.cumsum(sizes)[:-1])
        assert ids.dtype == np.float32
        assert not text.any()
        assert (image[0].tolist(), image[-1].tolist()) == (case["img_first"], case["img_last"])
        assert len(others) == len(case["refs"])
        for got, wanted in zip(others, case["refs"]):
            assert len(got) == wanted["n"]
            assert (got[0].tolist(), got[-1].tolist()) == (wanted["first"], wanted["last"])
            assert got.sum(axis=0, dtype=np.float64).tolist() == wanted["sum"]


@pytest.mark.parametrize(("folder", "file"), each("cases/schedule.json"))
def test_schedules_agree(folder: Path, file: Path) -> None:
    cases = json.loads(file.read_text(encoding="utf-8"))
    assert cases
    errors = []
    for case in cases:
        got = uno_rs.schedule(case["steps"], case["seq_len"], shift=case["shift"])
        assert got.dtype == np.float32 and got.shape == (case["steps"] + 1,)
        errors.append(np.abs(got - np.array(case["t"], np.float32)).max())
    check(f"{folder.name}: {len(cases)} schedules", max(errors), EXACT)


@pytest.mark.parametrize(("folder", "file"), each("cases/noise_torch_cpu.safetensors"))
def test_noise_as_on_torchs_cpu_agrees(folder: Path, file: Path) -> None:
    tensors, _ = read_safetensors(file)
    assert tensors
    for name, wanted in tensors.items():
        match = re.fullmatch(r"seed(\d+)_h(\d+)_w(\d+)_(\w+)", name)
        assert match, name
        seed, height, width = map(int, match.groups()[:3])
        dtype = match[4]
        got = uno_rs.noise(seed, height, width, source="torch-cpu", dtype=dtype, channels=wanted.shape[1])
        assert got.shape == wanted.shape
        if dtype == "float32":
            check(f"{folder.name}: noise {name}", float(np.abs(got - wanted).max()), EXACT)
        else:
            # Rounding turns a last-bit difference into one of 2^-8, in a few values.
            check(f"{folder.name}: noise {name}", relative_error(got, wanted), COMPONENT)


@pytest.mark.parametrize(("folder", "file"), each("cases/dit.safetensors"))
@pytest.mark.parametrize(("variant", "out"), [("base", "out_base"), ("lora", "out_lora"), ("merged", "out_lora")])
def test_velocities_agree_with_and_without_lora_merged_or_not(folder: Path, file: Path, variant: str, out: str) -> None:
    tensors, metadata = read_safetensors(file)
    lora = None if variant == "base" else lora_path(folder)
    if variant != "base" and lora is None:
        pytest.skip("the set has no LoRA")
    model = Transformer(dit_path(folder), lora=lora, merge_lora=variant == "merged")
    for case in json.loads(metadata["cases"]):
        part = {name.partition(".")[2]: x for name, x in tensors.items() if name.startswith(f"{case['case']}.")}
        got = model(
            part["latent"],
            txt=part["txt"],
            vec=part["vec"],
            t=part["t"],
            guidance=part.get("guidance"),
            references=[part[f"ref{i}"] for i in range(case["refs"])],
            pe=case["pe"],
        )
        assert got.dtype == np.float32 and got.shape == part["latent"].shape
        what = f"{folder.name}: DiT case {case['case']} ({variant}, {case['refs']} refs, pe {case['pe']})"
        check(what, relative_error(pack(got), part[out]), COMPONENT)


@pytest.mark.parametrize("merge_lora", [False, True])
@pytest.mark.parametrize(("folder", "file"), each("cases/pipe_*.safetensors"))
def test_whole_generations_agree(folder: Path, file: Path, merge_lora: bool) -> None:
    tensors, metadata = read_safetensors(file)
    references = json.loads(metadata["refs"])
    arguments = {
        "reference_images": [folder / "preprocess" / name for name in references],
        "height": int(metadata["height"]),
        "width": int(metadata["width"]),
        "num_inference_steps": int(metadata["steps"]),
        "guidance_scale": float(metadata["guidance"]),
        "seed": int(metadata["seed"]),
        "pe": metadata["pe"],
        "ref_size": int(metadata["ref_long_side"]),
        "exif_orientation": False,
        "progress": False,
    }
    drawn = {"noise": "torch-cpu", "noise_dtype": "float32"}
    model = load_set(folder, merge_lora=merge_lora)
    result = model(metadata["prompt"], **arguments, **drawn)
    wanted = np.asarray(PIL.Image.open(file.with_suffix(".png")).convert("RGB"))
    levels = np.abs(np.asarray(result.images[0]).astype(int) - wanted).max()
    check(f"{folder.name}: {file.stem}: picture, levels of 255", float(levels), 2.0)
    latents = model(metadata["prompt"], **arguments, **drawn, output_type="latent").images
    jpeg = any(name.endswith(".jpg") for name in references)
    error = relative_error(pack(latents), tensors["latent_packed"])
    check(f"{folder.name}: {file.stem}: final latent", error, 1e-2 if jpeg else COMPONENT)
    given = model(metadata["prompt"], **arguments, latents=tensors["noise"])
    levels = np.abs(np.asarray(given.images[0]).astype(int) - wanted).max()
    check(f"{folder.name}: {file.stem}: picture from given noise, levels of 255", float(levels), 2.0)
