"""What is read from a connection is whole, however TCP cut it into segments: on sockets with a timeout, too."""

from __future__ import annotations

import array
import fcntl
import socket
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runtime import answering, datagrams
from runtime.messages import HEADER, PULL, Bad, exactly

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(10.0)
        far.settimeout(10.0)
        yield near, far


def unread(end: socket.socket) -> int:
    found = array.array("i", [0])
    fcntl.ioctl(end, termios.FIONREAD, found)
    return found[0]


def in_two_parts(pair: Pair, data: bytes, read: Callable[[], Any]) -> Any:
    """What `read` makes of data whose second half is sent when it has taken the first."""
    near, far = pair
    with ThreadPoolExecutor(1) as other:
        done, until_s = other.submit(read), time.monotonic() + 10
        near.sendall(data[:5])
        while unread(far):
            assert time.monotonic() < until_s
        near.sendall(data[5:])
        return done.result(10)


def test_a_report(pair: Pair) -> None:
    assert in_two_parts(pair, b"0123456789", lambda: exactly(pair[1], 10)) == b"0123456789"


def test_a_report_that_ends_in_the_middle(pair: Pair) -> None:
    pair[0].sendall(b"01234")
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(Bad, match="ended too early"):
        exactly(pair[1], 10)


def test_a_header(pair: Pair) -> None:
    near, far = pair

    def serve() -> None:
        answering._answer(far, 10.0)

    with ThreadPoolExecutor(1) as other:
        served = other.submit(in_two_parts, pair, HEADER.pack(PULL, 3), serve)
        assert exactly(near, 3) == bytes(3)
        near.shutdown(socket.SHUT_WR)
        served.result(10)


def test_how_long_to_wait_for_what_is_on_its_way(pair: Pair) -> None:
    with datagrams.opened("127.0.0.1") as end:
        word = datagrams.GRACE.pack(0.01)
        assert in_two_parts(pair, word, lambda: datagrams.collect(end, [pair[1]], 1, 10.0)) == {}
