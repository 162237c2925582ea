"""Finds nvcc and the CUDA runtime to link with; which GPUs a library is built for."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganformer_cli.errors import ConfigError
from ganformer_cli.operators.toolchain import Runner, decoded, run_program

WINDOWS = sys.platform == "win32"

#: Built for if there is no GPU here: a GPU runs what was built for the first of its generation, and those of later
#: generations compile the last of the list on first use.
USUAL_ARCHITECTURES = ("80", "90")


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler: its path, its version ``(13, 0)``, and the folders with its headers and libraries."""

    path: str
    version: tuple[int, int]
    roots: tuple[Path, ...]

    def __str__(self) -> str:
        return f"nvcc {self.version[0]}.{self.version[1]}"

    @property
    def include_folders(self) -> list[Path]:
        folders = [root / below for root in self.roots for below in ("include", *_targets("include"))]
        return [folder for folder in folders if (folder / "cuda_runtime.h").is_file()]

    @property
    def runtime(self) -> Path | None:
        """The CUDA runtime library as the linker wants it."""
        if WINDOWS:
            places = [root / "lib" / kind / "cudart.lib" for root in self.roots for kind in ("x64", "arm64", "")]
            return next((place for place in places if place.is_file()), None)
        for root in self.roots:
            for below in ("lib64", "lib", *_targets("lib")):
                for name in ("libcudart.so", f"libcudart.so.{self.version[0]}"):
                    if (root / below / name).is_file():
                        return root / below / name
        return None


def _targets(below: str) -> tuple[str, ...]:
    return (f"targets/x86_64-linux/{below}", f"targets/sbsa-linux/{below}")


def find_nvcc(
    wanted: tuple[int, ...] = (),
    environment: Mapping[str, str] | None = None,
    run: Runner = run_program,
    places: Iterable[Path] | None = None,
) -> Nvcc | None:
    """The nvcc that fits a torch with CUDA ``wanted`` best: of the same release, else of the same generation, else the
    first that is found, which :func:`misfit` reports.

    Args:
        wanted: ``(13, 0)``; empty for no preference.
        environment: variables, or None for those of this process.
        run: runs nvcc.
        places: folders to look in, instead of :func:`toolkit_places`.
    """
    environment = os.environ if environment is None else environment
    found: dict[str, Nvcc] = {}
    for place in toolkit_places(environment) if places is None else places:
        path = place / ("nvcc.exe" if WINDOWS else "nvcc")
        if os.path.isfile(path) and os.path.realpath(path) not in found:
            nvcc = _described(path, run)
            if nvcc is not None and (not wanted or nvcc.version == wanted[:2]):
                return nvcc  # no need to ask the others
            if nvcc is not None:
                found[os.path.realpath(path)] = nvcc
    same = [nvcc for nvcc in found.values() if nvcc.version[0] == wanted[0]]
    return max(same, key=lambda nvcc: nvcc.version) if same else next(iter(found.values()), None)


def misfit(nvcc: Nvcc, wanted: tuple[int, ...]) -> str:
    """Why ``nvcc`` does not fit a torch with CUDA ``wanted``, or "". Releases of one generation are compatible."""
    if not wanted or nvcc.version[0] == wanted[0]:
        return ""
    return f"{nvcc} at {nvcc.path} is of another generation than torch's CUDA {'.'.join(map(str, wanted))}"


def how_to_get_nvcc(wanted: tuple[int, ...]) -> str:
    """What to do if there is no nvcc that fits."""
    release = f"CUDA toolkit {'.'.join(map(str, wanted))}" if wanted else "CUDA toolkit of torch's CUDA version"
    return f"install the {release} (https://developer.nvidia.com/cuda-toolkit-archive), or set CUDA_HOME to its folder"


