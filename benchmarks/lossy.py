"""Codes over UDP with a deadline against codes over TCP, on lossy links: accuracy, latency and what was lost.

    sudo .venv/bin/python benchmarks/lossy.py [--out prepared/lossy] [--write docs/lossy.md] [--quick]

Prepares a ViT on digits and a byte-level GPT-2 for 1 and 32 groups, each as it is and trained with message dropout,
then runs a sweep per model: 4 devices in a star, losses independent and in bursts. Stopped at any time, the same
command goes on. Writes a table, and a plot beside it. --quick: digits only, short trainings, few requests: to try it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from testbed import topology  # noqa: E402
from testbed.differences import INVALID  # noqa: E402
from testbed.predict.counted import counted  # noqa: E402
from testbed.summary import summary  # noqa: E402
from testbed.tables import METRICS, NONE, duration, metric  # noqa: E402

RECIPES = {"digits": "digits_vit.yaml", "corpus": "corpus_gpt2.yaml"}
TITLES = {"digits": "ViT on digits", "corpus": "byte-level GPT-2 on the corpus"}
# Bursts of 2: of longer ones, with a mean of 10 %, TCP loses a packet and the six that it sends again, at doubling
# intervals, so often that probes of the links do not come to an end.
GROUPS, DROPOUT, BURST = (1, 32), 0.1, 2
LOSSES = ["0 %", *("1 %", "5 %", "10 %"), *({"mean": mean, "burst": BURST} for mean in ("1 %", "5 %", "10 %"))]
DEADLINE = "25 ms"
SWEEP = """\
# Codes over TCP and over UDP: what is lost is lost on the way from a host to the switch, once on every path.
name: {name}
backend: mininet
topology: {{star: {{hosts: 4, link: {{rate: 20 Mbit/s, delay: 5 ms, up: {{loss: {losses}}}}}}}}}
run:
  model: {model}
  weights: pretrained
  tokens: {tokens}
  methods: [{methods}]
  repeats: {repeats}
  budget: {budget} s
