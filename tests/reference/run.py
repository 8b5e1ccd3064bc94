"""What the pipeline computes around the models, written from the paper and the public FLUX description."""

import math

import torch
from PIL import Image


def pack(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def unpack(x, h, w):
    b, _, f = x.shape
    return x.reshape(b, h // 2, w // 2, f // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, f // 4, h, w)


def grid_ids(rows, columns, row, column):
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] += torch.arange(rows)[:, None] + row
    ids[..., 2] += torch.arange(columns)[None, :] + column
    return ids.reshape(-1, 3)


def reference_ids(pe, latent, references):
    """Ids of each reference; grids are (rows, columns) of tokens."""
    row, column = latent
    out = []
    for rows, columns in references:
        out.append(grid_ids(rows, columns, row if pe in "dh" else 0, column if pe in "dw" else 0))
        row, column = row + rows, column + columns
    return out


def run_transformer(model, latent, refs, txt, vec, t, guidance, pe):
    """Packed velocity of the latent's tokens."""
    grid = lambda x: (x.shape[2] // 2, x.shape[3] // 2)  # noqa: E731
    ids = [grid_ids(*grid(latent), 0, 0), *reference_ids(pe, grid(latent), [grid(r) for r in refs])]
    tokens = torch.cat([pack(latent), *(pack(r) for r in refs)], 1)
    with torch.no_grad():
        out = model(
            hidden_states=tokens, encoder_hidden_states=txt, pooled_projections=vec, timestep=t, guidance=guidance,
            img_ids=torch.cat(ids), txt_ids=torch.zeros(txt.shape[1], 3), return_dict=False,
        )[0]  # fmt: skip
    return out[:, : latent.shape[2] * latent.shape[3] // 4]


def schedule(steps, sequence_length, shift=True):
    t = torch.linspace(1, 0, steps + 1)
    if shift:
        slope = (1.15 - 0.5) / (4096 - 256)
        mu = slope * sequence_length + 0.5 - slope * 256
        t = math.exp(mu) / (math.exp(mu) + (1 / t - 1))
    return t.tolist()


def noise(seed, height, width, dtype=torch.float32):
    # Drawn in f32 and rounded, as on a GPU. (The CPU generator of torch 2.9 draws bf16 from uniforms of 8 bits, unlike others.)
    shape = (1, 16, 2 * math.ceil(height / 16), 2 * math.ceil(width / 16))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def preprocess(path, long_side):
    """A reference as the model sees it: resized in its own mode, cropped, then converted to RGB."""
    image = Image.open(path)
    w, h = image.size
    if w >= h:
        size = (long_side, int((long_side / w) * h))
    else:
        size = (int((long_side / h) * w), long_side)
    image = image.resize(size, resample=Image.LANCZOS)
    cw, ch = size[0] // 16 * 16, size[1] // 16 * 16
    left, top = (size[0] - cw) // 2, (size[1] - ch) // 2
    return image.crop((left, top, left + cw, top + ch)).convert("RGB")
