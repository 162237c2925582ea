"""Memory of this process and machine, as Linux tells it. Standard library only."""

from __future__ import annotations

import contextlib
from pathlib import Path

_STATUS = Path("/proc/self/status")


def proc_mib(name: str, path: Path = _STATUS) -> float | None:
    """The size in MiB on a line such as ``VmRSS:  123 kB``; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return None


def reset_high_water() -> bool:
    """Let ``VmHWM`` begin anew at what is resident now (proc(5)); whether the system does that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
