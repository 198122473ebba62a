"""Both ends of a link measurement on devices: `python -m runtime.echo serve ADDRESS` and `measure ADDRESS PORT`.

Messages over TCP (`runtime.messages`), a long transfer, and trains of datagrams (`runtime.datagrams`). Standard library
only, so that it starts in a few hundredths of a second on a small board.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from contextlib import ExitStack

from runtime import datagrams
from runtime.answering import serve
from runtime.datagrams import GRACE, NUMBER, REPORT, Seen, Train
from runtime.messages import (
    COUNT,
    HEADER,
    LONGEST_BYTES,
    MESSAGE,
    PULL,
    RTT_BYTES,
    SEND,
    STREAM,
    STREAM_REPORT,
    Bad,
    Line,
    Repeats,
    connected,
    discard,
    exactly,
    exchange,
)

_CHUNK_BYTES = 1 << 14
_UNSENT_BYTES = 1 << 16  # no more than this waits in the sender, so that a time limit on a stream means something
_TCP_NOTSENT_LOWAT = 25


def _stream(connection: socket.socket, size_bytes: int, limit_s: float, skip_bytes: int) -> float:
    """Payload bit/s that the receiver saw of a transfer of `size_bytes`, cut off after `limit_s`."""
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    connection.sendall(HEADER.pack(STREAM, skip_bytes))
    chunk, end_s = bytes(_CHUNK_BYTES), time.monotonic() + limit_s
    while size_bytes > 0 and time.monotonic() < end_s:
        size_bytes -= connection.send(chunk[: min(size_bytes, _CHUNK_BYTES)])
    connection.shutdown(socket.SHUT_WR)
    counted, seconds = STREAM_REPORT.unpack(exactly(connection, STREAM_REPORT.size))
    return 8 * counted / seconds if seconds > 0 else 0.0


def _train(controls: list[socket.socket], train: Train, grace_s: float) -> list[Seen]:
    """Send a train to every control connection's other end, in turn: what each one saw."""
    targets = []
    for control in controls:
        control.sendall(HEADER.pack(COUNT, train.count))
    for control in controls:
        targets.append((control.getpeername()[0], HEADER.unpack(exactly(control, HEADER.size))[1]))
    with datagrams.opened(controls[0].getsockname()[0]) as end:
        datagrams.send(end, targets, train)
    for control in controls:
        control.sendall(GRACE.pack(grace_s))
    return [Seen(*REPORT.unpack(exactly(control, REPORT.size))) for control in controls]


def _connected(wanted: argparse.Namespace, address: str, port: str | int) -> socket.socket:
    return connected((address, int(port)), wanted.congestion, wanted.connect_s, wanted.patience_s)


def _plain_messages(wanted: argparse.Namespace, connection: socket.socket) -> dict[str, list[float]]:
    """Seconds of every repeat; sizes that do not fit in `patience_s` any more are left out."""
    end_s, times_s = time.monotonic() + wanted.patience_s, dict[str, list[float]]()
    for want in wanted.messages:
        for _ in range(want.repeats):
            if time.monotonic() > end_s:
                break
            time.sleep(want.gap_s)  # the link's queue is empty by the answer; a bucket fills in this gap
            times_s.setdefault(str(want.size_bytes), []).append(exchange(connection, want.size_bytes)[0])
    return times_s


