"""Builds wheels that have the native operators inside: ``python .ci/wheels.py --output-dir dist``.

Runs on Linux with ``pip install -e ".[wheels]"``. Beside the plain wheel (``py3-none-any``, sources alone) it makes one
for each system: the libraries for AVX-512 and AVX2, or for ARM, lie in ``ganformer_cli/ops/built`` and are loaded where
no compiler is. The same commit gives the same bytes (``SOURCE_DATE_EPOCH`` is the commit's time unless it is set).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = "ganformer_cli/ops/built"


def run(words: list[str], folder: Path = ROOT, **how: object) -> str:
    """Run a program in ``folder``; its output. The script ends with it if the program fails."""
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}")
    return str(done.stdout)


def committed_files(work: Path) -> Path:
    """A folder with the files of the commit, whatever else lies in the checkout."""
    archive, tree = work / "tree.zip", work / "tree"
    run(["git", "archive", "--format=zip", f"--output={archive}", "HEAD"])
    with zipfile.ZipFile(archive) as files:
        files.extractall(tree)
    return tree


def plain_wheel(tree: Path, folder: Path) -> Path:
    """The wheel of the sources alone."""
    call = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    run([sys.executable, "-c", call, str(folder.resolve())], tree)
    (wheel,) = folder.glob("*-py3-none-any.whl")
    return wheel


def platform_wheel(tree: Path, plain: Path, target: str, folder: Path) -> Path:
    """The plain wheel with the libraries of ``target`` inside."""
    from ganformer_cli.operators.toolchain import TARGETS

    libraries = tree.parent / target
    words = [sys.executable, "-m", "ganformer_cli", "build-ops", "--target", target, "--output-dir", str(libraries)]
    run(words, tree, env={**os.environ, "PYTHONPATH": str(tree), "GANFORMER_OPS": "reference"})
    with tempfile.TemporaryDirectory() as work:
        run([sys.executable, "-m", "wheel", "unpack", str(plain), "--dest", work])
        (unpacked,) = Path(work).iterdir()
        built = unpacked / BUILT
        built.mkdir()
        for note in sorted(libraries.glob("*.json")):
            record = json.loads(note.read_text(encoding="utf-8"))
            (built / record["file"]).write_bytes((libraries / record["file"]).read_bytes())
            # What differs from build to build, and says nothing to the machine that loads it.
            record["seconds"], record["compiler"] = 0.0, {"name": record["compiler"]["name"]}
            (built / note.name).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (about,) = unpacked.glob("*.dist-info/WHEEL")
        about.write_text(about.read_text("utf-8").replace("Purelib: true", "Purelib: false"), encoding="utf-8")
        run([sys.executable, "-m", "wheel", "pack", str(unpacked), "--dest-dir", work])
        (packed,) = Path(work).glob("*.whl")
        run([sys.executable, "-m", "wheel", "tags", "--platform-tag", TARGETS[target].wheel, "--remove", str(packed)])
        (tagged,) = Path(work).glob("*.whl")
        made = folder / tagged.name
        made.write_bytes(tagged.read_bytes())
    return made


def main() -> None:
    """Build them and say their sizes, checksums and times."""
    sys.path.insert(0, str(ROOT))
    from ganformer_cli.operators.toolchain import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=ROOT / "dist")
    parser.add_argument("--target", action="append", choices=TARGETS, help="one of the systems; left out: all")
    options = parser.parse_args()
    os.environ.setdefault("SOURCE_DATE_EPOCH", run(["git", "log", "-1", "--format=%ct"]).strip())
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        tree = committed_files(Path(work))
        begin = time.monotonic()
        plain = plain_wheel(tree, options.output_dir)
        report = [(plain, time.monotonic() - begin)]
        for target in options.target or TARGETS:
            begin = time.monotonic()
            made = platform_wheel(tree, plain, target, options.output_dir)
            report.append((made, time.monotonic() - begin))
    for path, seconds in report:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}  {path.stat().st_size / 1e6:.2f} MB  {seconds:.0f} s  sha256 {digest}")


if __name__ == "__main__":
    main()
