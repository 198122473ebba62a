"""In what runs differ, and which of it forbids to compare them, may explain a ratio by itself, or is what is compared.

Refused: a run whose network was not the declared one or was not verified (its times are of no network that anybody
knows), and compute that was real in one and replayed in another (one measures a device, the other repeats a profile),
unless it is an axis of a sweep and they are at different points.
Marked: code, libraries, machine, kernel settings, the means of shaping, the profile replayed: a ratio may come from
them alone. Everything else is declared in the topology and is what one compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed import evidence
from testbed.store import RunData

INVALID = ("wrong", "unverified")
MARKED = ("git", "versions", "machine", "sysctls", "shaper", "data_congestion_control", "compute", "profile", "backend")
BY_NAME = ("links.", "switches.")  # compared among the runs that have it
NOT_SHOWN = ("machine.load_1min",)
SHOWN_VALUES = 4  # of one setting within a sweep
Settings = Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """Settings that differ alike: `keys` "links.h1 - s1.rate", ..., `words` "A 10 Mbit/s; B 5 Mbit/s"."""

    keys: tuple[str, ...]
    words: str
    marked: bool

    def __str__(self) -> str:
        return f"{', '.join(self.keys)}: {self.words}"


def differences(runs: Mapping[str, Sequence[RunData]]) -> list[Difference]:
    """What differs between the runs of each letter, in the order of manifest and topology.

    Settings of one kind that differ alike are one entry. Of a link or switch that a run lacks only the name is told:
    its settings are compared among the runs that have it. Several runs of one letter, a sweep, have the values of all.
    """
    found = {letter: _together([settings_of(run) for run in own]) for letter, own in runs.items()}
    alike: dict[tuple[str, str], list[str]] = {}
    for key in dict.fromkeys(key for settings in found.values() for key in settings):
        values = {
            letter: settings.get(key, ("none",))
            for letter, settings in found.items()
            if key in settings or not key.startswith(BY_NAME)
        }
        # Of a sweep many settings have several values: that is its grid. A marked one that has is another matter.
        within = key.partition(".")[0] in MARKED and any(len(different) > 1 for different in values.values())
        if within or len({frozenset(different) for different in values.values()}) > 1:
            words = "; ".join(f"{letter} {_listed(different)}" for letter, different in values.items())
            alike.setdefault((key.partition(".")[0], words), []).append(key)
    return [Difference(tuple(keys), words, kind in MARKED) for (kind, words), keys in alike.items()]


def refusals(runs: Mapping[str, Sequence[RunData]], beside: Iterable[Mapping[str, Sequence[RunData]]]) -> list[str]:
    """Why these runs cannot be compared, a line each; see the head of this file.

    beside: those of them, by letter too, that are held against each other: at each point of sweeps.
    """
    return [*_invalid(runs), *dict.fromkeys(why for point in beside for why in _computed(point))]


def invalid(run: RunData) -> str | None:
    """Why the figures of a run are not of the declared network; None where they are."""
    found = evidence.network(run)
    if found["verdict"] not in INVALID:
        return None
    verdict = "the network was not the declared one" if found["verdict"] == "wrong" else "its network is not verified"
    return f"{verdict} ({found['reasons'][0]})"


def replayed(run: RunData) -> bool:
    """Whether its devices waited profiled times in place of computing."""
    return bool(run.manifest.get("compute", "real") != "real")


def computed(run: RunData) -> str:
    """ "real", or "replayed from NAME"."""
    if not replayed(run):
        return "real"
    return f"replayed from {(run.manifest.get('profile') or {}).get('name', 'a profile without a name')}"


def _invalid(runs: Mapping[str, Sequence[RunData]]) -> Iterator[str]:
    for letter, own in runs.items():
        for run in own:
            if why := invalid(run):
                yield f"{letter} {run.path}: {why}"


def _computed(runs: Mapping[str, Sequence[RunData]]) -> Iterator[str]:
    kinds = {run.manifest.get("compute", "real") for own in runs.values() for run in own}
    if len(kinds) > 1:
        words = (f"{letter} {_listed(list(dict.fromkeys(map(computed, own))))}" for letter, own in runs.items())
        yield f"compute: {'; '.join(words)}: one measures devices, the other repeats a profile"


def _together(settings: Sequence[Settings]) -> dict[str, tuple[str, ...]]:
    """Each setting -> its different values, in the order of the runs."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return {key: tuple(dict.fromkeys(one[key] for one in settings if key in one)) for key in keys}


def _listed(values: Sequence[str]) -> str:
    more = len(values) - SHOWN_VALUES
    return " or ".join([*values[:SHOWN_VALUES], *([f"{more} more"] if more > 0 else [])])


def settings_of(run: RunData) -> dict[str, str]:
    """What matters for a comparison, flat and in words: "machine.cpu" -> its value."""
    manifest, topology = run.manifest, run.topology
    git, profile = manifest.get("git") or {}, manifest.get("profile") or {}
    parts = {
        "git": {**git, "commit": (git.get("commit") or "unknown")[:8]},
        **{key: manifest.get(key) for key in ("versions", "machine", "sysctls", "shaper")},
        "data_congestion_control": manifest.get("data_congestion_control"),
        "compute": manifest.get("compute", "real"),
        "profile": {**profile, "sha256": profile["sha256"][:8]} if "sha256" in profile else profile,
        "backend": topology.get("backend"),
        **{key: _named(topology.get(key) or {}) for key in ("hosts", "switches")},
        "links": _named(links(topology)),
        "events": topology.get("events"),
        "run": {key: value for key, value in topology["run"].items() if key not in ("methods", "compute")},
    }
    settings = {key: value for key, value in _flat("", parts) if key not in NOT_SHOWN}
    return {key: value for key, value in settings.items() if (key, value) != ("events", "none")}


def links(topology: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every link whole, whether its values stand with it or, shared by all, in defaults.link."""
    shared = (topology.get("defaults") or {}).get("link") or {}
    listed = [{"between": link} if isinstance(link, str) else link for link in topology.get("links") or []]
    return [{**shared, **link} for link in listed]


def _named(things: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Hosts, switches or links by their name, a link by its ends, with the list of names in front."""
    if not isinstance(things, Mapping):
        ends = [(" - ".join(sorted(link["between"].split(" - "))), link) for link in things]
        things = {name: _from_first(link, turned=name != link["between"]) for name, link in ends}
    return {"": list(things), **things}


def _from_first(link: Mapping[str, Any], turned: bool) -> dict[str, Any]:
    """Settings of a link as seen from the end that its name begins with: `turned`, its directions change names."""
    other = {"up": "down", "down": "up"} if turned else {}
    return {other.get(key, key): value for key, value in link.items() if key != "between"}


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """{"run": {"tokens": 16}} -> ("run.tokens", "16"): no setting is shown as Python writes it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}".strip("."), inner)
    elif isinstance(value, bool) or value is None:
        yield name, {True: "yes", False: "no", None: "none"}[value]
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value)) or "none"
    else:
        yield name, " ".join(str(value).split())
