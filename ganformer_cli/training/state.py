"""What only training needs: optimisers, counters, random state; kept apart from the snapshots that one shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganformer_cli import checkpoints
from ganformer_cli.errors import SnapshotError

STATE_FILE = Path("state") / "training-state.safetensors"

#: What the header counts: pictures shown, steps, seconds of training, lines of the log, mean path length.
COUNTERS: dict[str, type] = {"images_seen": int, "step": int, "seconds": float, "ticks": int, "pl_mean": float}

#: What Adam remembers of a parameter.
ADAM_KEYS = ("step", "exp_avg", "exp_avg_sq")


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Adam's memory under ``<parameter>.<key>``; empty before the first step."""
    return {
        f"{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for key in ADAM_KEYS
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor], where: str
) -> None:
    """The inverse of ``optimizer_tensors``.

    Raises:
        SnapshotError: the tensors do not fit ``module``.
    """
    if not tensors:
        return
    for name, parameter in module.named_parameters():
        memory = {key: tensors.pop(f"{name}.{key}", None) for key in ADAM_KEYS}
        average = memory["exp_avg"]
        if any(value is None for value in memory.values()) or average is None or average.shape != parameter.shape:
            raise SnapshotError(f"{where}: the optimiser's memory of {name} is missing or misshapen; use --restart")
        # Adam keeps its step count on the CPU unless it is fused.
        optimizer.state[parameter] = {
            key: value.to(parameter.device) if key != "step" or optimizer.defaults.get("fused") else value
            for key, value in memory.items()
            if value is not None
        }
    if tensors:
        raise SnapshotError(f"{where}: surplus {', '.join(sorted(tensors)[:4])}; use --restart")


def save_state(
    path: Path,
    *,
    snapshot: str,
    optimizers: dict[str, tuple[torch.optim.Optimizer, nn.Module]],
    counters: dict[str, Any],
    device: torch.device,
) -> None:
    """Write the training state that belongs to the file ``snapshot``, whole or not at all."""
    tensors = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    for name, (optimizer, module) in optimizers.items():
        tensors.update({f"{name}.{key}": value for key, value in optimizer_tensors(optimizer, module).items()})
    checkpoints.save_tensors(path, tensors, {"snapshot": snapshot, "counters": counters})


def load_state(
    path: Path, *, optimizers: dict[str, tuple[torch.optim.Optimizer, nn.Module]], device: torch.device
) -> None:
    """Restore optimisers and random state from ``path``; see ``state_header`` for the rest.

    Raises:
        SnapshotError: the file is damaged or of other networks.
    """
    for name, (optimizer, module) in optimizers.items():
        restore_optimizer(optimizer, module, checkpoints.read_tensors(path, f"{name}."), str(path))
    random = checkpoints.read_tensors(path, "random.")
    if "cpu" not in random:
        raise SnapshotError(f"{path}: the random state is missing; use --restart")
    torch.set_rng_state(random["cpu"])
    if device.type == "cuda" and "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"], device)


def state_header(path: Path) -> tuple[str, dict[str, Any]]:
    """The name of the snapshot that the state belongs to, and the counters.

    Raises:
        SnapshotError: the file is damaged.
    """
    header = checkpoints.read_header(path)
    snapshot, counters = header.get("snapshot"), header.get("counters")
    if not isinstance(snapshot, str) or not isinstance(counters, dict) or set(counters) != set(COUNTERS):
        raise SnapshotError(f"{path}: not a training state of this version; begin anew with --restart")
    if not all(isinstance(counters[name], kind) for name, kind in COUNTERS.items()):
        raise SnapshotError(f"{path}: its counters are damaged; begin anew with --restart")
    return snapshot, counters
