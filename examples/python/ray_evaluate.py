"""An evaluation on a Ray cluster: pictures of a prompt list scored by many workers (docs/evaluation.md).

    python examples/python/ray_evaluate.py prompts.json output/multi --dino models/dino --clip models/clip

Pictures and models must be on a file system that all machines see. A task whose worker dies is done again, and scores
only what is left.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import ray
import uno_rs

Row = dict[str, Any]


class Share:
    """Scores shares of the pictures; the encoders are loaded once for each worker."""

    def __init__(self, prompts: str, pictures: str, dino: str, clip: str, per_prompt: int, shards: int) -> None:
        self.scorer = uno_rs.Scorer(dino, clip)
        self.arguments = (prompts, pictures)
        self.per_prompt, self.shards = per_prompt, shards

    def __call__(self, row: Row) -> Row:
        shard = (int(row["id"]), self.shards)
        self.scorer.evaluate(*self.arguments, num_images_per_prompt=self.per_prompt, shard=shard, progress=False)
        return {"share": shard[0]}


def run(
    prompts: str,
    pictures: str,
    dino: str,
    clip: str,
    per_prompt: int = 4,
    shards: int = 8,
    workers: int = 2,
    share: type[Share] = Share,
) -> dict[str, Any]:
    """Scores all pictures; returns the result, which is also written beside them."""
    prompts, pictures, dino, clip = (os.path.abspath(path) for path in (prompts, pictures, dino, clip))
    ray.data.range(shards, override_num_blocks=shards).map(
        share,
        fn_constructor_args=(prompts, pictures, dino, clip, per_prompt, shards),
        concurrency=workers,
    ).take_all()
    # All is scored: this only puts it together.
    scorer = uno_rs.Scorer(dino, clip)
    result = scorer.evaluate(prompts, pictures, num_images_per_prompt=per_prompt, progress=False)
    assert result is not None, "all shares are scored"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts")
    parser.add_argument("pictures")
    parser.add_argument("--dino", required=True)
    parser.add_argument("--clip", required=True)
    parser.add_argument("--num-images-per-prompt", type=int, default=4)
    parser.add_argument("--address", help="of the cluster; without, one is started on this machine")
    parser.add_argument("--shards", type=int, default=8, help="shares of the pictures: a few for each worker")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    ray.init(address=arguments.address)
    result = run(
        arguments.prompts,
        arguments.pictures,
        arguments.dino,
        arguments.clip,
        arguments.num_images_per_prompt,
        arguments.shards,
        arguments.workers,
    )
    print(json.dumps(result["all"], indent=1))


if __name__ == "__main__":
    main()
