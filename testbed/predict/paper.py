"""The accounting of the ASTRA paper (arXiv 2505.19342), beside what it publishes: t = compute + V / (B x unit).

No RTT, no headers, no overlap, a dedicated full-duplex link of rate B between every pair of devices. The data file is
read as it is, its formulas of V included. For Llama-3-8B the file has no compute times and no formulas: V is what the
differences between the published times say (see `LLAMA_VOLUME_BITS`), compute what the time at the highest rate leaves.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from testbed.paths import Hop
from testbed.predict.network import Course
from testbed.predict.work import PredictError
from testbed.topology import Host, Lane, Link, MethodSpec, RunSpec, Step, Topology, Trace
from testbed.walk import Walk

DATA = Path(__file__).parent / "astra_paper.yaml"
# T = 1024, N = 4, D = 4096, L = 32; S = T/N D at 8 bits. Tensor parallelism is charged sixteen slices per layer, as for
# two all-reduces of the whole activation sent and returned; codes are of K and of V, 10 bits each.
LLAMA_VOLUME_BITS = {
    "tp": "16 * L * S",
    "sp": "L * S",
    "bp_ag": "Nb * S",
    "astra": "2 * L * G * 10 * T/N",
}
_LLAMA = {"L": 32.0, "T": 1024.0, "N": 4.0, "S": 1024 / 4 * 4096 * 8}
_LLAMA_UNIT = 1e6
PUBLISHED, FORMULA = "published", "paper's formula"
PUBLISHED_SIZE = 1024, 4  # tokens and devices of its speedups
_SAME = 1e-3  # of a rate
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Add: operator.add, ast.Sub: operator.sub,
}  # fmt: skip


def read(path: Path = DATA) -> dict[str, Any]:
    """The published figures. Raises PredictError, one line, for a file that is none."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        data["encoder"]["volume_bits"], data["llama3_8b_prefill_s"]["single"], data["dynamic_bandwidth"]["requests"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise PredictError(f"{path}: not a file of published figures ({error})") from None
    return dict(data)


def volume_bits(method: str, formulas: Mapping[str, str], values: Mapping[str, float]) -> float:
    """V of e.g. "astra_g16" or "bp_ag_4", whose number is G or Nb. Raises PredictError for one without a formula."""
    if method == "single":
        return 0.0
    match = re.fullmatch(r"(?P<name>[a-z]+(?:_[a-z]+)*?)(?:_g?(?P<number>\d+))?", method)
    if match is None or match["name"] not in formulas:
        raise PredictError(f"{method}: no formula of its volume, there are {', '.join(formulas)}")
    number = float(match["number"] or 0)
    return _value(ast.parse(formulas[match["name"]], mode="eval").body, {**values, "G": number, "Nb": number})


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    """A formula of names, numbers, + - * and / only: data is not run."""
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    raise PredictError(f"a formula of {', '.join(values)} and + - * / is allowed, not {ast.unparse(node)}")


def encoder_s(data: Mapping[str, Any], method: str, mbps: float, tokens: int = 1024, devices: int = 4) -> float:
    """Seconds of one forward pass of the encoder at a rate in the paper's unit. Raises PredictError without data."""
    encoder = data["encoder"]
    times = encoder["compute_ms"].get(f"T={tokens},N={devices}", {})
    if method not in times:
        raise PredictError(f"{method}: no compute time for {tokens} tokens on {devices} devices")
    values = {"L": float(encoder["layers"]), "T": float(tokens), "N": float(devices), "D": float(encoder["hidden"])}
    values["S"] = tokens / devices * encoder["hidden"] * 32
    bits = volume_bits(method, encoder["volume_bits"], values)
    return float(times[method] / 1e3 + bits / (mbps * encoder["mbps_bits"]))


def speedups(data: Mapping[str, Any]) -> pd.DataFrame:
    """One row per published speedup: method, mbps, published, predicted, error (predicted / published - 1)."""
    single_s = encoder_s(data, "single", 1.0)
    rates, published = data["encoder"]["bandwidth_mbps"], data["encoder"]["speedup_over_single"]
    rows = [
        (method, mbps, value, single_s / encoder_s(data, method, mbps))
        for method, row in published.items()
        for mbps, value in zip(rates, row, strict=True)
    ]
    return with_error(rows)


def llama_compute_s(data: Mapping[str, Any], method: str) -> float:
    """What the published time at the highest rate leaves for computing."""
    prefill = data["llama3_8b_prefill_s"]
    if method == "single":
        return float(prefill["single"])
    fastest = prefill["bandwidth_mbps"][-1]
    return float(prefill[method][-1] - volume_bits(method, LLAMA_VOLUME_BITS, _LLAMA) / (fastest * _LLAMA_UNIT))