"""


@dataclass(frozen=True)
class Variant:
    """A model to prepare: kind of data, groups of its codes, whether it was trained with message dropout."""

    kind: str
    groups: int
    dropout: bool

    @property
    def name(self) -> str:
        return f"{self.kind}_g{self.groups}{'_dropout' * self.dropout}"


VARIANTS = [Variant(kind, groups, dropout) for kind in RECIPES for groups in GROUPS for dropout in (False, True)]


@dataclass(frozen=True)
class Cell:
    """One method under one loss: its entry of summary.json, and whether its network was the declared one."""

    variant: Variant
    loss: float
    bursts: bool
    udp: bool
    found: dict[str, Any]
    valid: bool


def recipe(variant: Variant, out: Path, quick: bool) -> dict[str, Any]:
    """The shipped recipe with other codes; all of one kind start from the same original, which the first one trains."""
    made: dict[str, Any] = yaml.safe_load((ROOT / "topologies/recipes" / RECIPES[variant.kind]).read_text())
    made["name"] = variant.name
    made["astra"] = {**made["astra"], "groups": variant.groups}
    made["training"] = {**made["training"], "message_dropout": DROPOUT if variant.dropout else 0.0}
    if quick:
        made["original"]["steps"], made["training"]["steps"] = made["original"]["steps"] // 8, 20
    first = next(one for one in VARIANTS if one.kind == variant.kind)
    if variant != first:
        made |= {"model": str(out / first.name / "original"), "weights": "pretrained"}
        del made["original"]
    return made


def sweep(variant: Variant, out: Path, tokens: int, quick: bool) -> str:
    """The sweep file of a model."""
    own = f"groups: {variant.groups}"
    methods = f"{{astra: {{{own}}}}}, {{astra: {{{own}, transport: udp, deadline: {DEADLINE}}}}}"
    losses = LOSSES[:: len(LOSSES) // 2] if quick else LOSSES
    return SWEEP.format(
        name=f"lossy_{variant.name}", model=out / variant.name, tokens=tokens, methods=methods,
        losses=yaml.safe_dump(losses, default_flow_style=True, width=10_000).strip(),
        repeats=10 if quick else 100, budget=3 if quick else 6,
    )  # fmt: skip


def testbed(command: str, *words: str | Path) -> int:
    """Run a command of the product; its exit status. What it cannot begin ends this program."""
    code = subprocess.run(
        [sys.executable, "-m", f"testbed.{command}", *map(str, words)], cwd=ROOT, check=False
    ).returncode
    if code in (2, 130):
        sys.exit(code)
    return code


def measure(out: Path, quick: bool) -> None:
    """Prepare what is not prepared, and run what has not run."""
    out.mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS[: len(GROUPS) * 2] if quick else VARIANTS:
        made, folder = recipe(variant, out, quick), out / variant.name
        file = out / f"{variant.name}.recipe.yaml"
        file.write_text(yaml.safe_dump(made, sort_keys=False))
        if testbed("prepare", file, "--out", folder):
            sys.exit(f"{folder} was not prepared")
        file = out / f"lossy_{variant.name}.yaml"
        file.write_text(sweep(variant, out, made["tokens"], quick))
        testbed("sweep", file, "--out", out / f"sweep_{variant.name}")


def cells(out: Path) -> Iterator[Cell]:
    """All that was measured."""
    for variant in (one for one in VARIANTS if (out / f"sweep_{one.name}").exists()):
        for run in counted(out / f"sweep_{variant.name}").runs:
            described, lane = summary(run), topology.load(run.path / "run.yaml").links[0].up
            valid = described["network"]["verdict"] not in INVALID
            for found in described["methods"]:
                udp = found["options"].get("transport") == "udp"
                yield Cell(variant, round(lane.loss.mean, 4), lane.loss.enter > 0, udp, found, valid)


# What is shown

HEAD = (
    "loss", "TCP: latency", "UDP: latency", "codes lost", "task over TCP", "task over UDP", "against one device",
    "trained with dropout", "its own against one device",
)  # fmt: skip


def text(found: list[Cell], variant: Variant) -> list[str]:
    """The table of a model and its sister that was trained with dropout."""
    settings = sorted({(cell.bursts, cell.loss) for cell in found if cell.variant == variant})
    rows = [HEAD, ("---",) * len(HEAD), *(_row(found, variant, setting) for setting in settings)]
    return ["| " + " | ".join(words) + " |" for words in rows]


def one(found: Sequence[Cell], variant: Variant, setting: tuple[bool, float], udp: bool) -> dict[str, Any] | None:
    """What was measured there on the declared network, None if nothing was."""
    same = (c for c in found if (c.variant, (c.bursts, c.loss), c.udp) == (variant, setting, udp) and c.valid)
    return next((cell.found for cell in same if cell.found["status"] == "ok"), None)


def _row(found: Sequence[Cell], variant: Variant, setting: tuple[bool, float]) -> tuple[str, ...]:
    sister = Variant(variant.kind, variant.groups, True)
    tcp, udp, trained = (
        one(found, *which) for which in ((variant, setting, False), (variant, setting, True), (sister, setting, True))
    )
    lost = NONE if udp is None or udp["lost"] is None else f"{100 * (udp['lost']['share'] or 0):.2g} %"
    bursts, loss = setting
    words = (
        _latency(tcp),
        _latency(udp),
        lost,
        _worth(tcp),
        _worth(udp),
        _paired(udp),
        _worth(trained),
        _paired(trained),
    )
    return (f"{100 * loss:g} %{' in bursts' * bursts}", *words)


def _latency(found: dict[str, Any] | None) -> str:
    if found is None:
        return NONE
    low, high = (duration(end) for end in found["latency_s"]["ci95"])
    return f"{duration(found['latency_s']['median'])} ({low} to {high}, n {found['requests']})"


def _worth(found: dict[str, Any] | None) -> str:
    here = found and found["here"]
    if not here:
        return NONE
    low, high = (metric(here["metric"], end) for end in here["ci95"])
    return f"{METRICS[here['metric']]} {metric(here['metric'], here['value'])} ({low} to {high}, n {here['n']})"


def _paired(found: dict[str, Any] | None) -> str:
    here = found and found["here"]
    if not here:
        return NONE
    times = "x" * (here["paired"]["kind"] == "ratio")
    value, low, high = (
        f"{metric(here['metric'], v)}{times}" for v in (here["paired"]["value"], *here["paired"]["ci95"])
    )
    return f"{value} ({low} to {high})"


PREFACE = """\
# Codes that may be lost

