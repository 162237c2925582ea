"""The two players' objectives (GAN: Goodfellow et al. 2014; R1: Mescheder et al. 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.models import Generator


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss ``mean softplus(−D(G(z)))``, a scalar; ``fake_logits [B, 1]``."""
    return F.softplus(-fake_logits).mean()


def fake_loss(fake_logits: Tensor) -> Tensor:
    """The fakes' half of the discriminator's loss, ``mean softplus(D(G(z)))``, a scalar."""
    return F.softplus(fake_logits).mean()


def real_loss(real_logits: Tensor) -> Tensor:
    """The real pictures' half of the discriminator's loss, ``mean softplus(−D(x))``, a scalar."""
    return F.softplus(-real_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """Squared norm of the logits' gradient by the real pictures.

    Args:
        real_logits: ``[B, 1]``, computed from ``real``.
        real: ``[B, 3, H, W]`` that requires a gradient.

    Returns:
        ``[B]``, differentiable by the discriminator's parameters.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def mixed_latents(generator: Generator, z: Tensor, c: Tensor | None, mixing: float) -> Tensor:
    """Latents for each layer, with probability ``mixing`` from a second ``z`` behind a random layer (StyleGAN, 3.1).

    The mapping network's running mean of w takes this batch in.

    Args:
        generator: whose mapping network is used.
        z: ``[B, m+1, w]``.
        c: labels ``[B, c_dim]`` or None.
        mixing: probability, drawn once a batch.

    Returns:
        ``[B, m+1, L, w]``.
    """
    mix = torch.rand([]).item() < mixing
    if mix:
        # Both in one pass: the mapping's many small layers cost their calls, not their arithmetic.
        z = torch.cat([z, torch.randn_like(z)])
        c = None if c is None else torch.cat([c, c])
    ws = generator.mapping(z, c)
    generator.mapping_network.update_mean(ws[:, :, 0])
    if mix:
        first, second = ws.chunk(2)
        cutoff = int(torch.randint(1, ws.shape[2], []))
        ws = torch.cat([first[:, :, :cutoff], second[:, :, cutoff:]], dim=2)
    return ws


def random_component_mask(batch: int, components: int, rate: float, device: torch.device) -> Tensor | None:
    """Bool ``[B, m]``, True with probability ``rate``; None where nothing is ever dropped."""
    if rate == 0 or components == 0:
        return None
    return torch.rand(batch, components, device=device) < rate
