"""What ``ganformer doctor`` checks: torch, graphics cards, compilers, the cache, and each operator's results."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ganformer_cli.errors import OutputError, first_line
from ganformer_cli.files import ensure_writable_folder
from ganformer_cli.operators import native
from ganformer_cli.operators.build import FOLDER_VARIABLE, operators_folder
from ganformer_cli.operators.cuda_toolkit import find_nvcc, how_to_get_nvcc, misfit
from ganformer_cli.operators.jobs import find_ninja
from ganformer_cli.operators.self_tests import SelfTest, all_self_tests
from ganformer_cli.operators.toolchain import Runner, decoded, find_compiler, how_to_get_a_compiler, run_program
from ganformer_cli.resources import cache_folder

State = Literal["good", "note", "bad"]

SELECTOR = "https://pytorch.org/get-started/locally/"
DRIVERS = "https://www.nvidia.com/drivers"

#: Relative to the largest result. Float32 is a hundred times better; a wrong formula a thousand times worse.
TOLERANCE = 1e-4

NVIDIA_VENDOR = "0x10de"  # on the PCI bus


@dataclass(frozen=True)
class Check:
    """A row of the table.

    Attributes:
        state: ``bad`` needs the user's attention, ``note`` is for information.
        found: the result in words.
        remedy: what to do; every bad row has one.
        blocks: whether training is impossible.
        details: the result as JSON values.
    """

    name: str
    state: State
    found: str
    remedy: str = ""
    blocks: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


def all_checks() -> Iterator[Check]:
    """Every row, in order. Builds the operators if there is no build yet."""
    cards = find_cards(os.environ)
    wanted = cuda_of_torch()
    yield check_torch()
    yield check_cuda(cards, wanted)
    yield from check_cards(cards, wanted)
    yield check_compiler()
    yield check_nvcc(wanted, needed=torch.cuda.is_available())
    yield check_ninja()
    yield check_cache()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        yield from check_operators(device)


def cuda_of_torch() -> tuple[int, ...]:
    """The CUDA version of this torch; () for one without CUDA."""
    return tuple(int(part) for part in re.findall(r"\d+", torch.version.cuda or ""))[:2]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# ----- NVIDIA's cards -----


@dataclass(frozen=True)
class Cards:
    """NVIDIA's graphics cards in this machine, found without torch.

    Attributes:
        names: of the cards; "NVIDIA card" for one whose name is not known.
        driver: its version; empty if there is none, or if it is not known.
        cuda: the newest CUDA that the driver runs, ``(13, 0)``; () if it is not known.
        works: whether the driver answers.
    """

    names: tuple[str, ...] = ()
    driver: str = ""
    cuda: tuple[int, ...] = ()
    works: bool = False


def find_cards(environment: Mapping[str, str], run: Runner = run_program, root: Path | None = None) -> Cards:
    """Ask nvidia-smi; where it is missing or fails, look at the driver's files and the PCI bus.

    Args:
        environment: variables, with ``PATH``.
        run: runs nvidia-smi.
        root: the root folder, for tests.
    """
    for path in _nvidia_smi(environment):
        status, output = run([path, "--query-gpu=name,driver_version", "--format=csv,noheader"], None)
        rows = [line.rpartition(",") for line in decoded(output).splitlines() if "," in line]
        if status == 0 and rows:
            newest = re.search(r"CUDA Version: *(\d+)\.(\d+)", decoded(run([path], None)[1]))
            cuda = (int(newest[1]), int(newest[2])) if newest else ()
            return Cards(tuple(name.strip() for name, _, _ in rows), rows[0][2].strip(), cuda, works=True)
    if sys.platform == "win32":
        system = Path(environment.get("SystemRoot") or environment.get("SYSTEMROOT") or "C:\\Windows") / "System32"
        return Cards(("NVIDIA card",)) if (system / "nvcuda.dll").is_file() else Cards()
    return _cards_in_files(Path("/") if root is None else root)


def _nvidia_smi(environment: Mapping[str, str]) -> list[str]:
    paths = [shutil.which("nvidia-smi", path=environment.get("PATH", ""))]
    if sys.platform == "win32":
        programs = environment.get("ProgramFiles") or environment.get("PROGRAMFILES") or "C:\\Program Files"
        paths.append(shutil.which("nvidia-smi", path=f"{programs}\\NVIDIA Corporation\\NVSMI"))
    else:
        paths.append(shutil.which("nvidia-smi", path="/usr/lib/wsl/lib"))  # Windows' driver, as WSL shows it
    return [path for path in paths if path]


def _cards_in_files(root: Path) -> Cards:
    driver = _read(root / "proc/driver/nvidia/version")
    version = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", driver)
    names = []
    for card in sorted((root / "proc/driver/nvidia/gpus").glob("*")):
        model = re.search(r"^Model:\s*(.+)$", _read(card / "information"), re.MULTILINE)
        names.append(model[1].strip() if model else "NVIDIA card")
    if not names:
        for device in sorted((root / "sys/bus/pci/devices").glob("*")):
            # 0x03.... are the displays and accelerators: cards have sound and USB too.
            if _read(device / "vendor").strip() == NVIDIA_VENDOR and _read(device / "class").startswith("0x03"):
                names.append("NVIDIA card")
    return Cards(tuple(names), version[1] if version else "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# ----- Checks of torch and cards -----


def check_torch() -> Check:
    """The version, which must be new enough for the operators."""
    details = {"version": torch.__version__, "threads": torch.get_num_threads()}
    capability = torch.backends.cpu.get_cpu_capability()
    found = f"{torch.__version__}, {torch.get_num_threads()} threads, {capability}"
    if native.torch_version() < native.OLDEST_TORCH:
        remedy = f"install torch {_dotted(native.OLDEST_TORCH)} or newer: {SELECTOR}"
        return Check("torch", "bad", found, remedy, blocks=True, details=details)
    return Check("torch", "good", found, details={**details, "cpu_capability": capability})


def check_cuda(cards: Cards, wanted: tuple[int, ...]) -> Check:
    """torch's CUDA beside the card and its driver."""
    driver = f"driver {cards.driver}" if cards.driver else "no working driver"
    found, state, remedy = f"torch has {_dotted(wanted)}, {driver}", "bad", ""
    if torch.version.hip:
        state, found = "note", f"a torch for AMD's ROCm {torch.version.hip}, with which ganformer is not tested"
    elif not wanted and not cards.names:
        state, found = "note", "this torch is for the CPU only, and there is no NVIDIA card"
        if sys.platform == "win32":  # where a card without a driver is not seen
            found += f"; for one, {how_to_install_cuda(cards)}"
    elif not wanted:
        found = f"{cards.names[0]} is installed ({driver}), but this torch is for the CPU only"
        remedy = how_to_install_cuda(cards)
    elif torch.cuda.is_available():
        state = "good"
    elif not cards.names:
        state, found = "note", f"torch has {_dotted(wanted)}, and there is no NVIDIA card"
    elif not cards.works:
        remedy = f"install NVIDIA's driver ({DRIVERS}) and restart"
    elif cards.cuda and cards.cuda[0] < wanted[0]:
        found = f"{found}, which supports CUDA up to {_dotted(cards.cuda)}"
        remedy = f"install a newer driver ({DRIVERS}), or a torch for CUDA {cards.cuda[0]}.x: {SELECTOR}"
    else:
        found = f"{found}, but torch sees no card"
        remedy = "check CUDA_VISIBLE_DEVICES and the container's access (docker run --gpus all), then restart"
    details = {"torch": _dotted(wanted), "driver": cards.driver, "driver_cuda": _dotted(cards.cuda)}
    return Check("CUDA", cast(State, state), found, remedy, details=details)


