"""A picture through one half of the autoencoder: the counterpart of `benches/vae.rs`."""

from common import build, grid, numbers, parse, parser, run
from uno import AutoEncoder, scaled, unscaled


def main():
    p = parser(__doc__)
    p.add_argument("--work", choices=["decode", "encode"], required=True)
    p.add_argument("--checkpoint", help="the official structure computes it")
    p.add_argument("--folder", help="an autoencoder in diffusers' layout: diffusers computes it")
    p.add_argument("--size", type=grid, default=(512, 512))
    args = parse(p)
    if args.folder:
        from diffusers import AutoencoderKL

        model = AutoencoderKL.from_pretrained(args.folder, torch_dtype=args.place["dtype"]).eval().to(args.device)
        decode = lambda z: model.decode(unscaled(z), return_dict=False)[0]  # noqa: E731
        encode = lambda x: scaled(model.encode(x, return_dict=False)[0].mean)  # noqa: E731
    else:
        model = build(AutoEncoder, args.checkpoint, **args.place)
        decode, encode = model.decode, model.encode
    rows, columns = args.size
    if args.work == "decode":
        latent = numbers(1, 1, 16, rows // 8, columns // 8).to(**args.place)
        run(args, "vae decode", lambda: decode(latent))
    else:
        picture = numbers(1, 1, 3, rows, columns).to(**args.place)
        run(args, "vae encode", lambda: encode(picture))


if __name__ == "__main__":
    main()
