"""What can go wrong on a device, in words that a user can act on."""

from __future__ import annotations


class RuntimeFault(Exception):
    """Base of all faults that a device reports; its text is one line."""


class PeerLost(RuntimeFault):
    """The connection to a peer ended or stayed silent. `rank` is the peer, `layer` the layer at which it was missed."""

    def __init__(self, rank: int, layer: int | None, why: str) -> None:
        self.rank, self.layer, self.why = rank, layer, why
        super().__init__(f"rank {rank} lost at layer {layer}: {why}")

    def __reduce__(self) -> tuple[type, tuple[int, int | None, str]]:
        return PeerLost, (self.rank, self.layer, self.why)


class BadFrame(RuntimeFault):
    """Bytes that are not a frame of this protocol, or a frame that does not fit what was expected."""


class Unfit(RuntimeFault):
    """A method cannot run this model on so many devices; the text says why."""


class BadCheckpoint(RuntimeFault):
    """A file that training was to go on from and cannot be read; the text says what to do."""


class BadModel(RuntimeFault):
    """A model name, folder or checkpoint that cannot be used; the text says what was looked for."""
