"""The Ray jobs of examples/python on a local cluster of two workers, one of which is killed: results as without Ray."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import uno_rs

ray = pytest.importorskip("ray", reason="pip install 'ray[data]'")

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "vision"
EXAMPLES = ROOT / "examples" / "python"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    sys.path.insert(0, str(EXAMPLES))
    # Workers import what they are to do from both.
    environment = {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(Path(__file__).parent)])}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": environment}, log_to_driver=False)
    yield
    ray.shutdown()
    sys.path.remove(str(EXAMPLES))


def die_once(mark: Path) -> None:
    """Kills the process that calls it first."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def files(folder: Path) -> dict[str, bytes]:
    """All results but pictures, which are named in them with their hashes, and times."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.json"))}


def test_a_synthesis_whose_worker_is_killed_makes_what_one_process_makes(cluster: None, tmp_path: Path) -> None:
    ray_synthesize = importlib.import_module("ray_synthesize")
    subjects = [{"description": f"a {colour} mug", "scenes": ["on a beach", "at night"]} for colour in ("red", "blue")]
    (tmp_path / "taxonomy.json").write_text(json.dumps({"classes": [{"name": "mug", "subjects": subjects}]}))

    def config(name: str) -> Path:
        settings = {
            "output": name,
            "count": 6,
            "taxonomy": "taxonomy.json",
            "model": {"dir": str(ROOT / "uno-models" / "assets" / "tiny")},
            "diptych": {"side_by_side": [[64, 32]], "stacked": [[32, 64]], "num_steps": 1},
            "split": {"min_strength": 0.0, "min_contrast": 0.0, "margin": 1},
            "similarity": {"dinov2": str(FIXTURES / "dinov2"), "threshold": -1.0},
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(settings))
        return path

    mark = tmp_path / "killed"

    def task(path: str, stage: str, shards: int):
        work = ray_synthesize.one_share(path, stage, shards)

        def dying(row):
            done = work(row)
            if stage == "diptych":
                # After its work, so that the repetition finds it done.
                die_once(mark)
            return done

        return dying

    done = ray_synthesize.run(str(config("shared")), shards=3, task=task)
    assert mark.exists() and done.failed == []
    alone = uno_rs.synthesize(config("alone"), progress=False)
    assert done.results is not None and alone.results is not None
    assert done.results["funnel"] == alone.results["funnel"]
    assert done.results["funnel"]["done"] == 6
    shared, single = files(tmp_path / "shared"), files(tmp_path / "alone")
    assert shared.keys() == single.keys()
    assert all(shared[name] == single[name] for name in shared)


def test_an_evaluation_whose_worker_is_killed_gives_what_one_process_gives(cluster: None, tmp_path: Path) -> None:
    ray_evaluate = importlib.import_module("ray_evaluate")
    entries = [{"prompt": f"picture {i}", "image_paths": [str(FIXTURES / f"{i}.png")]} for i in range(2)]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    for name in ("shared", "alone"):
        (tmp_path / name).mkdir()
        for i in range(2):
            for j in range(2):
                shutil.copy(FIXTURES / f"{2 * i + j}.png", tmp_path / name / f"{i}_{j}.png")
    mark = tmp_path / "killed"

    class Dying(ray_evaluate.Share):
        def __call__(self, row):
            done = super().__call__(row)
            die_once(mark)
            return done

    models = {"dino": str(FIXTURES / "dino"), "clip": str(FIXTURES / "clip")}
    shared = ray_evaluate.run(
        str(tmp_path / "list.json"), str(tmp_path / "shared"), **models, per_prompt=2, shards=4, share=Dying
    )
    assert mark.exists()
    alone = uno_rs.Scorer(**models).evaluate(
        tmp_path / "list.json", tmp_path / "alone", num_images_per_prompt=2, progress=False
    )
    assert alone is not None
    for part in ("all", "by_subject", "protocol"):
        assert shared[part] == alone[part]