def llama_s(data: Mapping[str, Any], method: str, mbps: float) -> float:
    """Seconds of a prefill of 1024 tokens on 4 devices."""
    return llama_compute_s(data, method) + volume_bits(method, LLAMA_VOLUME_BITS, _LLAMA) / (mbps * _LLAMA_UNIT)


def prefills(data: Mapping[str, Any]) -> pd.DataFrame:
    """One row per published prefill time, as `speedups`. The last rate is what compute was taken from."""
    prefill = data["llama3_8b_prefill_s"]
    methods = [name for name in prefill if name not in ("single", "bandwidth_mbps")]
    rows = [
        (method, mbps, value, llama_s(data, method, mbps))
        for method in methods
        for mbps, value in zip(prefill["bandwidth_mbps"], prefill[method], strict=True)
    ]
    return with_error(rows)


def finished(data: Mapping[str, Any], method: str, seed: int = 0) -> int:
    """Requests finished, back to back, over a Markov trace like the paper's: layer by layer compute, then V/L bits."""
    said = data["dynamic_bandwidth"]["trace"]
    rates = Walk(said["low_mbps"] * 1e6, said["high_mbps"] * 1e6, for_s=float(said["seconds"]), seed=seed).rates_bit_s()
    course = _course(rates)
    layers = int(_LLAMA["L"])
    compute_s = llama_compute_s(data, method) / layers
    bits = volume_bits(method, LLAMA_VOLUME_BITS, _LLAMA) / layers
    now_s, count = 0.0, -1
    while now_s <= said["seconds"]:
        count += 1
        for _ in range(layers):
            now_s = course.after(now_s + compute_s, bits)
    return count


def requests(data: Mapping[str, Any], seeds: range = range(5)) -> pd.DataFrame:
    """One row per method: published, predicted (mean over traces of these seeds), low and high of them, error."""
    rows = []
    for method, published in data["dynamic_bandwidth"]["requests"].items():
        counts = [finished(data, method, seed) for seed in seeds]
        mean = sum(counts) / len(counts)
        rows.append((method, published, mean, min(counts), max(counts), mean / published - 1))
    return pd.DataFrame(rows, columns=["method", "published", "predicted", "low", "high", "error"])


def _course(rates_bit_s: list[float]) -> Course:
    """A link whose rate has these values, a second each, and starts over."""
    steps = tuple(Step(float(second), rate) for second, rate in enumerate(rates_bit_s))
    lane = Lane(rates_bit_s[0], trace=Trace(steps, float(len(steps))))
    link = Link.both("h1", "h2", lane)
    topology = Topology("trace", "mininet", (Host("h1"), Host("h2")), (), (link,), RunSpec("h1", "llama"))
    return Course(Hop("h1", "h2", link), topology)


def with_error(rows: Sequence[tuple[str, float, float, float]]) -> pd.DataFrame:
    """Rows of method, mbps, published, predicted, with predicted / published - 1."""
    frame = pd.DataFrame(rows, columns=["method", "mbps", "published", "predicted"])
    return frame.assign(error=frame.predicted / frame.published - 1)


def name_of(spec: MethodSpec) -> str | None:
    """What the paper's figures call a method; None for one that it does not have."""
    options = dict(spec.options)
    if options.get("codec", "fp32") != "fp32":
        return None
    names = {
        "single": "single", "tensor": "tp", "sequence": "sp", "astra": f"astra_g{options.get('groups', 1)}",
        "block": f"bp_{options.get('exchange', 'ag')}_{options.get('joins', 1)}",
    }  # fmt: skip
    return names.get(spec.method)


def told(
    data: Mapping[str, Any], spec: MethodSpec, rate_bit_s: float, size: tuple[int, int]
) -> tuple[float, str] | None:
    """Seconds of the encoder at a rate, and whether they are PUBLISHED (as a speedup) or by the paper's FORMULA.

    size: tokens and devices. None for what the paper does not have.
    """
    encoder, name = data["encoder"], name_of(spec)
    tokens, devices = size
    mbps, rates = rate_bit_s / encoder["mbps_bits"], encoder["bandwidth_mbps"]
    single_s = encoder["compute_ms"].get(f"T={tokens},N={devices}", {}).get("single")
    near = next((i for i, rate in enumerate(rates) if abs(mbps / rate - 1) < _SAME), None)
    speedups = encoder["speedup_over_single"].get(name)
    if size == PUBLISHED_SIZE and name == "single":
        return single_s / 1e3, PUBLISHED
    if size == PUBLISHED_SIZE and speedups is not None and near is not None:
        return single_s / 1e3 / speedups[near], PUBLISHED
    try:
        return encoder_s(data, name or "", mbps, *size), FORMULA
    except PredictError:
        return None
