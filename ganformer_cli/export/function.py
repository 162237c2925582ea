"""The averaged generator as one function of tensors, in plain torch: what is exported, and what files are checked with.

Inputs, in this order, each where it has a meaning:

- ``z`` float32 ``[batch, m+1, w]``, standard normal; or ``w`` float32 ``[batch, m+1, L, w]``; k-GAN has m, not m + 1
- ``psi`` float32 ``[]``, the truncation; not with ``w``, which is taken as it is
- ``class_index`` int64 ``[batch]``, or ``label`` float32 ``[batch, c_dim]``, of a model with labels; not with ``w``
- ``noise`` float32 ``[batch, P]``, standard normal: the maps of all layers of ``noise_shapes``, one after the other

Outputs: ``image`` float32 ``[batch, 3, H, W]``, nominally in [-1, 1], and with maps ``maps.LAYER`` float32
``[batch, heads, m, h, w]``, which sum to 1 over the components.

Of a VQGAN only the decoder is exported: input ``codes`` int64 ``[batch, h·w]``, output ``image``.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganformer_cli.errors import ConfigError
from ganformer_cli.models import AttentionMap, Generator
from ganformer_cli.models.attention import SelfAttention
from ganformer_cli.models.layers import ModulatedConv2d
from ganformer_cli.models.vqgan import VQGAN
from ganformer_cli.operators import native
from ganformer_cli.sampling import Space, labels_from_seeds, latents_from_seeds

#: ``const``: the model's stored noise; ``none``; ``input``: an input.
ExportedNoise = Literal["const", "none", "input"]
_NOISE_SEED = 17


@dataclass(frozen=True)
class FunctionSettings:
    """What goes in and comes out."""

    space: Space = "z"
    noise: ExportedNoise = "const"
    maps: bool = False  # whether the attention maps are outputs

    def check(self, generator: Generator) -> None:
        """Raise ConfigError unless ``generator`` has all of this."""
        if generator.config.vqgan:
            raise ConfigError("a VQGAN is not a function of a latent; export its decoder, a DecoderFunction")
        if self.noise == "input" and not generator.noise_shapes():
            raise ConfigError("--noise input: this model was trained without noise; leave it out")
        if self.maps and not generator.config.has_maps:
            raise ConfigError("--maps: no layer of this model attends, so it has no maps; leave it out")


class ExportedFunction(nn.Module):
    """A function of tensors by name, see the module; it is to be called within :func:`exportable`."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def example(self, seeds: range, psi: float) -> dict[str, Tensor]:
        """The inputs for the images of ``seeds``, by their names."""
        raise NotImplementedError

    def described(self) -> dict[str, list[dict[str, Any]]]:
        """Names, dtypes and shapes of inputs and outputs, for people and programs; "batch" may be any number."""
        inputs = self.example(range(2), 1.0)
        with exportable(self.generator):
            outputs = self(**inputs)
        return {
            kind: [
                {
                    "name": name,
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": ["batch", *tensor.shape[1:]] if tensor.ndim else [],
                }
                for name, tensor in tensors.items()
            ]
            for kind, tensors in (("inputs", inputs), ("outputs", outputs))
        }


