"""VQGAN: images as grids of codes, and a transformer that draws them (Esser, Rombach, Ommer 2021, *Taming Transformers
for High-Resolution Image Synthesis*; "the paper" below).

Stage 1 trains ``Encoder``, ``Quantizer`` and ``Decoder`` against ``PatchDiscriminator``; stage 2 ``Transformer``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError
from ganformer_cli.models.generator import AttentionMap, Generator, NoiseMaps, NoiseMode, crop_centre
from ganformer_cli.models.initialization import has_values, normal
from ganformer_cli.models.labels import LabelDistribution
from ganformer_cli.models.positions import ImagePositions

#: Decay of the codebook's running means.
CODEBOOK_DECAY = 0.99
#: A code that is used less than this share of the mean use is dead, and becomes a vector of the batch.
DEAD_SHARE = 0.05
_GROUPS = 32  # of the group normalisation
_PATCH_CHANNELS = 64


# ----- Layers -----


def normalization(channels: int) -> nn.GroupNorm:
    """Group normalisation: 32 groups, or fewer, so that a group has at least four channels (as in the paper).

    Groups of one channel would remove its mean, and with it the colours of an image.
    """
    return nn.GroupNorm(math.gcd(_GROUPS, max(1, channels // 4), channels), channels, eps=1e-6)


class ConvResidualBlock(nn.Module):
    """``x + conv(swish(norm(conv(swish(norm(x))))))`` (the paper, table 7), with a 1x1 shortcut if channels change."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm0, self.conv0 = normalization(channels_in), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm1, self.conv1 = normalization(channels_out), nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C', H, W]``."""
        y = self.conv0(F.silu(self.norm0(x)))
        y = self.conv1(F.silu(self.norm1(y)))
        return self.shortcut(x) + y


