"""Denoising steps of the transformer: the counterpart of `benches/dit_step.rs`."""

import torch
from common import build, grid, numbers, parse, parser, run, shapes


def main():
    p = parser(__doc__)
    p.add_argument("--checkpoint", help="the transformer: the official structure computes it")
    p.add_argument("--lora", help="UNO's LoRA, beside the weights")
    p.add_argument("--folder", help="a transformer in diffusers' layout: diffusers computes it")
    p.add_argument("--text", type=int, default=512)
    p.add_argument("--latent", type=grid, default=(32, 32))
    p.add_argument("--reference", type=grid, action="append", default=[])
    p.add_argument("--steps", type=int, default=1)
    args = parse(p)

    ids, corner, tokens = [torch.zeros(args.text, 3)], (0, 0), []
    for rows, columns in [args.latent, *args.reference]:
        r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        ids.append(torch.stack([torch.zeros_like(r), r + corner[0], c + corner[1]], -1).reshape(-1, 3).float())
        corner = (corner[0] + rows, corner[1] + columns)
        tokens.append(rows * columns)
    ids = torch.cat(ids)

    velocity, context, pooled, channels = load(args)
    latent = numbers(3, 1, tokens[0], channels).to(**args.place)
    references = [numbers(10 + i, 1, count, channels).to(**args.place) for i, count in enumerate(tokens[1:])]
    txt, vec = numbers(1, 1, args.text, context).to(**args.place), numbers(2, 1, pooled).to(**args.place)
    guidance, ids = torch.tensor([4.0], **args.place), ids.to(args.device)
    times = torch.linspace(1, 0, args.steps + 1).tolist()

    def denoise():
        x = latent
        for t, after in zip(times, times[1:]):
            x = x + (after - t) * velocity(x, references, txt, vec, ids, torch.tensor([t], **args.place), guidance)
        return x

    run(args, "dit step", denoise)


def load(args):
    """The velocity as a function, and the widths of its inputs."""
    if args.folder:
        from diffusers import FluxTransformer2DModel

        model = (
            FluxTransformer2DModel.from_pretrained(args.folder, torch_dtype=args.place["dtype"]).eval().to(args.device)
        )

        def velocity(x, references, txt, vec, ids, t, guidance):
            out = model(
                hidden_states=torch.cat([x, *references], 1),
                encoder_hidden_states=txt,
                pooled_projections=vec,
                timestep=t,
                guidance=guidance,
                txt_ids=ids[: txt.shape[1]],
                img_ids=ids[txt.shape[1] :],
                return_dict=False,
            )
            return out[0][:, : x.shape[1]]

        config = model.config
        return velocity, config.joint_attention_dim, config.pooled_projection_dim, config.in_channels

    from uno import Transformer

    paths = [args.checkpoint, *([args.lora] if args.lora else [])]
    sizes = Transformer.sizes({name: shape for path in paths for name, shape in shapes(path).items()})
    return (
        build(lambda: Transformer(**sizes), *paths, **args.place),
        sizes["context"],
        sizes["pooled"],
        sizes["channels"],
    )


if __name__ == "__main__":
    main()
