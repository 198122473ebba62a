"""TAP devices: network interfaces whose other side is a file that this process reads and writes frames from."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable
from fcntl import ioctl
from functools import partial
from io import FileIO

QUEUE_FRAMES = 4096  # that wait for this process to be scheduled; 0.5 s of full frames at 100 Mbit/s
MOST_BYTES = 2048  # of a frame; interfaces have an MTU of 1500
_TUNSETIFF, _TUNGETDEVNETNS, _SIOCSIFTXQLEN = 0x400454CA, 0x54E3, 0x8943
_IFF_TAP, _IFF_NO_PI, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x8000
_CLONE_NEWNET = 0x40000000
_TX_DROPPED = 11  # column of /proc/net/dev after the name


def create(name: str) -> int:
    """Make a TAP device; it goes when the returned file, which never blocks, is closed. Raises OSError naming it."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        ioctl(file, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            ioctl(any_socket, _SIOCSIFTXQLEN, struct.pack("16si12x", name.encode(), QUEUE_FRAMES))
    except OSError as error:
        os.close(file)
        raise OSError(error.errno, error.strerror, name) from error
    return file


class Drops:
    """Frames that the kernel dropped because nobody read them from a TAP device in time.

    The counter is in the namespace that the device was moved to; a file there is kept open, so that reading takes some
    microseconds. In a namespace of its own a device is seen in /proc only: /sys would have to be mounted there.
    """

    def __init__(self, name: str, file: int) -> None:
        self._name, self._file = name, file
        self._counter: Callable[[], int | None] | None = None
        self._last = 0

    def read(self) -> int:
        """How many so far; what it was last, while the device is between two namespaces or gone with one."""
        for _ in range(2):
            count = self._counter() if self._counter else None
            if count is not None:
                self._last = count
                break
            try:
                self._counter = self._find()
            except OSError:
                break
        return self._last

    def _find(self) -> Callable[[], int | None]:
        there, here = ioctl(self._file, _TUNGETDEVNETNS), os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            if os.fstat(there).st_ino == os.fstat(here).st_ino:
                return partial(_in_sys, open(f"/sys/class/net/{self._name}/statistics/tx_dropped", "rb", buffering=0))
            _enter(there)
            try:
                return partial(_in_proc, open("/proc/thread-self/net/dev", "rb", buffering=0), self._name.encode())
            finally:
                _enter(here)
        finally:
            os.close(there)
            os.close(here)


def _in_sys(file: FileIO) -> int | None:
    try:
        return int(os.pread(file.fileno(), 32, 0))
    except OSError:
        return None  # the device has left


def _in_proc(file: FileIO, name: bytes) -> int | None:
    file.seek(0)
    for line in file.read().splitlines():
        found, _, columns = line.partition(b":")
        if found.strip() == name:
            return int(columns.split()[_TX_DROPPED])
    return None


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
