"""Vision Transformer: image classifiers, and encoders whose result is the class token."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.errors import BadModel
from runtime.families.rename import activation, head_width, renamed
from runtime.shape import Shape

MODELS = {"ViTForImageClassification": "ViTForImageClassification", "ViTModel": "ViTModel"}
UNREAD = ("pooler.",)

# transformers renamed the modules of ViT during version 5; checkpoints of either kind load into both.
RENAMED = {
    "layers.{i}.norm1": "layers.{i}.layernorm_before",
    "layers.{i}.q": "layers.{i}.attention.q_proj",
    "layers.{i}.k": "layers.{i}.attention.k_proj",
    "layers.{i}.v": "layers.{i}.attention.v_proj",
    "layers.{i}.o": "layers.{i}.attention.o_proj",
    "layers.{i}.norm2": "layers.{i}.layernorm_after",
    "layers.{i}.up": "layers.{i}.mlp.fc1",
    "layers.{i}.down": "layers.{i}.mlp.fc2",
}
ORIGINAL = {
    "layers.{i}.norm1": "encoder.layer.{i}.layernorm_before",
    "layers.{i}.q": "encoder.layer.{i}.attention.attention.query",
    "layers.{i}.k": "encoder.layer.{i}.attention.attention.key",
    "layers.{i}.v": "encoder.layer.{i}.attention.attention.value",
    "layers.{i}.o": "encoder.layer.{i}.attention.output.dense",
    "layers.{i}.norm2": "encoder.layer.{i}.layernorm_after",
    "layers.{i}.up": "encoder.layer.{i}.intermediate.dense",
    "layers.{i}.down": "encoder.layer.{i}.output.dense",
}


def shape(config: Any, folder: Path | None) -> Shape:
    """Shape of a ViT configuration. Raises BadModel for what cannot be converted."""
    for name in ("image_size", "patch_size"):
        if not isinstance(getattr(config, name), int):
            raise BadModel(f"{name} {getattr(config, name)!r} is not supported: images and patches must be square")
    classes = config.num_labels if config.architectures[0] == "ViTForImageClassification" else 0
    return Shape(
        family="vit",
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=head_width(config.hidden_size, config.num_attention_heads),
        hidden=config.intermediate_size,
        norm_eps=config.layer_norm_eps,
        activation=activation(config.hidden_act),
        embedding="patches",
        patch=config.patch_size,
        channels=config.num_channels,
        class_token=True,
        readout="first",
        outputs=classes or config.hidden_size,
        result="classes" if classes else "embedding",
    )


def tensors(model: Any, folder: Path | None) -> dict[str, Tensor]:
    """Our tensors of a transformers ViT. Its pixel normalisation becomes part of the patch embedding, which so takes
    uint8 pixels of a patch in the order rows, columns, channels."""
    encoder = getattr(model, "vit", model)
    state = encoder.state_dict()
    ours = renamed(state, RENAMED if "layers.0.mlp.fc1.weight" in state else ORIGINAL)
    ours |= renamed(state, {"head.norm": "layernorm"})
    ours["embed.class.weight"] = state["embeddings.cls_token"][0]
    ours["embed.positions.weight"] = state["embeddings.position_embeddings"][0]
    filters = state["embeddings.patch_embeddings.projection.weight"]
    bias = state.get("embeddings.patch_embeddings.projection.bias")
    scale, mean, std = _normalisation(folder, filters.shape[1])
    by_channel = filters.double() / std.view(-1, 1, 1)
    shift = (by_channel * mean.view(-1, 1, 1)).sum((1, 2, 3))
    ours["embed.patch.weight"] = (by_channel * scale).permute(0, 2, 3, 1).flatten(1).float()
    ours["embed.patch.bias"] = ((0 if bias is None else bias.double()) - shift).float()
    classifier = getattr(model, "classifier", None)
    if isinstance(classifier, torch.nn.Linear):
        ours |= renamed(model.state_dict(), {"head.out": "classifier"})
    return ours


def _normalisation(folder: Path | None, channels: int) -> tuple[float, Tensor, Tensor]:
    """Scale of a pixel, then mean and deviation per channel: (pixel x scale - mean) / deviation, ViT's own 0.5 and 0.5
    where the checkpoint says nothing."""
    said: dict[str, Any] = {}
    if folder is not None and (folder / "preprocessor_config.json").exists():
        try:
            said = dict(json.loads((folder / "preprocessor_config.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise BadModel(f"preprocessor_config.json cannot be read ({error})") from None
    scale = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
    mean, std = said.get("image_mean", 0.5), said.get("image_std", 0.5)
    if not said.get("do_normalize", True):
        mean, std = 0.0, 1.0
    return _positive(scale, "rescale_factor"), _per_channel(mean, channels, "image_mean"), _deviation(std, channels)


def _positive(value: Any, key: str) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise BadModel(f"preprocessor_config.json {key} = {value!r}: give a positive number")
    return float(value)


def _deviation(value: Any, channels: int) -> Tensor:
    std = _per_channel(value, channels, "image_std")
    if not bool((std > 0).all()):
        raise BadModel(f"preprocessor_config.json image_std = {value!r}: give positive numbers")
    return std


def _per_channel(value: Any, channels: int, key: str) -> Tensor:
    numbers = value if isinstance(value, list) else [value] * channels
    if len(numbers) != channels or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise BadModel(f"preprocessor_config.json {key} = {value!r}: give {channels} numbers")
    return torch.tensor(numbers, dtype=torch.float64)
