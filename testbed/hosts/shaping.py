"""The shaper at work on the links of one network: what changes its lanes and what reads its counters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from testbed import shape
from testbed.hosts import Counters, HostError, Lateness
from testbed.processes import checked
from testbed.relay.client import Relay
from testbed.shape import Port
from testbed.topology import Lane


class TcShaping:
    """The kernel's queue disciplines: a `Shaping`. name: "netem" or "tbf"."""

    warnings: Sequence[str] = ()

    def __init__(
        self, name: str, ports: Sequence[Port], into: Callable[[str | None], list[str]], seed: int | None
    ) -> None:
        """Shape every port. into: the start of a command line that runs in a host. seed: as of shape.commands.

        Raises HostError.
        """
        self.name = name
        self._ports = {port.hop.words: port for port in ports}
        self._lanes: dict[str, Lane | None] = {port.hop.words: port.hop.lane for port in ports}
        # A queue discipline that is told its seed starts over with it: the next one is as good and has not been used.
        self._seeds = {port.hop.words: seed if seed is None else seed + index for index, port in enumerate(ports)}
        self._into = into
        for command in shape.commands(ports, name, seed):
            checked([*into(command.host), *command.argv])

    def change(self, sender: str, receiver: str, lane: Lane | None) -> None:
        """From now on the direction is as `lane` says; None: it carries nothing. Raises HostError."""
        direction = f"{sender} -> {receiver}"
        if direction not in self._ports:
            raise HostError(f"{direction}: no such direction")
        port, seed = self._ports[direction], self._seeds[direction]
        seed = None if seed is None else seed + len(self._ports)
        try:
            before, after = (shape.change(port, one, self.name, seed) for one in (self._lanes[direction], lane))
        except ValueError as error:
            raise HostError(str(error)) from error
        for command in after:
            if command not in before:
                checked([*self._into(command.host), *command.argv])
        self._lanes[direction], self._seeds[direction] = lane, seed

    def counters(self) -> dict[str, Counters]:
        """Of every direction, from `tc`. Raises HostError."""
        return {direction: self._count(port) for direction, port in self._ports.items()}

    def _count(self, port: Port) -> Counters:
        shown = checked([*self._into(port.host), "tc", "-s", "-j", "qdisc", "show", "dev", port.interface]).stdout
        rows: dict[str, dict[str, Any]] = {row["handle"]: row for row in json.loads(shown)}
        try:
            root = rows["1:"]
        except KeyError as error:
            raise HostError(f"{port.hop.words}: {port.interface} is not shaped any more") from error
        # What netem's last child loses, those above it count as dropped, too.
        lost = int(rows["3:"]["drops"]) if "3:" in rows else 0
        return Counters(int(root["packets"]), int(root["bytes"]), int(root["drops"]) - lost, lost, 0)

    def lateness(self) -> Lateness | None:
        """None: the kernel does not tell."""
        return None


class RelayShaping:
    """The relay process: a `Shaping`. warnings: what it could not do and goes on without, one line each."""

    name = "relay"

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.warnings = relay.warnings

    def change(self, sender: str, receiver: str, lane: Lane | None) -> None:
        """From now on the direction is as `lane` says; None: it carries nothing. Raises HostError."""
        self._relay.change(f"{sender} -> {receiver}", lane)

    def counters(self) -> dict[str, Counters]:
        """Of every direction. Raises HostError."""
        return {direction: Counters(**found) for direction, found in self._relay.counters().items()}

    def lateness(self) -> Lateness | None:
        """Since last asked. Raises HostError."""
        found = self._relay.lateness()
        return Lateness(**found)
