"""Single operations at FLUX's sizes: the counterpart of `benches/layers.rs`."""

from common import numbers, parse, parser, run
from safetensors.torch import load_file
from torch.nn import functional as F


def main():
    p = parser(__doc__)
    p.add_argument("--layer", choices=["linear", "attention", "gelu", "modulate", "group-norm-silu"], required=True)
    p.add_argument("--checkpoint")
    p.add_argument("--rows", type=int, default=1024)
    p.add_argument("--width", type=int, default=3072)
    p.add_argument("--heads", type=int, default=24)
    args = parse(p)
    rows, width, heads = args.rows, args.width, args.heads
    if args.layer == "linear":
        tensors = load_file(args.checkpoint)
        weight, bias = tensors["linear.weight"], tensors["linear.bias"]
        x = numbers(1, 1, rows, weight.shape[1])
        run(args, "linear", lambda: F.linear(x, weight, bias))
    elif args.layer == "attention":
        q, k, v = (numbers(seed, 1, heads, rows, width) for seed in (1, 2, 3))
        run(args, "attention", lambda: F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    elif args.layer == "gelu":
        x = numbers(1, 1, rows, width)
        run(args, "gelu", lambda: F.gelu(x, approximate="tanh"))
    elif args.layer == "modulate":
        x, scale, shift = numbers(1, 1, rows, width), numbers(2, 1, 1, width), numbers(3, 1, 1, width)
        run(args, "modulate", lambda: (1 + scale) * F.layer_norm(x, (width,), eps=1e-6) + shift)
    else:
        x, weight, bias = numbers(1, 1, heads, rows, width), numbers(2, heads), numbers(3, heads)
        run(args, "group norm and silu", lambda: F.silu(F.group_norm(x, 32, weight, bias, eps=1e-6)))


if __name__ == "__main__":
    main()
