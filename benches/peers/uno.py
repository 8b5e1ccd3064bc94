"""UNO's networks in PyTorch, in the structure of the official code: LoRA beside the weights, rotations by 2x2 matrices,
`scaled_dot_product_attention`. Names of modules are the checkpoints' keys, so that files load without a map.

Written from the architecture (FLUX.1: black-forest-labs/flux; UNO: arXiv 2504.02160; T5: arXiv 1910.10683).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def lora(width, out, rank):
    """up(down(x)), without alpha."""
    branch = nn.Module()
    branch.down, branch.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, out, bias=False)
    branch.forward = lambda x: branch.up(branch.down(x))
    return branch


# --- transformer ---


def timestep_embedding(t, dim):
    half = dim // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = (1000.0 * t)[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1).to(t.dtype)


def rotations(ids, head_dim):
    """Positions [tokens, 3] -> 2x2 matrices [1, 1, tokens, D/2, 2, 2]."""
    parts = []
    for axis, d in enumerate((head_dim // 8, head_dim * 7 // 16, head_dim * 7 // 16)):
        omega = 1.0 / 10000.0 ** (torch.arange(0, d, 2, dtype=torch.float64, device=ids.device) / d)
        angle = ids[:, axis, None].double() * omega
        parts.append(torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2)))
    return torch.cat(parts, 1).float()[None, None]


def rotate(x, matrices):
    pairs = x.float().reshape(*x.shape[:-1], -1, 1, 2)
    rotated = matrices[..., 0] * pairs[..., 0] + matrices[..., 1] * pairs[..., 1]
    return rotated.reshape(x.shape).type_as(x)


def attend(q, k, v, matrices):
    x = F.scaled_dot_product_attention(rotate(q, matrices), rotate(k, matrices), v)
    return x.transpose(1, 2).flatten(2)


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-6)
        return normed.to(x.dtype) * self.scale


class QKNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.query_norm, self.key_norm = RMSNorm(dim), RMSNorm(dim)

    def split(self, qkv, heads):
        """[B, L, 3 * heads * D] -> normed q and k, and v, [B, heads, L, D] each."""
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return self.query_norm(q), self.key_norm(k), v


class Embedder(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(width, hidden), nn.Linear(hidden, hidden)

    def forward(self, x):
        return self.out_layer(F.silu(self.in_layer(x)))


class Modulation(nn.Module):
    def __init__(self, hidden, chunks):
        super().__init__()
        self.lin, self.chunks = nn.Linear(hidden, chunks * hidden), chunks

    def forward(self, vec):
        return self.lin(F.silu(vec))[:, None].chunk(self.chunks, -1)


class SelfAttention(nn.Module):
    def __init__(self, hidden, head_dim):
        super().__init__()
        self.qkv, self.norm, self.proj = nn.Linear(hidden, 3 * hidden), QKNorm(head_dim), nn.Linear(hidden, hidden)


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class DoubleBlock(nn.Module):
    def __init__(self, hidden, heads, rank):
        super().__init__()
        self.heads = heads
        for stream in ("img", "txt"):
            mlp = nn.Sequential(
                nn.Linear(hidden, 4 * hidden), nn.GELU(approximate="tanh"), nn.Linear(4 * hidden, hidden)
            )
            setattr(self, f"{stream}_mod", Modulation(hidden, 6))
            setattr(self, f"{stream}_attn", SelfAttention(hidden, hidden // heads))
            setattr(self, f"{stream}_mlp", mlp)
        self.processor = nn.Module()
        for i in (1, 2) if rank else ():
            setattr(self.processor, f"qkv_lora{i}", lora(hidden, 3 * hidden, rank))
            setattr(self.processor, f"proj_lora{i}", lora(hidden, hidden, rank))

    def adapted(self, layer, kind, i, x):
        y = layer(x)
        branch = getattr(self.processor, f"{kind}_lora{i}", None)
        return y if branch is None else y + branch(x)

    def forward(self, img, txt, vec, matrices):
        streams = [
            (self.txt_mod, self.txt_attn, self.txt_mlp, txt, 2),
            (self.img_mod, self.img_attn, self.img_mlp, img, 1),
        ]
        parts, mods = [], []
        for mod, attn, _, x, i in streams:
            mods.append(mod(vec))
            shift, scale = mods[-1][:2]
            parts.append(attn.norm.split(self.adapted(attn.qkv, "qkv", i, (1 + scale) * norm(x) + shift), self.heads))
        q, k, v = (torch.cat(pair, 2) for pair in zip(*parts))
        attended = attend(q, k, v, matrices).split([txt.shape[1], img.shape[1]], 1)
        out = []
        for (_, attn, mlp, x, i), mod, a in zip(streams, mods, attended):
            _, _, gate1, shift, scale, gate2 = mod
            x = x + gate1 * self.adapted(attn.proj, "proj", i, a)
            out.append(x + gate2 * mlp((1 + scale) * norm(x) + shift))
        return out[1], out[0]


class SingleBlock(nn.Module):
    def __init__(self, hidden, heads, rank):
        super().__init__()
        self.hidden, self.heads = hidden, heads
        self.modulation, self.norm = Modulation(hidden, 3), QKNorm(hidden // heads)
        self.linear1, self.linear2 = nn.Linear(hidden, 7 * hidden), nn.Linear(5 * hidden, hidden)
        self.processor = nn.Module()
        if rank:
            self.processor.qkv_lora = lora(hidden, 3 * hidden, rank)
            self.processor.proj_lora = lora(5 * hidden, hidden, rank)

    def forward(self, x, vec, matrices):
        shift, scale, gate = self.modulation(vec)
        modulated = (1 + scale) * norm(x) + shift
        qkv, mlp = self.linear1(modulated).split([3 * self.hidden, 4 * self.hidden], -1)
        has_lora = hasattr(self.processor, "qkv_lora")
        if has_lora:
            qkv = qkv + self.processor.qkv_lora(modulated)
        attended = attend(*self.norm.split(qkv, self.heads), matrices)
        joined = torch.cat([attended, F.gelu(mlp, approximate="tanh")], 2)
        out = self.linear2(joined)
        if has_lora:
            out = out + self.processor.proj_lora(joined)
        return x + gate * out


class Transformer(nn.Module):
    def __init__(self, *, hidden, heads, double, single, channels, context, pooled, time_dim, guidance, rank):
        super().__init__()
        self.time_dim, self.head_dim = time_dim, hidden // heads
        self.img_in, self.txt_in = nn.Linear(channels, hidden), nn.Linear(context, hidden)
        self.time_in, self.vector_in = Embedder(time_dim, hidden), Embedder(pooled, hidden)
        if guidance:
            self.guidance_in = Embedder(time_dim, hidden)
        self.double_blocks = nn.ModuleList(DoubleBlock(hidden, heads, rank) for _ in range(double))
        self.single_blocks = nn.ModuleList(SingleBlock(hidden, heads, rank) for _ in range(single))
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(hidden, channels)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    @staticmethod
    def sizes(shapes):
        """Arguments of this class from the shapes of a transformer's (and a LoRA's) tensors."""
        count = lambda kind: len({k.split(".")[1] for k in shapes if k.startswith(kind)})  # noqa: E731
        hidden, channels = shapes["img_in.weight"]
        down = shapes.get("double_blocks.0.processor.qkv_lora1.down.weight")
        return {
            "hidden": hidden, "channels": channels,
            "heads": hidden // shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0],
            "double": count("double_blocks."), "single": count("single_blocks."),
            "context": shapes["txt_in.weight"][1], "pooled": shapes["vector_in.in_layer.weight"][1],
            "time_dim": shapes["time_in.in_layer.weight"][1], "guidance": "guidance_in.in_layer.weight" in shapes,
            "rank": down[0] if down else 0,
        }  # fmt: skip

    def forward(self, latent, references, txt, vec, ids, t, guidance):
        img = torch.cat([self.img_in(x) for x in (latent, *references)], 1)
        txt = self.txt_in(txt)
        condition = self.time_in(timestep_embedding(t, self.time_dim))
        if hasattr(self, "guidance_in"):
            condition = condition + self.guidance_in(timestep_embedding(guidance, self.time_dim))
        condition = condition + self.vector_in(vec)
        matrices = rotations(ids, self.head_dim)
        for block in self.double_blocks:
            img, txt = block(img, txt, condition, matrices)
        x = torch.cat([txt, img], 1)
        for block in self.single_blocks:
            x = block(x, condition, matrices)
        x = x[:, txt.shape[1] : txt.shape[1] + latent.shape[1]]
        shift, scale = self.final_layer.adaLN_modulation(condition)[:, None].chunk(2, -1)
        return self.final_layer.linear((1 + scale) * norm(x) + shift)


# --- T5 encoder ---


class T5Norm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


class T5Block(nn.Module):
    def __init__(self, width, inner, feed_forward, heads, buckets):
        super().__init__()
        self.heads = heads
        linear = lambda a, b: nn.Linear(a, b, bias=False)  # noqa: E731
        attention, dense, first, second = nn.Module(), nn.Module(), nn.Module(), nn.Module()
        attention.q, attention.k, attention.v = (linear(width, inner) for _ in range(3))
        attention.o = linear(inner, width)
        if buckets:
            attention.relative_attention_bias = nn.Embedding(buckets, heads)
        dense.wi_0, dense.wi_1 = linear(width, feed_forward), linear(width, feed_forward)
        dense.wo = linear(feed_forward, width)
        first.SelfAttention, first.layer_norm = attention, T5Norm(width)
        second.DenseReluDense, second.layer_norm = dense, T5Norm(width)
        self.layer = nn.ModuleList([first, second])

    def forward(self, x, bias):
        attention, dense = self.layer[0].SelfAttention, self.layer[1].DenseReluDense
        normed = self.layer[0].layer_norm(x)
        q, k, v = (
            f(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (attention.q, attention.k, attention.v)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        x = x + attention.o(attended.transpose(1, 2).flatten(2))
        normed = self.layer[1].layer_norm(x)
        return x + dense.wo(F.gelu(dense.wi_0(normed), approximate="tanh") * dense.wi_1(normed))


class T5(nn.Module):
    def __init__(self, *, vocabulary, width, inner, feed_forward, heads, layers, buckets):
        super().__init__()
        self.shared = nn.Embedding(vocabulary, width)
        self.encoder = nn.Module()
        blocks = (T5Block(width, inner, feed_forward, heads, 0 if i else buckets) for i in range(layers))
        self.encoder.block = nn.ModuleList(blocks)
        self.encoder.final_layer_norm = T5Norm(width)

    @staticmethod
    def sizes(shapes):
        first = "encoder.block.0.layer.{}"
        buckets, heads = shapes[first.format("0.SelfAttention.relative_attention_bias.weight")]
        return {
            "vocabulary": shapes["shared.weight"][0], "width": shapes["shared.weight"][1],
            "inner": shapes[first.format("0.SelfAttention.q.weight")][0],
            "feed_forward": shapes[first.format("1.DenseReluDense.wi_0.weight")][0],
            "heads": heads, "buckets": buckets,
            "layers": len({k.split(".")[2] for k in shapes if k.startswith("encoder.block.")}),
        }  # fmt: skip

    def bias(self, tokens):
        """[1, heads, tokens, tokens]"""
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        half = table.num_embeddings // 2
        exact = half // 2
        places = torch.arange(tokens, device=table.weight.device)
        distance = places[None] - places[:, None]
        side, distance = (distance > 0) * half, distance.abs()
        far = exact + (torch.log(distance.float() / exact) / math.log(128 / exact) * (half - exact)).long()
        bucket = side + torch.where(distance < exact, distance, far.clamp(max=half - 1))
        return table(bucket).permute(2, 0, 1)[None]

    def forward(self, ids):
        x, bias = self.shared(ids)[None], self.bias(len(ids))
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)


# --- autoencoder ---


def group_norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


def conv(a, b):
    return nn.Conv2d(a, b, 3, padding=1)


class ResnetBlock(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = group_norm(a), conv(a, b), group_norm(b), conv(b, b)
        if a != b:
            self.nin_shortcut = nn.Conv2d(a, b, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        normed = self.norm(x)
        q, k, v = (f(normed).flatten(2).transpose(1, 2)[:, None].contiguous() for f in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(attended[:, 0].transpose(1, 2).reshape(x.shape))


def middle(channels):
    mid = nn.Module()
    mid.block_1, mid.attn_1, mid.block_2 = (
        ResnetBlock(channels, channels),
        AttnBlock(channels),
        ResnetBlock(channels, channels),
    )
    mid.forward = lambda x: mid.block_2(mid.attn_1(mid.block_1(x)))
    return mid


class Encoder(nn.Module):
    def __init__(self, channels, blocks, latent):
        super().__init__()
        self.conv_in, a = conv(3, channels[0]), channels[0]
        self.down = nn.ModuleList()
        for i, b in enumerate(channels):
            level = nn.Module()
            level.block = nn.ModuleList(ResnetBlock(a if j == 0 else b, b) for j in range(blocks))
            if i + 1 < len(channels):
                level.downsample = nn.Module()
                level.downsample.conv = nn.Conv2d(b, b, 3, stride=2)
            self.down.append(level)
            a = b
        self.mid, self.norm_out, self.conv_out = middle(a), group_norm(a), conv(a, 2 * latent)

    def forward(self, x):
        h = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                h = block(h)
            if hasattr(level, "downsample"):
                h = level.downsample.conv(F.pad(h, (0, 1, 0, 1)))
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    def __init__(self, channels, blocks, latent):
        super().__init__()
        a = channels[-1]
        self.conv_in, self.mid, levels = conv(latent, a), middle(a), []
        for i, b in reversed(list(enumerate(channels))):
            level = nn.Module()
            level.block = nn.ModuleList(ResnetBlock(a if j == 0 else b, b) for j in range(blocks + 1))
            if i:
                level.upsample = nn.Module()
                level.upsample.conv = conv(b, b)
            levels.insert(0, level)
            a = b
        self.up, self.norm_out, self.conv_out = nn.ModuleList(levels), group_norm(a), conv(a, 3)

    def forward(self, z):
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            for block in level.block:
                h = block(h)
            if hasattr(level, "upsample"):
                h = level.upsample.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoEncoder(nn.Module):
    def __init__(self, *, channels=(128, 256, 512, 512), blocks=2, latent=16):
        super().__init__()
        self.encoder, self.decoder = Encoder(channels, blocks, latent), Decoder(channels, blocks, latent)

    def encode(self, picture):
        """The mean of the latent."""
        return scaled(self.encoder(picture).chunk(2, 1)[0])

    def decode(self, latent):
        return self.decoder(unscaled(latent))


def scaled(z):
    return 0.3611 * (z - 0.1159)


def unscaled(latent):
    return latent / 0.3611 + 0.1159
