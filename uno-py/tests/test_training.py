"""Training from Python, on the small model inside the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import uno_rs
from PIL import Image


@pytest.fixture
def config(tmp_path: Path) -> Path:
    picture = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    Image.fromarray(picture).save(tmp_path / "a.png")
    entry = {"prompt": "a", "image_path": "a.png", "image_tgt_path": "a.png"}
    (tmp_path / "data.json").write_text(json.dumps([entry]))
    stage = {
        "name": "one",
        "data": [{"path": "data.json"}],
        "steps": 3,
        "resolution": 32,
        "ref_size": 32,
        "accumulation": 1,
    }
    settings = {"output": "run", "devices": ["cpu"], "dtype": "f32", "lora": {"rank": 2}, "stages": [stage]}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    return path


def test_a_run_tells_its_steps_and_leaves_a_lora(config: Path) -> None:
    steps: list[dict] = []
    result = uno_rs.train_lora(config, progress=False, callback=steps.append)
    assert result.is_complete
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert all(np.isfinite(step["loss"]) for step in steps)
    assert (result.checkpoint / "dit_lora.safetensors").is_file()


def test_what_a_callback_raises_stops_the_run_after_a_checkpoint(config: Path, tmp_path: Path) -> None:
    straight = uno_rs.train_lora(config, progress=False, output=tmp_path / "straight")

    def stop(step: dict) -> None:
        if step["step"] == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        uno_rs.train_lora(config, progress=False, callback=stop)
    resumed = uno_rs.train_lora(config, progress=False, resume="latest")
    for name in ["dit_lora.safetensors", "optimizer.safetensors"]:
        assert (resumed.checkpoint / name).read_bytes() == (straight.checkpoint / name).read_bytes()


def test_configurations_that_cannot_be_done_are_refused(config: Path) -> None:
    settings = json.loads(config.read_text())
    settings["stages"][0]["stepps"] = 1
    config.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="stepps"):
        uno_rs.train_lora(config)
    with pytest.raises(FileNotFoundError):
        uno_rs.train_lora(config.with_name("absent.toml"))
