"""What tells settings apart whose axes read alike: whatever else their topologies and manifests say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import yaml

from testbed import differences
from testbed.dump import write
from testbed.page.setting import Group
from testbed.store import RunData
from testbed.topology import Topology

ALSO, NOTHING = "also", "none"  # the axis, and its value where no others read alike
Facts = Mapping[str, str]
_RATES, _QUEUES = ".rate", ".queue"
_OF_RUNS = ("run.seed", "run.repeats", "run.budget", "run.inputs")  # of one point, or where files lie
_UNSET, _LONGEST, _MOST = "unset", 40, 4  # characters of a value, and how many are told


def facts(run: RunData, drawn: Topology | None) -> Facts:
    """All that matters of a run, as if it were on this network, in words; nothing where that cannot be read."""
    return {} if drawn is None else differences.settings_of(replace(run, topology=yaml.safe_load(write(drawn))))


def common(found: Sequence[Facts]) -> Facts:
    """What is the same in all of them."""
    first, *others = found
    return {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}


def differing(found: Sequence[Facts]) -> list[str]:
    """Names of what is not the same in all of them."""
    every = dict.fromkeys(key for one in found for key in one)
    return [key for key in every if len({one.get(key) for one in found}) > 1]


def told(places: Mapping[int, tuple[Group, object]], known: Callable[[int], Facts]) -> dict[int, str]:
    """Of each setting the words that tell it from others at its place, `NOTHING` where none is; known: their facts.

    places: the group of each, and its rate there. What tells two of a group apart is said of all of it, so that those
    that differ in their rate alone still do. Two that are the same in everything are numbered.
    """
    groups: dict[Group, dict[object, list[int]]] = {}
    for index, (group, place) in places.items():
        groups.setdefault(group, {}).setdefault(place, []).append(index)
    found = dict.fromkeys(places, NOTHING)
    for by_place in groups.values():
        crowds = [indices for indices in by_place.values() if len(indices) > 1]
        if crowds:
            members = {index: known(index) for indices in by_place.values() for index in indices}
            found |= _apart(members, crowds)
    return found


def _apart(known: Mapping[int, Facts], crowds: Sequence[Sequence[int]]) -> dict[int, str]:
    """Of a group. Rates differ in it anyhow: they are told where several settings have the same slowest one."""
    differ = [differing([known[index] for index in crowd]) for crowd in crowds]
    keys = list(dict.fromkeys(key for own in differ for key in own if not key.endswith(_RATES)))
    found = {index: words(one, keys) for index, one in known.items()}
    for crowd, own in zip(crowds, differ, strict=True):
        seen: list[str] = []
        for index in crowd:
            rates = [key for key in own if key.endswith(_RATES)] if _uneven(known[index]) else []
            seen.append(words(known[index], [*keys, *rates]))
            again = seen.count(seen[-1])
            found[index] = seen[-1] if again == 1 else f"{'' if seen[-1] == NOTHING else f'{seen[-1]}, '}repeat {again}"
    return found


def _uneven(found: Facts) -> bool:
    return len({value for key, value in found.items() if key.endswith(_RATES)}) > 1


def placed(mine: Facts, at_its_rate: Sequence[tuple[str, Facts]], group: Sequence[tuple[str, Facts]]) -> str:
    """The same of a point that was not measured, by settings of its group, each with its words and facts: those of one
    that differs in no more than may be, else what tells it apart."""
    ignored = _OF_RUNS if at_its_rate else (*_OF_RUNS, _RATES, _QUEUES)
    keys: list[str] = []
    for also, theirs in at_its_rate or group:
        keys = [key for key in differing([mine, theirs])
                if not key.endswith(ignored) and key.partition(".")[0] not in differences.MARKED]  # fmt: skip
        if not keys:
            return also
    return words(mine, keys)


def words(found: Facts, keys: Iterable[str]) -> str:
    """ "queue 100 kB, input_at everywhere"; what is not the same on all links is told of each."""
    by_name: dict[str, list[str]] = {}
    for key in keys:
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    said: list[str] = []
    for name, own in by_name.items():
        values = [_shortened(found.get(key, _UNSET)) for key in own]
        if len(set(values)) == 1:
            said.append(f"{name} {values[0]}")
        else:
            said += [f"{key} {value}" for key, value in zip(own, values, strict=True)]
    more = [f"and {len(said) - _MOST} more"] if len(said) > _MOST else []
    return ", ".join([*said[:_MOST], *more]) or NOTHING


def _shortened(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 3]}..."
