"""TCP messages of a link measurement, seen from the end that asks: how long they take, and which of them lost nothing.

A message is a TCP message as a method sends it: one write, answered by one byte when its last byte has arrived, so all
times are of one clock. Where packets are lost or delayed, how long a message takes depends on TCP's window and on what
was sent twice; then only repeats count for which the window was large enough and nothing was lost. TCP tells both.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

HEADER = struct.Struct("!cQ")  # what follows, bytes of the message with this header
# A message to answer; bytes until the end, of which the first so many are not timed; bytes to be sent back; the bytes
# that may be on their way at once; datagrams to count; a train of datagrams to be sent to a port.
MESSAGE, STREAM, PULL, WINDOW, COUNT, SEND = b"M", b"S", b"P", b"W", b"C", b"T"
STREAM_REPORT = struct.Struct("!Qd")  # payload bytes, seconds, as the receiver saw them
RTT_BYTES = 16
LONGEST_BYTES = 1 << 30
_INFO_BYTES = 256
_SEGMENT, _CONGESTION_WINDOW, _SENT_AGAIN, _NEEDLESSLY, _RECEIVE_WINDOW = 16, 80, 100, 216, 228  # in struct tcp_info


class Bad(Exception):
    """The other end does not speak this protocol, or went away."""


@dataclass(frozen=True)
class Repeats:
    """A message of size_bytes so many times, gap_s of silence before each.

    window_bytes: None: each one counts. Else TCP's window must cover so many bytes before one counts, only those count
    that lost nothing, and after budget_s seconds there are no more tries.
    """

    size_bytes: int
    repeats: int
    gap_s: float
    window_bytes: int | None = None
    budget_s: float = 0.0


def congestion_control(end: socket.socket, name: str) -> None:
    """Set it, before connecting or listening: a connection that began with BBR goes on to space its packets out."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


def connected(address: tuple[str, int], congestion: str, connect_s: float, patience_s: float) -> socket.socket:
    """A connection to the other end, on which nothing may take longer than patience_s. Raises OSError."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        congestion_control(connection, congestion)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(connect_s)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    connection.settimeout(patience_s)
    return connection


def exactly(connection: socket.socket, count: int) -> bytes:
    """The next `count` bytes. Raises Bad where the connection ends before."""
    got = b""
    while len(got) < count:  # on a socket with a timeout the kernel does not wait for all of them
        more = connection.recv(count - len(got))
        if not more:
            raise Bad("the connection ended too early")
        got += more
    return got


def discard(connection: socket.socket, count: int, into: memoryview) -> None:
    """Receive `count` bytes and forget them. Raises Bad where the connection ends before."""
    while count:
        got = connection.recv_into(into, min(count, len(into)))
        if not got:
            raise Bad("the connection ended inside a message")
        count -= got


def _info(connection: socket.socket, *offsets: int) -> list[int]:
    """Numbers of TCP's own account of a connection; 0 where an older kernel does not tell."""
    raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    return [struct.unpack_from("=I", raw, at)[0] if at + 4 <= len(raw) else 0 for at in offsets]


def sent_again(connection: socket.socket) -> int:
    """Packets that this end sent again because they were lost; those that it sent again needlessly left out.

    TCP sends a message's last packet again when an answer takes long, lost or not; the other end reports it then.
    """
    again, needlessly = _info(connection, _SENT_AGAIN, _NEEDLESSLY)
    return again - needlessly


def window_bytes(connection: socket.socket) -> int:
    """Bytes that TCP lets be on their way at once."""
    segment, congestion, receive = _info(connection, _SEGMENT, _CONGESTION_WINDOW, _RECEIVE_WINDOW)
    return min(segment * congestion, receive or segment * congestion)


def exchange(connection: socket.socket, size_bytes: int) -> tuple[float, int]:
    """Seconds from handing over a message of `size_bytes`, header included, to its answer; what the answer says.

    That is how many packets the other end had to send again so far (modulo 256).
    """
    message = HEADER.pack(MESSAGE, size_bytes) + bytes(size_bytes - HEADER.size)
    begun = time.monotonic()
    connection.sendall(message)
    answer = connection.recv(1)
    if not answer:
        raise Bad("no answer to a message")
    return time.monotonic() - begun, answer[0]


@dataclass
class _Try:
    took_s: float
    covered: bool  # TCP's window was large enough
    whole: bool  # nothing was lost there or on the way back


class Line:
    """A connection to the other end for messages that may lose packets; made anew when a loss has shrunk its window.

    Reno, for its window doubles until something is lost: others stop earlier, on signs of their own.
    """

    def __init__(self, address: tuple[str, int], most_bytes: int, connect_s: float, patience_s: float) -> None:
        self.address, self.most_bytes = address, most_bytes
        self.connect_s, self.patience_s = connect_s, patience_s
        self._open()

    def _open(self) -> None:
        self.connection = connected(self.address, "reno", self.connect_s, self.patience_s)
        # Hung up without a farewell: one that is lost would be sent again into the next measurement.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.sendall(HEADER.pack(WINDOW, self.most_bytes))
        self.heard = 0
        self._exchange(RTT_BYTES)

    def close(self) -> None:
        """Hang up."""
        self.connection.close()

    def _exchange(self, size_bytes: int) -> tuple[float, bool]:
        """Seconds of one message, and whether the answer to the one before was lost."""
        took_s, heard = exchange(self.connection, size_bytes)
        lost, self.heard = heard != self.heard, heard
        return took_s, lost

    def _once(self, want: Repeats, tries: list[_Try]) -> None:
        before, covered = sent_again(self.connection), window_bytes(self.connection) >= (want.window_bytes or 0)
        took_s, lost = self._exchange(want.size_bytes)
        if lost and tries:
            tries[-1].whole = False
        time.sleep(want.gap_s)  # the other end's word that something came twice follows its answer
        tries.append(_Try(took_s, covered, sent_again(self.connection) == before))

    def _recover(self, want: Repeats) -> None:
        """After a loss: wait until what was sent twice is through, with a new connection if the window has shrunk."""
        if window_bytes(self.connection) < (want.window_bytes or 0):
            self.close()
            self._open()
        else:
            self._exchange(RTT_BYTES)

    def times_s(self, want: Repeats) -> tuple[list[float], str]:
        """Seconds of the repeats that count, and why there are none, or "". Raises OSError, Bad."""
        end_s, tries = time.monotonic() + want.budget_s, list[_Try]()
        time.sleep(want.gap_s)
        while time.monotonic() < end_s and sum(one.covered and one.whole for one in tries) < want.repeats:
            self._once(want, tries)
            if not tries[-1].whole:
                self._recover(want)
        if tries and tries[-1].whole and self._exchange(RTT_BYTES)[1]:
            tries[-1].whole = False
        return [one.took_s for one in tries if one.covered and one.whole], _why_none(tries)


def _why_none(tries: list[_Try]) -> str:
    if any(one.covered and one.whole for one in tries):
        return ""
    if not tries or any(one.whole for one in tries):
        return "TCP's window did not grow to what the link holds in time"
    return "every repeat lost a packet"
