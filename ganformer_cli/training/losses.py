"""Losses of generator and discriminator, and their regularisation.

Logistic: Goodfellow et al. 2014; hinge: Lim & Ye 2017; wgan: Arjovsky et al. 2017, with R1 in the place of its
clipping; R1: Mescheder et al. 2018; relativistic: Huang et al. 2024 (R3GAN), section 2; path length: Karras et al.
2020, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ganformer_cli.models import AttentionMap, Generator
from ganformer_cli.models.generator import crop_centre
from ganformer_cli.sampling import evaluating

#: Decay of the running mean of path lengths.
PL_DECAY = 0.01
#: Path lengths are measured on one in this many images of a batch.
PL_BATCH_SHRINK = 2


def generator_loss(fake_logits: Tensor, kind: str = "logistic_ns") -> Tensor:
    """What the generator minimises, a scalar.

    Args:
        fake_logits: ``D(G(z)) [B, 1]``.
        kind: ``logistic_ns`` (non-saturating) ``mean softplus(−D)``, ``logistic`` ``−mean softplus(D)``; ``hinge`` and
            ``wgan`` both ``−mean D``.
    """
    if kind == "logistic_ns":
        return F.softplus(-fake_logits).mean()
    if kind == "logistic":
        return -F.softplus(fake_logits).mean()
    return -fake_logits.mean()


def fake_loss(fake_logits: Tensor, kind: str = "logistic") -> Tensor:
    """The fakes' half of the discriminator's loss, a scalar.

    Args:
        fake_logits: ``D(G(z)) [B, 1]``.
        kind: ``logistic`` ``mean softplus(D)``, ``hinge`` ``mean max(0, 1 + D)``, ``wgan`` ``mean D``.
    """
    if kind == "logistic":
        return F.softplus(fake_logits).mean()
    return (F.relu(1 + fake_logits) if kind == "hinge" else fake_logits).mean()


def real_loss(real_logits: Tensor, kind: str = "logistic") -> Tensor:
    """The real images' half of the discriminator's loss, a scalar: ``fake_loss`` of ``−D(x)``."""
    return fake_loss(-real_logits, kind)


def relativistic_loss(better: Tensor, worse: Tensor) -> Tensor:
    """``mean softplus(worse − better)``, a scalar: small where each image is judged better than its partner.

    The discriminator minimises it with the real images as the better ones, the generator with the fakes. Only
    differences of logits count.

    Args:
        better: logits ``[B, 1]``.
        worse: logits ``[B, 1]`` of their partners.
    """
    return F.softplus(worse - better).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Squared norm of the gradient of the logits by the images: R1 of real ones, R2 of fakes.

    Args:
        logits: ``[B, 1]``, computed from ``images``.
        images: ``[B, 3, H, W]`` that require a gradient.

    Returns:
        ``[B]``, differentiable by the discriminator's parameters.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def path_lengths(images: Tensor, ws: Tensor) -> Tensor:
    """How far images move when their latents do, ``‖Jᵀ y‖`` for a random image ``y ~ N(0, 1)/√(H·W)``.

    StyleGAN2 has one latent for each layer: the gradient by it, a vector of w numbers, has a length, and the squares of
    these lengths are averaged over the layers. With components there are m + 1 latents for each layer. Each is a vector
    in the same space, so squares are summed over its w numbers and averaged over latents and layers alike: the length
    stays that of one latent's typical push, comparable over any number of components, and the same as StyleGAN2's where
    there is only one. (Summing over another axis would mix numbers of different latents.)

    Args:
        images: ``[B, 3, H, W]``, computed from ``ws``.
        ws: ``[B, m+1, L, w]``.

    Returns:
        ``[B]``, differentiable by the generator's parameters.
    """
    # Not randn_like: the numbers would depend on the images' memory format.
    noise = torch.randn(images.shape, dtype=images.dtype, device=images.device)
    noise = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
    return gradient.square().sum(3).mean((1, 2)).sqrt()


def path_length_penalty(generator: Generator, ws: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Squared deviation of path lengths from their running mean (StyleGAN2, equation 4).

    Args:
        generator: whose synthesis network is measured.
        ws: ``[B, m+1, L, w]``.
        mean: scalar, the running mean of path lengths before this batch.

    Returns:
        The penalty of each image ``[B]``, and the new running mean.
    """
    # Only the plain form of dense self-attention has a second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        lengths = path_lengths(generator.synthesis(ws), ws)
    mean = mean.lerp(lengths.detach().mean(), PL_DECAY)
    return (lengths - mean).square(), mean


