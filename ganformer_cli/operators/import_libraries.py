"""The libraries of another system's torch that a library for that system is linked with.

Windows' linker wants import libraries, which torch's wheel for Windows has; they are taken out of it. For Linux an
empty library of the right name does: what is missing is found by name when ours is loaded.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from ganformer_cli.files import atomic_open
from ganformer_cli.operators.toolchain import BuildError, Compiler, TargetSystem, decoded, run_program
from ganformer_cli.resources import cache_folder

LINK_LIBRARIES = {True: ("torch_cpu.lib", "c10.lib"), False: ("libtorch_cpu.so", "libc10.so")}
SECONDS_TO_DOWNLOAD = 1800.0
SECONDS_TO_LINK = 300.0


def libraries_for(target: TargetSystem, compiler: Compiler, torch_version: str, given: Path | None = None) -> Path:
    """The folder of the libraries to link with for ``target``.

    Args:
        target: the system.
        compiler: zig.
        torch_version: whose wheel to take them from, ``2.13.0``.
        given: a torch wheel (``.whl``), an unpacked one, or a folder that has them; None fetches the wheel with pip.

    Raises:
        BuildError: there are none.
    """
    if given is not None:
        return _from(given, target)
    folder = cache_folder() / "operators" / f"torch-{torch_version}-{target.name}"
    if all((folder / name).is_file() for name in LINK_LIBRARIES[target.windows]):
        return folder
    if target.windows:
        return _from_index(target, torch_version, folder)
    return _stand_ins(target, compiler, folder)


def _from(given: Path, target: TargetSystem) -> Path:
    """The folder of a torch that the user named."""
    names = LINK_LIBRARIES[target.windows]
    if given.suffix == ".whl" and given.is_file():
        folder = cache_folder() / "operators" / given.stem
        _unpack(given, folder, names)
        return folder
    for folder in (given, given / "lib", given / "torch" / "lib"):
        if all((folder / name).is_file() for name in names):
            return folder
    remedy = f"name a torch wheel for {target.name}, or the folder of one unpacked"
    raise BuildError(f"{given}: no {' or '.join(names)} there", remedy)


def _unpack(wheel: Path, folder: Path, names: tuple[str, ...]) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                with archive.open(f"torch/lib/{name}") as source, atomic_open(folder / name) as stream:
                    shutil.copyfileobj(source, stream)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        remedy = "name the wheel of torch for that system"
        raise BuildError(f"{wheel}: no libraries to link with can be read from it ({error})", remedy) from error


def _from_index(target: TargetSystem, version: str, folder: Path) -> Path:
    """Fetch torch's wheel for ``target`` with pip, and keep the libraries."""
    remedy = "fetch the wheel yourself (pip download --no-deps --platform win_amd64) and name it with --torch"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="ganformer-torch-") as work:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        words += ["--only-binary=:all:", "--platform", target.wheel, "--python-version", python, "--dest", work]
        status, output = run_program([*words, f"torch=={version}"], seconds=SECONDS_TO_DOWNLOAD)
        found = sorted(Path(work).glob("torch-*.whl"))
        if status or not found:
            last = decoded(output).strip().splitlines()[-1:]
            raise BuildError(f"pip cannot fetch torch {version} for {target.name}: {' '.join(last)}", remedy)
        _unpack(found[0], folder, LINK_LIBRARIES[target.windows])
    return folder


def _stand_ins(target: TargetSystem, compiler: Compiler, folder: Path) -> Path:
    """Empty libraries of the names of torch's."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stand-in-", dir=folder) as work:
        source = Path(work) / "empty.c"
        source.write_text("", encoding="utf-8")
        for name in LINK_LIBRARIES[target.windows]:
            made = Path(work) / name
            words = [compiler.path, "cc", "-target", target.triple, "-shared", f"-Wl,-soname,{name}", str(source)]
            status, output = run_program([*words, "-o", str(made)], seconds=SECONDS_TO_LINK)
            if status:
                problem = " ".join(decoded(output).split())[:300]
                raise BuildError(f"{compiler} failed: {problem}", "install ziglang again")
            made.replace(folder / name)
    return folder