def toolkit_places(environment: Mapping[str, str]) -> Iterator[Path]:
    """Folders where nvcc may be: the user's choice, the path, and the usual ones, newest first."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if value := environment.get(name, "").strip():
            yield Path(value) / "bin"
    if on_path := shutil.which("nvcc", path=environment.get("PATH", os.defpath)):
        yield Path(on_path).parent
    if WINDOWS:
        for name, value in sorted(environment.items(), reverse=True):
            if name.upper().startswith("CUDA_PATH_V"):
                yield Path(value) / "bin"
        programs = Path(environment.get("ProgramFiles") or environment.get("PROGRAMFILES") or "C:\\Program Files")
        yield from _newest_first(programs / "NVIDIA GPU Computing Toolkit" / "CUDA", "v*")
    else:
        yield Path("/usr/local/cuda/bin")
        yield from _newest_first(Path("/usr/local"), "cuda-*")
        yield from (Path("/opt/cuda/bin"), Path("/usr/lib/cuda/bin"))
    yield Path(sys.prefix) / ("Library/bin" if WINDOWS else "bin")  # conda
    for folder in packages_of_nvidia():
        yield folder / "bin"


def packages_of_nvidia() -> list[Path]:
    """The CUDA parts that pip installed, torch's own libraries included: ``site-packages/nvidia/*``."""
    folders = []
    for entry in sys.path:
        nvidia = Path(entry) / "nvidia"
        if entry and nvidia.is_dir():
            folders += sorted((folder for folder in nvidia.iterdir() if folder.is_dir()), reverse=True)
    return folders


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    def version(path: Path) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", path.name)]

    return [path / "bin" for path in sorted(folder.glob(pattern), key=version, reverse=True)]


def _described(path: Path, run: Runner) -> Nvcc | None:
    status, output = run([str(path), "--version"], None)
    release = re.search(r"release (\d+)\.(\d+)", decoded(output))
    if status != 0 or not release:
        return None
    # /usr/local/bin/nvcc may be a link or a script that calls the real one: add the usual folder of that release.
    version = (int(release[1]), int(release[2]))
    roots = [Path(os.path.realpath(path)).parent.parent, path.parent.parent]
    if not WINDOWS:
        roots += [Path(f"/usr/local/cuda-{version[0]}.{version[1]}"), Path("/usr/local/cuda")]
    return Nvcc(str(path), version, tuple(dict.fromkeys([*roots, *packages_of_nvidia()])))


def known_architectures(nvcc: Nvcc, run: Runner = run_program) -> list[str]:
    """The architectures that ``nvcc`` can build for, ``80`` and so on; empty if it does not list them."""
    status, output = run([nvcc.path, "--list-gpu-arch"], None)
    return re.findall(r"compute_(\d+[a-z]?)", decoded(output)) if status == 0 else []


# ----- Which cards -----


def parse_architectures(text: str) -> tuple[str, ...]:
    """``80,9.0`` or ``sm_80 sm_90`` as ``("80", "90")``: in order, each once.

    Raises:
        ConfigError: a part is no architecture.
    """
    parts = [part.strip().lower().removeprefix("sm_").replace(".", "") for part in re.split(r"[,; ]+", text) if part]
    for part in parts:
        if not re.fullmatch(r"\d{2,3}[af]?", part):
            raise ConfigError(f"{part!r} is not a compute capability of NVIDIA GPUs; write for instance 80,90")
    return tuple(sorted(set(parts), key=_order))


def _order(architecture: str) -> tuple[int, str]:
    return int(architecture.rstrip("af")), architecture


def present_architectures() -> tuple[str, ...]:
    """Those of the GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        return ()
    seen = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return tuple(f"{major}{minor}" for major, minor in sorted(seen))


def within(architectures: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """``architectures``, each that nvcc does not know replaced by the newest before it that it knows."""
    if not known:
        return tuple(architectures)
    replaced = set()
    for wanted in architectures:
        before = [name for name in known if _order(name)[0] <= _order(wanted)[0] and name.isdigit()]
        replaced.add(wanted if wanted in known or not before else max(before, key=_order))
    return tuple(sorted(replaced, key=_order))


def covers(built: Sequence[str], present: Sequence[str]) -> bool:
    """Whether a library built for ``built`` runs on all GPUs ``present``.

    A GPU runs what was built for its generation (the first digits) up to its own number. The library also has PTX of
    the last of ``built``, which later generations compile.
    """
    plain = [_order(name)[0] for name in built if name.isdigit()]

    def runs(architecture: str) -> bool:
        number = _order(architecture)[0]
        same = any(number // 10 == have // 10 and have <= number for have in plain)
        return architecture in built or same or bool(plain and max(plain) <= number)

    return bool(present) and all(runs(architecture) for architecture in present)


def nvcc_words(nvcc: Nvcc, architectures: Sequence[str]) -> list[str]:
    """How nvcc compiles for these architectures, without the host compiler, the source and the object."""
    words = [nvcc.path, "-std=c++17", "-O3"]
    for name in architectures:
        words += ["-gencode", f"arch=compute_{name},code=sm_{name}"]
    if plain := [name for name in architectures if name.isdigit()]:
        last = max(plain, key=_order)
        words += ["-gencode", f"arch=compute_{last},code=compute_{last}"]
    if len(architectures) > 1:
        words += ["--threads", "0"]
    return words
