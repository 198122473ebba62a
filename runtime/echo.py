"""Both ends of a link measurement on devices: `python -m runtime.echo serve ADDRESS` and `measure ADDRESS PORT`.

A message is a TCP message as a method sends it: one write, answered by one byte when its last byte has arrived, so all
times are of one clock. Standard library only, so that it starts in a few hundredths of a second on a small board.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import time
from contextlib import ExitStack

_HEADER = struct.Struct("!cQ")  # what follows, bytes of the message with this header
_MESSAGE, _STREAM, _PULL = b"M", b"S", b"P"  # a message to answer, bytes until the end, bytes to be sent back
_REPORT = struct.Struct("!Qd")  # payload bytes, seconds, as the receiver saw them
_LONGEST_BYTES = 1 << 30
_RTT_BYTES = 16
_CHUNK_BYTES = 1 << 14
_UNSENT_BYTES = 1 << 16  # no more than this waits in the sender, so that a time limit on a stream means something
_CONNECT_S = 3.0
_TCP_NOTSENT_LOWAT = 25


class Bad(Exception):
    """The other end does not speak this protocol, or went away."""


def _settings(connection: socket.socket, congestion: str, patience_s: float) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    connection.settimeout(patience_s)


def _discard(connection: socket.socket, count: int, into: memoryview) -> None:
    while count:
        got = connection.recv_into(into, min(count, len(into)))
        if not got:
            raise Bad("the connection ended inside a message")
        count -= got


def _receive_stream(connection: socket.socket, into: memoryview) -> tuple[int, float]:
    """Payload bytes and seconds from the first arrival to the last; the first starts the clock and is not counted.

    Measured by the receiver, so neither the start of the transfer nor what a rate limiter lets go after idle counts.
    """
    started_s, last_s, counted = 0.0, 0.0, 0
    while got := connection.recv_into(into):
        last_s = time.monotonic()
        if started_s:
            counted += got
        else:
            started_s = last_s
    return counted, last_s - started_s


def _answer(connection: socket.socket, into: memoryview) -> None:
    """Serve one connection until its other end closes it."""
    while True:
        head = connection.recv(_HEADER.size, socket.MSG_WAITALL)
        if not head:
            return
        if len(head) != _HEADER.size:
            raise Bad("the connection ended inside a header")
        kind, size = _HEADER.unpack(head)
        if kind == _STREAM:
            connection.sendall(_REPORT.pack(*_receive_stream(connection, into)))
            return
        if kind not in (_MESSAGE, _PULL) or not _HEADER.size <= size <= _LONGEST_BYTES:
            raise Bad(f"not a message: kind {kind!r}, {size} bytes")
        if kind == _PULL:
            for begun in range(0, size, len(into)):
                connection.sendall(into[: min(size - begun, len(into))])
        else:
            _discard(connection, size - _HEADER.size, into)
            connection.sendall(b"\x01")


def serve(address: str, idle_s: float, congestion: str) -> None:
    """Answer one connection after the other; return after `idle_s` seconds without one. Prints `port N` when ready."""
    into = memoryview(bytearray(1 << 18))
    with socket.create_server((address, 0)) as server:
        server.settimeout(idle_s)
        print(f"port {server.getsockname()[1]}", flush=True)
        while True:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                return
            with connection:
                _settings(connection, congestion, idle_s)
                try:
                    _answer(connection, into)
                except (Bad, OSError) as error:
                    print(f"connection dropped: {error}", flush=True)


def _message_s(connection: socket.socket, size_bytes: int) -> float:
    """Seconds from handing over a message of `size_bytes`, header included, to the answer that it is there."""
    message = _HEADER.pack(_MESSAGE, size_bytes) + bytes(size_bytes - _HEADER.size)
    begun = time.monotonic()
    connection.sendall(message)
    if connection.recv(1) != b"\x01":
        raise Bad("no answer to a message")
    return time.monotonic() - begun


def _stream(connection: socket.socket, size_bytes: int, limit_s: float) -> float:
    """Payload bit/s that the receiver saw of a transfer of `size_bytes`, cut off after `limit_s`."""
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    connection.sendall(_HEADER.pack(_STREAM, _HEADER.size))
    chunk, end_s = bytes(_CHUNK_BYTES), time.monotonic() + limit_s
    while size_bytes > 0 and time.monotonic() < end_s:
        size_bytes -= connection.send(chunk[: min(size_bytes, _CHUNK_BYTES)])
    connection.shutdown(socket.SHUT_WR)
    report = connection.recv(_REPORT.size, socket.MSG_WAITALL)
    if len(report) != _REPORT.size:
        raise Bad("no report on a stream")
    counted, seconds = _REPORT.unpack(report)
    return 8 * counted / seconds if seconds > 0 else 0.0


def measure(wanted: argparse.Namespace) -> dict[str, object]:
    """One row of raw numbers: `rtt_s` (list), `message_s` (size -> list of seconds), `goodput_bit_s`.

    `wanted` holds address, port, messages (list of (size, repeats, gap_s)), pings, gap_s, stream_bytes, stream_s,
    patience_s, congestion.
    Sizes that do not fit in `patience_s` any more are left out. Raises OSError, Bad.
    """
    end_s = time.monotonic() + wanted.patience_s
    with socket.create_connection((wanted.address, wanted.port), timeout=_CONNECT_S) as connection:
        _settings(connection, wanted.congestion, wanted.patience_s)
        message_s: dict[str, list[float]] = {}
        for size, repeats, gap_s in [(_RTT_BYTES, wanted.pings, wanted.gap_s), *wanted.messages]:
            for _ in range(repeats):
                if time.monotonic() > end_s:
                    break
                time.sleep(gap_s)  # the link's queue is empty by the answer; a bucket fills in this gap
                message_s.setdefault(str(size), []).append(_message_s(connection, size))
        rtt_s = message_s.pop(str(_RTT_BYTES), [])
        goodput_bit_s = _stream(connection, wanted.stream_bytes, wanted.stream_s)
    return {"rtt_s": rtt_s, "message_s": message_s, "goodput_bit_s": goodput_bit_s}


def fan(wanted: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds to send a message to every peer at once (`push_s`) and to be sent one by every peer at once (`pull_s`).

    Shows the rate of this host's own link alone, which a message to one peer cannot: the next link may hide it.
    `wanted` holds peer (list of (address, port)), size_bytes, repeats, gap_s, patience_s, congestion.
    Raises OSError, Bad.
    """
    into = memoryview(bytearray(wanted.size_bytes))
    message = _HEADER.pack(_MESSAGE, wanted.size_bytes) + bytes(wanted.size_bytes - _HEADER.size)
    times_s: dict[str, list[float]] = {"push_s": [], "pull_s": []}
    with ExitStack() as closing:
        peers = [
            closing.enter_context(socket.create_connection((address, int(port)), timeout=_CONNECT_S))
            for address, port in wanted.peer
        ]
        for peer in peers:
            _settings(peer, wanted.congestion, wanted.patience_s)
        for what, words, answer_bytes in (
            ("push_s", message, 1),
            ("pull_s", _HEADER.pack(_PULL, wanted.size_bytes), wanted.size_bytes),
        ):
            for _ in range(wanted.repeats):
                time.sleep(wanted.gap_s)
                begun = time.monotonic()
                for peer in peers:
                    peer.sendall(words)
                for peer in peers:
                    _discard(peer, answer_bytes, into)
                times_s[what].append(time.monotonic() - begun)
    return times_s


