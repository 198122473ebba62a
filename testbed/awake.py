"""Processors that do not sleep between frames. Standard library only: the relay needs it, too.

The kernel's power management lets no processor sleep as long as this file is open. Waking one up takes 0.05 ms and
more, more yet where this machine is itself a guest, and every frame wakes somebody: time that no declared link has.
"""

from __future__ import annotations

import os
import struct

FILE = "/dev/cpu_dma_latency"
WITHOUT = "the processors may sleep: frames are late by the time of waking up"


def hold() -> int:
    """A descriptor: processors sleep again once it is closed, or the process ends. Raises OSError."""
    file = os.open(FILE, os.O_WRONLY)
    os.write(file, struct.pack("=i", 0))
    return file
