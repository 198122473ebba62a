"""Quantities: strict at the door, and what is shown reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import units


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_rate, "10 Mbit/s", 1e7),
        (units.parse_rate, "10Mbit/s", 1e7),
        (units.parse_rate, "2.5 kbit/s", 2500.0),
        (units.parse_rate, "1e3 bit/s", 1000.0),
        (units.parse_rate, "1 Mibit/s", 2.0**20),
        (units.parse_rate, ".5 Gbit/s", 5e8),
        (units.parse_duration, "5 ms", 0.005),
        (units.parse_duration, "0.1 ms", 1e-4),
        (units.parse_duration, "0 ms", 0.0),
        (units.parse_duration, "250 µs", 250e-6),
        (units.parse_duration, "2 min", 120.0),
        (units.parse_fraction, "1 %", 0.01),
        (units.parse_fraction, "100%", 1.0),
        (units.parse_size, "64 KiB", 65536),
        (units.parse_size, "1.5 kB", 1500),
        (units.parse_size, "2 GiB", 2**31),
    ],
)
def test_reads(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize("text", [10, 10.0, "10", "0", 0])
@pytest.mark.parametrize("parse", [units.parse_rate, units.parse_duration, units.parse_fraction, units.parse_size])
def test_a_number_without_unit_is_refused_with_an_example(parse, text):
    with pytest.raises(ValueError, match="give a unit"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["10 mbps", "10 Mbps", "10 MB/s", "10 mbit", "10 mbit/s", "10 Kbit/s", "10 Mbit/s/s", "10 Mbit / s"]
)
def test_only_bit_per_second_is_a_rate(text):
    with pytest.raises(ValueError, match=r"use bit/s, kbit/s, Mbit/s|a number and a unit"):
        units.parse_rate(text)


@pytest.mark.parametrize(
    ("parse", "text", "why"),
    [
        (units.parse_rate, "0 Mbit/s", "above 0"),
        (units.parse_rate, "-1 Mbit/s", "above 0"),
        (units.parse_rate, "1e999 Mbit/s", "large"),
        (units.parse_rate, "1e999999999 bit/s", "a number and a unit"),
        (units.parse_rate, "nan bit/s", "a number and a unit"),
        (units.parse_rate, "inf bit/s", "a number and a unit"),
        (units.parse_rate, None, "a number and a unit"),
        (units.parse_rate, True, "a number and a unit"),
        (units.parse_duration, "-5 ms", "negative"),
        (units.parse_duration, "5 MS", "use ns, us"),
        (units.parse_duration, "5 m", "use ns, us"),
        (units.parse_fraction, "101 %", "0 % to 100 %"),
        (units.parse_fraction, "-1 %", "0 % to 100 %"),
        (units.parse_size, "0.5 B", "whole number"),
        (units.parse_size, "-1 B", "whole number"),
        (units.parse_size, "64 kb", "use B, kB"),
    ],
)
def test_refuses_and_says_what_is_allowed(parse, text, why):
    with pytest.raises(ValueError, match=why):
        parse(text)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (units.show_rate(1e7), "10 Mbit/s"),
        (units.show_rate(1e9), "1 Gbit/s"),
        (units.show_rate(123456.0), "123.5 kbit/s"),
        (units.show_duration(0.005), "5 ms"),
        (units.show_duration(0.0524288), "52.43 ms"),
        (units.show_duration(0), "0 ms"),
        (units.show_fraction(0.01), "1 %"),
        (units.show_fraction(0), "0 %"),
        (units.show_size(65536), "64 KiB"),
        (units.show_size(1500), "1500 B"),
        (units.show_size(0), "0 B"),
    ],
)
def test_shows_for_people(shown, text):
    assert shown == text


@given(st.floats(1e-3, 1e14, exclude_min=True))
def test_rate_reads_back(rate):
    assert units.parse_rate(units.show_rate(rate, exact=True)) == rate


@given(st.floats(0, 1e9))
def test_duration_reads_back(duration):
    assert units.parse_duration(units.show_duration(duration, exact=True)) == duration


@given(st.floats(0, 1))
def test_fraction_reads_back(fraction):
    assert units.parse_fraction(units.show_fraction(fraction, exact=True)) == fraction


@given(st.integers(0, 2**60))
def test_size_reads_back(size):
    assert units.parse_size(units.show_size(size)) == size


@given(st.text(max_size=20))
def test_any_text_gives_a_quantity_or_one_line(text):
    try:
        assert units.parse_rate(text) > 0
    except ValueError as error:
        assert "\n" not in str(error).replace(text.strip(), "")
