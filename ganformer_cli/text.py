"""Text of other people, made fit to be shown: file names, labels, titles of pages, messages of libraries.

A terminal obeys what it is sent: escape sequences move its cursor, change its title or answer in the user's name, and
marks of direction let ``gpj.exe`` read as ``exe.jpg``.
"""

from __future__ import annotations

import unicodedata

MAX_LENGTH = 1000
#: Formatting characters that scripts and emoji cannot do without: the zero-width non-joiner and joiner.
_KEPT = frozenset("\u200c\u200d")
#: Kinds of Unicode that are shown by their number: control, formatting, half pairs, separators of lines, paragraphs.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object, *, limit: int | None = MAX_LENGTH, lines: bool = False) -> str:
    """``text`` on one line, safe to show: what is no visible character is spelled as in Python, such as ``\\x1b``.

    Args:
        text: a string or bytes (taken as UTF-8); of anything else, ``str`` of it.
        limit: longer text is cut in the middle; None: never.
        lines: keep line breaks and tabs, for text of several lines.
    """
    if isinstance(text, (bytes, bytearray)):
        text = bytes(text[: None if limit is None else 4 * limit]).decode("utf-8", "surrogateescape")
    text = str(text)
    if limit is not None and len(text) > limit:
        text = f"{text[: limit * 2 // 3]}…{text[len(text) - limit // 3 :]}"
    # Nearly every text is plain; this test takes no time.
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _visible(letter, lines) for letter in text)


def _visible(letter: str, lines: bool) -> str:
    if letter in _KEPT or unicodedata.category(letter) not in _HIDDEN:
        return letter  # spaces of other scripts, and letters that are newer than this Python
    if letter in _SHORT:
        return letter if lines and letter != "\r" else _SHORT[letter]
    number = ord(letter)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