def how_to_install_cuda(cards: Cards) -> str:
    """What to do for a torch with CUDA, with the command: PyPI has none for Windows."""
    index = "cu130" if not cards.cuda or cards.cuda >= (13, 0) else "cu126"
    command = f"pip install --upgrade torch --index-url https://download.pytorch.org/whl/{index}"
    update = "" if cards.works else f"install NVIDIA's driver ({DRIVERS}), then "
    return f"{update}run: {command} (other versions of CUDA: {SELECTOR})"


def check_cards(cards: Cards, wanted: tuple[int, ...]) -> Iterator[Check]:
    """One row for each card that torch sees; one row if there is none."""
    if not (wanted and torch.cuda.is_available()):
        found = ", ".join(cards.names) + " (not used)" if cards.names else "none; the CPU is used"
        yield Check("GPU", "note", found, details={"cards": list(cards.names)})
        return
    for index in range(torch.cuda.device_count()):
        name, known = f"GPU {index}", torch.cuda.get_device_properties(index)
        details = {"name": known.name, "bytes": known.total_memory, "capability": [known.major, known.minor]}
        found = f"{known.name}, {known.total_memory / 2**30:.1f} GiB, compute capability {known.major}.{known.minor}"
        try:
            works = bool(torch.ones(4, device=torch.device("cuda", index)).sum().item() == 4)
            problem = "" if works else "it computes wrong sums"
            free, _ = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            problem = first_line(error)
        if problem:
            yield Check(
                name, "bad", f"{found}: {problem}", f"install a torch for this card: {SELECTOR}", details=details
            )
        else:
            yield Check(name, "good", f"{found}, {free / 2**30:.1f} GiB free", details={**details, "free": free})


# ----- What builds the operators -----


def check_compiler() -> Check:
    compiler = find_compiler()
    if compiler is None and native.status("cpu").native:
        return Check("compiler", "note", "none, and none is needed: the operators are built")
    if compiler is None:
        return Check("compiler", "bad", "no C++ compiler was found", how_to_get_a_compiler())
    details = {"name": compiler.name, "version": compiler.version, "path": compiler.path}
    return Check("compiler", "good", f"{compiler} at {compiler.path}", details=details)


