"""The frame: what is packed comes back, anything else is BadFrame, and nothing is allocated for a promise."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import BadFrame
from runtime.transport import wire
from runtime.transport.wire import DTYPES, HEADER_BYTES, NO_LAYER, Header, Kind

dtypes = st.sampled_from(list(DTYPES.values()))
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
data_kinds = st.sampled_from([Kind.SCATTER, Kind.EXCHANGE, Kind.GATHER, Kind.TOKEN])
headers = st.builds(
    Header,
    kind=data_kinds,
    sender=st.integers(0, 0xFFFF),
    request=st.integers(0, 0xFFFFFFFF),
    layer=st.integers(0, NO_LAYER),
    dtype=dtypes,
    shape=st.lists(st.integers(0, 400), max_size=3).map(tuple),
)


def raw(**changed: int | bytes) -> bytes:
    """A header written field by field, by the documented layout, valid but for what is changed."""
    fields: dict[str, int | bytes] = {
        "length": 24, "magic": wire.MAGIC, "version": 1, "kind": 3, "sender": 2, "request": 7, "layer": 5,
        "dtype": 1, "dimensions": 2, "a": 2, "b": 3, "c": 0,
    }  # fmt: skip
    assert changed.keys() <= fields.keys()
    return struct.pack("!I4sBBHIHBB3I", *(fields | changed).values())


@given(headers)
def test_what_is_packed_comes_back(header: Header) -> None:
    packed = wire.pack(header)
    assert len(packed) == HEADER_BYTES == 32
    assert wire.unpack(packed) == header


def test_the_layout_is_the_documented_one() -> None:
    assert wire.unpack(raw()) == Header(Kind.EXCHANGE, 2, 7, 5, torch.float32, (2, 3))


@given(dtypes, shapes)
def test_a_tensor_survives_as_bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    numel = torch.Size(shape).numel()
    sent = torch.arange(numel).to(dtype).reshape(shape)
    body = wire.payload(sent)
    received = torch.empty(shape, dtype=dtype)
    wire.payload(received)[:] = body
    assert len(body) == numel * dtype.itemsize
    assert torch.equal(received, sent)


@given(st.binary(max_size=80) | st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadFrame):
        wire.unpack(data)


@given(headers, st.integers(0, HEADER_BYTES * 8 - 1))
def test_a_flipped_bit_is_refused_or_another_valid_header(header: Header, bit: int) -> None:
    data = bytearray(wire.pack(header))
    data[bit // 8] ^= 1 << bit % 8
    try:
        other = wire.unpack(bytes(data))
    except BadFrame:
        return
    assert other != header
    assert wire.pack(other) == data


@given(headers, st.integers(0, HEADER_BYTES - 1), st.binary(min_size=1, max_size=8))
def test_truncated_and_longer_headers_are_refused(header: Header, length: int, more: bytes) -> None:
    packed = wire.pack(header)
    for data in (packed[:length], packed + more):
        with pytest.raises(BadFrame, match="32 bytes"):
            wire.unpack(data)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"magic": b"GET "}, "not a frame"),
        ({"version": 2}, "version 2"),
        ({"kind": 0}, "unknown kind 0"),
        ({"kind": 6}, "unknown kind 6"),
        ({"dtype": 0}, "dtype 0"),
        ({"dtype": 8}, "dtype 8"),
        ({"dimensions": 4, "c": 1}, "4 dimensions"),
        ({"c": 1}, "2 dimensions"),
        ({"length": 23}, "23 bytes announced"),
        ({"length": 0}, "0 bytes announced"),
        ({"a": 0}, "which has 0"),
        ({"a": 0xFFFFFFFF, "b": 0xFFFFFFFF}, "announced"),
        ({"length": (1 << 30) + 4, "a": 1, "b": (1 << 28) + 1}, "over the limit"),
        ({"kind": 1, "length": 33, "dtype": 4, "dimensions": 1, "a": 33, "b": 0}, "limit of 32 for HELLO"),
    ],
)
def test_a_header_that_is_off_is_refused(changed: dict[str, int | bytes], said: str) -> None:
    with pytest.raises(BadFrame, match=said):
        wire.unpack(raw(**changed))


@pytest.mark.parametrize(
    "header",
    [
        Header(Kind.EXCHANGE, 0, 0, 0, torch.float64, (1,)),
        Header(Kind.EXCHANGE, 0, 0, 0, torch.float32, (1, 1, 1, 1)),
        Header(Kind.EXCHANGE, 0x10000, 0, 0, torch.float32, (1,)),
        Header(Kind.EXCHANGE, 0, -1, 0, torch.float32, (1,)),
        Header(Kind.EXCHANGE, 0, 0, 0x10000, torch.float32, (1,)),
        Header(Kind.EXCHANGE, 0, 0, 0, torch.float32, (1 << 28, 2)),
        Header(Kind.HELLO, 0, 0, 0, torch.float32, (9,)),
    ],
)
def test_the_sender_refuses_what_the_receiver_would(header: Header) -> None:
    with pytest.raises(BadFrame):
        wire.pack(header)


def test_only_contiguous_tensors_are_sent() -> None:
    with pytest.raises(BadFrame, match="contiguous"):
        wire.header_of(torch.zeros(2, 3).t(), Kind.EXCHANGE, 0, 0, 0)
