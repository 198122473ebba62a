"""Codes over UDP with a deadline against codes over TCP, on lossy links: accuracy, latency and what was lost.

    sudo .venv/bin/python benchmarks/lossy.py [--out FOLDER] [--write docs/lossy.md] [--quick]

Prepares a ViT on digits and a byte-level GPT-2, both for codes of one group, then runs two sweeps per model: 4 devices
in a star, losses independent and in bursts; the second, where most is lost, with a longer budget. Stopped at any time,
the same command goes on, in a folder of prepared/ that is named by the code that trains and by what is asked for.
Writes a table, and a plot beside it. --quick: digits only, short trainings, few requests: to try it. What training
with message dropout does about losses is measured on all held-out inputs by `benchmarks.accuracy`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import store  # noqa: E402
from benchmarks.lossy_report import VARIANTS, Variant, cells, document, draw  # noqa: E402

RECIPES = {"digits": "digits_vit.yaml", "corpus": "corpus_gpt2.yaml"}
# Bursts of 2: of longer ones, with a mean of 10 %, TCP loses a packet and the six that it sends again, at doubling
# intervals, so often that few probes of the links come to an end.
BURST = 2
# By the budget of a method: with more lost, TCP may wait for many seconds, also for its acknowledgements.
LOSSES: dict[int, list[Any]] = {
    15: ["0 %", "1 %", {"mean": "1 %", "burst": BURST}],
    25: ["5 %", "10 %", *({"mean": mean, "burst": BURST} for mean in ("5 %", "10 %"))],
}
QUICK: dict[int, list[Any]] = {3: ["0 %", {"mean": "5 %", "burst": BURST}]}
BUDGETS = f"{min(LOSSES)} s, or {max(LOSSES)} s where 5 or 10 % are lost"
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
  input_at: everywhere  # it would travel over TCP: what that loses is not what is compared
  methods: [{{astra: {{{own}}}}}, {{astra: {{{own}, transport: udp, deadline: {deadline}}}}}]
  repeats: {repeats}
  budget: {budget} s
"""


def recipe(variant: Variant, quick: bool) -> dict[str, Any]:
    """The shipped recipe with other codes."""
    made: dict[str, Any] = yaml.safe_load((ROOT / "topologies/recipes" / RECIPES[variant.kind]).read_text())
    made["name"] = variant.name
    made["astra"] = {**made["astra"], "groups": variant.groups}
    if quick:
        made["original"]["steps"], made["training"]["steps"] = made["original"]["steps"] // 8, 20
    return made


def sweeps(variant: Variant, out: Path, tokens: int, quick: bool) -> dict[str, str]:
    """The sweep files of a model, by name."""
    made = {}
    for budget_s, losses in (QUICK if quick else LOSSES).items():
        name = f"{variant.name}_{budget_s}s"
        made[name] = SWEEP.format(
            name=f"lossy_{name}", model=out / variant.name, tokens=tokens, own=f"groups: {variant.groups}",
            losses=yaml.safe_dump(losses, default_flow_style=True, width=10_000).strip(), deadline=DEADLINE,
            repeats=10 if quick else 200, budget=budget_s,
        )  # fmt: skip
    return made


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
    for variant in [one for one in VARIANTS if not quick or one.kind == "digits"]:
        made, folder = recipe(variant, quick), out / variant.name
        file = out / f"{variant.name}.recipe.yaml"
        file.write_text(yaml.safe_dump(made, sort_keys=False))
        if testbed("prepare", file, "--out", folder):
            sys.exit(f"{folder} was not prepared")
        for name, text in sweeps(variant, out, made["tokens"], quick).items():
            file = out / f"lossy_{name}.yaml"
            file.write_text(text)
            words = (file, "--out", out / f"sweep_{name}")
            if testbed("sweep", *words):  # under heavy loss a probe may end without a measurement: once more
                testbed("sweep", *words, "--retry")


def kept(quick: bool) -> Path:
    """Where models and sweeps lie, unless it is said."""
    asked = [[recipe(variant, quick), sweeps(variant, Path(), 0, quick)] for variant in VARIANTS]
    return store.place(ROOT / "prepared", "lossy", asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="models and sweeps")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the document; its plot goes beside it")
    parser.add_argument("--quick", action="store_true", help="digits only, short trainings, few requests")
    given = parser.parse_args()
    out = (given.out or kept(given.quick)).absolute()
    measure(out, given.quick)
    found = list(cells(out))
    command = " ".join(["benchmarks/lossy.py", *["--quick"] * given.quick])
    plot = (given.write or out / "lossy.md").with_suffix(".svg")
    draw(found, plot)
    budgets = f"{min(QUICK)} s" if given.quick else BUDGETS
    made = document(found, plot.name, {"deadline": DEADLINE, "burst": BURST, "budgets": budgets, "command": command})
    print(made)
    if given.write:
        given.write.write_text(made)


if __name__ == "__main__":
    main()
