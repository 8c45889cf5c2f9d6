"""Paths: their one written form, and what is none."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.errors import ConfigError
from tleg_core.path import MAX_ANCHORS, MAX_PATH_CHARS, MAX_SEGMENTS, Path, Segment
from tleg_core.recipe import Member


@st.composite
def paths(draw: st.DrawFn) -> Path:
    """Draw a path of up to four segments."""
    segments: list[Segment] = []
    for _ in range(draw(st.integers(1, 4))):
        anchor = draw(st.integers(0, MAX_ANCHORS - 1).filter(lambda found: not segments or found != segments[-1].anchor))
        first = draw(st.integers(0, 100))
        segments.append(Segment(anchor, first, first + draw(st.integers(0, 100))))
    return Path(tuple(segments))


def test_a_path_says_which_blocks() -> None:
    """Anchor 0's blocks 0 to 7, then anchor 1's 8 to 11: twelve in all, one join."""
    path = Path.parse("0.0-7_1.8-11")
    assert path.segments == (Segment(0, 0, 7), Segment(1, 8, 11))
    assert (path.depth, path.joins) == (12, ((Segment(0, 0, 7), Segment(1, 8, 11)),))
    assert [path.block(layer) for layer in (0, 7, 8, 11)] == [(0, 0), (0, 7), (1, 8), (1, 11)]
    with pytest.raises(IndexError):
        path.block(12)


@given(path=paths())
def test_a_path_survives_its_text(path: Path) -> None:
    """Read back it is the same, in the same letters; each layer is a block of its segment."""
    assert Path.parse(str(path)) == path
    assert len(str(path)) <= MAX_PATH_CHARS
    blocks = [(segment.anchor, block) for segment in path.segments for block in range(segment.first, segment.last + 1)]
    assert [path.block(layer) for layer in range(path.depth)] == blocks


@given(text=st.text(alphabet="0123456789._-", max_size=24))
def test_a_text_has_one_meaning_or_none(text: str) -> None:
    """What can be read is written in the same letters; anything else is a `ConfigError`."""
    with suppress(ConfigError):
        assert str(Path.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.0",
        "0.0-",
        "00.0-1",
        "0.00-1",
        "0.0-01",
        "+0.0-1",
        "-1.0-1",
        "0.1-0",
        "0.0-1000",
        "64.0-1",
        "0.0-1_",
        "_0.0-1",
        "0.0-1__1.2-3",
        "0.0-1_0.2-3",
        "0.0-1 ",
        "0.0-1\n",
        "0.0-1/..",
        "\uff10.0-1",
        "0.0-999_1.0-0",
        "9" * 100_000,
        "_".join(["0.0-0", "1.0-0"] * (MAX_SEGMENTS // 2) + ["0.0-0"]),
    ],
)
def test_what_is_no_path_is_refused_briefly(text: str) -> None:
    """`ConfigError`, its message short whatever was sent."""
    with pytest.raises(ConfigError) as caught:
        Path.parse(text)
    assert len(str(caught.value)) < 250


def test_a_member_has_the_depth_of_its_path() -> None:
    """Labels and JSON name the path; a depth that contradicts it is refused."""
    path = Path.parse("0.0-7_1.8-11")
    member = Member.along(path)
    assert (member.depth, member.label, member.to_json()) == (12, "p0.0-7_1.8-11", {"path": "0.0-7_1.8-11"})
    assert Member.from_json(member.to_json()) == member
    assert member != Member(depth=12)
    with pytest.raises(ConfigError, match="12 blocks, not 11"):
        Member(depth=11, path=path)


@pytest.mark.parametrize(
    "value", [{}, {"depth": 1, "path": "0.0-0"}, {"path": 1}, {"depth": True}, {"path": "x"}, {"depth": "1"}]
)
def test_no_other_json_is_a_member(value: dict[str, object]) -> None:
    """Exactly one of a whole depth and a path."""
    with pytest.raises(ConfigError):
        Member.from_json(value)
