"""The generator: mapping network, synthesis blocks with bipartite attention, output (``Generator``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ganformer_cli.config import ModelConfig
from ganformer_cli.models.attention import (
    ATTENTION_LAYERS,
    AttentionOptions,
    AttentionSizes,
    BipartiteLayer,
    DuplexAttention,
    KMeansAttention,
    SelfAttention,
    SimplexAttention,
)
from ganformer_cli.models.initialization import normal
from ganformer_cli.models.labels import LabelDistribution
from ganformer_cli.models.layers import RESIDUAL_GAIN, Conv2d, FullyConnected, ModulatedConv2d, upsample2d
from ganformer_cli.models.mapping import MappingNetwork
from ganformer_cli.models.merge import Merge
from ganformer_cli.models.positions import ImagePositions, initial_positions
from ganformer_cli.operators import bias_act, binomial_filter

NoiseMode = Literal["random", "const", "none"]
#: Given noise: the map ``[B or 1, 1, H, W]`` of each layer by its name, such as ``b16.conv0``. It gets gradients.
NoiseMaps = Mapping[str, Tensor]


class AttentionMap(NamedTuple):
    """Who attended to whom in one layer."""

    layer: str  # for example "b16.conv0"
    probabilities: Tensor  # [B, heads, m, h, w]; sums to 1 over the components (axis 2)


class Components(NamedTuple):
    """The components on their way through the synthesis layers."""

    y: Tensor | None  # [B, m, w]; None before the first attention layer
    source: Tensor | None  # the ws that y has taken in so far, [B, m, w]
    mask: Tensor | None  # [B, m], True = dropped
    positions: Tensor | None  # [m, w]
    assignments: Tensor | None  # probabilities of the attention layer before, [B, heads, m, h, w]
    on_attention: Callable[[AttentionMap], None] | None  # called with each layer's map as it is made


class SynthesisLayer(nn.Module):
    """Modulated convolution, attention, noise, bias and activation (model figure of the paper).

    Args:
        in_channels: channels of the input.
        resolution: the block's name; its grid gives height and width of the output.
        config: of the whole model.
        up: 1 or 2.
    """

    def __init__(self, in_channels: int, resolution: int, config: ModelConfig, *, up: int = 1) -> None:
        super().__init__()
        channels = config.channels(resolution)
        self.grid = config.grid(resolution)
        self.carries_components = config.attention == "duplex-equation"
        style_size = config.component_size if config.style else None
        self.conv = ModulatedConv2d(in_channels, channels, 3, style_size=style_size, up=up)
        self.attention = self.self_attention = self.image_positions = None
        if resolution in config.attention_resolutions:
            size = config.component_size
            # The first block has one layer, the others begin with the one that up-samples.
            begins = up == 2 or resolution == config.block_resolutions[0]
            is_first = begins and resolution == config.attention_resolutions[0]
            self.attention = attention_layer(channels, config, is_first=is_first)
            if config.g_ltnt2ltnt:
                sizes = AttentionSizes(size, size, size, size, config.components_num)
                self.self_attention = SimplexAttention(sizes, self_attention_options(config))
            if config.image_positions:
                self.image_positions = ImagePositions(self.grid, config)
        self.noise_strength = None
        if config.local_noise:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", normal(*self.grid))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.clamp: float | None = None  # of the result, times its gain
        self.noise_const: Tensor

    def forward(
        self,
        x: Tensor,
        ws: Tensor,
        components: Components,
        *,
        noise_mode: NoiseMode | NoiseMaps,
        gain: float,
        name: str,
    ) -> tuple[Tensor, Components]:
        """One layer.

        Args:
            x: ``[B, in, H, W]``.
            ws: this layer's latents ``[B, m+1, w]``.
            components: the components' state.
            noise_mode: ``random``, ``const``, ``none``, or given maps.
            gain: multiplies the output.
            name: of this layer in attention maps and given noise.

        Returns:
            ``[B, out, H·up, W·up]`` and the new state.
        """
        x = self.conv(x, ws[:, -1])
        if self.attention is not None:
            x, components = self.attend(x, ws[:, :-1], components, name)
        noise = None
        if self.noise_strength is not None and isinstance(noise_mode, Mapping):
            x = x + (noise_mode[name] * self.noise_strength).to(
                x.dtype
            )  # outside bias_act, where noise gets no gradient
        elif self.noise_strength is not None and noise_mode == "const":
            noise = self.noise_const[None, None]
        elif self.noise_strength is not None and noise_mode == "random":
            noise = torch.randn(x.shape[0], 1, *self.grid, dtype=x.dtype, device=x.device)
        strength = None if noise is None else self.noise_strength
        clamp = None if self.clamp is None else self.clamp * gain
        x = bias_act(x, self.bias, noise=noise, strength=strength, activation="lrelu", gain=gain, clamp=clamp)
        return x, components

    def attend(self, x: Tensor, source: Tensor, components: Components, name: str) -> tuple[Tensor, Components]:
        """Attention on the image ``x [B, d, H, W]``; ``source [B, m, w]`` are this layer's component latents."""
        assert self.attention is not None
        y = source
        if self.carries_components and components.y is not None and components.source is not None:
            # Y is carried on; what style mixing changed between the two layers is added.
            y = components.y + (source - components.source)
        if self.self_attention is not None:
            y = self.self_attention(y.transpose(1, 2), y, components.positions, components.positions).x.transpose(1, 2)
        positions = None if self.image_positions is None else self.image_positions()
        assignments = None
        if self.attention.options.iterative and components.assignments is not None:
            assignments = enlarge(components.assignments, self.grid).flatten(3)
        iterative = self.attention.options.iterative
        result = self.attention(
            x.flatten(2),
            y,
            positions,
            components.positions,
            components.mask,
            assignments,
            need_probabilities=iterative or components.on_attention is not None,
        )
        components = components._replace(y=result.y, source=source)
        if result.probabilities is not None:
            probabilities = result.probabilities.unflatten(3, self.grid)
            if components.on_attention is not None:
                components.on_attention(AttentionMap(name, probabilities))
            if iterative:
                components = components._replace(assignments=probabilities)
        return result.x.unflatten(2, self.grid), components


