"""The card of a prepared model: what was done and what came of it, from config.json alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.codecs.vq import code_bits
from runtime.methods.astra import AstraOptions, streams
from runtime.shape import Shape
from testbed.tables import METRICS, NONE, duration, metric

NAME = "card.md"
ONE = (
    "On several devices its codes were trained and are measured here with one class token, on the first device alone. "
    "In a run every device has one, which is another function: a run does not show those figures."
)
HOW = {
    "top1": "share of them whose class is right",
    "perplexity": "per token; lower is better",
    "cosine": "of the embedding with the original's",
}


def text(config: Mapping[str, Any], shape: Shape) -> str:
    """Markdown."""
    parts = [
        [f"# {config['name']}", "", *_about(config, shape)],
        ["## Measured", "", *_measured(config)],
        ["## Devices", "", *_by_devices(config)],
        ["## Done", "", *_done(config)],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def summary(config: Mapping[str, Any]) -> str:
    """The result in a line."""
    task = config["task"]
    name = task["metric"]
    original, single, this, untuned = (metric(name, task[key]) for key in ("original", "single", "this", "untuned"))
    about = f"{METRICS[name]} of {task['n']} held-out inputs: original {original}"
    if not _tuned(config):
        return f"{about}, on {task['devices']} devices {this} (codebooks by k-means, nothing fine-tuned)"
    return f"{about}, fine-tuned {single}, on {task['devices']} devices {this} (before fine-tuning {untuned})"


def _tuned(config: Mapping[str, Any]) -> bool:
    return bool(config["training"]["steps"])


def _about(config: Mapping[str, Any], shape: Shape) -> list[str]:
    astra = config["astra"]
    coded = streams(shape, AstraOptions(**astra))
    bits, plain = len(coded) * astra["groups"] * code_bits(astra["codewords"]), 32 * shape.width
    what = "keys and values" if "k" in coded else "the layer input"
    what += " before its norm" * ("residual" in coded)
    return [
        f"{_model(config)}: {shape.layers} layers of width {shape.width}, {shape.heads} heads, "
        f"{config['tokens']} tokens. Data: {config['inputs']['name']}.",
        "",
        f"ASTRA (arXiv 2505.19342) sends codes of {what}: {astra['groups']} groups of {astra['codewords']} codewords, "
        f"{bits} bits per token and layer. The layer input in fp32 has {plain}, {plain / bits:.3g} times as many.",
        "",
        f"In a topology file: `run: {{model: <this folder>, weights: pretrained, tokens: {config['tokens']}, methods: "
        f"[single, {{astra: {{{', '.join(f'{key}: {value}' for key, value in astra.items())}}}}}]}}`.",
        *([ONE] if config["training"]["class_tokens"] == "one" else []),
    ]


def _model(config: Mapping[str, Any]) -> str:
    model = config["model"]
    if isinstance(model, str):
        return f"{model} ({config['weights']} weights)"
    changed = ", ".join(f"{key} {value}" for key, value in model.items() if key != "preset")
    return f"{model['preset']} with {changed} ({config['weights']} weights)"


def _measured(config: Mapping[str, Any]) -> list[str]:
    task, measured = config["task"], config["measured"]
    name = task["metric"]
    rows = {
        "the original, one device": "original",
        f"the original with k-means codebooks, {task['devices']} devices": "untuned",
    }
    if _tuned(config):
        rows |= {
            "the fine-tuned model, one device": "single",
            f"the fine-tuned model with its codebooks, {task['devices']} devices": f"devices {task['devices']}",
        }
    found = {title: measured[key] for title, key in rows.items()}
    lines = [[title, metric(name, one["value"]), _interval(name, one)] for title, one in found.items()]
    head, how = ["", METRICS[name], "95 % CI"], f"{METRICS[name]}: {HOW[name]}"
    if all("rank_correlation" in one for one in found.values()):
        head, how = [*head, "rank correlation"], f"{how}; rank correlation: Spearman's, of the cosines of all pairs"
        lines = [[*line, _ranks(one)] for line, one in zip(lines, found.values(), strict=True)]
    files = config["inputs"]["files"]
    of = "" if files is None else f" of {files} files, which intervals take whole"
    about = f"On {task['n']} held-out inputs{of}, on one machine with the arithmetic of many; {how}."
    return [about, "", *table(head, lines)]


def _ranks(found: Mapping[str, Any]) -> str:
    value, ends = f"{found['rank_correlation']:.4f}", found.get("rank_correlation_ci95")
    return f"{value} ({ends[0]:.4f} to {ends[1]:.4f})" if ends else value


def _interval(name: str, found: Mapping[str, Any]) -> str:
    low, high = found["ci95"]
    return NONE if low is None else f"{metric(name, low)} to {metric(name, high)}"


def _by_devices(config: Mapping[str, Any]) -> list[str]:
    task = config["task"]
    counts = sorted(task["by_devices"], key=int)
    values = [metric(task["metric"], task["by_devices"][count]) for count in counts]
    about = "Tokens cut evenly; trained once." if _tuned(config) else "Tokens cut evenly; nothing fine-tuned."
    return [about, "", *table(("devices", *counts), [(METRICS[task["metric"]], *values)])]


def _done(config: Mapping[str, Any]) -> list[str]:
    inputs, seconds, training = config["inputs"], config["seconds"], config["training"]
    steps = [
        f"data `{config['data']}`: {inputs['train']} inputs to train on, {inputs['test']} held out",
        f"seed {config['seed']}, of data, weights and training",
        _trained("the model by itself", config.get("original"), seconds.get("original")),
        f"codebooks: k-means on activations, {duration(seconds['k-means'])}",
        _trained("model and codebooks together", training if training["steps"] else None, seconds.get("fine-tuning")),
        f"measured: {duration(seconds['measuring'])}",
        f"on {config['device']}, Python {config['versions']['python']}, torch {config['versions']['torch']}"
        + (f", in {config['starts']} goes" if config["starts"] > 1 else ""),
        *(f"SHA-256 of {name}: `{digest}`" for name, digest in config["sha256"].items()),
    ]
    return [f"- {step}" for step in steps]


def _trained(title: str, settings: Mapping[str, Any] | None, seconds: float | None) -> str:
    if settings is None:
        return f"{title}: not trained"
    said = ", ".join(f"{key} {_said(value)}" for key, value in settings.items())
    return f"{title}: {said}; {duration(seconds)}"


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
