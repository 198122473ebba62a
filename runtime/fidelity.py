"""How far a result is from what one device computes on the same input."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.shape import Shape


def fidelity(shape: Shape, result: Tensor, reference: Tensor) -> dict[str, Any]:
    """result, reference [outputs] -> max_abs_error, cosine, top1_agreement (None for embeddings), kl in nats (language
    models: of the next-token distribution, reference against result; else None)."""
    kl = F.kl_div(result.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="sum").clamp_min(0)
    return {
        "max_abs_error": (result - reference).abs().max().item(),
        "cosine": torch.cosine_similarity(result.double(), reference.double(), dim=0).item(),
        "top1_agreement": bool(result.argmax() == reference.argmax()) if shape.result != "embedding" else None,
        "kl": kl.item() if shape.result == "tokens" else None,
    }
