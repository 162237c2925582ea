"""Mutilates snapshots of the authors' and opens them: ``python tests/fuzz_original_snapshots.py --minutes 10``.

Every file is opened or refused with a GanformerError. An audit hook watches that opening starts no program, runs no
source text, opens no socket and writes nothing.
"""

from __future__ import annotations

import argparse
import codecs
import collections
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ganformer_cli.errors import GanformerError
from ganformer_cli.original_snapshots import load_original

GOLDEN = Path(__file__).parent / "golden"
FORBIDDEN: tuple[str, ...] = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.remove",
    "os.rename",
    "os.mkdir",
)
FORBIDDEN += ("subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "webbrowser.", "urllib.", "exec", "compile")

watching = False
violations: list[str] = []


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what no snapshot may cause."""
    if not watching:
        return
    if event.startswith(FORBIDDEN):
        violations.append(f"{event} {arguments!r}"[:300])
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        violations.append(f"writes {arguments[0]!r}")


def mutilate(data: bytes, source: random.Random) -> bytes:
    """Change, cut, repeat or exchange some bytes, mostly where the program of the pickle is and not its tensors."""
    mutant = bytearray(data)
    for _ in range(source.choice((1, 1, 2, 4, 16, 64))):
        place = source.randrange(min(len(mutant), source.choice((200, 4000, len(mutant)))))
        kind = source.randrange(6)
        if kind <= 2:
            mutant[place] = source.choice((source.randrange(256), mutant[place] ^ (1 << source.randrange(8))))
        elif kind == 3:
            del mutant[place : place + source.randrange(1, 64)]
        elif kind == 4:
            other = source.randrange(len(mutant))
            mutant[place:place] = mutant[other : other + source.randrange(1, 64)]
        else:
            mutant[place:place] = source.choice(
                (b"c", b"R", b"b", b"\x93", b"\x81", b"2", b"0", b"(", b"t", b"\x94", b"h\x00", b"r\xff\xff\xff\xff")
            )
        if not mutant:
            return b""
    return bytes(mutant) if source.random() > 0.05 else bytes(mutant[: source.randrange(len(mutant))])


def main() -> None:
    """Mutilate until the time is up, then tell."""
    global watching
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    originals = [path.read_bytes() for path in sorted(GOLDEN.rglob("*.pkl"))]
    for path in sorted(GOLDEN.rglob("*.pkl")):
        load_original(path)  # so that whatever is imported late is there before the watching begins
    for name in ("ascii", "latin-1", "utf-8", "unicode_escape", "raw_unicode_escape"):
        codecs.lookup(name)  # the same
    sys.addaudithook(audit)
    source = random.Random(options.seed)
    count, opened, reasons = 0, 0, collections.Counter[str]()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "mutilated.pkl"
        while time.monotonic() < end:
            target.write_bytes(mutilate(source.choice(originals), source))
            watching = True
            try:
                load_original(target)
                opened += 1
            except GanformerError as error:
                reasons[str(error).replace(str(target), "").lstrip(": ")[:40]] += 1
            finally:
                watching = False
            count += 1
            left = sorted(path.name for path in Path(folder).iterdir())
            if left != [target.name]:
                violations.append(f"left {left}")
            if violations:
                sys.exit(f"after {count} files (seed {options.seed}): {violations[:5]}")
    print(f"{count} files in {options.minutes:g} minutes: {opened} opened, {count - opened} refused, no violation")
    for reason, number in reasons.most_common(8):
        print(f"{number:8}  {reason}")


if __name__ == "__main__":
    main()
