"""What importing the package costs, and what it does not."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

from common import ROOT


def run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Another interpreter, in which nothing is imported yet."""
    return subprocess.run(
        [sys.executable, *options, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )


def test_importing_takes_nothing_heavy() -> None:
    program = "import json, sys, uno_rs; print(json.dumps(sorted(name.partition('.')[0] for name in sys.modules)))"
    modules = set(json.loads(run(program).stdout))
    assert "uno_rs" in modules
    heavy = {"numpy", "PIL", "torch", "tqdm", "asyncio", "typing_extensions", "IPython"}
    assert not modules & heavy


def test_the_import_time_is_printed() -> None:
    lines = run("import uno_rs", "-X", "importtime").stderr.splitlines()
    micros = next(int(line.split("|")[1]) for line in lines if line.endswith("| uno_rs"))
    print(f"import uno_rs: {micros / 1000:.1f} ms")


def test_the_size_of_the_wheel_is_printed() -> None:
    for wheel in sorted(Path(ROOT / "target" / "wheels").glob("uno_rs-*.whl")):
        names = zipfile.ZipFile(wheel).namelist()
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {len(names)} files")
        assert {"uno_rs/py.typed", "uno_rs/_uno_rs.pyi", "uno_rs/__init__.py"} <= set(names)
        assert "-cp310-abi3-" in wheel.name


def test_exceptions_carry_the_packages_name_and_can_be_pickled() -> None:
    import pickle

    import uno_rs

    for kind in (uno_rs.UnoError, uno_rs.CheckpointError, uno_rs.NonFiniteError):
        assert kind.__module__ == "uno_rs"
        copy = pickle.loads(pickle.dumps(kind("why")))
        assert type(copy) is kind and copy.args == ("why",)
