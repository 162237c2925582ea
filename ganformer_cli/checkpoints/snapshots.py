"""Our model files: safetensors in, safetensors out, strict.

One file holds the EMA generator (``ema.*``), the generator (``generator.*``) and the discriminator
(``discriminator.*``); its header's metadata entry ``ganformer`` is a JSON object with the whole configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from ganformer_cli.checkpoints.headers import (
    FORMAT_VERSION,
    METADATA_KEY,
    opened,
    read_config,
    read_header,
    read_label_distribution,
    read_shapes,
)
from ganformer_cli.checkpoints.run_folder import resolve_model
from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import SnapshotError
from ganformer_cli.files import write_bytes
from ganformer_cli.models import Generator
from ganformer_cli.models.families import build_discriminator, build_generator
from ganformer_cli.models.labels import HEADER as LABELS_HEADER
from ganformer_cli.text import listed

Network = TypeVar("Network", bound=nn.Module)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to ``path``, whole or not at all.

    Raises:
        OutputError: the place cannot be written to.
    """
    flat = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    header = {METADATA_KEY: json.dumps({"format": FORMAT_VERSION, **metadata}, ensure_ascii=False)}
    write_bytes(path, save(flat, metadata=header))


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, under their names without it, in memory of their own.

    None is a view of the file, which Windows would not let anybody replace or delete then.

    Raises:
        SnapshotError: the file is damaged.
    """
    try:
        with opened(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  # not a dict
            return {name[len(prefix) :]: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError) as error:
        raise SnapshotError(f"{path}: cannot be read ({error}); copy or download it again") from error


def check_fit(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Check that tensors of these ``shapes`` are exactly the state of ``module``, which may be on the meta device.

    Raises:
        SnapshotError: they are not; every missing, surplus and misshapen one is named.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    common = sorted(set(own) & set(shapes))
    other = [
        f"{name} {list(shapes[name])} instead of {list(own[name])}" for name in common if shapes[name] != own[name]
    ]
    found = described_differences(
        {
            "missing": sorted(set(own) - set(shapes)),
            "surplus": sorted(set(shapes) - set(own)),
            "of another shape": other,
        }
    )
    if found:
        raise SnapshotError(f"{where}: a snapshot of another architecture: {found}; give one that fits")


def described_differences(names: Mapping[str, Sequence[str]]) -> str:
    """``missing: a, b; surplus: c``: the first names of each kind; empty if there are none."""
    return "; ".join(f"{kind}: {listed(some, 4)}" for kind, some in names.items() if some)


def save_snapshot(
    path: Path,
    *,
    config: ModelConfig,
    ema: Generator,
    generator: Generator | None,
    discriminator: nn.Module | None,
    kimg: float | None,
    provenance: Mapping[str, Any],
) -> None:
    """Write the networks and their configuration to ``path``, whole or not at all.

    Args:
        ema: the averaged generator, the one to sample from; the labels that it knows are kept, too.
        generator: the generator being trained, or None to leave it out.
        discriminator: its adversary, or None to leave it out.
        kimg: thousands of real images shown so far; None where nobody knows.
        provenance: further JSON values for the header, such as ``dataset`` and ``version``.
    """
    tensors = {
        f"{name}.{key}": value
        for name, module in (("ema", ema), ("generator", generator), ("discriminator", discriminator))
        if module is not None
        for key, value in module.state_dict().items()
    }
    header: dict[str, Any] = {"config": config.to_dict(), "kimg": kimg, **provenance}
    labels = ema.label_distribution
    if labels is not None:
        tensors |= labels.tensors()
        header[LABELS_HEADER] = labels.header()
    save_tensors(path, tensors, header)


def load_available(path: Path) -> tuple[Generator, Generator | None, nn.Module | None]:
    """The averaged generator, and the generator and the discriminator if the file holds them; on the CPU.

    Raises:
        SnapshotError: it is damaged, or of another architecture.
    """
    config = read_config(path)
    has_generator, has_discriminator = (bool(read_shapes(path, f"{name}.")) for name in ("generator", "discriminator"))
    ema = _load_network(path, "ema", build_generator, config)
    generator = _load_network(path, "generator", build_generator, config) if has_generator else None
    discriminator = _load_network(path, "discriminator", build_discriminator, config) if has_discriminator else None
    return ema, generator, discriminator


def _load_network(path: Path, name: str, build: Callable[[ModelConfig], Network], config: ModelConfig) -> Network:
    """One network of a file, on the CPU, in evaluation mode."""
    # First without memory: a header may describe networks far larger than what the file holds.
    with torch.device("meta"):
        check_fit(build(config), read_shapes(path, f"{name}."), f"{path} ({name})")
    network = build(config)
    network.load_state_dict(read_tensors(path, f"{name}."))
    if isinstance(network, Generator):
        network.label_distribution = read_label_distribution(path, config)
    return network.eval().requires_grad_(False)


def load_snapshot(path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """A generator ready to sample from, in evaluation mode.

    Args:
        path: a model file, or a run folder (its newest snapshot).

    Raises:
        SnapshotError: no such file, a damaged one, or one of another architecture.
    """
    file = resolve_model(path)
    generator = _load_network(file, "ema", build_generator, read_config(file))
    psi = read_header(file).get("truncation_psi")
    generator.truncation_psi = psi if isinstance(psi, float) else None
    return generator.to(device)
