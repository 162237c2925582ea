"""One rule for the names that become folders: of data sets (``--name``), runs (``--expname``) and catalogue entries.

A name is good on Linux, macOS and Windows alike, and, in double quotes, means itself in bash, cmd and PowerShell.
Letters of every script may be in it.
"""

from __future__ import annotations

import re
import unicodedata

from ganformer_cli.errors import ConfigError

MAX_CHARACTERS = 100
MAX_BYTES = 200  # in UTF-8; a file system takes 255, and what is made of a name is longer than it

# Not allowed on Windows, or not the same in quotes in every shell; PowerShell takes curly quotes for straight ones.
_FORBIDDEN = frozenset('<>:"/\\|?*$`!%^;' + "\u201c\u201d\u201e\u201f")
_JOINERS = frozenset("\u200c\u200d")  # invisible, but needed to write Persian or Hindi, and in emoji
# Devices on Windows, whatever suffix follows.
_RESERVED = re.compile(
    r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE | re.DOTALL
)


def check_name(option: str, name: str) -> str:
    """The name in Unicode's composed form (NFC), as it becomes a folder's.

    Args:
        option: that gave it, for the message.

    Raises:
        ConfigError: it cannot be one.
    """
    name = unicodedata.normalize("NFC", name)
    if why := what_is_wrong(name):
        shown = name.encode("ascii", "backslashreplace").decode() if not name.isprintable() else name
        better = valid_name(name)
        raise ConfigError(f"{option} {shown!r} cannot be used as a name: {why}; for instance {option} {quoted(better)}")
    return name


def what_is_wrong(name: str) -> str:
    """Why ``name``, in composed form, is no name; empty if it is one."""
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
        return f"it has {len(name)} characters, and {MAX_CHARACTERS} are the most"
    size = len(name.encode("utf-8"))
    return f"it takes {size} bytes, and {MAX_BYTES} are the most" if size > MAX_BYTES else ""


def valid_name(text: str, *, spare: int = 0) -> str:
    """A name made of ``text``, such as a folder's own: itself where it is one; ``spare`` characters may follow it."""
    text = unicodedata.normalize("NFC", text)
    name = "".join(text[i] if _is_allowed(text, i) else "-" for i in range(len(text)))
    if name != text:
        name = re.sub(r" *-[- ]*", "-", name)
    name = _shortened(name.lstrip(".-~ "), spare)
    name = name.rstrip(". -") if what_is_wrong(name) or name != text else name
    if _RESERVED.fullmatch(name):
        name = f"my-{name}"
    return name if name and not what_is_wrong(name) else "images"


def same_name(one: str, other: str) -> bool:
    """Whether two names are the same but for the form of Unicode: macOS may decompose what was composed."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def quoted(word: str) -> str:
    """A word of a command line, as bash, cmd and PowerShell all read it."""
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
    while len(name.encode("utf-8", "replace")) > MAX_BYTES - spare:
        name = name[:-1]
    return name
