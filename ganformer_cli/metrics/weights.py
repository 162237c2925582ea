"""Files of the feature networks' weights: where they come from, and reading them without running anything in them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ganformer_cli.downloads.checksums import Progress
from ganformer_cli.downloads.transfer import fetch
from ganformer_cli.errors import DownloadError, SnapshotError
from ganformer_cli.files import check_regular, error_reason
from ganformer_cli.resources import cache_folder
from ganformer_cli.text import listed

Shape = tuple[int, ...]
_Layers = TypeVar("_Layers", bound=nn.Module)


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights that somebody publishes."""

    name: str
    url: str
    sha256: str
    size: int  # bytes
    licence: str

    @property
    def path(self) -> Path:
        """Where it lies once it is downloaded, or put there by hand."""
        return cache_folder() / "weights" / self.name


INCEPTION = WeightsFile(
    name="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size=95_628_359,
    licence="Apache-2.0",
)
VGG16 = WeightsFile(
    name="vgg16-397923af.pth",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    size=553_433_881,
    licence="BSD-3-Clause",
)
LPIPS = WeightsFile(
    name="weights-vgg16-lpips.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth",
    sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    size=7_289,
    licence="BSD-2-Clause",
)
DINOV2 = WeightsFile(
    name="dinov2_vitl14_pretrain.pth",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    size=1_217_586_395,
    licence="Apache-2.0",
)
#: The files of each network.
CATALOGUE: dict[str, tuple[WeightsFile, ...]] = {
    "inception": (INCEPTION,),
    "vgg16": (VGG16,),
    "lpips": (VGG16, LPIPS),
    "dinov2": (DINOV2,),
}


def download_weights(file: WeightsFile, network: str, *, offline: bool, progress: Progress | None = None) -> Path:
    """A published file on disk, downloaded unless it is there, with the right checksum.

    Raises:
        DownloadError: it cannot be had, is another file, or is missing and ``offline``.
        OutputError: the cache cannot be written to.
    """
    if offline and not file.path.is_file():
        raise DownloadError(
            f"the weights of the {network} network are missing ({file.name}, {megabytes(file.size)}): run "
            f"`ganformer eval --fetch`, or download them by hand from {file.url} and put them at {file.path}, or give "
            "--weights; the metrics swd and diversity need none"
        )
    checksum = f"sha256:{file.sha256}"
    return fetch(file.url, file.path, size=file.size, checksum=checksum, progress=progress, offline=offline)


def megabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def read_weights(path: Path, shapes: Mapping[str, Shape], network: str) -> dict[str, Tensor]:
    """The parameters of ``shapes`` in a ``.pth`` or ``.safetensors`` file, on the CPU; what else is in it is left out.

    Raises:
        SnapshotError: the file is damaged, no such file, or of another network; the message names it.
    """
    tensors = _tensors(path)
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise SnapshotError(
            f"{path}: no weights of the {network} network: {listed(missing, 3)} of its {len(shapes)} parameters are "
            "missing; give its file, or leave out --weights"
        )
    found = {name: tensors[name] for name in shapes}
    wrong = [name for name, shape in shapes.items() if tuple(found[name].shape) != shape]
    if wrong:
        name = wrong[0]
        raise SnapshotError(
            f"{path}: weights of another network than {network}: {name} is {list(found[name].shape)} instead of "
            f"{list(shapes[name])}{f', and so are {len(wrong) - 1} more' if len(wrong) > 1 else ''}; give its file"
        )
    bad = [name for name, values in found.items() if not (values.is_floating_point() and values.isfinite().all())]
    if bad:
        raise SnapshotError(f"{path}: damaged: {listed(bad, 3)} hold NaN or infinite values; download it again")
    return found


def shapes_of(build: Callable[[], nn.Module], prefix: str = "") -> dict[str, Shape]:
    """The shapes of the parameters of the layers that ``build`` makes, by their names with ``prefix`` before them."""
    with torch.device("meta"):
        return {prefix + name: tuple(value.shape) for name, value in build().state_dict().items()}


def filled(build: Callable[[], _Layers], tensors: Mapping[str, Tensor], prefix: str = "") -> _Layers:
    """The layers that ``build`` makes with the parameters of ``shapes_of``, float32, which are not trained."""
    with torch.device("meta"):
        layers = build()
    layers.load_state_dict({name: tensors[prefix + name].float() for name in layers.state_dict()}, assign=True)
    return layers.requires_grad_(False)


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name."""
    again = "it is truncated or damaged, or no such file: download it again, or give another one with --weights"
    try:
        check_regular(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise SnapshotError(f"--weights {path}: no such file; give a .pth or .safetensors file of weights") from error
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error_reason(error)}); {again}") from error
    except (
        *(RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError, IndexError),
        *(pickle.UnpicklingError, BadZipFile, SafetensorError),
    ) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise SnapshotError(f"{path}: not a readable file of weights ({reason}); {again}") from error
    if not isinstance(values, dict):
        raise SnapshotError(f"{path}: holds no weights by name but a {type(values).__name__}; {again}")
    return {str(name): value.detach() for name, value in values.items() if isinstance(value, Tensor)}
