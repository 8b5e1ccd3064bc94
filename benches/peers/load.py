"""From a path to a transformer that is ready to compute: the counterpart of `benches/load.rs`."""

from types import SimpleNamespace

import torch
from common import parse, parser, run
from dit_step import load


def main():
    p = parser(__doc__)
    p.add_argument("--checkpoint")
    p.add_argument("--lora")
    p.add_argument("--folder")
    args = parse(p)
    paths = SimpleNamespace(checkpoint=args.checkpoint, lora=args.lora, folder=args.folder)

    def work():
        load(paths)
        return torch.zeros(1)

    run(args, "load", work)


if __name__ == "__main__":
    main()
