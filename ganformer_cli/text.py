"""Makes foreign text safe to print: file names, labels, titles of web pages, messages of libraries.

Escape sequences in it could move the terminal's cursor, change its title or inject input, and direction marks make
``gpj.exe`` look like ``exe.jpg``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

MAX_LENGTH = 1000
#: Formatting characters that some scripts and emoji need: the zero-width non-joiner and joiner.
_KEPT = frozenset("\u200c\u200d")
#: Unicode categories that are escaped: control, formatting, surrogates, line and paragraph separators.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object, *, limit: int | None = MAX_LENGTH, lines: bool = False) -> str:
    """``text`` on one line, with invisible characters escaped as in Python, such as ``\\x1b``.

    Args:
        text: a string, bytes (decoded as UTF-8), or anything else that ``str`` takes.
        limit: longer text is cut in the middle; None: never.
        lines: keep line breaks and tabs.
    """
    if isinstance(text, (bytes, bytearray)):
        text = bytes(text[: None if limit is None else 4 * limit]).decode("utf-8", "surrogateescape")
    text = str(text)
    if limit is not None and len(text) > limit:
        text = f"{text[: limit * 2 // 3]}…{text[len(text) - limit // 3 :]}"
    # A fast path: nearly every text is printable.
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _visible(letter, lines) for letter in text)


def listed(names: Sequence[str], most: int) -> str:
    """``a, b and 3 more``: the first names of many."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _visible(letter: str, lines: bool) -> str:
    if letter in _KEPT or unicodedata.category(letter) not in _HIDDEN:
        return letter  # spaces of other scripts, and characters newer than this Python
    if letter in _SHORT:
        return letter if lines and letter != "\r" else _SHORT[letter]
    number = ord(letter)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
