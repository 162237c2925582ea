"""Opens model files of either kind, ours and the authors', for callers who need not know which it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ganformer_cli.checkpoints.headers import read_config, read_header
from ganformer_cli.checkpoints.snapshots import load_available, load_snapshot
from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError
from ganformer_cli.models import Generator
from ganformer_cli.models.precision import HALF, blocks_of, use_half
from ganformer_cli.original_snapshots.opening import ModelNetworks, load_original
from ganformer_cli.original_snapshots.recognition import is_original


class Model(NamedTuple):
    """The generator of a model file."""

    generator: Generator
    #: Metadata of the file: kimg, dataset, source, truncation_psi, ...
    header: dict[str, Any]

    @property
    def own_psi(self) -> float | None:
        """The truncation that the file says belongs to the model, as TensorFlow's networks have one."""
        psi = self.header.get("truncation_psi")
        return psi if isinstance(psi, float) else None


def load_model(file: Path, device: torch.device, precision: str = "fp32") -> Model:
    """The averaged generator of a model file, in evaluation mode.

    Args:
        file: the model.
        device: where it draws.
        precision: ``fp32``, ``bf16`` or ``fp16``; see ``--precision``.

    Raises:
        ConfigError: it cannot draw in ``precision``.
        SnapshotError: it is damaged, of another architecture, or unsafe.
    """
    if is_original(file):
        original = load_original(file)
        model = Model(original.ema.to(device), original.header)
    else:
        model = Model(load_snapshot(file, device), read_header(file))
    if precision != "fp32":
        if not blocks_of(model.generator):
            raise ConfigError(f"--precision {precision}: a VQGAN computes in fp32; leave the option out")
        use_half(model.generator, HALF[precision])
    return model


def load_all(file: Path) -> ModelNetworks:
    """All networks of a model file.

    Raises:
        SnapshotError: it is damaged, of another architecture, or unsafe.
    """
    if is_original(file):
        return load_original(file)
    ema, generator, discriminator = load_available(file)
    return ModelNetworks(ema.config, ema, generator, discriminator, read_header(file))


class Origin(NamedTuple):
    """The snapshot that a run starts from."""

    option: str  # that chose it, with its value
    config: ModelConfig
    #: Reads ``ema``, ``generator`` and ``discriminator``; None for those that the file does not have.
    networks: Callable[[], Mapping[str, nn.Module | None]]
    #: Metadata of the file.
    header: Mapping[str, Any]


def read_origin(option: str, file: Path) -> Origin:
    """The snapshot in ``file``, which ``option`` named; of a file of ours, only the configuration is read now.

    Raises:
        SnapshotError: it is damaged, of another architecture, or unsafe.
    """
    read = load_all(file) if is_original(file) else None

    def networks() -> Mapping[str, nn.Module | None]:
        found = read or load_all(file)
        return {name: getattr(found, name) for name in ("ema", "generator", "discriminator")}

    if read is not None:
        return Origin(option, read.config, networks, read.header)
    return Origin(option, read_config(file), networks, read_header(file))
