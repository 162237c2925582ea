"""Whether there is a graphics card of NVIDIA's in this machine, and a driver for it, without asking torch."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ganformer_cli.operators.toolchain import Runner, decoded, run_program

VENDOR = "0x10de"  # NVIDIA's number on the PCI bus


@dataclass(frozen=True)
class Cards:
    """What was found.

    Attributes:
        names: of the cards; "NVIDIA card" for one whose name is not known.
        driver: its version; empty if there is none, or if it does not say.
        cuda: the newest CUDA that the driver runs, ``(13, 0)``; () if it does not say.
        works: the driver answers.
    """

    names: tuple[str, ...] = ()
    driver: str = ""
    cuda: tuple[int, ...] = ()
    works: bool = False


def find_cards(environment: Mapping[str, str], run: Runner = run_program, root: Path | None = None) -> Cards:
    """Ask nvidia-smi; where it is missing or fails, look at what the driver and the bus show.

    Args:
        root: ``/``, or what stands for it.
    """
    for path in _nvidia_smi(environment):
        status, said = run([path, "--query-gpu=name,driver_version", "--format=csv,noheader"], None)
        rows = [line.rpartition(",") for line in decoded(said).splitlines() if "," in line]
        if status == 0 and rows:
            newest = re.search(r"CUDA Version: *(\d+)\.(\d+)", decoded(run([path], None)[1]))
            cuda = (int(newest[1]), int(newest[2])) if newest else ()
            return Cards(tuple(name.strip() for name, _, _ in rows), rows[0][2].strip(), cuda, works=True)
    if sys.platform == "win32":
        system = Path(environment.get("SystemRoot") or environment.get("SYSTEMROOT") or "C:\\Windows") / "System32"
        return Cards(("NVIDIA card",)) if (system / "nvcuda.dll").is_file() else Cards()
    return _shown_by_linux(Path("/") if root is None else root)


def _nvidia_smi(environment: Mapping[str, str]) -> list[str]:
    paths = [shutil.which("nvidia-smi", path=environment.get("PATH", ""))]
    if sys.platform == "win32":
        programs = environment.get("ProgramFiles") or environment.get("PROGRAMFILES") or "C:\\Program Files"
        paths.append(shutil.which("nvidia-smi", path=f"{programs}\\NVIDIA Corporation\\NVSMI"))
    else:
        paths.append(shutil.which("nvidia-smi", path="/usr/lib/wsl/lib"))  # the driver of Windows, seen from its Linux
    return [path for path in paths if path]


def _shown_by_linux(root: Path) -> Cards:
    driver = _text(root / "proc/driver/nvidia/version")
    version = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", driver)
    names = []
    for card in sorted((root / "proc/driver/nvidia/gpus").glob("*")):
        model = re.search(r"^Model:\s*(.+)$", _text(card / "information"), re.MULTILINE)
        names.append(model[1].strip() if model else "NVIDIA card")
    if not names:
        for device in sorted((root / "sys/bus/pci/devices").glob("*")):
            # 0x03.... are the displays and accelerators: cards have sound and USB too.
            if _text(device / "vendor").strip() == VENDOR and _text(device / "class").startswith("0x03"):
                names.append("NVIDIA card")
    return Cards(tuple(names), version[1] if version else "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
