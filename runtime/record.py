"""One measured row: what one device did for one request."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Record:
    """All times in seconds on the device's own monotonic clock, all sizes in bytes.

    latency_s: request in, result out; end to end only on the source device, else from the first input byte to the
    device's last work. compute_s: arithmetic (waiting for a CPU share included). code_s: encoding, packing, decoding.
    waited_s: blocked on activations of other devices. scatter_s: distributing (source) or awaiting input; gather_s:
    collecting (source) or returning results.
    sent_bytes: payload of exchanges between layers, the figure that the byte formulas speak of; scatter_bytes and
    gather_bytes: payload of input distribution and of results. messages: exchange frames sent.
    wire_bytes: what the interface counters of this device's data interfaces grew by (headers, ACKs, retransmissions
    included); None where the host has no interface of its own.
    lost_tokens: of other devices, masked out because their codes did not come in time, once for each layer in which one
    was missed; due_tokens: those whose codes were due so, counted alike. dropped: datagrams of no use, by why:
    `runtime.transport.Dropped`; None where none are sent.
    generated: ids of the tokens that followed the prompt, on the source; there too ttft_s: from the request until the
    first of them was known, and token_s: the mean from one to the next (None where there is but one). token_bytes: of
    ids sent to the source. kept_bytes: on the device that generated, memory of the keys and values, or codes, that it
    held of all tokens in the end. None or 0 without generation.
    late_s: where computing is replayed, by how much stages ended later than the profile says, the median and the most.
    """

    request: int
    rank: int
    latency_s: float = 0.0
    compute_s: float = 0.0
    code_s: float = 0.0
    waited_s: float = 0.0
    scatter_s: float = 0.0
    gather_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    scatter_bytes: int = 0
    gather_bytes: int = 0
    messages: int = 0
    wire_bytes: int | None = None
    peak_memory_bytes: int = 0
    late_s: tuple[float, float] | None = None
    lost_tokens: int = 0
    due_tokens: int = 0
    dropped: dict[str, int] | None = None
    generated: list[int] | None = None
    ttft_s: float | None = None
    token_s: float | None = None
    token_bytes: int = 0
    kept_bytes: int | None = None
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """The record as a plain dict, ready for JSON."""
        return asdict(self)
