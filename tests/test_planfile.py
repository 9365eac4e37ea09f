"""The plan as a file: what its other side could misread is refused."""

from __future__ import annotations

import pytest
from aliquot.hooks import planfile
from aliquot.hooks.errors import EditError
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.lists(st.text(max_size=12), min_size=1, max_size=4), max_size=6))
def test_every_line_says_what_it_was_given_or_nothing_is_written(lines: list[list[str]]) -> None:
    try:
        data = planfile.encode(map(tuple, lines))
    except EditError as error:
        assert str(error).isprintable()  # noqa: PT017 - being written is right, too
        return
    rows = data.decode().removesuffix("\n").split("\n")
    assert [row.split("\t") for row in rows] == [["aliquot-plan", "1"], *lines]


@pytest.mark.parametrize("text", ["", "/a\tb", "/a\nb", "/a\0b", "/a\ud800b"])
def test_what_could_be_misread_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(EditError, match="cannot be a path of a container") as caught:
        planfile.encode([("root", "/fine"), ("scan", text)])
    assert str(caught.value).isprintable()


def test_bytes_that_are_no_text_stay_what_they_are() -> None:
    assert planfile.encode([("scan", "/\udcff\udc80")]).endswith(b"scan\t/\xff\x80\n")


def test_a_plan_that_the_hook_would_not_read_is_not_written() -> None:
    planfile.encode([("scan", "/a")] * 4095)
    with pytest.raises(EditError, match="4097 lines"):
        planfile.encode([("scan", "/a")] * 4096)
    with pytest.raises(EditError, match="more than a container can need"):
        planfile.encode([("scan", "/" + "a" * (1 << 20))])