class AttentionBlock(nn.Module):
    """``x`` plus single-head self-attention over all positions of ``norm(x)`` (the paper, table 7)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = normalization(channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]``, unchanged in shape."""
        query, key, value = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None].chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return x + self.out(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


def bottleneck_blocks(channels: int) -> nn.Sequential:
    """The blocks at the lowest resolution."""
    return nn.Sequential(
        ConvResidualBlock(channels, channels), AttentionBlock(channels), ConvResidualBlock(channels, channels)
    )


class Encoder(nn.Sequential):
    """Images ``[B, 3, H, W]`` to vectors ``[B, d, H/f, W/f]``."""

    def __init__(self, config: ModelConfig) -> None:
        sizes = config.code_levels
        layers: list[nn.Module] = [nn.Conv2d(3, config.channels(sizes[0]), 3, padding=1)]
        for size, lower in zip(sizes, sizes[1:], strict=False):
            layers.append(ConvResidualBlock(config.channels(size), config.channels(size)))
            layers.append(nn.Conv2d(config.channels(size), config.channels(lower), 3, stride=2, padding=1))
        last = config.channels(sizes[-1])
        layers += [bottleneck_blocks(last), normalization(last), nn.SiLU(), nn.Conv2d(last, config.code_dim, 1)]
        super().__init__(*layers)


class Decoder(nn.Module):
    """Vectors ``[B, d, h, w]`` to images ``[B, 3, f·h, f·w]``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.code_levels[::-1]
        first = config.channels(sizes[0])
        layers: list[nn.Module] = [nn.Conv2d(config.code_dim, first, 3, padding=1), bottleneck_blocks(first)]
        for size, higher in zip(sizes, sizes[1:], strict=False):
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            layers.append(ConvResidualBlock(config.channels(size), config.channels(higher)))
        layers += [normalization(config.channels(sizes[-1])), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(config.channels(sizes[-1]), 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        image: Tensor = self.last(self.body(x))
        return image


# ----- The codebook -----


class Quantized(NamedTuple):
    """What the quantiser makes of vectors."""

    vectors: Tensor  # [B, d, h, w], those of the codebook; gradients pass straight through to the encoder
    codes: Tensor  # int64 [B, h, w]
    commitment: Tensor  # scalar, mean ‖x − sg(e)‖² per number (the paper, equation 4)


class Quantizer(nn.Module):
    """The nearest of K vectors; they follow the encoder as running means (van den Oord et al. 2017, appendix A.1).

    Args:
        size: K.
        dim: d.
    """

    codebook: Tensor
    counts: Tensor
    totals: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codebook", normal(size, dim, divisor=dim**0.5))
        self.register_buffer("counts", torch.zeros(size))  # running mean of how often a code is used in a batch
        self.register_buffer("totals", torch.zeros(size, dim))  # running mean of the sum of its vectors

    def nearest(self, rows: Tensor) -> Tensor:
        """The code of each row of ``[N, d]``, int64 ``[N]``."""
        # |x - e|^2 without |x|^2, which no choice depends on.
        return (self.codebook.square().sum(1) - 2 * rows @ self.codebook.T).argmin(1)

    def forward(self, x: Tensor) -> Quantized:
        """Quantise ``[B, d, h, w]``."""
        rows = x.movedim(1, -1)
        codes = self.nearest(rows.detach().flatten(0, -2)).view(rows.shape[:-1])
        chosen = self.look_up(codes)
        return Quantized(x + (chosen - x).detach(), codes, F.mse_loss(x, chosen))

    def look_up(self, codes: Tensor) -> Tensor:
        """The vectors ``[B, d, h, w]`` of codes ``[B, h, w]``."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def sums(self, rows: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """How often each code occurs ``[K]``, and the sum of its rows ``[K, d]``."""
        counts = torch.bincount(codes, minlength=len(self.codebook)).to(rows.dtype)
        return counts, torch.zeros_like(self.totals).index_add_(0, codes, rows)

    @torch.no_grad()
    def update(self, counts: Tensor, totals: Tensor, candidates: Tensor) -> Tensor:
        """Move the codebook towards the vectors of a batch, and replace dead codes by random ``candidates``.

        Args:
            counts, totals: of the whole batch, see ``sums``.
            candidates: rows ``[K, d]``; row k is what code k becomes if it is dead.

        Returns:
            The number of codes replaced, a scalar.
        """
        is_new = not bool(self.counts.any())
        self.counts.lerp_(counts, 1 - CODEBOOK_DECAY)
        self.totals.lerp_(totals, 1 - CODEBOOK_DECAY)
        usual = counts.sum() / len(counts)
        dead = self.counts < DEAD_SHARE * usual
        if is_new:  # the random vectors that it is made of are of no use
            dead = torch.ones_like(dead)
        self.counts.copy_(torch.where(dead, usual, self.counts))
        self.totals.copy_(torch.where(dead[:, None], candidates * usual, self.totals))
        self.codebook.copy_(self.totals / self.counts[:, None])
        return dead.sum()


def perplexity(counts: Tensor) -> Tensor:
    """``exp`` of the entropy of the codes' frequencies ``[K]``: how many codes are used, if all were used alike."""
    shares = counts.double() / counts.sum().clamp(min=1)
    return torch.special.entr(shares).sum().exp()


# ----- The transformer -----


@dataclass(frozen=True)
class CodeSampling:
    """How codes are drawn from the transformer's probabilities.

    Args:
        temperature: logits are divided by it.
        top_k: only the so many most likely codes; None: all.
        top_p: only the most likely codes that together have this probability (Holtzman et al. 2020).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def check(self, codebook_size: int) -> None:
        """Raise ConfigError unless the settings have a meaning for a codebook of this size."""
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"--temperature {self.temperature:g}: choose a number above 0")
        if self.top_k is not None and not 1 <= self.top_k <= codebook_size:
            raise ConfigError(
                f"--top-k {self.top_k}: this model's codebook has {codebook_size} codes; choose 1 to {codebook_size}"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p {self.top_p:g}: choose a number above 0, at most 1")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Float64 probabilities ``[B, K]`` from logits ``[B, K]``; what is left out has 0."""
        found = (logits.double() / self.temperature).softmax(-1)
        ordered, order = found.sort(dim=-1, descending=True, stable=True)
        # A code stays while those before it have less than top_p: the most likely one always does.
        kept = (ordered.cumsum(-1) - ordered < self.top_p) | (self.top_p == 1)
        if self.top_k is not None:
            kept[:, self.top_k :] = False
        found = found * torch.zeros_like(kept).scatter(-1, order, kept)
        return found / found.sum(-1, keepdim=True)


class KeyValueCache:
    """Keys and values of the positions that a transformer has seen, for each layer ``[B, heads, n, w/heads]``."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.length = 0

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new positions; all of the layer."""
        if layer in self.layers:
            before = self.layers[layer]
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        self.layers[layer] = key, value
        return key, value


class TransformerLayer(nn.Module):
    """Causal self-attention and a perceptron, each behind a layer norm and added to its input (GPT-2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm0, self.norm1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, number: int, cache: KeyValueCache | None) -> Tensor:
        """``[B, n, w]``; with a cache, ``x`` holds only positions that follow those in it."""
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(self.norm0(x)).chunk(3, -1)
        )
        if cache is not None:
            key, value = cache.extend(number, key, value)
        # A single new position may see all before it; several new ones are only given to an empty cache.
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm1(x))


class Transformer(nn.Module):
    """A decoder-only transformer over codes in raster order, behind a start token or the label's (the paper, 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, length = config.transformer_width, math.prod(config.code_grid)
        self.codes = nn.Embedding.from_pretrained(normal(config.codebook_size, width), freeze=False)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.start = nn.Parameter(torch.zeros(width))
        self.label = nn.Linear(config.c_dim, width, bias=False) if config.c_dim else None
        self.layers = nn.ModuleList(
            TransformerLayer(width, config.transformer_heads) for _ in range(config.transformer_layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, config.codebook_size, bias=False)
        if has_values():
            self._initialize()

    def _initialize(self) -> None:
        """As GPT-2 does: small normal weights, no biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.positions, std=0.02)
        nn.init.normal_(self.start, std=0.02)

    def begin(self, batch: int, c: Tensor | None) -> Tensor:
        """The embedding of the first token ``[B, 1, w]``."""
        start = self.start.expand(batch, 1, -1)
        return start if self.label is None or c is None else start + self.label(c)[:, None]

    def run(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits ``[B, n, K]`` of the code at each of n consecutive positions, from the embeddings before them."""
        begun = 0 if cache is None else cache.length
        x = x + self.positions[begun : begun + x.shape[1]]
        for number, layer in enumerate(self.layers):
            x = layer(x, number, cache)
        if cache is not None:
            cache.length += x.shape[1]
        logits: Tensor = self.head(self.norm(x))
        return logits

    def forward(self, codes: Tensor, c: Tensor | None = None) -> Tensor:
        """Logits ``[B, n, K]`` of n codes: those at i from the codes before i.

        Args:
            codes: int64 ``[B, n]``; the last is not read.
            c: labels ``[B, c_dim]``, or None.
        """
        return self.run(torch.cat([self.begin(len(codes), c), self.codes(codes[:, :-1])], 1))

    def draw(self, uniform: Tensor, c: Tensor | None, sampling: CodeSampling, *, cached: bool = True) -> Tensor:
        """Codes, int64 ``[B, n]``, each by the inverse of its cumulative distribution.

        Args:
            uniform: float64 ``[B, n]`` from 0 to 1; one number decides one code.
            c: labels ``[B, c_dim]``, or None.
            sampling: how probabilities come from logits.
            cached: False computes all positions anew for each code.
        """
        cache = KeyValueCache() if cached else None
        x, codes = self.begin(len(uniform), c), []
        for number in uniform.T:
            cumulative = sampling.probabilities(self.run(x, cache)[:, -1]).cumsum(-1)
            # Scaled, because the sum is not 1 to the last bit; a code without probability is never the answer.
            place = (number.clamp(max=1 - 2**-53) * cumulative[:, -1])[:, None]
            codes.append(torch.searchsorted(cumulative, place, right=True).clamp(max=cumulative.shape[1] - 1)[:, 0])
            following = self.codes(codes[-1])[:, None]
            x = following if cached else torch.cat([x, following], 1)
        return torch.stack(codes, 1)


# ----- The networks -----


class VQGAN(Generator):
    """What a snapshot of a VQGAN holds beside its discriminator; drawn from as from any generator.

    A latent is one standard normal number for each code. ``mapping`` turns it into codes by the inverse of their
    cumulative distribution, ``synthesis`` decodes them: so a seed gives the same image in every batch.

    Args:
        config: of the networks, with ``vqgan``.
    """

    transformer_steps: Tensor

    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.label_distribution: LabelDistribution | None = None
        self.truncation_psi = None
        self.code_sampling = CodeSampling()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = Quantizer(config.codebook_size, config.code_dim)
        self.transformer = Transformer(config)
        #: Steps of stage 2; as long as there are none, there is nothing to draw from.
        self.register_buffer("transformer_steps", torch.zeros([], dtype=torch.int64))

    @property
    def can_sample(self) -> bool:
        """Whether the transformer has been trained."""
        return bool(self.transformer_steps > 0)

    @property
    def can_reconstruct(self) -> bool:
        """Always."""
        return True

    @property
    def z_shape(self) -> tuple[int, int]:
        """One number for each code."""
        return math.prod(self.config.code_grid), 1

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.config.image_size

    def image_positions(self) -> Iterator[tuple[str, ImagePositions]]:
        """None: no component attends here."""
        return iter(())

    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        """None: no layer has noise."""
        return {}

    def keep_whole(self) -> None:
        """Nothing to do: no grid is larger than the image."""

    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """Codes ``[B, h·w]`` from standard normal latents ``[B, h·w, 1]``; a psi other than 1 has no meaning here."""
        if truncation_psi != 1:
            raise ConfigError(f"--truncation-psi {truncation_psi:g}: a VQGAN has no mean image; leave it out")
        return self.transformer.draw(torch.special.ndtr(z[..., 0].double()), c, self.code_sampling)

    def synthesis(
        self,
        ws: Tensor,
        noise_mode: NoiseMode | NoiseMaps = "random",
        component_mask: Tensor | None = None,
        on_attention: Callable[[AttentionMap], None] | None = None,
    ) -> Tensor:
        """Images ``[B, 3, H, W]`` of codes ``[B, h·w]``; there is no noise, component or map of any."""
        vectors = self.quantizer.look_up(ws.unflatten(1, self.config.code_grid))
        return crop_centre(self.decoder(vectors), self.config.image_size)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` in [-1, 1] through encoder, codebook and decoder."""
        decoded: Tensor = self.decoder(self.quantizer(self.encoder(images)).vectors)
        return decoded


class PatchDiscriminator(nn.Module):
    """A logit for each patch (Isola et al. 2017): strided convolutions with leaky ReLU.

    Normalised by groups of channels, not over the batch: micro-batches give the gradients of the whole.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = min(_PATCH_CHANNELS, config.channel_max)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for number in range(2 if config.resolution >= 64 else 1):
            ins, outs = width * 2**number, width * 2 ** (number + 1)
            layers += [nn.Conv2d(ins, outs, 4, stride=2, padding=1), normalization(outs), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(outs, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, 1, h, w]`` of images ``[B, 3, H, W]``."""
        logits: Tensor = self.layers(images)
        return logits
