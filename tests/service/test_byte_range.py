"""`requested_part`: HTTP's conditions and ranges, against a table and against slices."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.byte_range import Part, requested_part

SIZE = 1000
ETAG = '"tag"'
WHOLE = (200, 0, SIZE)
UNSATISFIABLE = (416, 0, 0)
UNCHANGED = (304, 0, 0)


def part(headers: dict[str, str], size: int = SIZE, method: str = "GET") -> tuple[int, int, int]:
    """Return status, start and stop."""
    found: Part = requested_part(method, headers, size=size, etag=ETAG)
    return int(found.status), found.start, found.stop


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (206, 0, 1)),
        ("bytes=0-", (206, 0, SIZE)),
        ("bytes=10-19", (206, 10, 20)),
        ("bytes=999-", (206, 999, SIZE)),
        ("bytes=999-999", (206, 999, SIZE)),
        ("bytes=990-5000", (206, 990, SIZE)),
        ("bytes=-1", (206, 999, SIZE)),
        ("bytes=-1000", (206, 0, SIZE)),
        ("bytes=-5000", (206, 0, SIZE)),
        ("  bytes=5-6  ", (206, 5, 7)),
        ("bytes=0005-0006", (206, 5, 7)),
        (f"bytes={'0' * 40}5-{'0' * 40}6", (206, 5, 7)),
        (f"bytes=-{'0' * 40}5", (206, 995, SIZE)),
        (f"bytes=0-{'9' * 50}", (206, 0, SIZE)),
        (f"bytes=-{'9' * 50}", (206, 0, SIZE)),
        ("Bytes=5-6", (206, 5, 7)),  # names of units have no case: RFC 9110, 14.1
        ("bytes=1000-", UNSATISFIABLE),
        ("bytes=1000-2000", UNSATISFIABLE),
        (f"bytes={'9' * 50}-", UNSATISFIABLE),
        ("bytes=-0", UNSATISFIABLE),
        ("bytes=1 2-3 4", WHOLE),
        ("bytes=6-5", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=", WHOLE),
        ("bytes", WHOLE),
        ("", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=0x1-5", WHOLE),
        ("bytes=1.5-5", WHOLE),
        ("bytes=--5", WHOLE),
        ("bytes=1-2-3", WHOLE),
        ("bytes=0-1,5-6", WHOLE),
        ("bytes=-5,-6", WHOLE),
        ("items=0-5", WHOLE),
        ("bytes 0-5", WHOLE),
        ("bytes=²-³", WHOLE),
    ],
)
def test_one_range_is_honoured_and_the_rest_ignored(header: str, expected: tuple[int, int, int]) -> None:
    """A satisfiable range is a 206, one past the end a 416, and whatever else the whole file."""
    assert part({"range": header}) == expected


@pytest.mark.parametrize(
    ("condition", "is_met"),
    [('"tag"', True), (' "tag" ', True), ('W/"tag"', False), ('"other"', False), ("tag", False), ("", False)],
)
def test_if_range_wants_the_very_tag(condition: str, is_met: bool) -> None:
    """Only a strong match lets the range through; a date never does, for the files have none."""
    assert part({"range": "bytes=5-6", "if-range": condition}) == ((206, 5, 7) if is_met else WHOLE)
    assert part({"range": "bytes=5-6", "if-range": "Wed, 21 Oct 2026 07:28:00 GMT"}) == WHOLE
    assert part({"range": "bytes=5000-", "if-range": condition}) == (UNSATISFIABLE if is_met else WHOLE)


@pytest.mark.parametrize(
    ("condition", "unchanged"),
    [
        ('"tag"', True),
        ('W/"tag"', True),
        ("*", True),
        ('"other", "tag"', True),
        ('"other",W/"tag"', True),
        ('"other"', False),
        ("tag", False),
        ("", False),
    ],
)
def test_if_none_match_compares_weakly_and_goes_first(condition: str, unchanged: bool) -> None:
    """A match is a 304, whatever range was asked for."""
    assert part({"if-none-match": condition}) == (UNCHANGED if unchanged else WHOLE)
    assert part({"if-none-match": condition, "range": "bytes=5-6"}) == (UNCHANGED if unchanged else (206, 5, 7))


@pytest.mark.parametrize(
    ("condition", "is_met"),
    [('"tag"', True), ("*", True), ('"other", "tag"', True), ('W/"tag"', False), ('"other"', False), ("", False)],
)
def test_if_match_wants_the_very_tag(condition: str, is_met: bool) -> None:
    """Another tag, or a weak one, is a 412 whatever else was asked for."""
    headers = {"if-match": condition, "range": "bytes=5-6"}
    assert part(headers) == ((206, 5, 7) if is_met else (412, 0, 0))


def test_a_range_is_for_get_only() -> None:
    """A HEAD with a range is answered for the whole file, as RFC 9110 (14.2) asks; other conditions hold for it."""
    assert part({"range": "bytes=5-6"}, method="HEAD") == WHOLE
    assert part({"range": "bytes=5000-"}, method="HEAD") == WHOLE
    assert part({"if-none-match": "*"}, method="HEAD") == UNCHANGED


@given(st.integers(1, 300), st.integers(0, 400), st.integers(0, 400))
def test_ranges_are_slices(size: int, first: int, last: int) -> None:
    """Every first-last, first- and -last agrees with Python's slices of the content."""
    content = bytes(index % 251 for index in range(size))
    for header, expected in (
        (f"bytes={first}-{last}", content[first : last + 1] if first <= last else None),
        (f"bytes={first}-", content[first:]),
        (f"bytes=-{last}", content[-last:] if last else b""),
    ):
        status, start, stop = part({"range": header}, size)
        if expected is None:
            assert (status, start, stop) == (200, 0, size)
        elif expected == b"":
            assert status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        else:
            assert (status, content[start:stop]) == (206, expected)


@given(st.text(max_size=30), st.text(max_size=10), st.text(max_size=10))
def test_no_header_leads_outside_the_file(text: str, condition: str, tags: str) -> None:
    """Whatever the headers say, the part lies within the file."""
    for header in (text, f"bytes={text}"):
        found = requested_part("GET", {"range": header, "if-range": condition, "if-none-match": tags}, size=SIZE, etag=ETAG)
        assert 0 <= found.start <= found.stop <= SIZE
