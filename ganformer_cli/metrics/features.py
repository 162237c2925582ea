"""Feature networks: images to the numbers that metrics compare.

An image's features are the same in every batch. On a CPU images pass through a network in groups of one width, empty
places filled up, each group in one thread and several groups at once; that is also the fastest way there. On a GPU a
batch passes as it is, in float32 without TF32.

Where memory runs out, fewer images pass at a time. On a CPU these are fewer groups at once, which changes no bit, and
only then smaller groups; those, and smaller batches on a GPU, change features by float32's rounding at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.downloads.checksums import ChecksumError, Progress, check_file
from ganformer_cli.errors import ConfigError, SnapshotError
from ganformer_cli.files import sha256_of, why_no_file
from ganformer_cli.metrics.blocks import BlockSize
from ganformer_cli.metrics.dino import DinoV2
from ganformer_cli.metrics.inception import Inception
from ganformer_cli.metrics.resizing import Resize, resized
from ganformer_cli.metrics.vgg import Lpips, Vgg16, trunk_shapes
from ganformer_cli.metrics.weights import CATALOGUE, WeightsFile, download_weights, read_weights
from ganformer_cli.sampling.threads import map_single_threaded

#: Images in a group on a CPU. Wider ones are no faster, and take more memory.
GROUP = 4

#: Each network, and the resize that its published scores are made with.
NETWORKS: dict[str, tuple[type[Inception] | type[Vgg16] | type[DinoV2], Resize]] = {
    "inception": (Inception, "tf1"),
    "vgg16": (Vgg16, "tf1"),
    "dinov2": (DinoV2, "clean"),
}


class FeatureModule(Protocol):
    """What computes features: a module of torch's."""

    side: int  # of the images that it takes
    outputs: dict[str, int]

    def scaled(self, pixels: Tensor) -> Tensor:
        """Float pixels 0 .. 255 as it takes them."""

    def __call__(self, x: Tensor) -> Any:
        """Outputs by name, of scaled images ``[B, 3, side, side]``."""

    def to(self, device: torch.device) -> Any: ...

    def eval(self) -> Any: ...