ASTRA's codes over UDP, each datagram once, tokens masked out whose codes have not come {deadline} after a device began
to wait for a layer, against the same codes over TCP, which sends again. 4 devices in a star of 20 Mbit/s and 5 ms per
link; every frame from a host to the switch is lost with the probability of the row, independently or in bursts of
{burst} on average; input and result travel over TCP and are lost alike. Task: by the outputs of these very requests on
held-out inputs, top-1, or perplexity of the byte after the prompt; against one device: on the same requests, the
difference, or the ratio of perplexities. Latency: median. Intervals of 95 %. Trained with dropout: fine-tuned with
`message_dropout: {dropout}`, over UDP. `{command}` repeats all of it.

![latency and task against loss]({plot})
"""


def document(found: list[Cell], plot: str, command: str) -> str:
    """Markdown."""
    parts = [PREFACE.format(deadline=DEADLINE, burst=BURST, dropout=DROPOUT, plot=plot, command=command)]
    for variant in VARIANTS:
        if not variant.dropout and any(cell.variant == variant for cell in found):
            parts += [f"## {TITLES[variant.kind]}, G = {variant.groups}", "", *text(found, variant), ""]
    if left := [cell for cell in found if not cell.valid or cell.found["status"] != "ok"]:
        parts.append(f"Left out: {len(left)} of {len(found)} cells failed, or their network was not the declared one.")
    return "\n".join(parts).rstrip() + "\n"


def draw(found: list[Cell], path: Path) -> None:
    """Latency above, task below, against loss; a column for each kind of data and groups."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from testbed.page.paper import SETTINGS

    plain = [one for one in VARIANTS if not one.dropout and any(cell.variant == one for cell in found)]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(2.6 * len(plain), 4.6))
        axes = figure.subplots(2, len(plain), squeeze=False, sharex=True)
        for column, variant in enumerate(plain):
            for line, bursts, udp, dropout in _lines():
                own = Variant(variant.kind, variant.groups, dropout)
                _line(axes[:, column], line, [c for c in found if (c.variant, c.udp) == (own, udp) and c.valid], bursts)
            axes[0, column].set(title=f"{TITLES[variant.kind]}, G = {variant.groups}", ylim=(0, None))
            axes[1, column].set(xlabel="loss, %")
        axes[0, 0].set(ylabel="latency, s")
        axes[1, 0].set(ylabel="top-1; perplexity")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _lines() -> Iterator[tuple[dict[str, Any], bool, bool, bool]]:
    """Looks, in bursts or not, over UDP or not, trained with dropout or not."""
    for bursts, dash in ((False, "-"), (True, "--")):
        more = ", bursts" * bursts
        yield {"color": "#0072B2", "ls": dash, "marker": "o", "label": f"TCP{more}"}, bursts, False, False
        yield {"color": "#D55E00", "ls": dash, "marker": "s", "label": f"UDP{more}"}, bursts, True, False
        yield {"color": "#009E73", "ls": dash, "marker": "^", "label": f"UDP, dropout{more}"}, bursts, True, True


def _line(axes: Any, look: dict[str, Any], found: list[Cell], bursts: bool) -> None:
    """One line in both panels of a column; without loss there are no bursts either: both kinds begin there."""
    own = sorted((c for c in found if c.bursts == bursts or not c.loss), key=lambda cell: cell.loss)
    for axis, key in zip(axes, ("latency_s", "here"), strict=True):
        points = [(100 * c.loss, c.found[key]) for c in own if c.found["status"] == "ok" and c.found[key]]
        middle = [entry["median" if key == "latency_s" else "value"] for _, entry in points]
        ends = [
            (m, m) if None in entry["ci95"] else entry["ci95"] for m, (_, entry) in zip(middle, points, strict=True)
        ]
        errors = [[abs(m - both[side]) for m, both in zip(middle, ends, strict=True)] for side in (0, 1)]
        axis.errorbar([x for x, _ in points], middle, errors, ms=3, lw=1, elinewidth=0.7, capsize=2, **look)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("prepared/lossy"), help="models and sweeps")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the document; its plot goes beside it")
    parser.add_argument("--quick", action="store_true", help="digits only, short trainings, few requests")
    given = parser.parse_args()
    out = given.out.absolute()
    measure(out, given.quick)
    found = list(cells(out))
    command = " ".join(["benchmarks/lossy.py", *["--quick"] * given.quick])
    plot = (given.write or out / "lossy.md").with_suffix(".svg")
    draw(found, plot)
    made = document(found, plot.name, command)
    print(made)
    if given.write:
        given.write.write_text(made)


if __name__ == "__main__":
    main()
