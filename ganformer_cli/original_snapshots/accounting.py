"""Every tensor of a snapshot is accounted for: used by our network, or known to be without effect there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ganformer_cli.checkpoints.snapshots import described_differences
from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import SnapshotError

Kind = TypeVar("Kind")


class Named(NamedTuple):
    """A tensor of a snapshot and its name there."""

    name: str
    value: Tensor


class Tensors(dict[str, Named]):
    """Tensors by their names in our networks; what has none keeps its own."""

    def put(self, ours: str, name: str, value: Tensor) -> None:
        """Add one under our name.

        Raises:
            ValueError: there is one already.
        """
        if ours in self:
            raise ValueError(f"{self[ours].name} and {name} are the same tensor of the network")
        self[ours] = Named(name, value)


@dataclass
class SnapshotContents:
    """What a reader of one of the two forms has found in a file."""

    settings: dict[str, Any]  # fields of ModelConfig
    tensors: dict[str, Tensors]  # of "ema", "generator" and "discriminator", those that can be read
    about: dict[str, Any] = field(default_factory=dict)  # for the header of our file
    left_out: dict[str, str] = field(default_factory=dict)  # the other networks, and why
    notes: list[str] = field(default_factory=list)  # what else a user should know

    @contextlib.contextmanager
    def optional(self, name: str) -> Iterator[None]:
        """A network that need not be there: a SnapshotError within the block says why it is left out."""
        try:
            yield
        except SnapshotError as error:
            self.left_out[name] = str(error)


def network_of(value: object, kind: type[Kind], name: str) -> Kind:
    """``value``, which must be a network of this kind.

    Raises:
        SnapshotError: it is missing, or something else.
    """
    if not isinstance(value, kind):
        raise SnapshotError(f"the file holds no {name}" if value is None else f"{name} is not a network")
    return value


def unused(config: ModelConfig) -> list[str]:
    """Regular expressions of our names of tensors that are in the authors' files and that nothing reads.

    Their generator's modules create more than they use, so this follows from the settings and never from the tensors.
    """
    generator = [
        r"synthesis_network\..*\.(resample_kernel|grid_pos)",  # constants; the positions are compared with ours
        r".*\.to_keys\.bias",  # it adds one number to a whole row of the softmax
    ]
    keys = ["to_keys"]
    if config.use_pos:
        keys.append("to_pos_map")
        generator.append(r".*\.to_pos_map\.bias")  # the same
    if config.attention == "kmeans":
        # Centroids stand in for the keys.
        generator.append(rf"synthesis_network\..*\.attention\.({'|'.join(keys)})\.(weight|bias)")
    if not config.use_pos and config.latent_norm != "each":
        # TensorFlow's networks have none of these.
        generator += [
            r".*\.(to_pos_map|latent_gate_pos)\.(weight|bias)",
            # In the mapping both sides are components.
            r"mapping_network\..*\.(from_pos_map|image_gate_pos)\.(weight|bias)",
        ]
    if not config.reads_component_positions:
        generator.append("pos")
    if not config.style:
        generator.append(r"synthesis_network\..*\.affine\.(weight|bias)")
    if not config.reads_global_latent:
        generator.append(r"mapping_network\.global_mlp\..*")
    if not config.local_noise:
        generator.append(r"synthesis_network\..*\.noise_const")
    return generator


def account(
    network: nn.Module, tensors: Mapping[str, Named], config: ModelConfig, where: str, *, of_generator: bool
) -> dict[str, Tensor]:
    """The tensors that ``network`` has, all of them, from those of a file.

    Args:
        network: may be on the meta device.
        tensors: by our names.
        where: file and network, for messages.
        of_generator: or of the discriminator.

    Raises:
        SnapshotError: some are missing, of another shape, or not known to be without effect; they are named.
    """
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    # In a discriminator: filters, and positions that nothing reads.
    patterns = unused(config) if of_generator else [r".*\.resample_kernel", "pos"]
    if of_generator and not config.use_pos and "pos" not in tensors:
        # Nothing that these could be multiplied with.
        patterns.append(r"mapping_network\..*\.(from_pos_map|image_gate_pos)\.(weight|bias)")
    known = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    unknown = [item.name for ours, item in tensors.items() if ours not in own and not known.fullmatch(ours)]
    missing = [name for name in own if name not in tensors]
    other = [
        f"{tensors[name].name} {list(tensors[name].value.shape)} instead of {list(shape)}"
        for name, shape in own.items()
        if name in tensors and tuple(tensors[name].value.shape) != shape
    ]
    found = described_differences(
        {"in the file and not known here": unknown, "missing": missing, "of another shape": other}
    )
    if found:
        raise SnapshotError(
            f"{where}: its tensors are not those of a network with its settings: {found}; the file is damaged, or of a "
            "network that cannot be read"
        )
    wrong = [tensors[name].name for name in own if not _is_real(tensors[name].value)]
    if wrong:
        raise SnapshotError(f"{where}: {described_differences({'not of real numbers': wrong})}; the file is damaged")
    return {name: tensors[name].value.to(torch.float32) for name in own}


def _is_real(value: Tensor) -> bool:
    return value.is_floating_point() or value.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
