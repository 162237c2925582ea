"""Trains a VQGAN (Esser, Rombach, Ommer 2021; "the paper"): first the codes of images, then the order of codes.

Stage 1: encoder and decoder minimise L1, a perceptual distance, the commitment to the codebook and the loss against a
discriminator of patches, which joins after a warm-up. Stage 2: the transformer minimises the cross-entropy of codes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.config import PERCEPTUAL_LOSSES, PerceptualLoss, RunConfig
from ganformer_cli.data import ImageDataset
from ganformer_cli.errors import ConfigError, DownloadError, TrainingError
from ganformer_cli.memory import is_out_of_memory
from ganformer_cli.metrics.features import open_distance
from ganformer_cli.models.uncompiled import uncompiled
from ganformer_cli.models.vqgan import VQGAN, PatchDiscriminator, perplexity
from ganformer_cli.sampling import from_uint8, reconstruct_images
from ganformer_cli.training.distributed import ONE_PROCESS, Group
from ganformer_cli.training.ema import MovingAverage, ema_decay
from ganformer_cli.training.gradients import GradientReducer, gradient_reducer
from ganformer_cli.training.losses import fake_loss, generator_loss, real_loss
from ganformer_cli.training.network_trainer import NetworkTrainer, RunningMeans, labels_of, seed_of, upload

#: The ratio of gradients is at most this.
MAX_ADAPTIVE_WEIGHT = 1e4
#: Scales of the gradient loss; each has half the resolution of the one before.
SCALES = 3
#: A codebook of which less than this share is in use has collapsed.
COLLAPSED_SHARE = 0.02


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """λ, how much the discriminator's part counts: ``‖∇ reconstruction‖ / (‖∇ adversarial‖ + 1e-6)``, equation 7.

    Args:
        reconstruction, adversarial: the two losses, scalars; their graphs are kept.
        last_layer: the decoder's last weight, by which the gradients are.

    Returns:
        A scalar without gradient.
    """
    (first,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (second,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (first.norm() / (second.norm() + 1e-6)).clamp(max=MAX_ADAPTIVE_WEIGHT)


def gradient_loss(images: Tensor, reals: Tensor) -> Tensor:
    """Mean difference of neighbouring pixels' differences, at several scales; both ``[B, 3, H, W]``.

    It stands where the paper has LPIPS, which needs the weights of another network: it asks for sharp edges, not for
    features.
    """
    total = images.new_zeros([])
    for scale in range(SCALES):
        if scale:
            images, reals = F.avg_pool2d(images, 2), F.avg_pool2d(reals, 2)
        for axis in (2, 3):
            total = total + (images.diff(dim=axis) - reals.diff(dim=axis)).abs().mean()
    return total / SCALES


def perceptual_loss(kind: PerceptualLoss, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of reconstructions and reals, both ``[B, 3, H, W]`` in [-1, 1], that gives a scalar.

    Raises:
        ConfigError: the weights of LPIPS are not in the cache.
    """
    if kind == "gradients":
        return gradient_loss
    try:
        network = open_distance(device=device, offline=True)
    except DownloadError as error:
        raise ConfigError(
            "--vq-perceptual lpips: its weights are not in the cache; get them with ganformer eval --metrics ppl "
            "--fetch, or choose --vq-perceptual gradients"
        ) from error

    def lpips(images: Tensor, reals: Tensor) -> Tensor:
        """Mean over images (Zhang et al. 2018)."""
        return network.differentiable(127.5 * (images + 1), 127.5 * (reals + 1)).mean().to(images.dtype)

    return lpips


