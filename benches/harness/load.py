"""How busy other programs kept the processors meanwhile: a time that they took part in is no measurement."""

import contextlib
import os
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def busy_seconds():
    """Seconds that all processors together were busy, or were lent to other virtual machines; `None` if nobody says."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / TICK


def process_seconds(pid):
    """Seconds of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Others:
    """The share of the processors that others took between `start` and `stop`."""

    def start(self):
        self.busy, self.clock = busy_seconds(), time.monotonic()

    def stop(self, own):
        """`own`: seconds of the measured process in between."""
        busy, elapsed = busy_seconds(), time.monotonic() - self.clock
        # Ticks are coarse: a short time says nothing.
        if self.busy is None or busy is None or elapsed < 0.2:
            return 0.0
        return max(0.0, (busy - self.busy - own) / (elapsed * os.cpu_count()))


def quiet(limit):
    """Whether others leave the processors alone just now."""
    others = Others()
    others.start()
    time.sleep(0.3)
    return others.stop(0.0) <= limit


@contextlib.contextmanager
def locked(path, exclusive):
    """Holds a lock file that all who use this machine agreed on, if there is one."""
    if path is None:
        yield
        return
    import fcntl

    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
