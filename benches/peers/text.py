"""A prompt through a text encoder: the counterpart of `benches/text.rs`."""

import torch
from common import build, parse, parser, run, shapes


def main():
    p = parser(__doc__)
    p.add_argument("--encoder", choices=["t5", "clip"], required=True)
    p.add_argument("--checkpoint", help="T5: the official structure computes it")
    p.add_argument("--folder", help="a model in transformers' layout: transformers computes it")
    p.add_argument("--tokens", type=int, default=512)
    args = parse(p)

    if args.folder:
        from transformers import CLIPTextModel, T5EncoderModel

        kind = T5EncoderModel if args.encoder == "t5" else CLIPTextModel
        model = kind.from_pretrained(args.folder, dtype=args.place["dtype"]).eval().to(args.device)
        vocabulary = model.config.vocab_size
        result = "last_hidden_state" if args.encoder == "t5" else "pooler_output"
        encode = lambda ids: model(ids[None])[result]  # noqa: E731
    else:
        from uno import T5

        sizes = T5.sizes(shapes(args.checkpoint))
        vocabulary = sizes["vocabulary"]
        encode = build(lambda: T5(**sizes), args.checkpoint, **args.place)
    ids = torch.arange(args.tokens) * 7919 % (vocabulary - 1)
    ids[-1] = vocabulary - 1
    ids = ids.to(args.device)
    run(args, args.encoder, lambda: encode(ids))


if __name__ == "__main__":
    main()
