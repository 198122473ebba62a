"""Llama: RMS norms, rotary positions, grouped queries, gated MLP; logits of the next token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from runtime.errors import BadModel
from runtime.families.rename import activation, renamed
from runtime.shape import Shape

MODELS = {"LlamaForCausalLM": "LlamaForCausalLM"}
UNREAD = ()
# Those whose frequencies are fixed; "dynamic" and "longrope" change theirs with the length of the prompt.
ROTARY = ("default", "linear", "llama3", "yarn")


def shape(config: Any, folder: Path | None) -> Shape:
    """Shape of a Llama configuration. Raises BadModel for what cannot be converted."""
    if config.num_key_value_heads < 1 or config.num_attention_heads % config.num_key_value_heads:
        raise BadModel(
            f"{config.num_attention_heads} heads are not a multiple of {config.num_key_value_heads} key-value heads"
        )
    rotary = _rotary(config)
    if rotary.inv_freq.shape[0] * 2 != config.head_dim:
        raise BadModel("partial rotary positions are not supported")
    return Shape(
        family="llama",
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        hidden=config.intermediate_size,
        norm="rms",
        norm_eps=config.rms_norm_eps,
        activation=activation(config.hidden_act),
        gated=True,
        causal=True,
        rotary=True,
        rotary_scale=float(rotary.attention_scaling),
        vocabulary=config.vocab_size,
        readout="last",
        outputs=config.vocab_size,
        result="tokens",
    )


def _rotary(config: Any) -> Any:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind not in ROTARY:
        raise BadModel(f"rope_type {kind!r} is not supported, only {', '.join(ROTARY)}")
    return LlamaRotaryEmbedding(config)


def tensors(model: Any, folder: Path | None) -> dict[str, Tensor]:
    """Our tensors of a transformers Llama; the rotary frequencies are those that transformers computed."""
    ours = renamed(
        model.model.state_dict(),
        {
            "embed.tokens": "embed_tokens",
            "layers.{i}.norm1": "layers.{i}.input_layernorm",
            "layers.{i}.q": "layers.{i}.self_attn.q_proj",
            "layers.{i}.k": "layers.{i}.self_attn.k_proj",
            "layers.{i}.v": "layers.{i}.self_attn.v_proj",
            "layers.{i}.o": "layers.{i}.self_attn.o_proj",
            "layers.{i}.norm2": "layers.{i}.post_attention_layernorm",
            "layers.{i}.gate": "layers.{i}.mlp.gate_proj",
            "layers.{i}.up": "layers.{i}.mlp.up_proj",
            "layers.{i}.down": "layers.{i}.mlp.down_proj",
            "head.norm": "norm",
        },
    )
    ours["rotary.frequencies"] = _rotary(model.config).inv_freq
    if not model.config.tie_word_embeddings:
        ours["head.out.weight"] = model.lm_head.weight
    return ours