def region_terms(generator: Generator, ws: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """How much of a component's change lies where the image attends to it, and how much these regions follow the image.

    *Locality.* In each image one component, drawn at random, is exchanged for that of another latent. With the change's
    share within the component's region, before or after, and the region's share of the image (what an even change would
    give), it is (inside − expected) / (1 − expected): 0 is chance, 1 is a change within the region alone. The region is
    soft, the mean of all layers' maps, so that layers have to agree.

    *Divergence of maps.* The Jensen-Shannon divergence in bits, at each position, of the attention to the components in
    an image and in the next one, on average over positions and layers: 0 if regions are the same places in all images,
    1 if no position attends to the same component in both.

    Args:
        generator: with attention; dropout is off, and the noise is the same before and after.
        ws: ``[B, m+1, L, w]``, of at least two images.
        other: likewise, what components are taken from.

    Returns:
        locality ``[B]`` and divergence ``[B]``, differentiable by the generator's parameters.
    """
    batch = len(ws)
    chosen = torch.randint(generator.config.components_num, (batch,), device=ws.device)
    taken = (torch.arange(ws.shape[1], device=ws.device) == chosen[:, None])[:, :, None, None]
    rows, columns = torch.arange(2 * batch, device=ws.device), chosen.repeat(2)
    grid = generator.config.grid(generator.config.resolution)
    maps: list[Tensor] = []
    divergences: list[Tensor] = []

    def keep(found: AttentionMap) -> None:
        shares = found.probabilities.mean(1)
        part = shares[rows, columns][:, None]
        maps.append(crop_centre(F.interpolate(part, grid, mode="bilinear"), generator.output_size))
        here = shares[:batch].float()
        own = entropy(here)
        divergences.append((entropy((here + here.roll(1, 0)) / 2) - (own + own.roll(1, 0)) / 2).mean((1, 2)))

    with evaluating(generator):
        images = generator.synthesis(torch.cat([ws, torch.where(taken, other, ws)]), "const", on_attention=keep)
    region = torch.maximum(*torch.stack(maps).mean(0).chunk(2)).flatten(1)
    before, after = images.chunk(2)
    # The square root has no derivative at 0.
    change = ((after - before).square().mean(1) + 1e-8).sqrt().flatten(1)
    inside, expected = (change * region).sum(1) / change.sum(1), region.mean(1)
    # A component may own the whole image.
    return (inside - expected) / (1 - expected + 1e-3), torch.stack(divergences).mean(0)


def entropy(shares: Tensor) -> Tensor:
    """Entropy in bits of ``shares [B, m, H, W]``, which sum to one over m: ``[B, H, W]``."""
    return -(shares * (shares + 1e-8).log2()).sum(1)


def mixed_latents(
    generator: Generator, z: Tensor, c: Tensor | None, mixing: float, component_mixing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Latents for each layer, at times partly those of a second ``z``.

    Style mixing takes them from the second behind a random layer (StyleGAN, 3.1), component mixing from a random
    component on.

    Args:
        generator: whose mapping network is used.
        z: ``[B, m+1, w]``.
        c: labels ``[B, c_dim]`` or None.
        mixing: probability of mixing across layers, drawn once a batch.
        component_mixing: probability of mixing across components, drawn once a batch.

    Returns:
        The latents ``[B, m+1, L, w]``, and the mean of w for the mapping network's running one.
    """
    mix = torch.rand([]).item() < mixing
    mix_components = component_mixing > 0 and torch.rand([]).item() < component_mixing
    if mix or mix_components:
        # Both in one pass: the cost of the mapping's small layers is in calling them, not in their arithmetic.
        z = torch.cat([z, torch.randn_like(z)])
        c = None if c is None else torch.cat([c, c])
    ws = generator.mapping(z, c)
    mean = generator.mapping_network.mean_of(ws[:, :, 0])
    if mix or mix_components:
        ws, second = ws.chunk(2)
        if mix:
            cutoff = int(torch.randint(1, ws.shape[2], []))
            ws = torch.cat([ws[:, :, :cutoff], second[:, :, cutoff:]], dim=2)
        if mix_components:
            components = generator.config.components_num
            cutoff = int(torch.randint(1, components, []))
            ws = torch.cat([ws[:, :cutoff], second[:, cutoff:components], ws[:, components:]], dim=1)
    return ws, mean


def random_component_mask(batch: int, components: int, rate: float, device: torch.device) -> Tensor | None:
    """Bool ``[B, m]``, True with probability ``rate``; None where nothing is ever dropped."""
    if rate == 0 or components == 0:
        return None
    return torch.rand(batch, components, device=device) < rate
