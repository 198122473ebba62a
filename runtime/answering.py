"""The end of a link measurement that answers: discards, counts, sends what it is asked for."""

from __future__ import annotations

import socket
import struct
import time
from threading import Thread

from runtime import datagrams
from runtime.datagrams import REPORT, TRAIN, Train
from runtime.messages import (
    COUNT,
    HEADER,
    LONGEST_BYTES,
    MESSAGE,
    PULL,
    SEND,
    STREAM,
    STREAM_REPORT,
    WINDOW,
    Bad,
    congestion_control,
    discard,
    exactly,
    sent_again,
)


def _receive_stream(connection: socket.socket, into: memoryview, skip_bytes: int) -> tuple[int, float]:
    """Payload bytes and seconds from an arrival to the last; the first one past skip_bytes starts the clock.

    Measured by the receiver, so neither the start of the transfer nor what a rate limiter lets go after idle counts.
    """
    started_s, last_s, counted, skipped = 0.0, 0.0, 0, 0
    while got := connection.recv_into(into):
        last_s = time.monotonic()
        if started_s:
            counted += got
        else:
            skipped += got
            started_s = last_s if skipped > skip_bytes else 0.0
    return counted, last_s - started_s if started_s else 0.0


def _hold(connection: socket.socket, size_bytes: int) -> None:
    """Let no more than size_bytes be on their way to this end at once; TCP forgets it when packets become larger."""
    if size_bytes:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, size_bytes)


def _count(connection: socket.socket, count: int, idle_s: float) -> None:
    """Say a port, receive datagrams there, report what was seen."""
    with datagrams.opened(connection.getsockname()[0]) as end:
        connection.sendall(HEADER.pack(COUNT, end.getsockname()[1]))
        found = datagrams.collect(end, [connection], count, idle_s)
    arrivals = max(found.values(), key=len, default=[])
    connection.sendall(REPORT.pack(*datagrams.seen(arrivals)))


def _send(connection: socket.socket, port: int) -> None:
    train = Train(*TRAIN.unpack(exactly(connection, TRAIN.size)))
    with datagrams.opened(connection.getsockname()[0]) as end:
        datagrams.send(end, [(connection.getpeername()[0], port)], train)
    connection.sendall(b"\x01")


def _answer(connection: socket.socket, idle_s: float) -> None:
    """Serve one connection until its other end closes it."""
    into, most_bytes = memoryview(bytearray(1 << 18)), 0
    while head := connection.recv(HEADER.size):
        head += exactly(connection, HEADER.size - len(head))
        kind, size = HEADER.unpack(head)
        if kind not in (STREAM, WINDOW, COUNT, SEND, MESSAGE, PULL) or size > LONGEST_BYTES:
            raise Bad(f"not a message: kind {kind!r}, {size} bytes")
        if kind == STREAM:
            connection.sendall(STREAM_REPORT.pack(*_receive_stream(connection, into, size)))
            return
        if kind == WINDOW:
            most_bytes = size
            datagrams.large_buffer(connection, socket.SO_RCVBUF)  # a buffer that was set does not grow, nor the window
            _hold(connection, most_bytes)
        elif kind == COUNT:
            _count(connection, size, idle_s)
        elif kind == SEND:
            _send(connection, size)
        elif kind == PULL:
            for begun in range(0, size, len(into)):
                connection.sendall(into[: min(size - begun, len(into))])
        else:
            discard(connection, max(0, size - HEADER.size), into)
            _hold(connection, most_bytes)
            connection.sendall(bytes([sent_again(connection) % 256]))


def _serve_one(connection: socket.socket, idle_s: float) -> None:
    with connection:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(idle_s)
            _answer(connection, idle_s)
        except (Bad, OSError, struct.error) as error:
            print(f"connection dropped: {error}", flush=True)


def serve(address: str, idle_s: float, congestion: str) -> None:
    """Answer connections; return `idle_s` seconds after the last one began. Prints `port N` when ready."""
    with socket.create_server((address, 0)) as server:
        congestion_control(server, congestion)
        server.settimeout(idle_s)
        print(f"port {server.getsockname()[1]}", flush=True)
        while True:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                return
            Thread(target=_serve_one, args=(connection, idle_s), daemon=True).start()
