"""BERT: classifiers, and encoders whose result is an embedding of the text (sentence-transformers or plain mean)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from runtime.errors import BadModel
from runtime.families.rename import activation, head_width, renamed
from runtime.shape import Shape

MODELS = {
    "BertModel": "BertModel",
    "BertForMaskedLM": "BertModel",
    "BertForPreTraining": "BertModel",
    "BertForSequenceClassification": "BertForSequenceClassification",
}
UNREAD = ("pooler.",)


def shape(config: Any, folder: Path | None) -> Shape:
    """Shape of a BERT configuration; a folder of sentence-transformers also says how tokens become one embedding.

    Raises BadModel for what cannot be converted.
    """
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute":
        raise BadModel(f'position_embedding_type {positions!r} is not supported, only "absolute"')
    for name in ("is_decoder", "add_cross_attention"):
        if getattr(config, name, False):
            raise BadModel(f"{name}: true is not supported")
    classifies = config.architectures[0] == "BertForSequenceClassification"
    readout, normalize = _pooling(None if classifies else folder)
    return Shape(
        family="bert",
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=head_width(config.hidden_size, config.num_attention_heads),
        hidden=config.intermediate_size,
        norm_eps=config.layer_norm_eps,
        norm_first=False,
        activation=activation(config.hidden_act),
        vocabulary=config.vocab_size,
        max_tokens=config.max_position_embeddings,
        readout="first" if classifies else readout,
        normalize=normalize,
        outputs=config.num_labels if classifies else config.hidden_size,
        result="classes" if classifies else "embedding",
    )


def _pooling(folder: Path | None) -> tuple[Literal["first", "mean"], bool]:
    """What a sentence-transformers folder reads out, and whether to unit length; the plain mean of any other."""
    if folder is None or not (folder / "modules.json").exists():
        return "mean", False
    try:
        modules = {m["type"].rsplit(".", 1)[-1]: m["path"] for m in json.loads((folder / "modules.json").read_text())}
        if unknown := modules.keys() - {"Transformer", "Pooling", "Normalize"}:
            raise BadModel(f"modules.json: {', '.join(sorted(unknown))} is not supported")
        pooling = json.loads((folder / modules["Pooling"] / "config.json").read_text())
        modes = {key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"modules.json and its pooling cannot be read ({error!r})") from None
    if modes == {"pooling_mode_mean_tokens"}:
        return "mean", "Normalize" in modules
    if modes == {"pooling_mode_cls_token"}:
        return "first", "Normalize" in modules
    raise BadModel(
        f"pooling {', '.join(sorted(modes)) or 'unknown'} is not supported, only the mean or the first token"
    )


def tensors(model: Any, folder: Path | None) -> dict[str, Tensor]:
    """Our tensors of a transformers BERT. Post-norm: norm1 follows attention's residual, norm2 the MLP's."""
    ours = renamed(
        getattr(model, "bert", model).state_dict(),
        {
            "embed.tokens": "embeddings.word_embeddings",
            "embed.positions": "embeddings.position_embeddings",
            "embed.types": "embeddings.token_type_embeddings",
            "embed.norm": "embeddings.LayerNorm",
            "layers.{i}.q": "encoder.layer.{i}.attention.self.query",
            "layers.{i}.k": "encoder.layer.{i}.attention.self.key",
            "layers.{i}.v": "encoder.layer.{i}.attention.self.value",
            "layers.{i}.o": "encoder.layer.{i}.attention.output.dense",
            "layers.{i}.norm1": "encoder.layer.{i}.attention.output.LayerNorm",
            "layers.{i}.up": "encoder.layer.{i}.intermediate.dense",
            "layers.{i}.down": "encoder.layer.{i}.output.dense",
            "layers.{i}.norm2": "encoder.layer.{i}.output.LayerNorm",
        },
    )
    if hasattr(model, "classifier"):
        ours |= renamed(model.state_dict(), {"head.pool": "bert.pooler.dense", "head.out": "classifier"})
    return ours
