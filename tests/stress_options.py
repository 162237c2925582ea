"""Hostile values of every option of every command; part of ``stress.py``."""

from __future__ import annotations

import random
import shlex
from pathlib import Path
from typing import Any

from tests import stress_harness as harness
from tests.stress_harness import Report, Sandbox
from tests.stress_signals import RUN, Trained, images

_WORDS = (
    "nan inf -inf 1e39 -1e39 1e308 1e-320 0 -0 -1 -0.0 0.5 00 1e3 1_000 0x10 ١٢ ½ "
    "99999999999 -99999999999 9223372036854775808 0-99999999999999 5-3 1,,2 , - -- --help True False none None null "
    ".. . / ~ * con nul.x con.v2 %s {} $(touch) ;ls |cat é 日本 ../outside/canary.bin /dev/null /proc/self/mem"
)
VALUES = [
    *_WORDS.split(" "),
    "",
    " ",
    "1" + "0" * 400,
    "-" + "9" * 400,
    "1." + "0" * 5000,
    "a" * 5000,
    "\x1b[31mred\x07",
    "a\nb",
    "\u202egnp.exe",
    "\ud800",
]
#: What makes a command short, or finds it something to read.
BASE: dict[str, list[str]] = {
    "prepare": ["images", "--name", "set", "--resolution", "8", "--workers", "1"],
    "train": shlex.split("--dry-run --dataset scenes --resolution 32 --channel-base 128 --channel-max 8"),
    "generate": ["--model", str(RUN), "--seeds", "0", "--output-dir", "out", "--gpus", "none"],
    "eval": ["--model", str(RUN), "--dataset", "scenes", "--eval-images-num", "4", "--gpus", "none"],
    "compare": [],
    "sweep": ["nowhere.toml", "--output-dir", "out"],
    "convert": [str(RUN), "copy.safetensors"],
    "info": [str(RUN)],
    "bench": ["--quick", "--only", "nothing"],
    "doctor": [],
    "build-ops": ["--cpu", "nothing"],
}


class Options:
    """One or two options of a command, each with a hostile value."""

    def __init__(self, root: Path, source: random.Random, report: Report) -> None:
        self.root, self.source, self.report = root, source, report
        self.sandbox: Sandbox | None = None
        self.options: list[tuple[str, Any]] = []

    def start(self) -> Sandbox:
        """A folder with a model and images, and the options of all commands."""
        from ganformer_cli.cli import main

        sandbox = Sandbox(self.root, "options")
        Trained.copy(sandbox.cwd)
        images(sandbox.cwd, 4)
        for name in main.COMMANDS:
            command = main.program.get_command(None, name)  # type: ignore[arg-type]
            if command is not None:
                # Without --dry-run train would train.
                self.options += [(name, parameter) for parameter in command.params if parameter.name != "dry_run"]
        return sandbox

    def case(self) -> None:
        """One command line."""
        if self.sandbox is None or self.report.cases["options"] % 200 == 199:
            self.options.clear()
            self.sandbox = self.start()
        name, parameter = self.source.choice(self.options)
        words = [name, *BASE.get(name, [])]
        value = self.source.choice(VALUES)
        options = [option for option in parameter.opts if option.startswith("--")]
        if options:
            words.append(f"{options[0]}={value}" if self.source.random() < 0.5 else options[0])
            if not words[-1].endswith(f"={value}"):
                words.append(value)
        else:
            words.append(value)
        if self.source.random() < 0.3:
            others = [p for other, p in self.options if other == name and p.opts and p.opts[0].startswith("--")]
            words += [self.source.choice(others).opts[0], self.source.choice(VALUES)]
        if name in ("bench", "build-ops") and "--dry-run" not in words:
            words = [word.replace("\0", "") for word in words]
        try:
            for word in words:
                word.encode()
        except UnicodeEncodeError:
            words = [word.encode("utf-8", "replace").decode() for word in words]
        outcome = harness.run(self.sandbox, words, limit=60)
        what = " ".join(word if len(word) < 40 else word[:30] + "…" for word in map(ascii, words))
        self.report.cases["options"] += 1
        self.report.check("options", what, outcome)
        self.sandbox.check(self.report, "options", what)
