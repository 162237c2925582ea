"""Weights that a run begins with: those of a snapshot, whole or as far as they fit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ganformer_cli.errors import SnapshotError
from ganformer_cli.training.gan import GANTrainer

#: ``ema``, ``generator`` and ``discriminator`` of a snapshot; None where it has none.
Networks = Mapping[str, nn.Module | None]


@dataclass(frozen=True)
class TransferReport:
    """What one network got from another."""

    tensors: int  # of the network: parameters and what is saved beside them
    taken: int
    share: float  # of its numbers that were taken
    new: list[str]  # not there: these start as in any run
    other_shape: dict[str, str]  # there in another shape: these too
    left_over: list[str]  # there, and nowhere to go

    def said(self) -> str:
        """In a line."""
        parts = [f"{self.taken} of {self.tensors} tensors ({100 * self.share:.0f} % of the numbers)"]
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
    """Where the weights of a new run come from."""

    option: str  # that named it, with its value
    networks: Callable[[], Networks]  # reads them, when they are needed
    whole: bool  # every tensor, or what fits
    left_out: Mapping[str, str] = field(default_factory=dict)  # networks that the snapshot was read without, and why

    def apply(self, gan: GANTrainer, message: Callable[[str], None]) -> dict[str, Any] | None:
        """Give ``gan`` the weights; where not all have to fit, say what did, and return it for a file.

        Raises:
            SnapshotError: a network is missing, nothing fits, or there are weights that are no finite numbers.
        """
        networks = self.networks()
        check_numbers(networks, self.option)
        if self.whole:
            load_all_weights(gan, networks, self.option, self.left_out)
            return None
        for name, why in self.left_out.items():
            message(f"{self.option}: without its {name}: {why}")
        found = load_fitting_weights(gan, networks, self.option)
        for name, taken in found.items():
            message(f"{self.option}: {name}: {taken.said()}")
        return {"from": self.option, "networks": {name: dataclasses.asdict(taken) for name, taken in found.items()}}


def check_numbers(given: Networks, option: str) -> None:
    """Raise SnapshotError, which names ``option``, where a weight is NaN or infinite: training would only save more."""
    for name, network in given.items():
        broken = [
            key
            for key, value in ({} if network is None else network.state_dict()).items()
            if value.is_floating_point() and not bool(value.isfinite().all())
        ]
        if broken:
            more = f" and {len(broken) - 1} other tensors" if len(broken) > 1 else ""
            raise SnapshotError(
                f"{option}: {name}.{broken[0]}{more} hold values that are no finite numbers (NaN or infinite), so that "
                "nothing can train on from it; give an earlier snapshot"
            )


def load_all_weights(gan: GANTrainer, given: Networks, option: str, left_out: Mapping[str, str] | None = None) -> None:
    """Take over all weights of networks of the same configuration.

    Raises:
        SnapshotError: one of the three is missing; the message names ``option``.
    """
    for name, own in gan.networks.items():
        network = given.get(name)
        if network is None:
            why = (left_out or {}).get(name)
            reason = f" that can be read ({why})" if why else ""
            raise SnapshotError(
                f"{option}: holds no {name}{reason}, so nothing can train on from it; give a snapshot with all "
                "networks (not one of convert --ema-only), or take what there is with --init-from"
            )
        own.load_state_dict(network.state_dict())


def load_fitting_weights(gan: GANTrainer, given: Networks, option: str) -> dict[str, TransferReport]:
    """Take over the weights whose name and shape fit, from networks of any configuration.

    Blocks are named by resolution, so that networks for other sizes share what they have in common. A snapshot without
    a trained generator gives its averaged one.

    Raises:
        SnapshotError: none fits; the message names ``option``.
    """
    sources = {**given, "generator": given.get("generator") or given.get("ema")}
    found = {name: _take(own, sources.get(name)) for name, own in gan.networks.items()}
    if not any(taken.taken for taken in found.values()):
        raise SnapshotError(f"{option}: not one of its tensors fits these networks; see ganformer info for what it is")
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
