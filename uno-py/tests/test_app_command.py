"""The app's command line, and what is said without Gradio; Gradio is not needed for these."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from common import ROOT
from uno_rs.app import arguments, command

MODEL = ROOT / "uno-models" / "assets" / "tiny"


def run(*options: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-m", "uno_rs.app", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def instead_of_gradio(folder: Path, text: str) -> Path:
    (folder / "gradio.py").write_text(text)
    return folder


def test_importing_the_package_or_the_app_does_not_import_gradio() -> None:
    program = "import sys, uno_rs, uno_rs.app; print([name for name in sys.modules if name.startswith('gradio')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_without_gradio_it_says_what_to_install(tmp_path: Path) -> None:
    done = run(path=instead_of_gradio(tmp_path, "raise ModuleNotFoundError('No module', name='gradio')"))
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: the app needs Gradio 6, which is not installed; install it with: pip install 'uno-rs[app]'"
    )


def test_another_version_of_gradio_is_named(tmp_path: Path) -> None:
    done = run(path=instead_of_gradio(tmp_path, "__version__ = '4.44.1'"))
    assert done.returncode == 1
    assert "needs Gradio 6, and 4.44.1 is installed; install it with: pip install 'uno-rs[app]'" in done.stderr


def test_options_are_named_as_in_the_official_app_and_have_its_defaults() -> None:
    options = arguments.parse([])
    assert (options.name, options.offload, options.port) == (None, False, 7860)
    assert (options.share, options.queue, options.lora_scale) == (False, 20, 1.0)
    options = arguments.parse(
        ["--name", "flux-schnell", "--device", "cuda", "--offload", "--port", "8000", "--lora-scale", "0.5"]
    )
    assert (options.name, options.device, options.offload, options.port) == ("flux-schnell", "cuda", True, 8000)
    assert options.lora_scale == 0.5
    assert arguments.parse(["--offload", "False"]).offload is False
    assert arguments.parse(["--max_upload", "3 MiB"]).max_upload == 3 << 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "sdxl"], "flux-schnell"),
        (["--port", "0"], "wanted 1 to 65535"),
        (["--port", "65536"], "wanted 1 to 65535"),
        (["--queue", "0"], "wanted 1 to 10000"),
        (["--queue", "-1"], "--queue"),
        (["--max_upload", "2TiB"], "such as 20MiB"),
        (["--max_upload", "0"], "such as 20MiB"),
        (["--offload", "perhaps"], "true or false"),
        (["--dtype", "int4"], "bfloat16"),
        (["--lora_scale", "much"], "--lora_scale"),
        (["--offload", "--memory", "6GiB"], "one of the two"),
        (["--model", "a", "--download"], "one of the two"),
        (["--shar"], "--shar"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments.parse(options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_model_is_the_folder_the_environments_or_the_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.load(arguments.parse([])).model_type == "embedded"
    folder = command.load(arguments.parse(["--model", str(MODEL), "--memory", "2GiB", "--dtype", "float32"]))
    assert folder.model_type == "flux-dev"
    assert folder.defaults.width == 512
    monkeypatch.setenv("FLUX_DEV", str(MODEL / "nowhere.safetensors"))
    with pytest.raises(Exception, match="nowhere.safetensors"):
        command.load(arguments.parse([]))


def test_a_model_that_is_not_there_is_named_before_anything_is_served(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed (pip install uno-rs[app])")
    done = run("--model", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said() -> None:
    pytest.importorskip("gradio", reason="gradio is not installed (pip install uno-rs[app])")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = run("--port", port)
    assert done.returncode == 1
    assert port in done.stderr and "Traceback" not in done.stderr
