"""The weights of a snapshot that a run begins with: all of them, or those that fit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ganformer_cli.errors import SnapshotError
from ganformer_cli.training.network_trainer import NetworkTrainer

#: ``ema``, ``generator`` and ``discriminator`` of a snapshot; None where it has none.
Networks = Mapping[str, nn.Module | None]


@dataclass(frozen=True)
class TransferReport:
    """Which weights one network took from another."""

    tensors: int  # of the network: parameters and buffers
    taken: int
    share: float  # of its values that were taken
    new: list[str]  # missing in the other: they start as in any run
    other_shape: dict[str, str]  # of another shape there: they too
    left_over: list[str]  # of the other, not in this network

    def summary(self) -> str:
        """One line for the user."""
        parts = [f"{self.taken} of {self.tensors} tensors ({100 * self.share:.0f} % of the values)"]
        for word, names in (
            ("new", self.new),
            ("of another shape", self.other_shape),
            ("left over", self.left_over),
        ):
            if names:
                parts.append(f"{word}: {_by_module(names)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class InitialWeights:
    """The source of the weights of a new run."""

    option: str  # the command-line option with its value
    networks: Callable[[], Networks]  # reads them when called
    whole: bool  # every tensor must fit
    left_out: Mapping[str, str] = field(default_factory=dict)  # networks that could not be read, and why

    def apply(self, gan: NetworkTrainer, message: Callable[[str], None]) -> dict[str, Any] | None:
        """Load the weights into ``gan``; unless all must fit, report which do, and return that for a file.

        Raises:
            SnapshotError: a network is missing, nothing fits, or weights are NaN or infinite.
        """
        networks = self.networks()
        check_numbers(networks, self.option)
        if self.whole:
            load_all_weights(gan, networks, self.option, self.left_out)
            return None
        for name, why in self.left_out.items():
            message(f"{self.option}: without its {name}: {why}")
        found = load_fitting_weights(gan, networks, self.option)
        check_frozen(gan, found["discriminator"], self.option)
        for name, taken in found.items():
            message(f"{self.option}: {name}: {taken.summary()}")
        return {"from": self.option, "networks": {name: dataclasses.asdict(taken) for name, taken in found.items()}}


def check_frozen(gan: NetworkTrainer, taken: TransferReport, option: str) -> None:
    """Raise SnapshotError, naming ``option``, if a frozen weight of the discriminator was not in the snapshot."""
    frozen = {name for name, parameter in gan.discriminator.named_parameters() if not parameter.requires_grad}
    random = [name for name in (*taken.new, *taken.other_shape) if name in frozen]
    if random:
        raise SnapshotError(
            f"--freeze-d {gan.config.train.freeze_d}: {option} has no weights that fit {_by_module(random)} of the "
            "discriminator, which would stay random; leave --freeze-d out, or give a snapshot of the same resolution"
        )


def check_numbers(given: Networks, option: str) -> None:
    """Raise SnapshotError, naming ``option``, if a weight is NaN or infinite."""
    for name, network in given.items():
        broken = [
            key
            for key, value in ({} if network is None else network.state_dict()).items()
            if value.is_floating_point() and not bool(value.isfinite().all())
        ]
        if broken:
            more = f" and {len(broken) - 1} other tensors" if len(broken) > 1 else ""
            raise SnapshotError(
                f"{option}: {name}.{broken[0]}{more} hold values that are NaN or infinite, so that training "
                "cannot start from it; give an earlier snapshot"
            )


def load_all_weights(
    gan: NetworkTrainer, given: Networks, option: str, left_out: Mapping[str, str] | None = None
) -> None:
    """Load all weights of networks of the same configuration.

    Raises:
        SnapshotError: one of the three is missing; the message names ``option``.
    """
    for name, own in gan.networks.items():
        network = given.get(name)
        if network is None:
            why = (left_out or {}).get(name)
            reason = f" that can be read ({why})" if why else ""
            raise SnapshotError(
                f"{option}: holds no {name}{reason}, so training cannot start from it; give a snapshot with all "
                "networks (not one of convert --ema-only), or load what it holds with --init-from"
            )
        own.load_state_dict(network.state_dict())


def load_fitting_weights(gan: NetworkTrainer, given: Networks, option: str) -> dict[str, TransferReport]:
    """Load the weights whose name and shape fit, from networks of any configuration.

    Blocks are named by resolution, so that networks for other image sizes share the blocks that both have. A snapshot
    without a trained generator gives its averaged one.

    Raises:
        SnapshotError: none fits; the message names ``option``.
    """
    sources = {**given, "generator": given.get("generator") or given.get("ema")}
    found = {name: _take(own, sources.get(name)) for name, own in gan.networks.items()}
    if not any(taken.taken for taken in found.values()):
        raise SnapshotError(f"{option}: none of its tensors fits these networks; ganformer info shows what it holds")
    return found


def _take(own: nn.Module, given: nn.Module | None) -> TransferReport:
    mine: dict[str, Any] = own.state_dict()
    theirs: dict[str, Any] = {} if given is None else given.state_dict()
    new, other_shape, taken, numbers = [], {}, 0, 0
    with torch.no_grad():
        for name, tensor in mine.items():
            if name not in theirs:
                new.append(name)
            elif theirs[name].shape != tensor.shape:
                other_shape[name] = f"{list(theirs[name].shape)} there, {list(tensor.shape)} here"
            else:
                tensor.copy_(theirs[name])
                taken, numbers = taken + 1, numbers + tensor.numel()
    total = sum(tensor.numel() for tensor in mine.values())
    left_over = [name for name in theirs if name not in mine]
    return TransferReport(len(mine), taken, numbers / max(1, total), new, other_shape, left_over)


def _by_module(names: Iterable[str]) -> str:
    """``synthesis_network.b64 (14), pos``: how many tensors in which part."""
    parts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(part if count == 1 else f"{part} ({count})" for part, count in parts.items())