def _message(text: str) -> tuple[int, int, float]:
    size, repeats, gap_s = text.split(":")
    if not _HEADER.size <= int(size) <= _LONGEST_BYTES or int(size) == _RTT_BYTES:
        raise argparse.ArgumentTypeError(f"{size}: a message has {_RTT_BYTES + 1} to {_LONGEST_BYTES} bytes")
    return int(size), int(repeats), float(gap_s)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m runtime.echo", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    serving, measuring, fanning = (verbs.add_parser(verb) for verb in ("serve", "measure", "fan"))
    serving.add_argument("address")
    serving.add_argument("--idle-s", type=float, default=60.0)
    measuring.add_argument("address")
    measuring.add_argument("port", type=int)
    measuring.add_argument("--messages", type=_message, nargs="*", default=[], metavar="SIZE:REPEATS:GAP_S")
    measuring.add_argument("--pings", type=int, default=10)
    measuring.add_argument("--stream-bytes", type=int, default=1_000_000)
    measuring.add_argument("--stream-s", type=float, default=2.0)
    fanning.add_argument("--peer", nargs=2, action="append", required=True, metavar=("ADDRESS", "PORT"))
    fanning.add_argument("--size-bytes", type=int, default=16000)
    fanning.add_argument("--repeats", type=int, default=5)
    for verb in (measuring, fanning):
        verb.add_argument("--gap-s", type=float, default=0.005)
        verb.add_argument("--patience-s", type=float, default=20.0)
    for verb in (serving, measuring, fanning):
        verb.add_argument("--congestion", default="cubic")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Exit status 0, or 1 with one line on stderr when the measurement could not be made."""
    wanted = _arguments(argv)
    try:
        if wanted.verb == "serve":
            serve(wanted.address, wanted.idle_s, wanted.congestion)
        else:
            print(json.dumps(measure(wanted) if wanted.verb == "measure" else fan(wanted)), flush=True)
    except (Bad, OSError) as error:
        print(f"{wanted.verb}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
