"""Synthesis from Python: the stages of the base model alone, which need no endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import uno_rs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    subjects = [{"description": f"a {colour} mug", "scenes": ["on a beach", "at night"]} for colour in ("red", "blue")]
    (tmp_path / "taxonomy.json").write_text(json.dumps({"classes": [{"name": "mug", "subjects": subjects}]}))
    settings = {
        "output": "work",
        "count": 2,
        "taxonomy": "taxonomy.json",
        "model": {"dir": str(ROOT / "uno-models" / "assets" / "tiny")},
        "diptych": {"side_by_side": [[64, 32]], "stacked": [[32, 64]], "num_steps": 1},
        "split": {"min_strength": 0.0, "min_contrast": 0.0, "margin": 1},
    }
    path = tmp_path / "synthesis.json"
    path.write_text(json.dumps(settings))
    return path


def test_stages_go_on_and_leave_lists(config: Path) -> None:
    first = uno_rs.synthesize(config, stages=["diptych"], shard=(0, 2), write_results=False, progress=False)
    assert first.results is None and first.failed == []
    seen: list[dict] = []
    done = uno_rs.synthesize(config, progress=False, callback=seen.append)
    assert [(event["stage"], event["item"]) for event in seen] == [
        ("diptych", "000001"),
        ("split", "000000"),
        ("split", "000001"),
    ]
    assert done.results is not None and done.results["funnel"]["done"] == 2
    assert len(json.loads(Path(done.results["one_reference"]).read_text())) == 2
    assert [count["stage"] for count in done.results["funnel"]["stages"]] == list(uno_rs.STAGES[:2])


def test_what_is_wrong_is_said_and_a_callback_that_raises_ends_the_call(config: Path) -> None:
    with pytest.raises(ValueError, match="diptych, split"):
        uno_rs.synthesize(config, stages=["paint"])
    with pytest.raises(FileNotFoundError):
        uno_rs.synthesize(config.with_name("nowhere.toml"))

    def stop(_: dict) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        uno_rs.synthesize(config, progress=False, callback=stop)
    assert len(list((config.parent / "work" / "items").iterdir())) == 1
