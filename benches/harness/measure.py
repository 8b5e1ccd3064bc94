"""Alternating measurements of programs that wait for their turn."""

import json
import os
import statistics
import subprocess
import sys
import time

from .load import Others, locked, process_seconds, quiet

# Above this share of the processors in others' hands a time does not count, if there are others to go by.
OTHERS_LIMIT = 0.1


class Server:
    """A program that has loaded and warmed up, and then runs once for each line that it is sent."""

    def __init__(self, side, env):
        self.process = subprocess.Popen(
            [*side.command, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.ready = self.read()
        self.runs = 1

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended with {self.process.wait()}")
        return json.loads(line)

    def run(self):
        """Milliseconds of one run, and the share of others."""
        others, before = Others(), process_seconds(self.process.pid) if os.path.exists("/proc/stat") else 0
        others.start()
        print(self.runs, file=self.process.stdin, flush=True)
        ms = self.read()["ms"]
        own = process_seconds(self.process.pid) - before if os.path.exists("/proc/stat") else 0
        return ms, others.stop(own)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Launcher:
    """A program that is started anew for each run: the time of the whole process counts."""

    def __init__(self, side, env):
        self.command, self.env, self.ready, self.runs = [*side.command, "--once"], env, {}, 1

    def run(self):
        others = Others()
        others.start()
        before, start = os.times(), time.perf_counter()
        subprocess.run(self.command, env=self.env, stdout=subprocess.DEVNULL, check=True)
        ms, after = (time.perf_counter() - start) * 1e3, os.times()
        own = after.children_user + after.children_system - before.children_user - before.children_system
        return ms, others.stop(own)

    def close(self):
        pass


def measure(case, env, lock, patience):
    """Times of each side by its name, taken in turns: {"ms": [...], "others": [...], "relative_l2": ...}."""
    servers, turns = {}, Turns(lock, patience)
    try:
        for side in case.sides:
            with locked(lock, exclusive=False):
                server = servers[side.name] = (Launcher if case.whole_process else Server)(side, env)
        results = {name: {"ms": [], "others": [], **server.ready} for name, server in servers.items()}
        for server in servers.values():
            first = server.ready.get("first_ms", 0)
            if case.whole_process or first < 250:
                ms, _ = turns.take(server)
            if not case.whole_process and first < 250:
                # Short work is repeated, so that one figure stands for a quarter of a second; the median counts.
                server.runs = max(1, min(25, round(250 / max(ms, 0.01))))
        names = list(servers)
        for i in range(case.rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                ms, others = turns.take(servers[name])
                results[name]["ms"].append(ms)
                results[name]["others"].append(round(others, 3))
    finally:
        for server in servers.values():
            server.close()
    for result in results.values():
        result.pop("ready", None)
        result["median_ms"] = statistics.median(clean(result["ms"], result["others"]))
    return results


class Turns:
    """One program at a time, while others are quiet."""

    def __init__(self, lock, patience):
        self.lock, self.patience = lock, patience

    def take(self, server):
        """A time and the share of others; taken again while others are busy and there is patience left, in seconds."""
        while True:
            start = time.monotonic()
            with locked(self.lock, exclusive=True):
                start = time.monotonic()
                if self.patience <= 0 or quiet(OTHERS_LIMIT):
                    ms, others = server.run()
                    if self.patience <= 0 or others <= OTHERS_LIMIT:
                        return ms, others
            time.sleep(1)
            self.patience -= time.monotonic() - start
            if self.patience <= 0:
                print("  other programs are busy; waited long enough", file=sys.stderr, flush=True)


def clean(values, *shares):
    """The values of the rounds in which others were quiet; all, if there is no such round."""
    found = [value for value, *others in zip(values, *shares) if max(others) <= OTHERS_LIMIT]
    return found or list(values)


def is_clean(*results):
    """Whether there is a round in which others were quiet for all."""
    return any(max(shares) <= OTHERS_LIMIT for shares in zip(*(result["others"] for result in results)))


def ratio(result, other):
    """How many times as long `other` takes, (median, least, most) over the rounds."""
    ratios = [b / a for a, b in zip(result["ms"], other["ms"])]
    ratios = sorted(clean(ratios, result["others"], other["others"]))
    return statistics.median(ratios), ratios[0], ratios[-1]
