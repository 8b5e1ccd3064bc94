"""Scores from Python: those of torch and transformers (tests/reference/make_vision.py), and prompt lists."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import uno_rs
from PIL import Image

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "vision"


@pytest.fixture(scope="module")
def scorer() -> uno_rs.Scorer:
    return uno_rs.Scorer(FIXTURES / "dino", FIXTURES / "clip")


def test_scores_are_those_of_torch_and_transformers(scorer: uno_rs.Scorer) -> None:
    wanted = json.loads((FIXTURES / "scores.json").read_text())
    references = [FIXTURES / f"{i}.png" for i in wanted["references"]]
    got = scorer.score(Image.open(FIXTURES / f"{wanted['picture']}.png"), wanted["prompt"], references)
    for name in ("dino", "clip_i", "clip_t"):
        assert got[name] == pytest.approx(wanted[name], abs=1e-4)
    assert got["subject"] == min(subject["found"]["score"] for subject in got["subjects"])
    assert scorer.score(FIXTURES / "0.png", "")["dino"] is None


def test_a_prompt_list_is_scored_by_two_shards(scorer: uno_rs.Scorer, tmp_path: Path) -> None:
    entries = [{"prompt": "a robot", "image_paths": [str(FIXTURES / "0.png")]}]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for j, i in enumerate((0, 3)):
        shutil.copy(FIXTURES / f"{i}.png", pictures / f"0_{j}.png")

    def evaluate(index: int) -> dict | None:
        return scorer.evaluate(
            tmp_path / "list.json", pictures, num_images_per_prompt=2, shard=(index, 2), progress=False
        )

    assert evaluate(0) is None
    result = evaluate(1)
    assert result is not None and result["all"]["dino"]["count"] == 2
    assert result["protocol"] == scorer.protocol
    assert json.loads((pictures / "evaluation" / "result.json").read_text()) == result
    assert (pictures / "evaluation" / "report.html").is_file()


def test_what_is_wrong_is_said(scorer: uno_rs.Scorer, tmp_path: Path) -> None:
    with pytest.raises(uno_rs.UnoError, match="CLIP for scores"):
        uno_rs.Scorer(FIXTURES / "dino", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="given or folder"):
        uno_rs.Scorer(FIXTURES / "dino", FIXTURES / "clip", views="all")
    (tmp_path / "list.json").write_text('[{"prompt": "a"}]')
    with pytest.raises(ValueError, match="holds 0 of 4 pictures"):
        scorer.evaluate(tmp_path / "list.json", tmp_path, progress=False)
