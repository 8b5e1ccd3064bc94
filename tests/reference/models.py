"""Models of diffusers and transformers with random weights, and those weights under FLUX's original names."""

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel


def randomize(model, seed, dtype):
    """Draws all weights, rounded to the format they will be stored in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            value = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                value *= p[0].numel() ** -0.5
            elif "norm" in name and name.endswith("weight"):
                value = 1 + 0.1 * value
            else:
                value *= 0.1
            p.copy_(value.to(dtype).float())
    return model.eval()


def transformer(seed, dtype, *, heads, head_dim, double, single, context, pooled, guidance):
    model = FluxTransformer2DModel(
        in_channels=64,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=head_dim,
        num_attention_heads=heads,
        joint_attention_dim=context,
        pooled_projection_dim=pooled,
        guidance_embeds=guidance,
        axes_dims_rope=(head_dim // 8, head_dim * 7 // 16, head_dim * 7 // 16),
    )
    return randomize(model, seed, dtype)


# Rows of (original name, names in diffusers that are joined for it).
_EMBED = [
    ("img_in", ["x_embedder"]),
    ("txt_in", ["context_embedder"]),
    ("time_in.in_layer", ["time_text_embed.timestep_embedder.linear_1"]),
    ("time_in.out_layer", ["time_text_embed.timestep_embedder.linear_2"]),
    ("guidance_in.in_layer", ["time_text_embed.guidance_embedder.linear_1"]),
    ("guidance_in.out_layer", ["time_text_embed.guidance_embedder.linear_2"]),
    ("vector_in.in_layer", ["time_text_embed.text_embedder.linear_1"]),
    ("vector_in.out_layer", ["time_text_embed.text_embedder.linear_2"]),
    ("final_layer.linear", ["proj_out"]),
]
_DOUBLE = [
    ("img_mod.lin", ["norm1.linear"]),
    ("txt_mod.lin", ["norm1_context.linear"]),
    ("img_attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"]),
    ("txt_attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
    ("img_attn.proj", ["attn.to_out.0"]),
    ("txt_attn.proj", ["attn.to_add_out"]),
    ("img_mlp.0", ["ff.net.0.proj"]),
    ("img_mlp.2", ["ff.net.2"]),
    ("txt_mlp.0", ["ff_context.net.0.proj"]),
    ("txt_mlp.2", ["ff_context.net.2"]),
]
_DOUBLE_NORMS = [
    ("img_attn.norm.query_norm", "attn.norm_q"),
    ("img_attn.norm.key_norm", "attn.norm_k"),
    ("txt_attn.norm.query_norm", "attn.norm_added_q"),
    ("txt_attn.norm.key_norm", "attn.norm_added_k"),
]
_SINGLE = [
    ("modulation.lin", ["norm.linear"]),
    ("linear1", ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]),
    ("linear2", ["proj_out"]),
]
_SINGLE_NORMS = [("norm.query_norm", "attn.norm_q"), ("norm.key_norm", "attn.norm_k")]


def _rows(state):
    """(original key, diffusers keys) for every tensor but the last modulation."""
    count = lambda prefix: len({k.split(".")[1] for k in state if k.startswith(prefix + ".")})  # noqa: E731
    blocks = [("", "", _EMBED, [])]
    blocks += [(f"double_blocks.{i}.", f"transformer_blocks.{i}.", _DOUBLE, _DOUBLE_NORMS) for i in range(count("transformer_blocks"))]
    blocks += [
        (f"single_blocks.{i}.", f"single_transformer_blocks.{i}.", _SINGLE, _SINGLE_NORMS)
        for i in range(count("single_transformer_blocks"))
    ]
    for ours, theirs, layers, norms in blocks:
        for a, bs in layers:
            for part in ("weight", "bias"):
                yield f"{ours}{a}.{part}", [f"{theirs}{b}.{part}" for b in bs]
        for a, b in norms:
            yield f"{ours}{a}.scale", [f"{theirs}{b}.weight"]


def transformer_to_original(model):
    """Weights under original names. The last modulation's halves are (shift, scale) there, (scale, shift) in diffusers."""
    state = model.state_dict()
    out = {ours: torch.cat([state[k] for k in theirs]) for ours, theirs in _rows(state) if theirs[0] in state}
    for part in ("weight", "bias"):
        scale, shift = state[f"norm_out.linear.{part}"].chunk(2)
        out[f"final_layer.adaLN_modulation.1.{part}"] = torch.cat([shift, scale])
    return out


