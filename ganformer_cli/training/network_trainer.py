"""What the loop needs of the networks that it trains, whatever their kind."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ganformer_cli.config import RunConfig
from ganformer_cli.data import ImageDataset
from ganformer_cli.models import Generator
from ganformer_cli.models.prepared import adam_keys, adam_memory
from ganformer_cli.sampling import sample_seeds
from ganformer_cli.training.distributed import ONE_PROCESS, Group


class RunningMeans:
    """Running means of named scalars, summed on the device: only ``read`` waits for a GPU."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0

    def add(self, name: str, values: Tensor) -> None:
        """Add all elements of ``values``."""
        total = values.detach().float().sum()
        self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.counts[name] = self.counts.get(name, 0) + values.numel()

    def read(self) -> dict[str, float]:
        """The mean of each name."""
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}

    def gather(self, group: Group) -> None:
        """Combine the means of all processes, which have the same names."""
        for name in sorted(self.sums) if group.world_size > 1 else ():
            self.sums[name] = group.all_reduce(self.sums[name])
            self.counts[name] *= group.world_size


class NetworkTrainer(ABC):
    """Networks, their optimisers, and the training step that changes them.

    Args:
        config: settings of networks and training.
        device: where to compute.
        shrunk: called with the new micro-batch size after a step ran out of memory.
        group: the processes that train together.
    """

    generator: Generator
    discriminator: nn.Module
    ema: Generator  # the averaged generator, which grids and scores are of
    #: What to do where not even the smallest micro-batch fits.
    memory_advice = (
        "choose a smaller --batch-gpu, --resolution, --channel-max or --channel-base, or free memory on the device"
    )
    scalars: Mapping[str, Tensor]  # further state that changes from step to step, by name

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        shrunk: Callable[[int], None] = lambda micro_batch: None,
        group: Group = ONE_PROCESS,
    ) -> None:
        self.config, self.device, self.shrunk, self.group = config, device, shrunk, group
        #: Images that pass through the networks at a time; gradients are accumulated over the micro-batches of a step.
        self.micro_batch = min(config.train.micro_batch, self.local_batch_size)

    @property
    @abstractmethod
    def optimizers(self) -> dict[str, tuple[torch.optim.Optimizer, nn.Module]]:
        """The optimisers and what they train, by name."""

    @abstractmethod
    def step(self, batch: tuple[Tensor, Tensor], number: int, means: RunningMeans, *, attempt: int = 0) -> None:
        """One update of all networks that are trained now.

        Args:
            batch: the local batch: uint8 ``[b, 3, H, W]`` and labels ``[b, c_dim]``.
            number: of the step, from 0.
            means: receives what is logged.
            attempt: another value gives other random numbers.

        Raises:
            TrainingError: the smallest micro-batch does not fit into memory.
        """

    @abstractmethod
    def average(self, images_seen: int) -> None:
        """Move the averaged generator towards the trained one, after ``images_seen`` real images."""

    @abstractmethod
    def trial(self, images: Tensor, labels: Tensor | None, *, regularised: bool) -> None:
        """Compute the gradients of a step for one micro-batch, and change no weight.

        Args:
            images: ``[b, 3, H, W]`` in [-1, 1].
            labels: ``[b, c_dim]``, or None.
            regularised: the step that needs most memory; otherwise the usual one, for its time.
        """

    @abstractmethod
    def clear_gradients(self) -> None:
        """Free the gradients of ``trial``."""

    def use_precision(self, blocks: Mapping[str, str]) -> None:
        """Compute the named blocks (``{"generator.b32": "bf16"}``) in 16 bits, where the networks have such blocks."""
        return

    @property
    def precision(self) -> dict[str, str]:
        """The blocks in half precision, as ``use_precision`` takes them."""
        return {}

    @property
    def training_notes(self) -> dict[str, str]:
        """What a snapshot's header says of its training, beside the configuration of the networks."""
        return {}

    @property
    def figures(self) -> dict[str, float]:
        """Further figures of a line of the log."""
        return {}

    def warnings(self, figures: Mapping[str, float]) -> list[str]:
        """What the user should know about the figures of a tick."""
        return []

    def check_start(self) -> None:
        """Raise ConfigError unless training can begin with the weights as they are."""
        return

    def draw_grid(self, dataset: ImageDataset, count: int, truncation_psi: float) -> npt.NDArray[np.uint8]:
        """The images of a grid of fakes, uint8 ``[N, 3, H, W]``: samples of the averaged generator."""
        drawn = sample_seeds(self.ema, range(count), truncation_psi=truncation_psi)
        return np.stack([sample.image for sample in drawn])

    @property
    def local_batch_size(self) -> int:
        """Images of each batch that this process computes."""
        return self.config.train.batch_size // self.group.world_size

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {"ema": self.ema, "generator": self.generator, "discriminator": self.discriminator}

    @property
    def parts(self) -> list[slice]:
        """The micro-batches, as slices of the local batch."""
        return [slice(start, start + self.micro_batch) for start in range(0, self.local_batch_size, self.micro_batch)]

    def broadcast_state(self) -> None:
        """Give all processes the networks, optimisers and scalars of the first."""
        if self.group.world_size == 1:
            return
        tensors = [value for network in self.networks.values() for value in network.state_dict().values()]
        for optimizer, module in self.optimizers.values():
            if self.group.run_on_rank0(lambda optimizer=optimizer: bool(optimizer.state)):  # type: ignore[misc]
                for parameter in (p for p in module.parameters() if p.requires_grad):
                    memory = adam_memory(optimizer, parameter)
                    tensors += [memory[key] for key in adam_keys(optimizer)]
        for tensor in [*tensors, *self.scalars.values()]:
            self.group.broadcast(tensor)
        self.micro_batch = self.group.run_on_rank0(lambda: self.micro_batch)

    def sizes(self) -> list[int]:
        """Possible micro-batch sizes, ascending."""
        return micro_batches(self.local_batch_size, self.config.model.mbstd_group_size)

    def seeded_parts(self, seed: str) -> Iterator[slice]:
        """The micro-batches, each after seeding torch with its index in the global batch."""
        before = self.group.rank * len(self.parts)
        for number, part in enumerate(self.parts):
            seed_generators(seed_of(f"{seed} {before + number}"), self.device)
            yield part


def seed_of(text: str) -> int:
    """A seed for torch that follows from a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's default generators that draw on ``device``.

    ``torch.manual_seed`` seeds those of all devices. Where there is no GPU it keeps the call, with a stack trace, for
    when CUDA starts: milliseconds and some memory, in every step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on ``device``; to a GPU through pinned memory, so that nothing waits for the work there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def micro_batches(batch: int, group: int) -> list[int]:
    """Sizes that ``batch`` images can be split into, ascending: its divisors that minibatch-std can group."""
    return [n for n in range(2, batch + 1) if batch % n == 0 and n % min(group, n) == 0]


def trial_labels(gan: NetworkTrainer, count: int) -> Tensor | None:
    """Labels ``[count, c_dim]`` for a trial, all classes in turn; None for networks without classes."""
    classes = gan.config.model.c_dim
    if classes == 0:
        return None
    return nn.functional.one_hot(torch.arange(count) % classes, classes).float().to(gan.device)


def labels_of(c: Tensor | None, part: slice) -> Tensor | None:
    """The labels of one micro-batch."""
    return None if c is None else c[part]
