"""The training state of a run: all that its future depends on. The same state gives the same weights, bit by bit.

It holds no states of random generators: the random numbers of a step follow from the run's seed and the step's number.

The newest states lie in the run folder's ``state``, each complete and with a checksum, so that a run survives a
kill at any moment and a truncated file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganformer_cli.checkpoints import headers, snapshots
from ganformer_cli.checkpoints.run_folder import STATE_FOLDER
from ganformer_cli.errors import SnapshotError
from ganformer_cli.files import Warn, remove
from ganformer_cli.models.prepared import adam_keys

Optimizers = Mapping[str, tuple[torch.optim.Optimizer, nn.Module]]

_NAME = re.compile(r"training-state-(\d{9,})\.safetensors")


@dataclass(kw_only=True)
class Counters:
    """Where a run stands."""

    images_seen: int = 0  # real images that it has been trained with
    images_skipped: int = 0  # real images skipped by rollbacks
    step: int = 0
    seconds: float = 0.0  # of training
    ticks: int = 0  # lines of the log
    micro_batch: int = 0  # images per forward pass


@dataclass(frozen=True)
class TrainingState:
    """A training state, read from its file."""

    path: Path
    counters: Counters
    identity: dict[str, Any]  # of the run; see ``save_state``
    tensors: dict[str, Tensor]
    #: Whether the snapshot that was taken with it has scores; None if the state was saved between snapshots.
    scored_snapshot: bool | None = None


def states_of(run: Path) -> list[Path]:
    """The state files of a run folder, oldest first, valid or not."""
    folder = run / STATE_FOLDER
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=images_in_state_name)


def images_in_state_name(path: Path) -> int:
    """The number of images in the file name of a state."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


# ----- Writing -----


def save_state(
    run: Path,
    *,
    networks: Mapping[str, nn.Module],
    optimizers: Optimizers,
    scalars: Mapping[str, Tensor],
    counters: Counters,
    identity: Mapping[str, Any],
    warn: Warn,
    scored_snapshot: bool | None = None,
    kept: int = 2,
) -> Path:
    """Write a training state to the run folder, whole or not at all, and remove all but the newest.

    Args:
        optimizers: Adam, and what it trains, by name.
        identity: JSON values that identify the run, to be compared when it is resumed.
        warn: told of an old state that cannot be deleted.
        scored_snapshot: whether scores belong to the snapshot that is taken now; None if none is taken.
        kept: number of states to keep.

    Raises:
        OutputError: the place cannot be written to; existing states stay.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in networks.items():
        tensors.update({f"{name}.{key}": value for key, value in module.state_dict().items()})
    for name, (optimizer, module) in optimizers.items():
        tensors.update({f"{name}.{key}": value for key, value in optimizer_tensors(optimizer, module).items()})
    tensors.update({f"scalar.{name}": value for name, value in scalars.items()})
    path = run / STATE_FOLDER / f"training-state-{counters.images_seen:09d}.safetensors"
    header = {"counters": asdict(counters), "identity": dict(identity), "sha256": digest(tensors)}
    if scored_snapshot is not None:
        header["snapshot"] = {"scored": scored_snapshot}
    snapshots.save_tensors(path, tensors, header)
    for old in states_of(run)[:-kept]:
        remove(old, warn=warn)
    return path


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Adam's state under ``<parameter>.<key>``; empty before the first step."""
    return {
        f"{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for key in adam_keys(optimizer)
    }


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names, dtypes, shapes and values, independent of the layout in memory; hexadecimal."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().to("cpu").contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return found.hexdigest()


# ----- Reading -----


def read_state(path: Path) -> TrainingState:
    """Read and check a state file.

    Raises:
        SnapshotError: it is damaged, or of a newer version.
    """
    header = headers.read_header(path)
    counters, identity = header.get("counters"), header.get("identity")
    if not isinstance(counters, dict) or not isinstance(identity, dict):
        raise SnapshotError(f"{path}: not a training state")
    kinds = {field.name: type(field.default) for field in fields(Counters)}
    if set(counters) != set(kinds) or not all(_is_count(counters[name], kind) for name, kind in kinds.items()):
        raise SnapshotError(f"{path}: its counters are not those of this version")
    snapshot = header.get("snapshot")
    scored = snapshot.get("scored") is True if isinstance(snapshot, dict) else None
    tensors = snapshots.read_tensors(path)
    if digest(tensors) != header.get("sha256"):
        raise SnapshotError(f"{path}: its checksum is not the one that was written")
    return TrainingState(path, Counters(**counters), identity, tensors, scored)


def _is_count(value: Any, kind: type) -> bool:
    """Whether a value of the header, which may hold anything, is a counter of this type."""
    return isinstance(value, (int, float)) and type(value) is kind and 0 <= value < 2**53


def apply_state(
    state: TrainingState, *, networks: Mapping[str, nn.Module], optimizers: Optimizers
) -> dict[str, Tensor]:
    """Load a state into networks and optimisers; if it does not fit, nothing is changed.

    Returns:
        The scalars of ``save_state``, on the CPU.

    Raises:
        SnapshotError: the state is of other networks.
    """
    parts = {name: _part(state.tensors, name) for name in (*networks, *optimizers, "scalar")}
    for name, module in networks.items():
        shapes = {key: tuple(value.shape) for key, value in parts[name].items()}
        snapshots.check_fit(module, shapes, f"{state.path} ({name})")
    memories = {
        name: _adam_memory(optimizer, module, parts[name], f"{state.path} ({name})")
        for name, (optimizer, module) in optimizers.items()
    }
    for name, module in networks.items():
        module.load_state_dict(parts[name])
    for name, (optimizer, _) in optimizers.items():
        optimizer.state.clear()
        for parameter, memory in memories[name].items():
            optimizer.state[parameter] = {
                # Adam keeps its step count on the CPU unless it is fused.
                key: value.to(parameter.device) if key != "step" or optimizer.defaults.get("fused") else value
                for key, value in memory.items()
            }
    return parts["scalar"]


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _adam_memory(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor], where: str
) -> dict[nn.Parameter, dict[str, Tensor]]:
    """Adam's state by parameter, from what ``optimizer_tensors`` returned."""
    if not tensors:
        return {}
    keys = adam_keys(optimizer)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    wanted = {f"{name}.{key}": parameter for name, parameter in trained.items() for key in keys}
    # Earlier versions kept first moments that nobody reads.
    unread = set() if "exp_avg" in keys else {f"{name}.exp_avg" for name in trained}
    unlike = sorted(set(wanted) ^ (set(tensors) - unread))
    unlike += [
        name for name in wanted if name in tensors and not name.endswith(".step")
        and tensors[name].shape != wanted[name].shape
    ]  # fmt: skip
    if unlike:
        raise SnapshotError(f"{where}: the optimiser's state does not fit: {', '.join(unlike[:4])}")
    memory: dict[nn.Parameter, dict[str, Tensor]] = {}
    for name, parameter in trained.items():
        # In the layout of the parameter, as Adam makes it.
        memory[parameter] = {"step": tensors[f"{name}.step"]} | {
            key: torch.empty_like(parameter, device="cpu").copy_(tensors[f"{name}.{key}"]) for key in keys[1:]
        }
    return memory
