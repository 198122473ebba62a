"""`python -m benchmarks.accuracy`: train what is missing, measure, write the page."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accuracy import grid, page, store
from benchmarks.accuracy.work import Bench

HOME = grid.ROOT / "prepared" / "accuracy"
QUICK_STEPS, QUICK_INPUTS = 4, 8


def main() -> None:
    """Exit 1 if anything could not be trained or measured; the page is written of whole studies only."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of each model (default 3)")
    parser.add_argument("--quick", action="store_true", help="a few steps, one seed: does it work, not what comes out")
    parser.add_argument("--work", type=Path, default=None, help="where models are kept (default prepared/accuracy)")
    parser.add_argument("--only", default="", help="studies, such as digits,corpus; no page is written")
    parser.add_argument(
        "--write", type=Path, default=None, help="default docs/accuracy.md; with --quick, in the work folder"
    )
    asked = parser.parse_args()
    work: Path = asked.work or (HOME.with_name("accuracy_quick") if asked.quick else HOME)
    target: Path = asked.write or (work / "accuracy.md" if asked.quick else grid.ROOT / "docs" / "accuracy.md")
    seeds = 1 if asked.quick else asked.seeds
    studies = asked.only.split(",") if asked.only else list(grid.STUDIES)
    if strangers := sorted(set(studies) - set(grid.STUDIES)):
        sys.exit(f"--only {','.join(strangers)}: there are {', '.join(grid.STUDIES)}")
    settings = (QUICK_STEPS, QUICK_INPUTS) if asked.quick else (None, None)
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    found, failed = everything(Bench(work, *settings), studies, seeds)
    if failed:
        sys.exit(f"{failed} of {failed + len(found)} could not be trained or measured")
    if not asked.only:
        page.write(target, found, seeds, asked.quick)
        print(f"{target} written; this time it took {time.monotonic() - began:.0f} s")


@dataclass
class Jobs:
    """What waits, by (study, label, seed), and what comes after each result: after an original its cells, as soon as
    the rates that suit them are known. rates: by study, None until they are chosen."""

    pool: Executor
    bench: Bench
    rates: dict[str, Mapping[str, float] | None]
    waiting: dict[Future[Path], tuple[str, str, int]] = field(default_factory=dict)
    _originals: dict[str, list[int]] = field(default_factory=dict)

    def go_on(self, row: Mapping[str, Any]) -> None:
        """Let begin what this result was waited for."""
        study, label, seed = row["study"], row["label"], row["seed"]
        if label not in ("original", "rates"):
            return
        if label == "rates":
            self.rates[study] = row["rates"]
        else:
            self._originals.setdefault(study, []).append(seed)
        rates = self.rates[study]
        for one in [] if rates is None else self._originals.pop(study, []):
            for cell in grid.cells(study, one, rates or {}):
                self.waiting[self.pool.submit(self.bench.cell, cell)] = (cell.study, cell.label, cell.seed)


def everything(bench: Bench, studies: Sequence[str], seeds: int) -> tuple[list[dict[str, Any]], int]:
    """(all results, how many failed): as many jobs at a time as there are cores, each in one thread of torch."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes of the pool when they load torch
    context = multiprocessing.get_context("spawn")
    found: list[dict[str, Any]] = []
    failed = 0
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context) as pool:
        jobs = Jobs(pool, bench, {study: None if study in grid.RIVALLED else {} for study in studies})
        for study in studies:
            if jobs.rates[study] is None:
                jobs.waiting[pool.submit(bench.rates, study)] = (study, "rates", 0)
            for seed in range(seeds):
                jobs.waiting[pool.submit(bench.original, study, seed)] = (study, "original", seed)
        began = time.monotonic()
        while jobs.waiting:
            done, _ = wait(jobs.waiting, return_when=FIRST_COMPLETED)
            for future in done:
                study, label, seed = jobs.waiting.pop(future)
                if not _told(future, study, label, seed, time.monotonic() - began, len(jobs.waiting)):
                    failed += 1
                    continue
                found.append(store.read(future.result()))
                jobs.go_on(found[-1])
    return sorted(found, key=lambda one: (one["study"], one["seed"], one["label"])), failed


def _told(future: Future[Path], study: str, label: str, seed: int, elapsed: float, left: int) -> bool:
    """Print how a job ended; whether well."""
    error = future.exception()
    said = "done" if error is None else f"failed: {type(error).__name__}: {error}"
    print(f"{elapsed:6.0f} s  {study} {label}, seed {seed}: {said}; {left} wait", flush=True)
    return error is None


if __name__ == "__main__":
    main()
