"""Runs the Dockerfile without Docker: its RUN lines, one after the other, in a folder that holds a bare Debian.

    apt-get install debootstrap
    python .ci/dockerfile.py /tmp/debian --target test

The folder is made with debootstrap if it does not exist, and used as it is otherwise. As in ``docker build``, ARG, ENV
and WORKDIR hold for the lines that follow, and COPY copies, though only the files that git knows. Linux, as root.

``--build-arg NAME=VALUE`` is Docker's. ``--bind PATH`` makes a folder of this machine visible in the other one, and
``--env NAME`` passes a variable, for machines whose pip needs settings of their own.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction of a Dockerfile and what it is given; comments left out, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), " ".join(rest.split())


def stages(text: str) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by name, those of the stage that it builds on included."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions(text):
        if word == "FROM":
            base, _, given = re.sub(r"(?i) as ", " ", rest).partition(" ")
            name = given or "final"
            found[name] = list(found.get(base, []))
        elif name:
            found[name].append((word, rest))
    return found


def expanded(text: str, variables: dict[str, str]) -> str:
    """``text`` with ``$NAME`` and ``${NAME}`` replaced; the shell expands those of RUN."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: variables.get(match[1], ""), text)


def copy_checkout(destination: Path) -> None:
    """Copy the files that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, destination / name)


def run(root: Path, command: str, folder: str, variables: dict[str, str], binds: list[Path]) -> int:
    """Run one line in the folder, with mounts that vanish with it; its status."""
    mounts = ["mount -t proc proc proc", "mount --rbind /dev dev", "cp /etc/resolv.conf etc/resolv.conf"]
    for path in binds:
        inside = root / path.relative_to("/")
        inside.mkdir(parents=True, exist_ok=True)
        mounts.append(f"mount --bind -o ro {shlex.quote(str(path))} {shlex.quote(str(inside.relative_to(root)))}")
    line = " && ".join([*mounts, f"exec chroot . /bin/sh -c {shlex.quote(f'cd {shlex.quote(folder)} && {command}')}"])
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", line]
    return subprocess.run(isolated, cwd=root, env=variables, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the RUN lines of the Dockerfile in a bare Debian.")
    parser.add_argument("root", type=Path, help="folder of the bare Debian; made with debootstrap if it does not exist")
    parser.add_argument("--target", default="final", help="stage to build")
    parser.add_argument("--suite", default="bookworm", help="of Debian, for debootstrap")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], type=Path, metavar="PATH")
    parser.add_argument("--env", action="append", default=[], metavar="NAME")
    options = parser.parse_args()
    parts = stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    if options.target not in parts:
        parser.error(f"--target {options.target}: no such stage; there are {', '.join(parts)}")
    if os.geteuid() != 0:
        parser.error("needs root, for chroot")
    root = options.root.absolute()
    if not root.exists():
        subprocess.run(["debootstrap", "--variant=minbase", options.suite, str(root)], check=True)
    given = dict(each.partition("=")[::2] for each in options.build_arg)
    variables = {"HOME": "/root", **{name: os.environ[name] for name in options.env if name in os.environ}}
    folder = "/"
    for word, rest in parts[options.target]:
        if word == "ARG":
            name, _, default = rest.partition("=")
            variables[name] = given.get(name, default)
        elif word == "ENV":
            variables |= {
                name: expanded(value, variables) for name, _, value in (w.partition("=") for w in shlex.split(rest))
            }
        elif word == "WORKDIR":
            folder = os.path.join(folder, expanded(rest, variables))
            (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            source, destination = rest.split()
            if source != ".":
                parser.error(f"COPY {rest}: only COPY . is understood here")
            copy_checkout(root / os.path.join(folder, destination).lstrip("/"))
        elif word == "RUN":
            print(f"RUN {rest}", flush=True)
            started = time.monotonic()
            if status := run(root, rest, folder, variables, options.bind):
                print(f"failed with status {status}: RUN {rest}")
                return 1
            print(f"ok, {time.monotonic() - started:.0f} s", flush=True)
        elif word not in ("ENTRYPOINT", "CMD", "LABEL", "EXPOSE", "VOLUME"):
            parser.error(f"{word} is not understood here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
