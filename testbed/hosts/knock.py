"""Does anybody answer on the network just made? Else Ray, minutes later, would say something about a socket."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import combinations

from testbed.hosts import HostError
from testbed.hosts.layout import Layout
from testbed.processes import checked

# Nobody need listen: to be refused is an answer, too (also by a firewall that refuses in words: Ray then says so).
# TCP, because firewalls that drop it often let pings through.
_KNOCK = """\
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 2.5)
except ConnectionRefusedError:
    pass
except OSError as error:
    sys.exit(str(error))
"""


def knock(layout: Layout, into: Callable[[str], list[str]]) -> None:
    """Knock once at each kind of door. into: the start of a command line that runs in a host.

    Raises HostError with the likely cause where nobody answers.
    """
    for source, target, address in _ways(layout):
        try:
            checked([*into(source), sys.executable, "-I", "-S", "-c", _KNOCK, address])
        except HostError as error:
            why = str(error).rpartition(": ")[2]
            raise HostError(
                f"{source} cannot reach {target} on the network just made ({why}): most likely a firewall of this "
                "machine drops it, see `testbed doctor` and `iptables -S`"
            ) from error


def _ways(layout: Layout) -> Iterator[tuple[str, str, str]]:
    """From a host to the machine itself, and from host to host over a switch if two are joined by one."""
    yield next(iter(layout.hosts)), "the machine itself", layout.control_address
    cabled = [{cable.a.node, cable.b.node} for cable in layout.cables]
    for a, b in combinations(layout.hosts, 2):
        address = layout.reach(b, a)
        if address is not None and {a, b} not in cabled:
            yield a, b, address
            return