class FeatureNetwork:
    """A network with its weights, on a device.

    Attributes:
        name: of the network.
        weights_sha256: of its file.
        published: whether that is the file that scores elsewhere are made with.
        resize: how images are brought to its size.
        outputs: how many numbers each of its outputs has: ``{"pool": 2048, "logits": 1008}`` for inception (``logits``
            without the last bias, as the Inception Score takes them), ``{"fc2": 4096}`` for vgg16, ``{"cls": 1024}``
            for dinov2.
        batch_size: images that pass at a time, at most; None: as many as are given. On a CPU not fewer than a group.
    """

    def __init__(
        self,
        name: str,
        network: FeatureModule,
        *,
        weights_sha256: str,
        published: bool,
        resize: Resize,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name, self.weights_sha256, self.published, self.resize = name, weights_sha256, published, resize
        self.device = torch.device(device)
        self.outputs = dict(network.outputs)
        self.batch_size: int | None = None
        self._fitting: BlockSize | None = None
        self._network: FeatureModule = network.to(self.device).eval()

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features by the name of the output, float32 ``[B, D]`` on the network's device.

        Args:
            images: uint8 ``[B, 3, H, W]`` of any size, on any device.
        """
        if not len(images):
            return {name: torch.empty(0, width, device=self.device) for name, width in self.outputs.items()}
        on_cpu = self.device.type == "cpu"
        most = GROUP * torch.get_num_threads() if on_cpu else len(images)
        if self.batch_size is not None:
            most = min(most, max(self.batch_size, GROUP if on_cpu else 1))
        fitting = self._fitting
        if fitting is None or fitting.size > most:
            fitting = BlockSize(most, f"computing the features of a single image in {self.name}")
        with exactly(self.device):
            found = fitting.run(lambda size: (self._in_groups if on_cpu else self._in_batches)(images, size))
        # Kept only where memory ran out: a last, smaller batch says nothing of what fits.
        if fitting.size < most:
            self._fitting = fitting
        return {name: torch.cat([each[name] for each in found]) for name in self.outputs}

    def _in_groups(self, images: Tensor, size: int) -> list[dict[str, Tensor]]:
        """Features of groups, ``size`` images at a time."""
        width = min(GROUP, size)

        def group(some: Tensor) -> dict[str, Tensor]:
            with torch.inference_mode():
                # Black images after it make a last, smaller group a whole one.
                found = self._features(F.pad(some, (0, 0) * 3 + (0, width - len(some))))
            return {name: values[: len(some)] for name, values in found.items()}

        return map_single_threaded(group, images.to(self.device).split(width), at_most=size // width)

    def _in_batches(self, images: Tensor, size: int) -> list[dict[str, Tensor]]:
        """Features of batches of ``size`` images."""
        return [self._features(some.to(self.device, non_blocking=True)) for some in images.split(size)]

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        network = self._network
        features: dict[str, Tensor] = network(network.scaled(resized(images, network.side, self.resize)))
        return features


class LearnedDistance:
    """LPIPS on VGG16 with its weights, on a device.

    Attributes:
        name: ``lpips``.
        weights_sha256: of VGG16's file and of its own, with a plus between.
        published: whether these are the files that scores elsewhere are made with.
    """

    name = "lpips"

    def __init__(
        self, network: Lpips, *, weights_sha256: str, published: bool, device: str | torch.device = "cpu"
    ) -> None:
        self.weights_sha256, self.published = weights_sha256, published
        self.device = torch.device(device)
        self._network = network.to(self.device).eval()
        self._at_once: BlockSize | None = None

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """Distances, float64 ``[B]`` on the CPU, of float32 images ``[B, 3, H, W]`` from 0 to 255.

        Each pair by itself: the distance of neighbours on a path is a difference of nearly equal numbers, and hangs on
        the last bits of what the network computes.
        """
        pairs = list(zip(one.split(1), other.split(1), strict=True))
        on_cpu = self.device.type == "cpu"
        if self._at_once is None:
            at_once = torch.get_num_threads() if on_cpu else 1
            self._at_once = BlockSize(at_once, "measuring the distance of a single pair of images")
        with exactly(self.device):
            if on_cpu:
                found = self._at_once.run(lambda size: map_single_threaded(self._pair, pairs, at_most=size))
            else:
                found = self._at_once.run(lambda size: list(map(self._pair, pairs)))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    def differentiable(self, one: Tensor, other: Tensor) -> Tensor:
        """The same of a whole batch on the network's device, with gradients by both."""
        distances: Tensor = self._network(one, other)
        return distances

    def _pair(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        with torch.inference_mode():
            distance: Tensor = self._network(*(each.to(self.device) for each in pair))
        return distance.cpu()


def open_network(
    name: str,
    *,
    weights: Path | None = None,
    resize: Resize | None = None,
    device: str | torch.device = "cpu",
    offline: bool = False,
    progress: Progress | None = None,
) -> FeatureNetwork:
    """A feature network, its weights downloaded unless they are there.

    Args:
        name: of ``NETWORKS``.
        weights: a file, or a folder in which there is one of the published name; None: the published one in the cache.
        resize: ``tf1`` or ``clean``; None: what the network's published scores are made with.

    Raises:
        ConfigError: there is no such network or resize.
        DownloadError: the weights cannot be had, have another checksum, or are missing and ``offline``.
        SnapshotError: the file is missing, damaged, or of another network.
    """
    if name not in NETWORKS:
        raise ConfigError(f"feature network {name}: there are {', '.join(NETWORKS)}")
    kind, usual = NETWORKS[name]
    (file,) = _files(name, weights, offline=offline, progress=progress)
    network = kind(read_weights(file.path, kind.shapes(), name))
    return FeatureNetwork(
        name,
        network,
        weights_sha256=file.sha256,
        published=file.published,
        resize=resize or usual,
        device=device,
    )


def open_distance(
    *,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    offline: bool = False,
    progress: Progress | None = None,
) -> LearnedDistance:
    """LPIPS, which perceptual path lengths are measured with; its weights downloaded unless they are there.

    Args:
        weights: a folder with VGG16's and LPIPS' files under their published names; None: those in the cache.

    Raises:
        DownloadError, SnapshotError: as for ``open_network``.
    """
    trunk, own = _files("lpips", weights, offline=offline, progress=progress)
    tensors = read_weights(trunk.path, trunk_shapes(), "vgg16")
    tensors |= read_weights(own.path, Lpips.own_shapes(), "lpips")
    return LearnedDistance(
        Lpips(tensors),
        weights_sha256=f"{trunk.sha256}+{own.sha256}",
        published=trunk.published and own.published,
        device=device,
    )


def fetch_weights(name: str, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """Download the weights of a network of ``CATALOGUE`` unless they are there; where the last of its files lies.

    Raises:
        ConfigError: there is no such network.
        DownloadError: they cannot be had, have another checksum, or are missing and ``offline``.
        OutputError: the cache cannot be written to.
    """
    if name not in CATALOGUE:
        raise ConfigError(f"feature network {name}: there are {', '.join(CATALOGUE)}")
    return [download_weights(file, name, offline=offline, progress=progress) for file in CATALOGUE[name]][-1]


class _File(NamedTuple):
    """A file of weights, and what is known of it."""

    path: Path
    sha256: str
    published: bool


def _files(name: str, weights: Path | None, *, offline: bool, progress: Progress | None) -> list[_File]:
    """The files of a network, those that are published compared with their checksums."""
    wanted = CATALOGUE[name]
    if weights is None:
        return [
            _File(download_weights(file, name, offline=offline, progress=progress), file.sha256, True)
            for file in wanted
        ]
    if weights.is_dir():
        return [_given(weights / file.name, file) for file in wanted]
    if len(wanted) > 1:
        raise ConfigError(
            f"--weights {weights}: {name} has several files; give a folder with {' and '.join(f.name for f in wanted)}"
        )
    return [_given(weights, wanted[0])]


def _given(path: Path, expected: WeightsFile) -> _File:
    """A file that the user names; under the published name it must be the published one."""
    if why := why_no_file(path):
        raise SnapshotError(f"--weights {path} {why}; give weights, or a folder that has {expected.name}")
    if path.name == expected.name:
        try:
            check_file(path, f"sha256:{expected.sha256}")
        except ChecksumError as error:
            size = path.stat().st_size
            short = f", and is {size} bytes long instead of {expected.size}" if size != expected.size else ""
            raise ChecksumError(f"--weights: {error}{short}; give your own weights another file name") from error
        return _File(path, expected.sha256, True)
    found = sha256_of(path)
    return _File(path, found, found == expected.sha256)


@contextlib.contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """No gradients; on a GPU no TF32 and the same algorithm each time: features are compared to the last digits."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if device.type == "cuda":
            flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            stack.enter_context(flags)
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = False
            stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", before)
        yield
