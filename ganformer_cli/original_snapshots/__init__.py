"""The authors' snapshots, opened without running anything in them (``load_original``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganformer_cli import checkpoints
from ganformer_cli.checkpoints import check_fit
from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError, GanformerError, SnapshotError
from ganformer_cli.files import open_regular, sha256_of
from ganformer_cli.models import Discriminator, Generator
from ganformer_cli.original_snapshots import pytorch, tensorflow
from ganformer_cli.original_snapshots.catalogue import PREFIX, fetch_snapshot, published_ratio
from ganformer_cli.original_snapshots.pickles import read_pickle

__all__ = ["PREFIX", "OriginalSnapshot", "fetch_snapshot", "is_original", "load_generator", "load_original"]

LICENCE = "that of the authors of the GANsformer (Hudson & Zitnick, 2021): see github.com/dorarad/gansformer"

#: What the files hold beside our tensors: constants, and parameters that no output depends on.
_WITHOUT_EFFECT = re.compile(r"(.*\.)?(resample_kernel|grid_pos)|.*\.(to_keys|to_pos_map)\.bias")
_UNUSED_BY_K_MEANS = re.compile(r"synthesis_network\..*\.attention\.(to_keys|to_pos_map)\.weight")


@dataclass(frozen=True)
class OriginalSnapshot:
    """A snapshot of the authors' as networks of ours, on the CPU, in evaluation mode."""

    config: ModelConfig
    ema: Generator
    generator: Generator | None
    discriminator: Discriminator | None
    header: dict[str, Any]  # what our files say of themselves: kimg, source, truncation_psi, dataset, licence


def is_original(path: Path) -> bool:
    """Whether to read ``path`` as a snapshot of the authors': by its name, or because it begins as a pickle does."""
    if path.suffix in (".pkl", ".pickle"):
        return True
    try:
        with open_regular(path) as file:
            return file.read(1) == b"\x80"
    except OSError:
        return False


def load_original(path: Path) -> OriginalSnapshot:
    """Open a PyTorch or TensorFlow snapshot of the authors'.

    Raises:
        SnapshotError: it is none, is damaged, names anything that no snapshot needs, or does not fit our networks.
    """
    tree = read_pickle(path)
    forms: dict[str, Any] = {"pytorch": pytorch, "tensorflow": tensorflow}
    form = next((name for name, module in forms.items() if module.is_snapshot(tree)), None)
    if form is None:
        raise SnapshotError(f"{path}: a pickle, but no snapshot of the GANsformer's; give another file{_guess(tree)}")
    try:
        settings, tensors, about = forms[form].read(tree, str(path))
        ratio = published_ratio(path)
        if settings["ratio"] == 1 and ratio is not None and ratio != 1:
            # The file does not say what its pictures are cropped to; the authors' list of snapshots does.
            settings.update(ratio=ratio, square_grid=True)
        config = ModelConfig(**settings)
        tensors = {name: without_surplus(name, values, config) for name, values in tensors.items()}
    except ConfigError as error:
        raise SnapshotError(f"{path}: describes networks that cannot be built: {error}") from error
    except GanformerError:
        raise
    except Exception as error:
        # Settings of the wrong kind, anywhere in what was read.
        raise SnapshotError(
            f"{path}: its settings are damaged ({type(error).__name__}: {error}); download it again"
        ) from error
    # First without memory: settings may describe networks far larger than the tensors.
    with torch.device("meta"):
        empty = {"ema": Generator(config), "generator": Generator(config), "discriminator": Discriminator(config)}
    for name, values in tensors.items():
        check_fit(empty[name], {key: tuple(value.shape) for key, value in values.items()}, f"{path} ({name})")
    networks: dict[str, Any] = {
        "ema": Generator(config),
        "generator": Generator(config) if "generator" in tensors else None,
        "discriminator": Discriminator(config) if "discriminator" in tensors else None,
    }
    for name, network in networks.items():
        if network is not None:
            network.load_state_dict(tensors[name])
            network.eval().requires_grad_(False)
    kimg = re.search(r"network-snapshot-(\d+)", path.name)
    header = {
        "kimg": float(kimg[1]) if kimg else None,
        "source": {"format": form, "file": path.name, "sha256": sha256_of(path)},
        "licence": LICENCE,
        **about,
    }
    return OriginalSnapshot(config=config, header=header, **networks)


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """A generator ready to sample from, in evaluation mode.

    Args:
        path: a run folder (its newest snapshot), a model file, a snapshot of the authors', or ``gdrive:`` and the name
            of a published one, which is downloaded unless it is there.
        device: where to put it.

    Raises:
        SnapshotError: there is none, or it is damaged, of another architecture, or not to be trusted.
        DownloadError: it cannot be had.
    """
    if str(path).startswith(PREFIX):
        path = fetch_snapshot(str(path))
    elif not is_original(Path(path)):
        return checkpoints.load_generator(path, device)
    return load_original(Path(path)).ema.to(device)


def without_surplus(network: str, tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a network without what no output depends on."""
    return {
        name: value
        for name, value in tensors.items()
        if not _WITHOUT_EFFECT.fullmatch(name)
        and not (config.attention == "kmeans" and _UNUSED_BY_K_MEANS.fullmatch(name))
        # Positions that nothing reads: in a discriminator, and with k-means where components do not attend.
        and not (name == "pos" and (network == "discriminator" or not config.reads_component_positions))
    }


def _guess(tree: Any) -> str:
    if isinstance(tree, dict) and "G_ema" in tree:
        return " (this looks like one of StyleGAN2-ADA's or StyleGAN3's)"
    return ""