class DecoderFunction(ExportedFunction):
    """The decoder of a VQGAN of either stage.

    Args:
        model: the VQGAN; its weights are copied, without those of the encoder and the transformer.
    """

    generator: VQGAN

    def __init__(self, model: VQGAN) -> None:
        decoder = copy.deepcopy(model)
        # torch.export also stores weights that the graph does not use.
        del decoder.encoder, decoder.transformer, decoder.quantizer.counts, decoder.quantizer.totals
        super().__init__(decoder)

    def forward(self, codes: Tensor) -> dict[str, Tensor]:
        """See the module."""
        return {"image": self.generator.synthesis(codes)}

    def example(self, seeds: range, psi: float) -> dict[str, Tensor]:
        """Uniformly random codes, for every seed its own; a VQGAN has no truncation, so ``psi`` is not read."""
        config = self.generator.config
        count = math.prod(config.code_grid)
        rows = [
            torch.randint(config.codebook_size, [count], generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        return {"codes": torch.stack(rows)}


class GeneratorFunction(ExportedFunction):
    """A generator of any other kind."""

    def __init__(self, generator: Generator, settings: FunctionSettings) -> None:
        super().__init__(generator)
        settings.check(generator)
        self.settings = settings
        kept = generator.label_distribution
        self.takes_class = generator.config.c_dim > 0 and kept is not None and kept.kind == "classes"

    def forward(
        self,
        z: Tensor | None = None,
        w: Tensor | None = None,
        psi: Tensor | None = None,
        class_index: Tensor | None = None,
        label: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See the module."""
        generator = self.generator
        if w is None:
            assert z is not None
            assert psi is not None
            if class_index is not None:
                label = F.one_hot(class_index, generator.config.c_dim).to(z.dtype)
            w = self.truncated(generator.mapping(z, label), psi)
        found: dict[str, Tensor] = {}

        def keep(made: AttentionMap) -> None:
            found[f"maps.{made.layer}"] = made.probabilities

        given = self.split_noise(noise) if noise is not None else self.settings.noise
        image = generator.synthesis(w, given, on_attention=keep if self.settings.maps else None)  # type: ignore[arg-type]
        return {"image": image, **found}

    def truncated(self, w: Tensor, psi: Tensor) -> Tensor:
        """``w [B, m+1, L, w]`` truncated, in the layers before the model's cutoff."""
        short = self.generator.mapping_network.truncate(w[:, :, 0], psi)[:, :, None].expand_as(w)
        cutoff = self.generator.config.truncation_cutoff
        return short if cutoff is None else torch.cat([short[:, :, :cutoff], w[:, :, cutoff:]], dim=2)

    def split_noise(self, noise: Tensor) -> dict[str, Tensor]:
        """``[B, P]`` to each layer's ``[B, 1, H, W]``."""
        shapes = self.generator.noise_shapes()
        parts = noise.split([math.prod(shape) for shape in shapes.values()], dim=1)
        return {name: part.unflatten(1, (1, *shape)) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    @torch.no_grad()
    def example(self, seeds: range, psi: float) -> dict[str, Tensor]:
        """The inputs for the images of ``seeds``, by their names."""
        generator, inputs = self.generator, dict[str, Tensor]()
        z = latents_from_seeds(generator, seeds)
        label = labels_from_seeds(generator, seeds)
        if self.settings.space == "w":
            inputs["w"] = self.truncated(generator.mapping(z, label), torch.tensor(psi)).contiguous()
        else:
            inputs |= {"z": z, "psi": torch.tensor(psi)}
            if self.takes_class:
                inputs["class_index"] = label.argmax(1)
            elif generator.config.c_dim:
                inputs["label"] = label
        if self.settings.noise == "input":
            positions = sum(math.prod(shape) for shape in generator.noise_shapes().values())
            rows = [
                torch.randn(positions, generator=torch.Generator().manual_seed(_NOISE_SEED + seed)) for seed in seeds
            ]
            inputs["noise"] = torch.stack(rows)
        return inputs


@contextlib.contextmanager
def exportable(generator: Generator) -> Iterator[None]:
    """Within the block the generator computes with plain torch, whole batches at a time, and without gradients."""
    layers = [layer for layer in generator.modules() if isinstance(layer, ModulatedConv2d)]
    dense = [layer for layer in generator.modules() if isinstance(layer, SelfAttention)]
    was_training = generator.training
    generator.eval()
    for layer in layers:
        layer.by_sample = False
    for attention in dense:
        attention.fused = False
    try:
        with native.use("reference"), torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.by_sample = True
        for attention in dense:
            attention.fused = True
        generator.train(was_training)
