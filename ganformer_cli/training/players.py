"""Generator and discriminator, their optimisers, and one update of both.

A step that runs out of memory is made again in smaller parts, from the same random state, so that nothing but the size
of the parts changes.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ganformer_cli.config import RunConfig
from ganformer_cli.errors import SnapshotError, TrainingError
from ganformer_cli.models import Discriminator, Generator
from ganformer_cli.training import losses
from ganformer_cli.training.ema import ema_decay, update_ema
from ganformer_cli.training.memory import is_out_of_memory


class Means:
    """Running means of named scalars, read only when somebody asks: reading waits for a GPU."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0

    def add(self, name: str, values: Tensor) -> None:
        """Take in all numbers of ``values``."""
        total = values.detach().float().sum()
        self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.counts[name] = self.counts.get(name, 0) + values.numel()

    def read(self) -> dict[str, float]:
        """The mean of each name."""
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


@dataclass
class Found:
    """What a part of a step has found out; taken over when the whole of it has succeeded."""

    values: list[tuple[str, Tensor]] = field(default_factory=list)
    pl_mean: Tensor | None = None

    def add(self, name: str, values: Tensor) -> None:
        """Numbers for the log."""
        self.values.append((name, values.detach()))


class Players:
    """The networks and how they are trained.

    Args:
        config: of both.
        device: where to compute.
        shrunk: told the new size when a step has to be made in smaller parts.
    """

    def __init__(
        self, config: RunConfig, device: torch.device, shrunk: Callable[[int], None] = lambda micro_batch: None
    ) -> None:
        self.config, self.device, self.shrunk = config, device, shrunk
        options = config.train
        self.generator = Generator(config.model).to(device)
        self.discriminator = Discriminator(config.model).to(device)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.g_optimizer = adam(self.generator, options.g_lr, options.g_reg_interval)
        self.d_optimizer = adam(self.discriminator, options.d_lr, options.d_reg_interval)
        self.micro_batch = options.micro_batch  # pictures that pass through the networks at a time
        self.pl_mean = torch.zeros([], device=device)  # running mean of path lengths

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {"ema": self.ema, "generator": self.generator, "discriminator": self.discriminator}

    @property
    def optimizers(self) -> dict[str, tuple[torch.optim.Optimizer, nn.Module]]:
        """The optimisers and what they train, by name."""
        return {
            "g_optimizer": (self.g_optimizer, self.generator),
            "d_optimizer": (self.d_optimizer, self.discriminator),
        }

    @property
    def parts(self) -> list[slice]:
        """The micro-batches of a batch."""
        size, micro = self.config.train.batch_size, self.micro_batch
        return [slice(start, start + micro) for start in range(0, size, micro)]

    def start_from(self, networks: Mapping[str, nn.Module | None]) -> None:
        """Take over the weights of ``ema``, ``generator`` and ``discriminator``.

        Raises:
            SnapshotError: one of them is missing.
        """
        for name, own in self.networks.items():
            given = networks.get(name)
            if given is None:
                raise SnapshotError(
                    f"--pretrained-pkl {self.config.train.pretrained_pkl}: holds no {name}, so nothing can train on "
                    "from it; give a snapshot with all networks (not one of convert --ema-only)"
                )
            own.load_state_dict(given.state_dict())

    # ----- A step -----

    def step(self, batch: tuple[Tensor, Tensor], number: int, means: Means) -> None:
        """One update of both players.

        Args:
            batch: uint8 ``[B, 3, H, W]`` and labels ``[B, c_dim]``.
            number: of the step, from 0; it decides who is regularised.
            means: takes in what is logged.

        Raises:
            TrainingError: there is not even memory for the smallest parts.
        """
        images, labels = batch
        c = labels.to(self.device) if self.config.model.c_dim > 0 else None

        def generator_gradients(found: Found) -> None:
            self.generator_gradients(c, number, found)

        def discriminator_gradients(found: Found) -> None:
            real = images.to(self.device).float() / 127.5 - 1
            self.discriminator_gradients(real, c, number, found)

        self.discriminator.requires_grad_(False)
        self.update(self.g_optimizer, generator_gradients, means)
        self.discriminator.requires_grad_(True)
        self.update(self.d_optimizer, discriminator_gradients, means)
        means.steps += 1

    def average(self, images_seen: int) -> None:
        """Move the averaged generator towards the trained one, after so many real pictures."""
        options = self.config.train
        update_ema(
            self.ema,
            self.generator,
            ema_decay(options.batch_size, options.ema_kimg, images_seen, options.ema_rampup),
        )

    def update(self, optimizer: torch.optim.Optimizer, gradients: Callable[[Found], None], means: Means) -> None:
        """One step of ``optimizer``; in smaller parts, and from the same random numbers, where memory runs out."""
        w_means = {name: value.clone() for name, value in self.generator.mapping_network.named_buffers()}
        random = RandomState(self.device)
        while True:
            found = Found()
            try:
                gradients(found)
                optimizer.step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).splitlines()[0] if str(error) else "no memory"
            else:
                break
            # Outside of the handler: the error's traceback holds on to the activations.
            optimizer.zero_grad(set_to_none=True)
            found.values.clear()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.shrink(said)
            random.restore()
            for name, value in self.generator.mapping_network.named_buffers():
                value.copy_(w_means[name])
        optimizer.zero_grad(set_to_none=True)
        for name, values in found.values:
            means.add(name, values)
        if found.pl_mean is not None:
            self.pl_mean = found.pl_mean

    def shrink(self, said: str) -> None:
        """Take smaller parts from now on.

        Raises:
            TrainingError: there are none.
        """
        smaller = [size for size in micro_batches(self.config) if size < self.micro_batch]
        if not smaller:
            raise TrainingError(
                f"out of memory with {self.micro_batch} pictures at a time, which is the least ({said}); choose a "
                "lower --resolution, --channel-max or --channel-base, or free memory on the device"
            )
        self.micro_batch = max(size for size in smaller if size <= max(self.micro_batch // 2, min(smaller)))
        self.shrunk(self.micro_batch)

    def generator_gradients(self, c: Tensor | None, number: int, found: Found) -> None:
        """Gradients of the generator, at times with path length regularisation."""
        options = self.config.train
        regularise = options.pl_weight > 0 and number % options.g_reg_interval == 0
        pl_mean = self.pl_mean
        for part in self.parts:
            fake = self.draw_fakes(c, part)
            loss = losses.generator_loss(self.discriminator(fake, labels_of(c, part)), options.g_loss)
            (loss / len(self.parts)).backward()
            found.add("loss_g", loss)
            if regularise:
                some = slice(part.start, part.start + max(1, (part.stop - part.start) // losses.PL_BATCH_SHRINK))
                penalty, pl_mean = losses.path_length_penalty(self.generator, self.draw_latents(c, some), pl_mean)
                weight = options.pl_weight * options.g_reg_interval / len(self.parts)
                (penalty.mean() * weight).backward()
                found.add("path_length", pl_mean)
        found.pl_mean = pl_mean

    def discriminator_gradients(self, real: Tensor, c: Tensor | None, number: int, found: Found) -> None:
        """Gradients of the discriminator by ``real [B, 3, H, W]`` and fresh fakes, at times with R1."""
        options = self.config.train
        regularise = options.gamma > 0 and number % options.d_reg_interval == 0
        for part in self.parts:
            # Not those of the generator's step: they are one step old, and training with them went visibly slower.
            with torch.no_grad():
                fake = self.draw_fakes(c, part)
            fake_logits = self.discriminator(fake, labels_of(c, part))
            fake_loss = losses.fake_loss(fake_logits, options.d_loss)
            (fake_loss / len(self.parts)).backward()
            shown = real[part].requires_grad_(regularise)
            real_logits = self.discriminator(shown, labels_of(c, part))
            real_loss = losses.real_loss(real_logits, options.d_loss)
            total = real_loss
            if regularise:
                penalty = losses.r1_penalty(real_logits, shown)
                total = total + penalty.mean() * (options.gamma / 2 * options.d_reg_interval)
                found.add("r1", penalty)
            (total / len(self.parts)).backward()
            found.add("loss_d", fake_loss + real_loss)
            found.add("score_real", real_logits)
            found.add("score_fake", fake_logits)
            found.add("sign_real", real_logits.sign())

    def draw_latents(self, c: Tensor | None, part: slice) -> Tensor:
        """Latents of a micro-batch for each layer, ``[b, m+1, L, w]``, with the labels of the real pictures."""
        options = self.config.train
        z = torch.randn(part.stop - part.start, *self.config.model.z_shape, device=self.device)
        return losses.mixed_latents(
            self.generator, z, labels_of(c, part), options.style_mixing, options.component_mixing
        )

    def draw_fakes(self, c: Tensor | None, part: slice) -> Tensor:
        """A micro-batch of generated pictures ``[b, 3, H, W]``."""
        ws = self.draw_latents(c, part)
        components, rate = self.config.model.components_num, self.config.train.component_dropout
        mask = losses.random_component_mask(len(ws), components, rate, self.device)
        return self.generator.synthesis(ws, component_mask=mask)


class RandomState:
    """torch's random state as it is now."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


def micro_batches(config: RunConfig) -> list[int]:
    """The sizes that a batch can be cut into, ascending: its divisors that minibatch-std can group."""
    size, group = config.train.batch_size, config.model.mbstd_group_size
    return [n for n in range(min(2, size), size + 1) if size % n == 0 and n % min(group, n) == 0]


def labels_of(c: Tensor | None, part: slice) -> Tensor | None:
    """The labels of one micro-batch."""
    return None if c is None else c[part]


def adam(module: nn.Module, lr: float, interval: int) -> torch.optim.Adam:
    """Adam with β = (0, 0.99) on the time scale of lazy regularisation (StyleGAN2, appendix B).

    With ``c = interval / (interval + 1)``, the learning rate is ``lr·c`` and the decays are ``β^c``.
    """
    scale = interval / (interval + 1)
    return torch.optim.Adam(module.parameters(), lr=lr * scale, betas=(0.0, 0.99**scale), eps=1e-8, fused=True)