def transformer_from_original(model, tensors):
    """Puts original weights into a diffusers model; the inverse of `transformer_to_original`."""
    state = model.state_dict()
    with torch.no_grad():
        for ours, theirs in _rows(state):
            if theirs[0] in state:
                parts = tensors[ours].float().split([state[k].shape[0] for k in theirs])
                for key, value in zip(theirs, parts):
                    state[key].copy_(value)
        for part in ("weight", "bias"):
            shift, scale = tensors[f"final_layer.adaLN_modulation.1.{part}"].float().chunk(2)
            state[f"norm_out.linear.{part}"].copy_(torch.cat([scale, shift]))
    return model.eval()


def lora(seed, config, rank):
    """UNO's LoRA tensors for a transformer of diffusers' `config`."""
    generator = torch.Generator().manual_seed(seed)
    h = config.num_attention_heads * config.attention_head_dim
    shapes = {}
    for i in range(config.num_layers):
        for name, out in (("qkv_lora1", 3 * h), ("qkv_lora2", 3 * h), ("proj_lora1", h), ("proj_lora2", h)):
            shapes[f"double_blocks.{i}.processor.{name}"] = (h, out)
    for i in range(config.num_single_layers):
        shapes[f"single_blocks.{i}.processor.qkv_lora"] = (h, 3 * h)
        shapes[f"single_blocks.{i}.processor.proj_lora"] = (5 * h, h)
    out = {}
    for name, (fan_in, fan_out) in shapes.items():
        out[f"{name}.down.weight"] = torch.randn(rank, fan_in, generator=generator) * fan_in**-0.5
        out[f"{name}.up.weight"] = torch.randn(fan_out, rank, generator=generator) * 0.2
    return out


def merged(tensors, lora_tensors):
    """Original weights with the LoRA added: 1 is the image stream, 2 the text stream; `qkv_lora` of a single block adds to the
    qkv part of `linear1` only."""
    targets = {
        "qkv_lora1": "img_attn.qkv", "qkv_lora2": "txt_attn.qkv", "proj_lora1": "img_attn.proj",
        "proj_lora2": "txt_attn.proj", "qkv_lora": "linear1", "proj_lora": "linear2",
    }  # fmt: skip
    out = {k: v.float().clone() for k, v in tensors.items()}
    for key in lora_tensors:
        if key.endswith(".down.weight"):
            block, name = key.removesuffix(".down.weight").split(".processor.")
            delta = lora_tensors[key.replace("down", "up")] @ lora_tensors[key]
            out[f"{block}.{targets[name]}.weight"][: delta.shape[0]] += delta
    return out


def autoencoder(seed, dtype, *, channels, res_blocks):
    model = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=res_blocks,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return randomize(model, seed, dtype)


def autoencoder_names(model):
    """(original key, diffusers key) of every tensor."""
    levels = len(model.config.block_out_channels)
    inner = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "conv_shortcut": "nin_shortcut"}
    for key in model.state_dict():
        ours = key
        for a, b in inner.items():
            ours = ours.replace(f".{a}.", f".{b}.")
        ours = ours.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        ours = ours.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        ours = ours.replace("resnets", "block").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        if "down_blocks" in ours:
            ours = ours.replace("down_blocks", "down")
        if "up_blocks" in ours:
            parts = ours.split(".")
            parts[1:3] = ["up", str(levels - 1 - int(parts[2]))]
            ours = ".".join(parts)
        yield ours, key


def autoencoder_to_original(model):
    """Weights under original names; attention projections are 1x1 convolutions there."""
    state = model.state_dict()
    conv = lambda k, v: v[:, :, None, None] if ".attn_1." in k and v.ndim == 2 else v  # noqa: E731
    return {ours: conv(ours, state[key]) for ours, key in autoencoder_names(model)}


def autoencoder_from_original(model, tensors):
    """Puts original weights into a diffusers model."""
    state = model.state_dict()
    with torch.no_grad():
        for ours, key in autoencoder_names(model):
            state[key].copy_(tensors[ours].float().reshape(state[key].shape))
    return model.eval()


def t5(seed, dtype, **config):
    return randomize(T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **config)), seed, dtype)


def clip(seed, dtype, **config):
    # eos_token_id 2 is the old convention: the end is the first position of the highest id.
    config = CLIPTextConfig(hidden_act="quick_gelu", eos_token_id=2, bos_token_id=0, pad_token_id=1, **config)
    return randomize(CLIPTextModel(config), seed, dtype)