class ToRGB(nn.Module):
    """1×1 modulated convolution to colours, without demodulation."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        style_size = config.component_size if config.style else None
        self.conv = ModulatedConv2d(channels, 3, 1, style_size=style_size, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """``x [B, C, H, W]``, ``w [B, w] → [B, 3, H, W]``."""
        return bias_act(self.conv(x, w), self.bias)


class SynthesisBlock(nn.Module):
    """One resolution: conv0 (×2 up), conv1, and what the architecture adds.

    The first block starts from a trained constant, or from the global latent (``latent_stem``), and has conv1 only;
    the last one ends with ``conv_last`` and ``torgb``.
    """

    def __init__(self, resolution: int, config: ModelConfig) -> None:
        super().__init__()
        self.resolution = resolution
        self.dtype: torch.dtype | None = None  # of the features; None: that of the latents
        self.architecture = config.g_arch
        self.is_first = resolution == config.block_resolutions[0]
        self.is_last = resolution == config.resolution
        channels = config.channels(resolution)
        self.grid = config.grid(resolution)
        self.const = self.stem = self.conv0 = self.skip = self.conv_last = self.torgb = None
        if self.is_first and config.latent_stem:
            self.stem = FullyConnected(config.component_size, channels * self.grid[0] * self.grid[1])
        elif self.is_first:
            self.const = nn.Parameter(normal(channels, *self.grid))
        else:
            in_channels = config.channels(resolution // 2)
            self.conv0 = SynthesisLayer(in_channels, resolution, config, up=2)
            if self.architecture == "resnet":
                self.skip = Conv2d(in_channels, channels, 1, bias=False, up=2)
        self.conv1 = SynthesisLayer(channels, resolution, config)
        self.self_attention = SelfAttention(channels) if resolution == config.g_img2img else None
        if self.is_last and config.conv_last:
            style_size = config.component_size if config.style else None
            self.conv_last = ModulatedConv2d(channels, channels, 3, style_size=style_size)
        if self.is_last or self.architecture == "skip":
            self.torgb = ToRGB(channels, config)
        self.register_buffer("kernel", binomial_filter(), persistent=False)
        self.kernel: Tensor

    @property
    def num_convs(self) -> int:
        """Number of latents that the block's own convolutions use up."""
        return (self.conv0 is not None) + 1 + (self.conv_last is not None)

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        ws: Tensor,
        components: Components,
        *,
        noise_mode: NoiseMode | NoiseMaps,
    ) -> tuple[Tensor, Tensor | None, Components]:
        """One block.

        Args:
            x: features ``[B, C, H, W]`` of the block before, None for the first block.
            image: sum of the RGB outputs so far, or None.
            ws: latents ``[B, m+1, L', w]`` from this block's first layer on.
            components: the components' state.
            noise_mode: as in ``Generator``.

        Returns:
            Features, image and components; the image is of the latents' dtype.
        """
        prefix = f"b{self.resolution}"
        index = 0
        shortcut = None
        if self.const is not None:
            x = self.const.expand(ws.shape[0], -1, -1, -1)
        elif self.stem is not None:
            x = self.stem(ws[:, -1, 0]).unflatten(1, (-1, *self.grid))
        assert x is not None
        x = x.to(self.dtype or ws.dtype)
        if self.is_first:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.conv0 is not None:
            if self.skip is not None:
                shortcut = self.skip(x, gain=RESIDUAL_GAIN)
            x, components = self.conv0(
                x, ws[:, :, index], components, noise_mode=noise_mode, gain=1.0, name=f"{prefix}.conv0"
            )
            index += 1
        gain = 1.0 if shortcut is None else RESIDUAL_GAIN
        x, components = self.conv1(
            x, ws[:, :, index], components, noise_mode=noise_mode, gain=gain, name=f"{prefix}.conv1"
        )
        index += 1
        if shortcut is not None:
            x = x + shortcut
        if self.self_attention is not None:
            x = self.self_attention(x)
        if self.conv_last is not None:
            x = self.conv_last(x, ws[:, -1, index])
            index += 1
        if image is not None:
            image = upsample2d(image, self.kernel)
        if self.torgb is not None:
            colours = self.torgb(x, ws[:, -1, index]).to(ws.dtype)
            image = colours if image is None else image + colours
        return x, image, components


