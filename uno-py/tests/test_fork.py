"""Forked processes: they work where nothing had computed before, and are told to be spawned where something had.

Each case is an interpreter of its own, in which nothing has computed yet. A child that hangs is ended by its alarm.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from common import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

TINY = ROOT / "uno-models" / "assets" / "tiny"
SCORERS = ROOT / "tests" / "fixtures" / "vision"
#: Seconds for a child, then for the whole case. Computing may take its time on a busy machine.
CHILD, CASE = 240, 480

PRELUDE = f"""
import multiprocessing, os, signal, sys
import numpy as np
import uno_rs
from pathlib import Path
from PIL import Image
from uno_rs import UnoPipeline

TINY, SCORERS, HERE = Path({str(TINY)!r}), Path({str(SCORERS)!r}), Path.cwd()
PICTURE = Image.new("RGB", (40, 24), "teal")

def load():
    return UnoPipeline.from_pretrained(progress=False)

def make(pipeline):
    options = dict(num_inference_steps=1, width=32, height=32, progress=False)
    return pipeline("a mug", **options).images[0].size

def outcome(act):
    signal.alarm({CHILD})
    try:
        return f"made {{act()}}"
    except Exception as error:
        return str(error)

def forked(act):
    "What happens in a child."
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, outcome(act).encode())
        os._exit(0)
    os.close(write)
    said = b"".join(iter(lambda: os.read(read, 65536), b"")).decode()
    _, status = os.waitpid(child, 0)
    return said if status == 0 else f"status {{status}} (14 is a hang)"
