"""The rule for names that become folders: of data sets (``--name``), runs (``--expname``) and catalogue entries.

A valid name works on Linux, macOS and Windows, and needs nothing but double quotes in bash, cmd and PowerShell. It may
contain letters of every script.
"""

from __future__ import annotations

import re
import unicodedata

from ganformer_cli.errors import ConfigError

MAX_CHARACTERS = 100
MAX_NAME_BYTES = 200  # in UTF-8; file systems allow 255, and suffixes are added to names

# Not allowed on Windows, or special within double quotes in some shell; PowerShell reads curly quotes as straight ones.
_FORBIDDEN = frozenset('<>:"/\\|?*$`!%^;' + "\u201c\u201d\u201e\u201f")
_JOINERS = frozenset("\u200c\u200d")  # invisible, but part of Persian, Hindi and emoji
# Device names on Windows, with any suffix.
_RESERVED = re.compile(
    r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE | re.DOTALL
)


def check_name(option: str, name: str) -> str:
    """The name in Unicode's composed form (NFC), in which it becomes that of a folder.

    Args:
        option: the option that gave it, for the message.

    Raises:
        ConfigError: it is invalid.
    """
    name = unicodedata.normalize("NFC", name)
    if why := invalid_reason(name):
        shown = name.encode("ascii", "backslashreplace").decode() if not name.isprintable() else name
        better = valid_name(name)
        raise ConfigError(
            f"{option} {shown!r} cannot be used as a name: {why}; use, for example, {option} {quoted(better)}"
        )
    return name


def invalid_reason(name: str) -> str:
    """Why ``name``, in composed form, is invalid; empty if it is valid."""
    if not name:
        return "it is empty"
    for place, character in enumerate(name):
        if not _is_allowed(name, place):
            return f"it has {_shown(character)}"
    if name[0] in ".-~ ":
        return f"it begins with {_shown(name[0])}"
    if name[-1] in ". ":
        return f"it ends with {_shown(name[-1])}"
    if _RESERVED.fullmatch(name):
        return "Windows reserves it for a device"
    if len(name) > MAX_CHARACTERS:
        return f"it has {len(name)} characters, more than {MAX_CHARACTERS}"
    size = len(name.encode("utf-8"))
    return f"it takes {size} bytes, more than {MAX_NAME_BYTES}" if size > MAX_NAME_BYTES else ""


def valid_name(text: str, *, spare: int = 0) -> str:
    """``text`` made a valid name, to which ``spare`` characters may be added; unchanged if it is one already."""
    text = unicodedata.normalize("NFC", text)
    name = "".join(text[i] if _is_allowed(text, i) else "-" for i in range(len(text)))
    if name != text:
        name = re.sub(r" *-[- ]*", "-", name)
    name = _shortened(name.lstrip(".-~ "), spare)
    name = name.rstrip(". -") if invalid_reason(name) or name != text else name
    if _RESERVED.fullmatch(name):
        name = f"my-{name}"
    return name if name and not invalid_reason(name) else "images"


def same_name(one: str, other: str) -> bool:
    """Whether two names differ at most in Unicode normalisation: macOS may decompose names."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def quoted(word: str) -> str:
    """``word`` quoted for a command line, the same in bash, cmd and PowerShell."""
    if re.fullmatch(r"[\w./\\:+][\w./\\:+-]*", word):
        return word
    if any(character in '$`!"' for character in word) and "'" not in word:
        return f"'{word}'"  # not in cmd, but there these need no quotes
    return f'"{word}"'


def _is_allowed(text: str, place: int) -> bool:
    character = text[place]
    if character in _JOINERS:
        return 0 < place < len(text) - 1 and not text[place - 1].isascii()
    category = unicodedata.category(character)
    return character not in _FORBIDDEN and (character == " " or category[0] not in "CZ")


def _shown(character: str) -> str:
    if character == " ":
        return "a space"
    code = f"U+{ord(character):04X}"
    if unicodedata.category(character)[0] in "CZ":
        return f"the invisible character {code} {unicodedata.name(character, '')}".strip()
    return character


def _shortened(name: str, spare: int) -> str:
    name = name[: MAX_CHARACTERS - spare]
    while len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES - spare:
        name = name[:-1]
    return name
