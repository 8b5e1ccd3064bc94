"""Types and documentation: the stubs fit the binary, the package passes mypy, and everything public says what it is."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import uno_rs
from common import ROOT

PROJECT = ROOT / "uno-py"
CONFIG = str(PROJECT / "pyproject.toml")
needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")


def mypy(*arguments: str, cwd: Path) -> None:
    """Runs mypy or one of its tools, and fails with what it says."""
    environment = os.environ | {"MYPY_CACHE_DIR": str(cwd / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.strip())


@needs_mypy
def test_the_stubs_fit_the_binary(tmp_path: Path) -> None:
    mypy("mypy.stubtest", "--mypy-config-file", CONFIG, "uno_rs._uno_rs", cwd=tmp_path)


@needs_mypy
def test_the_package_passes_mypy_strictly(tmp_path: Path) -> None:
    mypy("mypy", "--strict", "--config-file", CONFIG, str(PROJECT / "python" / "uno_rs"), cwd=tmp_path)


@needs_mypy
def test_a_users_program_is_checked_against_our_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from typing import Any\n"
        "import numpy as np\n"
        "import uno_rs\n"
        "pipeline = uno_rs.UnoPipeline.from_pretrained()\n"
        "def callback(pipe: uno_rs.UnoPipeline, step: int, time: float, tensors: dict[str, Any]) -> None: ...\n"
        "result = pipeline('a', reference_images=['a.png', np.zeros((2, 2))], callback_on_step_end=callback)\n"
        "result.save('folder')\n"
        "array: np.ndarray = uno_rs.noise(1, 64, 64)\n"
        "pipeline('a', heigth=64)  # type: ignore[call-arg]\n"
        "pipeline('a', seed='b')  # type: ignore[arg-type]\n"
    )
    mypy("mypy", "--warn-unused-ignores", str(program), cwd=tmp_path)


def test_the_package_says_that_it_has_types() -> None:
    assert (Path(uno_rs.__file__).parent / "py.typed").is_file()


def test_everything_public_is_there_and_documented() -> None:
    assert len(set(uno_rs.__all__)) == len(uno_rs.__all__)
    missing = []
    for name in uno_rs.__all__:
        thing = getattr(uno_rs, name)
        if not callable(thing):
            continue
        if not inspect.getdoc(thing):
            missing.append(name)
        if inspect.isclass(thing) and not issubclass(thing, BaseException):
            fields = getattr(thing, "__dataclass_fields__", {})
            members = [key for key in vars(thing) if not key.startswith("_") and key not in fields]
            missing += [f"{name}.{key}" for key in members if not inspect.getdoc(getattr(thing, key))]
    assert not missing