"""


def run(program: str, folder: Path) -> list[str]:
    """Lines that a program prints."""
    program = PRELUDE + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=CASE, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def is_told(line: str) -> bool:
    return 'multiprocessing.set_start_method("spawn")' in line and "was forked from process" in line


def test_a_child_works_where_the_package_was_only_imported(tmp_path: Path) -> None:
    lines = run(
        """
        print(forked(lambda: make(load())))
        print(forked(lambda: uno_rs.preprocess(PICTURE).shape))
        # The parent can still begin, and a child of that child is told.
        print(forked(lambda: (make(load()), forked(lambda: make(load())))))
        print(make(load()))
        """,
        tmp_path,
    )
    assert lines[0] == "made (32, 32)"
    assert lines[1].startswith("made (")
    assert lines[2].startswith("made ((32, 32), ") and is_told(lines[2])
    assert lines[3] == "(32, 32)"


def test_what_does_not_compute_is_no_reason_to_refuse_a_child(tmp_path: Path) -> None:
    lines = run(
        """
        tokenizer = uno_rs.T5Tokenizer(TINY / "t5")
        uno_rs.schedule(4, 64), uno_rs.unope_ids((2, 2)), tokenizer.encode("a mug")
        print(forked(lambda: make(load())))
        """,
        tmp_path,
    )
    assert lines == ["made (32, 32)"]


def test_every_way_in_tells_a_child_of_a_process_that_computed(tmp_path: Path) -> None:
    stage = {"name": "one", "data": [{"path": "data.json"}], "steps": 1, "resolution": 32, "ref_size": 32}
    train = {"output": "run", "devices": ["cpu"], "dtype": "f32", "lora": {"rank": 2}, "stages": [stage]}
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "synthesis.json").write_text(json.dumps({"output": "work", "count": 1}))
    (tmp_path / "list.json").write_text("[]")
    lines = run(
        """
        pipeline = load()
        make(pipeline)
        latents = np.zeros((1, 16, 4, 4), np.float32)
        coder = uno_rs.AutoEncoder(TINY / "ae.safetensors")
        encoder = uno_rs.TextEncoder(TINY / "clip")
        transformer = uno_rs.Transformer(TINY / "flux1-dev.safetensors")
        scorer = uno_rs.Scorer(SCORERS / "dino", SCORERS / "clip")
        tokenizer = uno_rs.ClipTokenizer(TINY / "clip")
        ids = tokenizer.encode("a mug")
        options = dict(progress=False)
        txt, vec = np.zeros((1, 4, 32), np.float32), np.zeros((1, 32), np.float32)
        told = {
            "pipeline": lambda: make(pipeline),
            "preview": lambda: pipeline.preview(latents),
            "from_pretrained": load,
            "from_files": lambda: UnoPipeline.from_files(ae=TINY / "ae.safetensors", **options),
            "AutoEncoder": lambda: uno_rs.AutoEncoder(TINY / "ae.safetensors"),
            "decode": lambda: coder.decode(latents),
            "encode": lambda: coder.encode(np.zeros((1, 3, 32, 32), np.float32)),
            "TextEncoder": lambda: uno_rs.TextEncoder(TINY / "clip"),
            "TextEncoder.encode": lambda: encoder.encode(ids),
            "Transformer": lambda: uno_rs.Transformer(TINY / "flux1-dev.safetensors"),
            "forward": lambda: transformer(latents, txt=txt, vec=vec, t=[1.0], guidance=[1.0]),
            "Scorer": lambda: uno_rs.Scorer(SCORERS / "dino", SCORERS / "clip"),
            "score": lambda: scorer.score(PICTURE, "a mug"),
            "evaluate": lambda: scorer.evaluate(HERE / "list.json", HERE, **options),
            "train_lora": lambda: uno_rs.train_lora(HERE / "train.json", **options),
            "synthesize": lambda: uno_rs.synthesize(HERE / "synthesis.json", **options),
            "preprocess": lambda: uno_rs.preprocess(PICTURE),
            "noise": lambda: uno_rs.noise(1, 64, 64),
        }
        for name, act in told.items():
            print(name, forked(act))
        # These take no threads.
        made = {
            "tokens": lambda: len(tokenizer.encode("a mug")),
            "schedule": lambda: len(uno_rs.schedule(4, 64)),
            "ids": lambda: uno_rs.unope_ids((2, 2)).shape,
            "defaults": lambda: pipeline.defaults.width,
        }
        for name, act in made.items():
            print(name, forked(act))
        # The parent goes on.
        print("parent", make(pipeline))
        """,
        tmp_path,
    )
    told, made = lines[:-5], lines[-5:]
    assert len(told) == 18
    for line in told:
        assert is_told(line), line
    assert made == ["tokens made 77", "schedule made 5", "ids made (4, 3)", "defaults made 128", "parent (32, 32)"]


@pytest.mark.parametrize("way", ["multiprocessing", "executor"])
def test_worker_processes_are_told_and_spawned_ones_work(tmp_path: Path, way: str) -> None:
    (tmp_path / "work.py").write_text(
        PRELUDE
        + textwrap.dedent(
            """
            from concurrent.futures import ProcessPoolExecutor

            def work(prompt):
                return outcome(lambda: make(load()))

            def pool(kind, way):
                context = multiprocessing.get_context(kind)
                if way == "executor":
                    with ProcessPoolExecutor(1, context) as workers:
                        return list(workers.map(work, ["a"]))
                with context.Pool(1) as workers:
                    return workers.map(work, ["a"])

            if __name__ == "__main__":
                print(*pool("fork", sys.argv[1]))
                make(load())
                print(*pool("fork", sys.argv[1]))
                print(*pool("spawn", sys.argv[1]))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "work.py", way], capture_output=True, text=True, timeout=CASE, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    before, after, spawned = done.stdout.splitlines()
    assert before == spawned == "made (32, 32)"
    assert is_told(after)


def test_a_fork_beside_a_generation_is_told(tmp_path: Path) -> None:
    lines = run(
        """
        import threading

        pipeline, begun, go_on = load(), threading.Event(), threading.Event()

        def hold(*_):
            begun.set()
            go_on.wait()

        options = dict(num_inference_steps=2, width=32, height=32, progress=False, callback_on_step_end=hold)
        thread = threading.Thread(target=lambda: pipeline("a mug", **options))
        thread.start()
        begun.wait()
        print(forked(lambda: make(pipeline)))
        go_on.set()
        thread.join()
        """,
        tmp_path,
    )
    assert is_told(lines[0])


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed: a job of its own")
def test_workers_of_torchs_dataloader_are_told(tmp_path: Path) -> None:
    lines = run(
        """
        from torch.utils.data import DataLoader, Dataset

        class Seen(Dataset):
            def __len__(self):
                return 2

            def __getitem__(self, i):
                signal.alarm(240)
                return uno_rs.preprocess(PICTURE)

        print(sum(len(batch) for batch in DataLoader(Seen(), num_workers=1)))
        uno_rs.preprocess(PICTURE)
        try:
            list(DataLoader(Seen(), num_workers=1))
        except Exception as error:
            print(str(error).replace("\\n", " "))
        """,
        tmp_path,
    )
    assert lines[0] == "2"
    assert is_told(lines[1])
