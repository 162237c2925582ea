"""Opens the authors' snapshots without executing anything in them, as networks of ours."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ganformer_cli.checkpoints import snapshots
from ganformer_cli.checkpoints.snapshots import Network
from ganformer_cli.config import ModelConfig
from ganformer_cli.downloads.hub import HUB_PREFIX, fetch_hub, parse_hub_address
from ganformer_cli.errors import ConfigError, GanformerError, SnapshotError
from ganformer_cli.files import sha256_of
from ganformer_cli.models import Discriminator, Generator
from ganformer_cli.original_snapshots.accounting import SnapshotContents, Tensors, account
from ganformer_cli.original_snapshots.catalogue import PREFIX, fetch_snapshot, published_ratio
from ganformer_cli.original_snapshots.other_models import name_of_pickle, name_of_tree
from ganformer_cli.original_snapshots.pickles import PersistentObject, read_pickle
from ganformer_cli.original_snapshots.pytorch import is_pytorch_snapshot, read_pytorch
from ganformer_cli.original_snapshots.recognition import is_original
from ganformer_cli.original_snapshots.tensorflow import is_tensorflow_snapshot, read_tensorflow

_READERS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, str], SnapshotContents]]] = {
    "pytorch": (is_pytorch_snapshot, read_pytorch),
    "tensorflow": (is_tensorflow_snapshot, read_tensorflow),
}
LICENCE = "that of the authors of the GANsformer (Hudson & Zitnick, 2021): see github.com/dorarad/gansformer"


@dataclass(frozen=True)
class ModelNetworks:
    """All networks of a model file as networks of ours, on the CPU, in evaluation mode."""

    config: ModelConfig
    ema: Generator
    generator: Generator | None
    discriminator: nn.Module | None
    #: What our files say of themselves: kimg, source, truncation_psi, dataset, training, licence, left_out.
    header: dict[str, Any]
    notes: tuple[str, ...] = ()  # what a user should know of a file of the authors'

    @property
    def left_out(self) -> dict[str, str]:
        """The networks that could not be read, and why."""
        found: dict[str, str] = self.header.get("left_out", {})
        return found


def load_original(path: Path) -> ModelNetworks:
    """Open a PyTorch or TensorFlow snapshot of the authors'.

    The averaged generator has to be whole. The other two networks are left out where they are missing or others than
    ours can be; ``left_out`` says why.

    Raises:
        SnapshotError: it is none, is damaged, names anything that no snapshot needs, or does not fit our networks.
    """
    try:
        tree = read_pickle(path)
    except SnapshotError as error:
        other = name_of_pickle(path)
        if other is None:
            raise
        raise SnapshotError(f"{error} (it looks like {other})") from error
    format = next((name for name, (recognizes, _) in _READERS.items() if recognizes(tree)), None)
    if format is None:
        raise SnapshotError(f"{path}: {_what_it_is(tree)}; give one of the GANsformer's")
    try:
        found = _READERS[format][1](tree, str(path))
        ratio = published_ratio(path)
        if found.settings["ratio"] == 1 and ratio is not None and ratio != 1:
            # The file does not say what its images are cropped to; the authors' list of snapshots does.
            found.settings.update(ratio=ratio, square_grid=True)
        config = ModelConfig(**found.settings)
    except ConfigError as error:
        raise SnapshotError(f"{path}: describes networks that cannot be built: {error}") from error
    except GanformerError:
        raise
    except Exception as error:
        # Damaged settings can raise anything.
        raise SnapshotError(
            f"{path}: its settings are damaged ({type(error).__name__}: {error}); download it again"
        ) from error
    ema = _filled(Generator, "ema", found, config, f"{path} (Gs)")
    check_positions(ema, found.tensors["ema"], f"{path} (Gs)")
    generator = _other(Generator, "generator", found, config)
    discriminator = _other(Discriminator, "discriminator", found, config)
    kimg = re.search(r"network-snapshot-(\d+)", path.name)
    header = {
        "kimg": float(kimg[1]) if kimg else None,
        "source": {"format": format, "file": path.name, "sha256": sha256_of(path)},
        "licence": LICENCE,
        **found.about,
    }
    if found.left_out:
        header["left_out"] = found.left_out
    if isinstance(header.get("truncation_psi"), float):
        ema.truncation_psi = header["truncation_psi"]
    return ModelNetworks(config, ema, generator, discriminator, header, tuple(found.notes))


def _filled(kind: type[Network], name: str, found: SnapshotContents, config: ModelConfig, where: str) -> Network:
    """A network of ours with the tensors of the file's, every one of them accounted for."""
    # First without memory: settings may describe networks far larger than the tensors.
    with torch.device("meta"):
        tensors = account(kind(config), found.tensors[name], config, where, of_generator=kind is Generator)
    network = kind(config)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def _other(kind: type[Network], name: str, found: SnapshotContents, config: ModelConfig) -> Network | None:
    """One of the networks that need not be there; ``found`` says why it is not."""
    if name not in found.tensors:
        return None
    network = None
    with found.optional(name):
        network = _filled(kind, name, found, config, name)
    return network


def check_positions(generator: Generator, tensors: Tensors, where: str) -> None:
    """Compare the image positions that a file holds, ready made, with those that our network computes.

    Raises:
        SnapshotError: they are others, so that the network computes something else.
    """
    for layer, positions in generator.image_positions():
        given = tensors.get(f"synthesis_network.{layer}.grid_pos")
        if given is None:
            continue
        value = given.value.flatten(0, -2).float()
        own = positions()
        if value.shape != own.shape or not torch.allclose(value, own, atol=1e-4):
            raise SnapshotError(
                f"{where}: its image positions {given.name} are not those that its settings describe (pos_type "
                f"{generator.config.pos_type}); it is refused"
            )


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """A generator ready to sample from, in evaluation mode.

    Args:
        path: a run folder (its newest snapshot), a model file, a snapshot of the authors', ``gdrive:`` and the name
            of a published one, or ``hf:USER/REPO`` on the Hugging Face Hub; what is published is downloaded unless it
            is there.
        device: where to put it.

    Raises:
        SnapshotError: there is none, or it is damaged, of another architecture, or not to be trusted.
        DownloadError: it cannot be downloaded.
    """
    if str(path).startswith(PREFIX):
        path = fetch_snapshot(str(path))
    elif str(path).startswith(HUB_PREFIX):
        path = fetch_hub(parse_hub_address(str(path), "path"), notice=warnings.warn)
    if not is_original(Path(path)):
        return snapshots.load_snapshot(path, device)
    return load_original(Path(path)).ema.to(device)


def _what_it_is(tree: Any) -> str:
    """What a pickle that is no snapshot of the GANsformer's holds."""
    if isinstance(tree, dict) and isinstance(tree.get("G"), PersistentObject) and "k" in tree["G"].state:
        return "a snapshot of the GANsformer's without Gs, the averaged generator that images are made with"
    other = name_of_tree(tree)
    return "a pickle, but no snapshot of the GANsformer's" if other is None else f"not the GANsformer's but {other}"
