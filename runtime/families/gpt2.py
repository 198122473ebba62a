"""GPT-2: logits of the next token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from runtime.errors import BadModel
from runtime.families.rename import activation, head_width, renamed
from runtime.shape import Shape

MODELS = {"GPT2LMHeadModel": "GPT2LMHeadModel"}
UNREAD = ()


def shape(config: Any, folder: Path | None) -> Shape:
    """Shape of a GPT-2 configuration. Raises BadModel for what cannot be converted."""
    if not config.scale_attn_weights:
        raise BadModel("scale_attn_weights: false is not supported")
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if getattr(config, name):
            raise BadModel(f"{name}: true is not supported")
    return Shape(
        family="gpt2",
        layers=config.n_layer,
        width=config.n_embd,
        heads=config.n_head,
        kv_heads=config.n_head,
        head_dim=head_width(config.n_embd, config.n_head),
        hidden=config.n_inner if config.n_inner is not None else 4 * config.n_embd,
        norm_eps=config.layer_norm_epsilon,
        activation=activation(config.activation_function),
        causal=True,
        vocabulary=config.vocab_size,
        max_tokens=config.n_positions,
        readout="last",
        outputs=config.vocab_size,
        result="tokens",
    )


def tensors(model: Any, folder: Path | None) -> dict[str, Tensor]:
    """Our tensors of a transformers GPT-2, whose linear weights are [inputs, outputs] and whose q, k, v are one."""
    ours = renamed(
        model.transformer.state_dict(),
        {
            "embed.tokens": "wte",
            "embed.positions": "wpe",
            "layers.{i}.norm1": "h.{i}.ln_1",
            "layers.{i}.qkv": "h.{i}.attn.c_attn",
            "layers.{i}.o": "h.{i}.attn.c_proj",
            "layers.{i}.norm2": "h.{i}.ln_2",
            "layers.{i}.up": "h.{i}.mlp.c_fc",
            "layers.{i}.down": "h.{i}.mlp.c_proj",
            "head.norm": "ln_f",
        },
    )
    for name in list(ours):
        layer, module, kind = name.rsplit(".", 2)
        if kind == "weight" and module in ("qkv", "o", "up", "down"):
            ours[name] = ours[name].T
        if module == "qkv":
            for part, rows in zip("qkv", ours.pop(name).chunk(3), strict=True):
                ours[f"{layer}.{part}.{kind}"] = rows.clone()
    if not model.config.tie_word_embeddings:
        ours["head.out.weight"] = model.lm_head.weight
    return ours