def check_nvcc(wanted: tuple[int, ...], *, needed: bool) -> Check:
    """nvcc, and whether it matches torch; needed only if torch sees a card."""
    nvcc = find_nvcc(wanted)
    worst: State = "bad" if needed else "note"
    remedy = how_to_get_nvcc(wanted) if needed else ""
    if nvcc is None:
        return Check("nvcc", worst, "not found" + ("" if needed else "; not needed without a card"), remedy)
    problem = misfit(nvcc, wanted)
    details = {"version": _dotted(nvcc.version), "path": nvcc.path, "matches": bool(wanted) and not problem}
    if problem:
        return Check("nvcc", worst, problem, remedy, details=details)
    fit = f"matches torch's CUDA {_dotted(wanted)}" if wanted else "this torch has no CUDA to match"
    return Check("nvcc", "good" if wanted else "note", f"{nvcc} at {nvcc.path}; {fit}", details=details)


def check_ninja() -> Check:
    """Without it the operators are compiled one after another."""
    path = find_ninja()
    if path is None:
        return Check("ninja", "note", "not found; the operators take longer to build", "run: pip install ninja")
    return Check("ninja", "good", path, details={"path": path})


def check_cache() -> Check:
    """The folder of downloads and builds: whether it can be written, and what it holds."""
    folder = cache_folder()
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    operators = operators_folder()
    builds = len(list(operators.glob("*.json"))) if operators.is_dir() else 0
    details: dict[str, Any] = {"path": str(folder), "bytes": size, "files": len(files), "builds": builds}
    found = f"{folder}: {size / 1e6:,.1f} MB, {builds} build{'s' * (builds != 1)} of operators"
    if chosen := os.environ.get(FOLDER_VARIABLE):
        found += f"; {FOLDER_VARIABLE}={chosen}"
        details["ahead"] = chosen
    state, remedy = "good", ""
    try:
        ensure_writable_folder(folder, "cache folder")
    except OutputError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.__cause__ or error
        state, remedy = "bad", "set GANFORMER_CACHE to a folder that you may write to"
        found = f"{folder} cannot be written to ({reason})"
    return Check("cache", cast(State, state), found, remedy, details={**details, "writable": state == "good"})


# ----- Self-tests of the operators -----


def check_operators(device: str) -> Iterator[Check]:
    """A row for the library of a device, and one for each operator: its error against plain torch in float64."""
    found, name = native.status(device), f"operators ({device})"
    if not found.native:
        # Without a remedy, plain torch is what the user chose.
        state: State = "bad" if found.remedy else "note"
        yield Check(name, state, f"reference (plain torch): {found.problem}", found.remedy, details={"native": False})
    elif found.build:
        made = {"path": str(found.build.path), "compiler": found.build.compiler, "for": found.build.capability}
        words = f"native, for {found.build.capability}, built with {found.build.compiler}: {found.build.path}"
        yield Check(name, "good", words, details={"native": True, **made})
    for test in (test for test in all_self_tests() if device in test.devices):
        if found.native:
            yield _tested(test, device)
        else:
            details = {"native": False, "reason": found.problem}
            yield Check(f"{test.name} ({device})", "note", "reference", details=details)


def _tested(test: SelfTest, device: str) -> Check:
    name, details = f"{test.name} ({device})", {"native": True, "device": device}
    remedy = "run with GANFORMER_OPS=reference, and report this with the output of ganformer doctor --json"
    try:
        with native.use("native"):
            ours = _results(test, torch.float32, device)
        with native.use("reference"):
            truth = _results(test, torch.float64, device)
        error = max(_distance(one, other) for one, other in zip(ours, truth, strict=True))
    except Exception as failure:  # whatever it is, the other rows are still useful
        text = " ".join(str(failure).split()) or type(failure).__name__
        return Check(name, "bad", f"native, and fails: {text}", remedy, details={**details, "failure": text})
    if not error <= TOLERANCE:
        text = f"native, and wrong: error {error:.1e} against plain torch"
        return Check(name, "bad", text, remedy, details={**details, "error": str(error)})
    return Check(name, "good", f"native, error {error:.1e} against plain torch", details={**details, "error": error})


def _results(test: SelfTest, dtype: torch.dtype, device: str) -> list[Tensor]:
    """All results of a test and their gradients."""
    generator = torch.Generator().manual_seed(0)
    arguments = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in test.arguments]
    results = [result for result in test.run(*arguments) if result is not None]
    # Weighted differently at each place, so that no error cancels out.
    weights = [torch.randn(result.shape, generator=generator).to(result) for result in results]
    total = torch.stack(
        [(result * weight).sum().double() for result, weight in zip(results, weights, strict=True)]
    ).sum()
    gradients = torch.autograd.grad(total, arguments, allow_unused=True) if total.requires_grad else ()
    return [*(result.detach() for result in results), *(gradient for gradient in gradients if gradient is not None)]


def _distance(ours: Tensor, truth: Tensor) -> float:
    """The largest difference, relative to the largest number; NaN stays NaN."""
    scale = truth.abs().max().clamp_min(1e-30)
    return float(((ours.to(truth.dtype) - truth).abs().max() / scale).item())
