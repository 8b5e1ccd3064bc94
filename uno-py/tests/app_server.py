"""The app as a program on a free port, for the tests of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

#: Seconds after which something is taken to hang; nothing depends on how long it takes.
PATIENCE = 600
#: The fields of the generation, as small and quick as the page takes them.
SMALL: dict[str, Any] = {
    "prompt": "a robot beside a teapot",
    "width": 64,
    "height": 80,
    "guidance": 3.5,
    "num_steps": 2,
    "seed": 7,
    "ref_long_side": -1,
    "image_prompt1": None,
    "image_prompt2": None,
    "image_prompt3": None,
    "image_prompt4": None,
}
#: Long enough to be stopped on the way.
LONG = SMALL | {"width": 512, "height": 512, "num_steps": 50, "seed": 99}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class AppServer:
    """`python -m uno_rs.app` with the small model; use it in a `with` statement."""

    def __init__(self, *options: object) -> None:
        self._options = [str(option) for option in options]
        self.url = ""
        self.log: list[str] = []

    def __enter__(self) -> AppServer:
        self._folder = tempfile.TemporaryDirectory()
        environment = os.environ | {"TMPDIR": self._folder.name}
        command = [sys.executable, "-m", "uno_rs.app", "--port", str(free_port()), *self._options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        is_open = threading.Event()

        def read() -> None:
            assert self._process.stderr is not None
            for line in self._process.stderr:
                self.log.append(line)
                if line.startswith("open "):
                    self.url = line.split()[1]
                    is_open.set()
            is_open.set()

        self._reader = threading.Thread(target=read)
        self._reader.start()
        assert is_open.wait(PATIENCE) and self.url, "".join(self.log)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it in good order; its exit code."""
        self._process.send_signal(number)
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def files(self) -> list[Path]:
        """What lies in its folder for temporary files."""
        return [path for path in Path(self._folder.name).rglob("*") if path.is_file()]

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        self._folder.cleanup()