def _whole_messages(wanted: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of the repeats that lost nothing, and for each size without any the reason."""
    times_s, reasons = dict[str, list[float]](), dict[str, str]()
    line = Line((wanted.address, wanted.port), wanted.window_bytes, wanted.connect_s, wanted.patience_s)
    try:
        for want in wanted.messages:
            found, why = line.times_s(want)
            if found:
                times_s[str(want.size_bytes)] = found
            else:
                reasons[str(want.size_bytes)] = why
    finally:
        line.close()
    return times_s, reasons


def measure(wanted: argparse.Namespace) -> dict[str, object]:
    """One row of raw numbers: `rtt_s` (list), `message_s` (size -> list of seconds), `missing` (size -> why it has
    none), `goodput_bit_s`, `arrived` (datagrams of `loss` that did), `spacing_s` (of each train),
    `delays` (of the train `jitter`: how many arrived, their spread in seconds, how many came late; null without).

    `wanted` holds address, port, messages, window_bytes (0: every repeat counts), stream_bytes, stream_s, skip_bytes,
    loss and jitter (Train or None), train (list of Train), grace_s, connect_s, patience_s, congestion.
    Raises OSError, Bad.
    """
    missing: dict[str, str] = {}
    with _connected(wanted, wanted.address, wanted.port) as connection:
        if wanted.window_bytes:
            message_s, missing = _whole_messages(wanted)
        else:
            message_s = _plain_messages(wanted, connection)
        delays = _train([connection], wanted.jitter, wanted.grace_s)[0] if wanted.jitter else None
        arrived = _train([connection], wanted.loss, wanted.grace_s)[0].arrived if wanted.loss else 0
        spacing_s = [_train([connection], train, wanted.grace_s)[0].spacing_s for train in wanted.train]
        goodput_bit_s = _stream(connection, wanted.stream_bytes, wanted.stream_s, wanted.skip_bytes)
    found: dict[str, object] = {"rtt_s": message_s.pop(str(RTT_BYTES), []), "message_s": message_s, "missing": missing}
    found |= {"goodput_bit_s": goodput_bit_s, "arrived": arrived, "spacing_s": spacing_s}
    return found | {"delays": delays and (delays.arrived, delays.spread_s, delays.late)}


def fan(wanted: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds to send a message to every peer at once (`push_s`) and to be sent one by every peer at once (`pull_s`).

    Shows the rate of this host's own link alone, which a message to one peer cannot: the next link may hide it.
    `wanted` holds peer (list of (address, port)), size_bytes, repeats, gap_s, patience_s, connect_s, congestion.
    Raises OSError, Bad.
    """
    into = memoryview(bytearray(wanted.size_bytes))
    message = HEADER.pack(MESSAGE, wanted.size_bytes) + bytes(wanted.size_bytes - HEADER.size)
    times_s: dict[str, list[float]] = {"push_s": [], "pull_s": []}
    with ExitStack() as closing:
        peers = [closing.enter_context(_connected(wanted, *peer)) for peer in wanted.peer]
        for what, words, answer_bytes in (
            ("push_s", message, 1),
            ("pull_s", HEADER.pack(PULL, wanted.size_bytes), wanted.size_bytes),
        ):
            for _ in range(wanted.repeats):
                time.sleep(wanted.gap_s)
                begun = time.monotonic()
                for peer in peers:
                    peer.sendall(words)
                for peer in peers:
                    discard(peer, answer_bytes, into)
                times_s[what].append(time.monotonic() - begun)
    return times_s


def trains(wanted: argparse.Namespace) -> dict[str, list[list[float]]]:
    """What `fan` shows, with trains of datagrams, where messages may be lost: seconds between two numbers at every peer
    (`push`), and of every peer here (`pull`; [] where their trains did not meet), a list per train.

    `wanted` holds peer, push and pull (lists of Train), grace_s, patience_s, connect_s, congestion.
    Raises OSError, Bad.
    """
    pulled = []
    with ExitStack() as closing:
        peers = [closing.enter_context(_connected(wanted, *peer)) for peer in wanted.peer]
        pushed = [[seen.spacing_s for seen in _train(peers, train, wanted.grace_s)] for train in wanted.push]
        for train in wanted.pull:
            with datagrams.opened(peers[0].getsockname()[0]) as end:
                for peer in peers:
                    peer.sendall(HEADER.pack(SEND, end.getsockname()[1]) + train.pack())
                found = datagrams.collect(end, [], len(peers) * train.count, train.seconds + wanted.grace_s)
            for peer in peers:
                exactly(peer, 1)
            together = datagrams.overlapping(list(found.values())) if len(found) == len(peers) else []
            pulled.append([datagrams.spacing_s(arrivals) for arrivals in together if arrivals])
    return {"push": pushed, "pull": pulled}


def _message(text: str) -> Repeats:
    size, repeats, gap_s, *more = text.split(":")
    if not RTT_BYTES <= int(size) <= LONGEST_BYTES:
        raise argparse.ArgumentTypeError(f"{size}: a message has {RTT_BYTES} to {LONGEST_BYTES} bytes")
    if more:
        return Repeats(int(size), int(repeats), float(gap_s), int(more[0]), float(more[1]))
    return Repeats(int(size), int(repeats), float(gap_s))


def _a_train(text: str) -> Train:
    count, size_bytes, spacing_s, head = text.split(":")
    if int(size_bytes) < NUMBER.size:
        raise argparse.ArgumentTypeError(f"{size_bytes}: a datagram has at least {NUMBER.size} bytes")
    return Train(int(count), int(size_bytes), float(spacing_s), int(head))


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m runtime.echo", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    serving, measuring, fanning, training = (verbs.add_parser(verb) for verb in ("serve", "measure", "fan", "trains"))
    serving.add_argument("address")
    serving.add_argument("--idle-s", type=float, default=60.0)
    measuring.add_argument("address")
    measuring.add_argument("port", type=int)
    messages = "SIZE:REPEATS:GAP_S[:WINDOW_BYTES:BUDGET_S]"
    measuring.add_argument("--messages", type=_message, nargs="*", default=[], metavar=messages)
    measuring.add_argument("--window-bytes", type=int, default=0)
    measuring.add_argument("--stream-bytes", type=int, default=1_000_000)
    measuring.add_argument("--stream-s", type=float, default=2.0)
    measuring.add_argument("--skip-bytes", type=int, default=0)
    for name in ("--loss", "--jitter"):
        measuring.add_argument(name, type=_a_train, metavar="COUNT:SIZE:SPACING_S:HEAD")
    fanning.add_argument("--size-bytes", type=int, default=16000)
    fanning.add_argument("--repeats", type=int, default=5)
    fanning.add_argument("--gap-s", type=float, default=0.005)
    for verb, names in ((measuring, ["--train"]), (training, ["--push", "--pull"])):
        verb.add_argument("--grace-s", type=float, default=0.2)
        for name in names:
            verb.add_argument(name, type=_a_train, nargs="*", default=[], metavar="COUNT:SIZE:SPACING_S:HEAD")
    for verb in (fanning, training):
        verb.add_argument("--peer", nargs=2, action="append", required=True, metavar=("ADDRESS", "PORT"))
    for verb in (measuring, fanning, training):
        verb.add_argument("--connect-s", type=float, default=3.0)
        verb.add_argument("--patience-s", type=float, default=20.0)
    for verb in (serving, measuring, fanning, training):
        verb.add_argument("--congestion", default="cubic")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Exit status 0, or 1 with one line on stderr when the measurement could not be made."""
    wanted = _arguments(argv)
    try:
        if wanted.verb == "serve":
            serve(wanted.address, wanted.idle_s, wanted.congestion)
        else:
            print(json.dumps({"measure": measure, "fan": fan, "trains": trains}[wanted.verb](wanted)), flush=True)
    except (Bad, OSError) as error:
        print(f"{wanted.verb}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