class SynthesisNetwork(nn.Module):
    """From latents to images."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.output_size = config.image_size
        for resolution in config.block_resolutions:
            self.add_module(f"b{resolution}", SynthesisBlock(resolution, config))
        #: In training: compute each block's features again in the backward pass, and do not keep them.
        self.checkpointing = False
        self.merge = None
        if config.kgan:
            self.merge_resolution = config.resolution if config.merge_layer == -1 else 2**config.merge_layer
            channels = config.channels(self.merge_resolution)
            self.merge = Merge(channels, config.components_num, config.merge_type)

    def blocks(self) -> list[SynthesisBlock]:
        """The blocks from coarse to fine."""
        blocks = [self.get_submodule(f"b{resolution}") for resolution in self.config.block_resolutions]
        return [block for block in blocks if isinstance(block, SynthesisBlock)]

    def forward(self, ws: Tensor, components: Components, *, noise_mode: NoiseMode | NoiseMaps) -> Tensor:
        """``ws [B, m+1, L, w] → [B, 3, H, W]``, cropped in the middle to the image size.

        k-GAN (``ws [B, m, L, w]``) makes an image from each latent and merges the m of them.
        """
        x = image = None
        index = 0
        given = noise_mode
        if self.merge is not None:
            if isinstance(given, Mapping):  # the m images share their image's noise
                each = (ws.shape[0], ws.shape[1], -1, -1, -1)
                noise_mode = {name: noise[:, None].expand(each).flatten(0, 1) for name, noise in given.items()}
            ws = ws.flatten(0, 1)[:, None]
        for block in self.blocks():
            rest = ws[:, :, index:]
            if self.checkpointing and torch.is_grad_enabled():
                x, image, components = checkpoint(
                    block, x, image, rest, components, noise_mode=noise_mode, use_reentrant=False
                )
            else:
                x, image, components = block(x, image, rest, components, noise_mode=noise_mode)
            index += block.num_convs
            if self.merge is not None and block.resolution == self.merge_resolution:
                x, image, weights = self.merge(x, image)
                # From here on there is one image, styled with the mean of the latents.
                ws = ws.unflatten(0, (-1, self.config.components_num)).mean(1)
                noise_mode = given
                if weights is not None and components.on_attention is not None:
                    components.on_attention(AttentionMap("merge", weights[:, None]))
        assert image is not None
        if self.config.tanh:
            image = image.tanh()
        return crop_centre(image, self.output_size)


class Generator(nn.Module):
    """GANsformer generator (paper, section 3.3).

    Args:
        config: everything about the networks.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        #: Of the data that it was trained on; None where nobody has kept it.
        self.label_distribution: LabelDistribution | None = None
        #: That its file says to sample with; None where it says none.
        self.truncation_psi: float | None = None
        self.pos = None
        if config.reads_component_positions:
            self.pos = nn.Parameter(
                initial_positions(config.components_num, config.component_size, init=config.pos_init)
            )
        attends = config.has_attention and config.mapping_ltnt2ltnt
        self.mapping_network = MappingNetwork(
            config.component_size,
            config.components_num if config.has_attention else 0,
            c_dim=config.c_dim,
            depth=config.mapping_num_layers,
            hidden=config.mapping_width,
            resnet=config.mapping_resnet,
            shared=config.mapping_shared,
            normalize_each=config.latent_norm == "each",
            self_attention=self_attention_options(config, gated=config.mapping_ltnt_gate) if attends else None,
            use_global=config.reads_global_latent,
            mean_per_component=config.w_avg_per_component,
        )
        self.synthesis_network = SynthesisNetwork(config)

    @property
    def z_shape(self) -> tuple[int, int]:
        """Shape of one image's latents, ``(m + 1, w)``; of k-GAN ``(m, w)``."""
        return self.config.z_shape

    @property
    def can_sample(self) -> bool:
        """Whether it has learned to draw: a VQGAN in its first stage has not."""
        return True

    @property
    def can_reconstruct(self) -> bool:
        """Whether it has an encoder, so that ``reconstruct`` works: a VQGAN has."""
        return False

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` in [-1, 1] through encoder and decoder, where ``can_reconstruct``."""
        raise NotImplementedError

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the images that ``synthesis`` returns."""
        return self.synthesis_network.output_size

    def image_positions(self) -> Iterator[tuple[str, ImagePositions]]:
        """The image positions of each attention layer, under its name (``b16.conv0``)."""
        for block in self.synthesis_network.blocks():
            for name, layer in (("conv0", block.conv0), ("conv1", block.conv1)):
                if layer is not None and layer.image_positions is not None:
                    yield f"b{block.resolution}.{name}", layer.image_positions

    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        """Height and width of the noise of each layer that has any, by its name (``b16.conv0``)."""
        return {
            f"b{block.resolution}.{name}": layer.grid
            for block in self.synthesis_network.blocks()
            for name, layer in (("conv0", block.conv0), ("conv1", block.conv1))
            if layer is not None and layer.noise_strength is not None
        }

    @property
    def half_dtypes(self) -> list[str]:
        """The dtypes of the blocks that compute in half precision: ``["bfloat16"]``; empty: float32 throughout."""
        blocks = (module for module in self.modules() if isinstance(module, SynthesisBlock))
        return sorted({str(block.dtype).removeprefix("torch.") for block in blocks if block.dtype is not None})

    def keep_whole(self) -> None:
        """From now on return images before the crop, where the grid is larger than the image."""
        self.synthesis_network.output_size = self.config.grid(self.config.resolution)

    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """Latents for every layer.

        Args:
            z: float32 ``[B, m+1, w]``, standard normal.
            c: float32 ``[B, c_dim]``, or None for a model without labels.
            truncation_psi: 1 leaves the latents unchanged, 0 gives the mean image.

        Returns:
            ``[B, m+1, L, w]``.
        """
        if self.config.kgan:
            # Each latent is mapped on its own, as if it were the only one of an image.
            components = self.config.components_num
            c = None if c is None else c.repeat_interleave(components, 0)
            w = self.mapping_network(z.flatten(0, 1)[:, None], c).unflatten(0, (-1, components))[:, :, 0]
        else:
            w = self.mapping_network(z, c, self.pos)
        ws = w[:, :, None].expand(-1, -1, self.config.num_ws, -1)
        if truncation_psi == 1:
            return ws
        truncated = self.mapping_network.truncate(w, truncation_psi)[:, :, None].expand_as(ws)
        cutoff = self.config.truncation_cutoff
        return truncated if cutoff is None else torch.cat([truncated[:, :, :cutoff], ws[:, :, cutoff:]], dim=2)

    def synthesis(
        self,
        ws: Tensor,
        noise_mode: NoiseMode | NoiseMaps = "random",
        component_mask: Tensor | None = None,
        on_attention: Callable[[AttentionMap], None] | None = None,
    ) -> Tensor:
        """Images from latents.

        Args:
            ws: ``[B, m+1, L, w]``.
            noise_mode: ``random`` (a new map each call), ``const`` (the stored map of each layer), ``none``, or maps
                for the layers of ``noise_shapes``.
            component_mask: bool ``[B, m]``, True where a component is dropped, or None.
            on_attention: called with each attention layer's map as soon as it is computed; none is kept.

        Returns:
            float32 ``[B, 3, H, W]``, nominally in [-1, 1].
        """
        components = Components(
            y=None,
            source=None,
            mask=component_mask,
            positions=self.pos,
            assignments=None,
            on_attention=on_attention,
        )
        image: Tensor = self.synthesis_network(ws, components, noise_mode=noise_mode)
        return image

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        noise_mode: NoiseMode = "random",
        on_attention: Callable[[AttentionMap], None] | None = None,
    ) -> Tensor:
        """``mapping``, then ``synthesis``: see there."""
        return self.synthesis(self.mapping(z, c, truncation_psi), noise_mode, on_attention=on_attention)


def self_attention_options(config: ModelConfig, *, gated: bool = False) -> AttentionOptions:
    """Options of the components' attention to each other: both sides have the components' positions."""
    return AttentionOptions.from_config(
        config,
        integration="add",
        normalization="none",
        image_positions=config.use_pos,
        image_gate=gated,
        latent_gate=gated,
    )


def attention_layer(channels: int, config: ModelConfig, *, is_first: bool) -> BipartiteLayer:
    """A bipartite layer of the generator; ``is_first`` of those that attend."""
    size, options = config.component_size, AttentionOptions.from_config(config)
    sizes = AttentionSizes(channels, size, config.position_size, size, config.components_num)
    if config.attention == "kmeans":
        return KMeansAttention(sizes, options, takes_over=not is_first)
    layer = ATTENTION_LAYERS[config.attention](sizes, options)
    if isinstance(layer, DuplexAttention):
        # At first all components of an image gather nearly the same. Added at full weight layer after layer, it would
        # soon be all that they hold, and components that are alike cannot divide an image among them.
        nn.init.zeros_(layer.gather_out.weight)
    return layer


def enlarge(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[B, heads, m, h, w]`` at a grid as large or twice as large, nearest."""
    if maps.shape[3:] == grid:
        return maps
    return F.interpolate(maps.flatten(1, 2), size=grid, mode="nearest").unflatten(1, tuple(maps.shape[1:3]))


def crop_centre(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle ``size`` = (height, width) of ``[B, C, H, W]``."""
    top, left = (x.shape[2] - size[0]) // 2, (x.shape[3] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]]
