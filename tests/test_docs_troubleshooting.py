"""Every message that ``docs/troubleshooting.md`` quotes is one of the program's, word for word."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GAP = "…"  # in the page and below: what differs each time


def quoted_messages() -> list[str]:
    """The lines of the page's blocks of text."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return [line for block in re.findall(r"```text\n(.*?)```", page, re.S) for line in block.splitlines()]


@cache
def texts_of_the_program() -> tuple[str, ...]:
    """All texts in the code, f-strings with a gap in place of each field."""
    found = []
    for path in sorted((ROOT / "ganformer_cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else GAP for v in node.values))
    return tuple(found)


def is_said(message: str, texts: tuple[str, ...]) -> bool:
    """Whether a text says ``message``: its pieces between the gaps, in their order and unbroken."""
    pieces = [piece.strip() for piece in message.split(GAP) if piece.strip()]
    pattern = re.compile(".*?".join(map(re.escape, pieces)), re.S)
    return any(pattern.search(text) for text in texts)


@pytest.mark.parametrize("message", quoted_messages())
def test_a_quoted_message_exists(message: str) -> None:
    assert is_said(message, texts_of_the_program()), f"no code says: {message}"


def test_the_page_is_not_empty_and_a_wrong_message_would_be_seen() -> None:
    assert len(quoted_messages()) > 50
    assert is_said("--top-k …: choose", ("--top-k …: choose 1 to …",))
    assert not is_said("--top-k … pick", texts_of_the_program())
    assert not any(len(message.replace(GAP, "").strip()) < 15 for message in quoted_messages())
