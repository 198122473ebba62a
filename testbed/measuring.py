"""Runs `runtime.echo` on the hosts of a network: medians over one path, or with two hosts at once. Judges nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path as FilePath
from statistics import median
from typing import Any

from testbed.hosts import HostError, Network
from testbed.judge import FAN_BYTES
from testbed.linetime import FULL_FRAME_BYTES
from testbed.paths import Path
from testbed.trials import Trial

_LEAST_DELAYS = 10  # datagrams; fewer do not tell how far apart delays lie
_ECHO = (sys.executable, "-m", "runtime.echo")
FAULTS = (HostError, OSError, subprocess.SubprocessError, ValueError)  # of a network that cannot be measured


def _port(server: subprocess.Popen[Any], log: FilePath, offset: int) -> int:
    """The port that a just started `runtime.echo serve` announces in its log, behind what older ones left there.

    Raises OSError with its last words.
    """
    end_s, said = time.monotonic() + 10.0, ""
    while time.monotonic() < end_s:
        running = server.poll() is None
        said = log.read_bytes()[offset:].decode(errors="replace") if log.exists() else ""
        if said.startswith("port ") and "\n" in said:
            return int(said.split()[1])
        if not running:
            break
        time.sleep(0.01)
    raise OSError(f"the receiving end did not start: {said.strip() or 'no output'}")


@contextmanager
def _receiver(network: Network, over: Path, limit_s: float) -> Iterator[tuple[str, str]]:
    """Address and port of a receiving end at the target of a path, which ends with this block or after `limit_s`."""
    address, log = network.hosts[over.target].address_for(over.source), network.directory / f"echo-{over.target}.log"
    offset = log.stat().st_size if log.exists() else 0
    server = network.hosts[over.target].start([*_ECHO, "serve", address, "--idle-s", str(limit_s)], log, None)
    try:
        yield address, str(_port(server, log, offset))
    finally:
        server.terminate()
        server.wait(timeout=5.0)


def _train_bit_s(spacings_s: Iterable[float]) -> float | None:
    """Bit/s on the line of trains whose datagrams arrived so far apart; None where none of them could tell."""
    known = [spacing_s for spacing_s in spacings_s if spacing_s > 0]
    return FULL_FRAME_BYTES * 8 / median(known) if known else None


def measure(network: Network, over: Path, how: Trial) -> tuple[dict[str, Any], dict[str, str]]:
    """Medians over one path, named as in links.json; sizes of which no repeat counted, and why. Raises FAULTS."""
    with _receiver(network, over, how.limit_s) as (address, port):
        argv = [*_ECHO, "measure", address, port, *how.words]
        raw = json.loads(network.hosts[over.source].run(argv, how.limit_s).stdout)
    measured: dict[str, Any] = {"rtt_s": median(raw["rtt_s"]) if raw["rtt_s"] else None}
    measured["goodput_bit_s"] = raw["goodput_bit_s"]
    if "rate_bit_s" in how.wanted:
        measured["rate_bit_s"] = _train_bit_s(raw["spacing_s"])
    measured["message_s"] = {size: median(times) for size, times in raw["message_s"].items()}
    arrived, spread_s, late = raw["delays"]
    enough = arrived >= _LEAST_DELAYS
    measured |= {"spread_s": spread_s if enough else None, "reordered": late / arrived if enough else None}
    measured |= {"loss": 1 - raw["arrived"] / how.datagrams, "datagrams": how.datagrams}
    return measured, raw["missing"]


def _at_once(network: Network, fan: Sequence[Path], verb: str, words: Sequence[str], limit_s: float) -> Any:
    with ExitStack() as receivers:
        ends = [receivers.enter_context(_receiver(network, over, limit_s)) for over in fan]
        peers = [word for end in ends for word in ("--peer", *end)]
        argv = [*_ECHO, verb, *peers, *words]
        return json.loads(network.hosts[fan[0].source].run(argv, limit_s).stdout)


def messages_at_once(
    network: Network, fan: Sequence[Path], words: Sequence[str], limit_s: float
) -> list[dict[str, float | None]]:
    """Medians of two messages at once from, and to, the host where the paths start. Raises FAULTS."""
    raw = _at_once(network, fan, "fan", words, limit_s)
    return [{"two_at_once_s": median(raw[what])} for what in ("push_s", "pull_s")]


def at_once_s(rate_bit_s: float) -> float:
    """Seconds that the bytes of two messages of a fan take at this rate on the line."""
    return 2 * FAN_BYTES * 8 / rate_bit_s


def trains_at_once(
    network: Network, fan: Sequence[Path], words: Sequence[str], limit_s: float
) -> list[dict[str, float | None]]:
    """Median rates of two trains at once, likewise: their sum on the line, and as seconds. Raises FAULTS."""
    raw = _at_once(network, fan, "trains", words, limit_s)
    found: list[dict[str, float | None]] = []
    for verb in ("push", "pull"):
        whole = [train for train in raw[verb] if len(train) == len(fan) and all(spacing > 0 for spacing in train)]
        rates = [sum(FULL_FRAME_BYTES * 8 / spacing for spacing in train) for train in whole]
        rate_bit_s = median(rates) if rates else None
        found.append({"two_at_once_bit_s": rate_bit_s, "two_at_once_s": rate_bit_s and at_once_s(rate_bit_s)})
    return found
