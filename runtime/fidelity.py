"""How far a result is from what one device computes on the same input, and from what would be right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.shape import Shape
from runtime.task import TASKS


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


def score(shape: Shape, raw: Tensor, result: Tensor, reference: Tensor, target: Tensor) -> dict[str, Any]:
    """raw: one input; result, reference [outputs]; target: what would be right (a class, the next id, an embedding) ->
    "metric" of the task, and this one request's score, as in `runtime.task`, of "this" result and of "single"; "input":
    a digest, by which requests with the same one are known."""
    task, right = TASKS[shape.result], target[None, None]
    found = {name: task.score(out[None, None], right).item() for name, out in (("this", result), ("single", reference))}
    digest = hashlib.blake2s(raw.contiguous().numpy().tobytes(), digest_size=8)
    return {"metric": task.metric, "input": digest.hexdigest(), **found}


def agreement(tokens: Sequence[int], reference: Sequence[int], leads: Sequence[float]) -> dict[str, Any]:
    """Generated tokens against as many of one device -> token_agreement, the share of equal ones, place by place, and
    token_lead: by how much single's token was ahead where the two part, None where they do not."""
    equal = [one == other for one, other in zip(tokens, reference, strict=True)]
    lead = None if all(equal) else leads[equal.index(False)]
    return {"token_agreement": sum(equal) / len(equal), "token_lead": lead}