class VQGANTrainer(NetworkTrainer):
    """Encoder, codebook, decoder, transformer and discriminator of a run, and the steps of both stages.

    Arguments as for ``NetworkTrainer``.
    """

    generator: VQGAN
    ema: VQGAN
    memory_advice = (
        "choose a smaller --batch-gpu, a larger --code-stride (shorter sequences), or smaller networks "
        "(--transformer-width, --channel-max)"
    )

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        shrunk: Callable[[int], None] = lambda micro_batch: None,
        group: Group = ONE_PROCESS,
    ) -> None:
        super().__init__(config, device, shrunk, group)
        options = config.train
        self.generator = VQGAN(config.model).to(device)
        self.discriminator = PatchDiscriminator(config.model).to(device)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.autoencoder = nn.ModuleDict({"encoder": self.generator.encoder, "decoder": self.generator.decoder})
        self.transformer = self.generator.transformer
        self.autoencoder_average = MovingAverage(
            nn.ModuleList([self.ema.encoder, self.ema.decoder, self.ema.quantizer]),
            nn.ModuleList([self.generator.encoder, self.generator.decoder, self.generator.quantizer]),
        )
        self.transformer_average = MovingAverage(self.ema.transformer, self.transformer)
        # The decays of the paper's experiments and of GPT.
        adam = uncompiled(torch.optim.Adam)
        self.g_optimizer = adam(self.autoencoder.parameters(), options.g_lr, (0.5, 0.9), fused=True)
        self.d_optimizer = adam(self.discriminator.parameters(), options.d_lr, (0.5, 0.9), fused=True)
        self.t_optimizer = uncompiled(torch.optim.AdamW)(
            self.transformer.parameters(), options.transformer_lr, (0.9, 0.95), weight_decay=0.01, fused=True
        )
        self.g_reducer, self.d_reducer, self.t_reducer = (
            gradient_reducer(module.parameters(), group)
            for module in (self.autoencoder, self.discriminator, self.transformer)
        )
        self.perceptual = perceptual_loss(options.vq_perceptual, device)
        self.usage = torch.zeros(config.model.codebook_size, device=device)  # of each code, since the last ``figures``

    @property
    def optimizers(self) -> dict[str, tuple[torch.optim.Optimizer, nn.Module]]:
        """See ``NetworkTrainer``."""
        return {
            "g_optimizer": (self.g_optimizer, self.autoencoder),
            "d_optimizer": (self.d_optimizer, self.discriminator),
            "t_optimizer": (self.t_optimizer, self.transformer),
        }

    @property
    def scalars(self) -> dict[str, Tensor]:
        """See ``NetworkTrainer``."""
        return {"usage": self.usage}

    @scalars.setter
    def scalars(self, values: Mapping[str, Tensor]) -> None:
        self.usage = values.get("usage", self.usage).to(self.device)

    @property
    def figures(self) -> dict[str, float]:
        """How many codes are in use, counted since the last call."""
        if not self.usage.any():
            return {}
        found = {"perplexity": float(perplexity(self.usage)), "codes_used": float((self.usage > 0).sum())}
        self.usage.zero_()
        return found

    @property
    def training_notes(self) -> dict[str, str]:
        """See ``NetworkTrainer``: the perceptual loss, which depends on what weights there are."""
        return {"perceptual_loss": PERCEPTUAL_LOSSES[self.config.train.vq_perceptual]}

    def warnings(self, figures: Mapping[str, float]) -> list[str]:
        """Whether the codebook has collapsed."""
        size = self.config.model.codebook_size
        used = figures.get("perplexity", float(size))
        if used >= max(2.0, COLLAPSED_SHARE * size):
            return []
        return [
            f"perplexity is {used:.3g} of a codebook of {size}: it has collapsed, and images are made of a few codes. "
            "Begin again (--restart) with a lower --g-lr, a smaller --code-dim or a larger --batch-size"
        ]

    def check_start(self) -> None:
        """See ``NetworkTrainer``: stage 2 alone needs the codes of a stage 1."""
        if self.config.train.vq_stage == "2" and not self.generator.quantizer.counts.any():
            raise ConfigError(
                "--vq-stage 2: there are no codes to learn from. Give the run of a stage 1 with the same "
                f"--codebook-size {self.config.model.codebook_size}, --code-dim {self.config.model.code_dim} and "
                "--code-stride (--pretrained-pkl RUN)"
            )

    def draw_grid(self, dataset: ImageDataset, count: int, truncation_psi: float) -> npt.NDArray[np.uint8]:
        """Samples; in stage 1 real images, each followed by its reconstruction."""
        if self.ema.can_sample:
            return super().draw_grid(dataset, count, 1.0)
        indices = np.linspace(0, len(dataset) - 1, max(1, min(count // 2, len(dataset)))).astype(int)
        reals = np.stack([dataset.image(int(index)) for index in indices])
        return np.stack([reals, reconstruct_images(self.ema, reals)], 1).reshape(-1, *reals.shape[1:])

    # ----- A step -----

    @property
    def stage_one_images(self) -> float:
        """How many real images stage 1 is shown."""
        options = self.config.train
        return {"1": math.inf, "2": 0.0, "both": (options.vq_kimg or 0.0) * 1000}[options.vq_stage]

    def step(self, batch: tuple[Tensor, Tensor], number: int, means: RunningMeans, *, attempt: int = 0) -> None:
        """See ``NetworkTrainer``: one of stage 1 or 2, which follows from ``number``."""
        images, labels = (upload(each, self.device) for each in batch)
        seen = number * self.config.train.batch_size
        seed = f"{self.config.train.seed} {number} {attempt}"
        try:
            if seen < self.stage_one_images:
                self.autoencoder_step(from_uint8(images), seen, seed, means)
            else:
                self.transformer_step(from_uint8(images), labels, seed, means)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            codes = math.prod(self.config.model.code_grid)
            raise TrainingError(
                f"out of memory with {self.micro_batch} images of {codes} codes at a time; {self.memory_advice}"
            ) from error
        means.steps += 1

    def autoencoder_step(self, reals: Tensor, seen: int, seed: str, means: RunningMeans) -> None:
        """Stage 1: one update of encoder, decoder and codebook, then one of the discriminator."""
        judged = seen >= self.config.train.vq_warmup_kimg * 1000
        fakes, rows = [], []
        quantizer = self.generator.quantizer
        counts, totals = torch.zeros_like(quantizer.counts), torch.zeros_like(quantizer.totals)
        for part in self.seeded_parts(f"{seed} autoencoder"):
            found = self.autoencoder_gradients(reals[part], judged, means)
            fakes.append(found[0])
            rows.append(found[1])
            some = quantizer.sums(found[1], found[2])
            counts += some[0]
            totals += some[1]
        self.move(self.g_optimizer, self.g_reducer)
        if judged:
            for part, fake in zip(self.seeded_parts(f"{seed} discriminator"), fakes, strict=True):
                self.discriminator_gradients(fake, reals[part], means)
            self.move(self.d_optimizer, self.d_reducer)
        candidates = self.random_rows(torch.cat(rows), len(counts), f"{seed} codes")
        counts, totals = self.group.all_reduce(counts), self.group.all_reduce(totals)
        means.add("codes_replaced", quantizer.update(counts, totals, candidates))
        self.usage += counts

    def random_rows(self, rows: Tensor, count: int, seed: str) -> Tensor:
        """``count`` random rows ``[count, d]`` of the whole batch, alike in all processes.

        Args:
            rows: those of this process, ``[N, d]``.
            count: how many are drawn, with replacement.
            seed: decides which.
        """
        generator = torch.Generator().manual_seed(seed_of(seed))
        drawn = torch.randint(len(rows) * self.group.world_size, (count,), generator=generator).to(rows.device)
        place = drawn - self.group.rank * len(rows)
        is_here = (place >= 0) & (place < len(rows))
        found = torch.where(is_here[:, None], rows[place.clamp(0, len(rows) - 1)], 0.0)
        return self.group.all_reduce(found)

    def autoencoder_gradients(self, real: Tensor, judged: bool, means: RunningMeans) -> tuple[Tensor, Tensor, Tensor]:
        """Accumulate the gradients of encoder and decoder on ``real [b, 3, H, W]``.

        Args:
            judged: whether the discriminator has its part.

        Returns:
            The reconstructions ``[b, 3, H, W]``, the encoder's vectors ``[N, d]`` and their codes ``[N]``.
        """
        vectors = self.generator.encoder(real)
        quantized = self.generator.quantizer(vectors)
        fake = self.generator.decoder(quantized.vectors)
        reconstruction = (fake - real).abs().mean() + self.perceptual(fake, real)
        loss = reconstruction + self.config.train.commitment * quantized.commitment
        if judged:
            self.discriminator.requires_grad_(False)
            adversarial = generator_loss(self.discriminator(fake), "hinge")
            weight = adaptive_weight(reconstruction, adversarial, self.generator.decoder.last.weight)
            loss = loss + self.config.train.vq_gan_weight * weight * adversarial
            self.discriminator.requires_grad_(True)
            means.add("gan_weight", weight)
        (loss / len(self.parts)).backward()
        squared = (fake.detach().clamp(-1, 1) - real).square().mean((1, 2, 3)) / 4
        means.add("loss_g", reconstruction)
        means.add("commitment", quantized.commitment)
        means.add("psnr", -10 * squared.clamp(min=1e-10).log10())
        return fake.detach(), vectors.detach().movedim(1, -1).flatten(0, -2), quantized.codes.flatten()

    def discriminator_gradients(self, fake: Tensor, real: Tensor, means: RunningMeans) -> None:
        """Accumulate the discriminator's gradients on reconstructions and real images (the paper, equation 5)."""
        loss = (real_loss(self.discriminator(real), "hinge") + fake_loss(self.discriminator(fake), "hinge")) / 2
        (loss / len(self.parts)).backward()
        means.add("loss_d", loss)

    def transformer_step(self, reals: Tensor, labels: Tensor, seed: str, means: RunningMeans) -> None:
        """Stage 2: one update of the transformer."""
        c = labels if self.config.model.c_dim else None
        for part in self.seeded_parts(f"{seed} transformer"):
            self.transformer_gradients(reals[part], labels_of(c, part), means)
        self.move(self.t_optimizer, self.t_reducer)
        self.generator.transformer_steps += 1

    def transformer_gradients(self, real: Tensor, c: Tensor | None, means: RunningMeans) -> None:
        """Accumulate the transformer's gradients on the codes of ``real [b, 3, H, W]``, of the averaged encoder."""
        with torch.no_grad():
            codes = self.ema.quantizer(self.ema.encoder(real)).codes.flatten(1)
        loss = F.cross_entropy(self.transformer(codes, c).flatten(0, 1), codes.flatten())
        (loss / len(self.parts)).backward()
        means.add("loss_codes", loss)

    def move(self, optimizer: torch.optim.Optimizer, reducer: GradientReducer) -> None:
        """Average the gradients over the processes, step, and clear them."""
        reducer.finish()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def average(self, images_seen: int) -> None:
        """See ``NetworkTrainer``; what its stage does not train stays as it is."""
        options, first = self.config.train, self.stage_one_images
        in_stage_one = images_seen - options.batch_size < first
        images = images_seen if in_stage_one else round(images_seen - first)
        decay = ema_decay(options.batch_size, options.ema_kimg, images, options.ema_rampup)
        (self.autoencoder_average if in_stage_one else self.transformer_average).update(decay)
        self.ema.transformer_steps.copy_(self.generator.transformer_steps)

    # ----- What it costs -----

    def trial(self, images: Tensor, labels: Tensor | None, *, regularised: bool) -> None:
        """See ``NetworkTrainer``: the images are divided among the stages as the run divides its own."""
        total = max(1e-9, self.config.train.total_kimg * 1000)
        first = second = round(len(images) * min(1.0, self.stage_one_images / total))
        if regularised:  # which stage needs more depends on the length of the sequence: each that there is has them all
            first, second = (len(images) if first else 0), (0 if second < len(images) else len(images))
        means = RunningMeans()
        if first:
            fake, _, _ = self.autoencoder_gradients(images[:first], True, means)
            self.discriminator_gradients(fake, images[:first], means)
            self.clear_gradients()
        if second < len(images):
            self.transformer_gradients(images[second:], None if labels is None else labels[second:], means)

    def clear_gradients(self) -> None:
        """See ``NetworkTrainer``."""
        for network in (self.generator, self.discriminator):
            network.zero_grad(set_to_none=True)
