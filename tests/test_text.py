"""Foreign text is shown whole where it is harmless, and spelled out where a terminal would obey it."""

from __future__ import annotations

import pytest

from ganformer_cli.text import MAX_LENGTH, printable


@pytest.mark.parametrize(
    "text",
    [
        "",
        "faces of 2020",
        "Gesichter äöü",
        "顔\u3000写真",
        "👩\u200d🚀",
        "می\u200cخواهم",
        r"C:\pictures\new",
        "a\u00a0b",
    ],
)
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\r\nc\td", r"a\nb\r\nc\td"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\u2066a\u2069\u200f\u061c", r"\u2066a\u2069\u200f\u061c"),
        ("a\u2028b\u2029\x85", r"a\u2028b\u2029\x85"),
        ("a\udcff\ud800", r"a\udcff\ud800"),
        ("\ufeff\u200b\U000e0041", r"\ufeff\u200b\U000e0041"),
        (b"a\xff\x1b", r"a\udcff\x1b"),
        (ValueError("\x00"), r"\x00"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: object, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode("utf-8")


def test_lines_may_be_kept_and_nothing_else() -> None:
    assert printable("a\nb\tc\r\x1b", lines=True) == "a\nb\tc\\r\\x1b"


def test_long_text_is_cut_in_the_middle() -> None:
    shown = printable("begin" + "x" * 10_000_000 + "end")
    assert len(shown) == MAX_LENGTH + 1 - (MAX_LENGTH - MAX_LENGTH * 2 // 3 - MAX_LENGTH // 3)
    assert shown.startswith("begin")
    assert shown.endswith("end")
    assert "…" in shown
    assert len(printable("y" * 5000, limit=None)) == 5000
