"""A synthesis on a Ray cluster: its stages as Ray Data jobs, one after the other (docs/synthesis.md).

    python examples/python/ray_synthesize.py synthesis.toml --shards 16

The work's folder and the model must be on a file system that all machines see. Each task does one share of a stage.
What it has done is on disk at once, so a task whose worker dies is simply done again, and does only what is left.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

import ray
import uno_rs

Row = dict[str, Any]


def one_share(config: str, stage: str, shards: int) -> Callable[[Row], Row]:
    """A task: what waits for `stage` in a share of the items."""

    def work(row: Row) -> Row:
        share = (int(row["id"]), shards)
        done = uno_rs.synthesize(config, stages=[stage], shard=share, write_results=False, progress=False)
        return {"share": share[0], "failed": [f"{item}: {reason}" for item, reason in done.failed]}

    return work


def run(
    config: str,
    shards: int,
    cpus: float = 1.0,
    gpus: float = 0.0,
    task: Callable[[str, str, int], Callable[[Row], Row]] = one_share,
) -> uno_rs.SynthesisResult:
    """Runs all stages and writes the results; `task` makes the work of a share."""
    config = os.path.abspath(config)
    failed: list[tuple[str, str]] = []
    # The folder is begun here, so that no two tasks begin it.
    uno_rs.synthesize(config, stages=["split"], write_results=False, progress=False)
    for stage in uno_rs.STAGES:
        shares = ray.data.range(shards, override_num_blocks=shards)
        # Ray does a task again whose worker has died; what a task raises by itself ends the run.
        done = shares.map(task(config, stage, shards), num_cpus=cpus, num_gpus=gpus or None)
        for row in done.take_all():
            failed += [tuple(line.split(": ", 1)) for line in row["failed"]]
    written = uno_rs.synthesize(config, stages=["split"], progress=False)
    return uno_rs.SynthesisResult(written.results, failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--address", help="of the cluster; without, one is started on this machine")
    parser.add_argument("--shards", type=int, default=8, help="shares of the items: a few for each worker")
    parser.add_argument("--cpus", type=float, default=1.0, help="CPUs of a task")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs of a task")
    arguments = parser.parse_args()
    ray.init(address=arguments.address)
    done = run(arguments.config, arguments.shards, arguments.cpus, arguments.gpus)
    print(json.dumps(done.results, indent=1))
    for item, reason in done.failed:
        print(f"{item} still waits: {reason}")


if __name__ == "__main__":
    main()
