"""``ModelConfig``: what both networks are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ganformer_cli.config.base import Bounds, Description, JsonConfig, Section, option_name, require, setting

Attention = Literal["none", "simplex", "duplex", "kmeans", "duplex-equation"]
Architecture = Literal["resnet", "skip", "orig"]
Integration = Literal["mul", "add", "both"]
Normalization = Literal["layer", "instance", "none"]
PositionType = Literal["sinus", "linear", "trainable", "trainable2d"]
PositionInit = Literal["uniform", "normal"]
LatentNorm = Literal["together", "each"]
MergeType = Literal["softmax", "sum", "max", "leaves"]

#: Other names of a kind of attention. The authors' duplex models have this layer, and their code calls it kmeans.
ATTENTION_NAMES: dict[str, Attention] = {"duplex": "kmeans"}
#: Longer side of the first grid.
START_SIZE = 4
MAX_RESOLUTION = 4096
#: Longer side of the built-in scenes where none is asked for.
SCENES_RESOLUTION_CPU = 32
SCENES_RESOLUTION_GPU = 128
#: A file that asks for more than these is damaged or hostile.
MAX_CHANNELS = 8192
MAX_LATENT = 65536
#: Classes, or numbers of a label.
MAX_LABELS = MAX_LATENT
MAX_LAYERS = 64
#: Codes of an image of a VQGAN: every code attends to all before it.
MAX_CODES = 128 * 128
_ATTENTION = Section("Attention")
_DATA = Section("Data")
_MODEL = Section("Model")
_VQGAN = Section("VQGAN")
_LEVELS = Bounds(0, 64)  # of a resolution's power of two


def image_size(resolution: int, ratio: float) -> tuple[int, int]:
    """Height and width in pixels of images with the longer side ``resolution`` and height/width ``ratio``."""
    if ratio <= 1:
        return max(1, round(resolution * ratio)), resolution
    return resolution, max(1, round(resolution / ratio))


def start_grid(ratio: float) -> tuple[int, int]:
    """Height and width of the first grid: 4 on the longer side, on the shorter one rounded up."""
    shorter = math.ceil(START_SIZE * min(ratio, 1 / ratio) - 1e-9)
    return (shorter, START_SIZE) if ratio <= 1 else (START_SIZE, shorter)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(JsonConfig):
    """What both networks are. Fields with a help text are options of ``ganformer train`` with the same names."""

    resolution: int = _DATA(
        256,
        "Longer side of the images in pixels.",
        usual=True,
        default_text=f"the data set's; of scenes {SCENES_RESOLUTION_CPU} on a CPU, {SCENES_RESOLUTION_GPU} on a GPU",
    )
    ratio: float = _DATA(
        1.0,
        "Height / width of the images.",
        usual=True,
        bounds=Bounds(1 / 8, 8),
        default_text="the data set's; of scenes 1",
    )
    # Classes, or numbers of a label vector; 0: no labels.
    c_dim: int = setting(0, Description(bounds=Bounds(0, MAX_LABELS)))
    # Another name of kmeans is duplex, which becomes kmeans here; files never say duplex, see from_dict.
    attention: Attention = _MODEL(
        "kmeans",
        "Attention of the components and the image; duplex and kmeans: the layer of the authors' duplex models; "
        "duplex-equation: the paper's equation.",
        usual=True,
        default_text="duplex",
    )
    # m; 0 without attention.
    components_num: int = _MODEL(16, "Number of latent components.", usual=True)
    # Without attention: of the one latent.
    latent_size: int = _MODEL(512, "Size of all components together.", usual=True, bounds=Bounds(1, MAX_LATENT))
    channel_base: int = _MODEL(
        32768,
        "Channels at resolution r: the smaller of base / r and --channel-max.",
        bounds=Bounds(1, MAX_CHANNELS * MAX_RESOLUTION),
    )
    channel_max: int = _MODEL(512, "Most channels of a layer.", bounds=Bounds(1, MAX_CHANNELS))
    # Mapping network.
    mapping_num_layers: int = _MODEL(8, "Layers of the mapping network.", bounds=Bounds(0, MAX_LAYERS))
    mapping_dim: int | None = _MODEL(
        None, "Hidden width of the mapping network.", bounds=Bounds(1, MAX_LATENT), default_text="that of a component"
    )
    mapping_resnet: bool = _MODEL(True, "Residual connections in the mapping network.")
    mapping_shared: bool = _MODEL(False, "Map the global latent by the components' mapping network.")
    mapping_ltnt2ltnt: bool = _MODEL(True, "Self-attention of the components in the mapping network.")
    # False: one mean for all latents, as in the released networks.
    w_avg_per_component: bool = _MODEL(True, "Truncate each component towards a mean of its own.")
    # Generator.
    g_arch: Architecture = _MODEL("resnet", "Architecture of the generator.")
    style: bool = _MODEL(True, "Modulate the convolutions by the global latent.")
    latent_stem: bool = _MODEL(
        False, "Compute the first grid from the global latent instead of learning a constant one."
    )
    local_noise: bool = _MODEL(True, "Add noise to each pixel of the feature maps.")
    tanh: bool = _MODEL(False, "Apply tanh to the generator's output.")
    # Attention of the generator.
    num_heads: int = _ATTENTION(1, "Attention heads.", bounds=Bounds(1, MAX_CHANNELS))
    integration: Integration = _ATTENTION(
        "both",
        "How attention changes the image: scale it, add to it, or both.",
        default_text="mul with duplex, else both",
    )
    normalize: Normalization = _ATTENTION("layer", "Normalisation of the image features before attention.")
    g_start_res: int = _ATTENTION(0, "First resolution with attention, 2^N.", bounds=_LEVELS)
    g_end_res: int = _ATTENTION(8, "Attention stays below resolution 2^N.", bounds=_LEVELS)
    kmeans_iters: int = _ATTENTION(1, "k-means iterations of a layer.", bounds=Bounds(1, 64))
    # Instead of from trained centroids.
    iterative: bool = _ATTENTION(False, "Start k-means from the assignments of the previous attention layer.")
    g_ltnt2ltnt: bool = _ATTENTION(False, "Self-attention of the components before they attend to the image.")
    img_gate: bool = _ATTENTION(False, "Gate what each image position receives.")
    ltnt_gate: bool = _ATTENTION(False, "Gate what each component sends.")
    attention_dropout: float = _ATTENTION(0.12, "Dropout rate of the attention.", bounds=Bounds(0, 1, below=True))
    use_pos: bool = _ATTENTION(True, "Give the components positions; the image always has them.")
    pos_type: PositionType = _ATTENTION("sinus", "Encoding of image positions.")
    pos_dim: int | None = _ATTENTION(
        None, "Width of the encoding of an image position.", default_text="that of a component"
    )
    pos_directions_num: int = _ATTENTION(2, "Directions of sinus and linear positions.", bounds=Bounds(1, 64))
    # The components' positions always, the image's where pos_type trains them.
    pos_init: PositionInit = _ATTENTION("uniform", "Initial distribution of trained positions.")
    # What the paper's baselines have instead of bipartite attention.
    g_img2img: int = _MODEL(0, "Resolution of dense self-attention of the image (SAGAN); 0: no self-attention.")
    kgan: bool = False  # an image from each component, merged into one (k-GAN)
    merge_type: MergeType = _MODEL("softmax", "How k-GAN merges the images of its components.")
    merge_layer: int = _MODEL(-1, "k-GAN merges features at resolution 2^N; -1: the final images.")
    # VQGAN: images as grids of codes, and a transformer that draws them.
    vqgan: bool = False
    codebook_size: int = _VQGAN(1024, "Codes.", usual=True, bounds=Bounds(2, 65536), default_text="1024; on a CPU 256")
    code_dim: int = _VQGAN(
        256, "Numbers of a code's vector.", bounds=Bounds(1, MAX_CHANNELS), default_text="256; on a CPU 64"
    )
    code_stride: int = _VQGAN(
        16, "Pixels between two codes, a power of two.", bounds=Bounds(2, 256), default_text="16, or for 8 x 8 codes"
    )
    transformer_layers: int = _VQGAN(
        24, "Layers of the transformer.", bounds=Bounds(1, MAX_LAYERS), default_text="24; on a CPU 4"
    )
    transformer_width: int = _VQGAN(
        1024, "Width of the transformer.", bounds=Bounds(1, MAX_CHANNELS), default_text="1024; on a CPU 128"
    )
    transformer_heads: int = _VQGAN(
        16, "Attention heads of the transformer.", bounds=Bounds(1, 256), default_text="16; on a CPU 4"
    )
    # Discriminator.
    d_arch: Architecture = _MODEL("resnet", "Architecture of the discriminator.")
    mbstd_group_size: int = _MODEL(4, "Group size of the minibatch standard deviation.", bounds=Bounds(1, 1024))
    d_transformer: bool = _ATTENTION(
        False, "Aggregators in the discriminator: trained latents that attend to the image."
    )
    d_ltnt2img: bool = _ATTENTION(False, "Let the image attend to the aggregators, too.")
    d_start_res: int = _ATTENTION(0, "First resolution with aggregators, 2^N.", bounds=_LEVELS)
    d_end_res: int = _ATTENTION(8, "Aggregators stay below resolution 2^N.", bounds=_LEVELS)
    # What only networks of earlier versions, or converted from the authors' files, have; no options of training.
    image_positions: bool = True  # False: what use_pos False meant earlier, no positions of the image either
    cropped_positions: bool = False  # image positions are those of the square grid, cropped in the middle
    mapping_ltnt_gate: bool = False  # the components' self-attention in the mapping network is gated, both ways
    square_grid: bool = False  # the networks compute a square, whatever the ratio, and crop it
    conv_last: bool = True  # the generator's last convolution before torgb
    latent_norm: LatentNorm = "together"  # components of z are normalised together; "each": by itself
    kmeans_weight_per_iter: bool = False  # each k-means iteration has channel weights of its own
    truncation_cutoff: int | None = None  # truncate the first so many layers only

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention", ATTENTION_NAMES.get(self.attention, self.attention))
        super().__post_init__()
        size = self.resolution
        require(
            8 <= size <= MAX_RESOLUTION and size & (size - 1) == 0,
            f"--resolution {size}: the networks need a power of two from 8 to {MAX_RESOLUTION}",
        )
        require(
            self.channel_base >= size,
            f"--channel-base {self.channel_base} leaves no channel at resolution {size}; give at least {size}",
        )
        self._check_everything_acts()
        self._check_global_latent()
        if self.has_components:
            self._check_components()
        else:
            require(
                self.components_num == 0,
                f"--components-num {self.components_num} does nothing with --attention none; leave it out or choose "
                "another --attention",
            )
        if self.has_attention:
            self._check_attention()
        if self.kgan:
            self._check_merge()
        if self.vqgan:
            self._check_codes()
        require(
            self.g_img2img == 0 or self.g_img2img in self.block_resolutions,
            f"--g-img2img {self.g_img2img}: choose one of 4, 8, … up to --resolution {self.resolution}, or "
            "0 for no self-attention",
        )

    def _check_everything_acts(self) -> None:
        """Raise ConfigError for a setting that would have no effect."""
        attention = f"--attention {self.attention_name}"
        needs: tuple[tuple[bool, str, str, tuple[str, ...]], ...] = (
            (self.has_attention, attention, "an --attention other than none", _ATTENTION_ONLY),
            (self.attention == "kmeans", attention, "--attention duplex", ("kmeans_iters", "iterative")),
            (self.kmeans_iters > 1, "--kmeans-iters 1", "--kmeans-iters 2", ("kmeans_weight_per_iter",)),
            (self.image_positions, "--use-pos False", "--use-pos True", _POSITIONS_ONLY),
            (
                self.pos_type in ("sinus", "linear"),
                f"--pos-type {self.pos_type}",
                "--pos-type sinus or linear",
                ("pos_directions_num",),
            ),
            (self.vqgan, "no --baseline VQGAN", "--baseline VQGAN", _VQGAN_ONLY),
            (self.kgan, "no --baseline kGAN", "--baseline kGAN", ("merge_type", "merge_layer")),
            (
                self.d_transformer,
                "--d-transformer False",
                "--d-transformer",
                ("d_ltnt2img", "d_start_res", "d_end_res"),
            ),
            (self.mapping_num_layers > 0, "--mapping-num-layers 0", "a layer of that width", ("mapping_dim",)),
        )
        for holds, present, needed, names in needs:
            for name in () if holds else names:
                value = getattr(self, name)
                require(
                    value == getattr(ModelConfig, name),
                    f"{option_name(name)} {value} does nothing with {present}: it needs {needed}; leave it out",
                )

    def _check_global_latent(self) -> None:
        require(
            self.style or self.latent_stem or self.has_components,
            "--style False with --attention none: all images would be the same; add --latent-stem (--baseline GAN), or "
            "choose another --attention",
        )
        require(
            self.c_dim == 0 or self.reads_global_latent,
            "--labels with --style False: labels act through the global latent, which nothing reads; use --style True "
            "or --latent-stem, or leave out --labels",
        )
        trained = self.pos_type != "sinus" or self.d_transformer or self.reads_component_positions
        require(
            self.pos_init == ModelConfig.pos_init or trained,
            f"--pos-init {self.pos_init} does nothing with --attention kmeans, --mapping-ltnt2ltnt False and "
            "--pos-type sinus: no position is trained; leave it out",
        )
        if self.mapping_shared:
            require(
                self.reads_global_latent,
                "--mapping-shared does nothing with --style False: nothing reads the global latent; leave out one",
            )
            require(
                self.c_dim == 0,
                "--mapping-shared with --labels: the label's embedding widens the global latent, so it cannot share "
                "the components' network; leave one of them out",
            )

    def _check_components(self) -> None:
        components, latent = self.components_num, self.latent_size
        asked = "--baseline kGAN" if self.kgan else f"--attention {self.attention_name}"
        require(components >= 1, f"--components-num {components}: {asked} needs at least 1")
        require(
            latent % components == 0,
            f"--components-num {components} does not divide --latent-size {latent}, and each component gets an equal "
            f"part; try --latent-size {max(1, round(latent / components)) * components}",
        )

    def _check_attention(self) -> None:
        require(
            not self.iterative or max(self.attention_resolutions, default=START_SIZE) > START_SIZE,
            f"--iterative does nothing with --g-end-res {self.g_end_res}: only one layer attends, so there is no "
            "previous one; leave it out, or raise --g-end-res",
        )
        for resolution in sorted({*self.attention_resolutions, *self.d_attention_resolutions}):
            require(
                self.channels(resolution) % self.num_heads == 0,
                f"--num-heads {self.num_heads} does not divide the {self.channels(resolution)} channels at resolution "
                f"{resolution}; change --num-heads, --channel-base or --channel-max",
            )
        widths = {self.component_size} if self.g_ltnt2ltnt or self.mapping_ltnt2ltnt else set()
        if self.mapping_ltnt2ltnt:
            widths.add(self.mapping_width)
        for width in sorted(widths):
            require(
                width % self.num_heads == 0,
                f"--num-heads {self.num_heads} does not divide the width {width} of the components' self-attention; "
                "change --num-heads or --latent-size, or give --mapping-ltnt2ltnt False and --g-ltnt2ltnt False",
            )
        require(
            self.image_positions or not self.use_pos,
            "use_pos without image_positions: components have positions only where the image has them",
        )
        if self.image_positions:
            self._check_positions()

    def _check_positions(self) -> None:
        directions = self.pos_directions_num
        unit = {"sinus": 2 * directions, "linear": directions, "trainable": 2, "trainable2d": 1}[self.pos_type]
        why = {
            "sinus": f"a sine and a cosine for each of --pos-directions-num {directions}",
            "linear": f"a part for each of --pos-directions-num {directions}",
            "trainable": "one half for the row, one for the column",
        }.get(self.pos_type, "")
        require(
            unit <= self.position_size <= MAX_LATENT and self.position_size % unit == 0,
            f"--pos-dim {self.position_size}: --pos-type {self.pos_type} needs a multiple of {unit} ({why}); give "
            f"--pos-dim, or make --latent-size / --components-num a multiple of {unit}",
        )

    def _check_merge(self) -> None:
        require(
            self.attention == "none",
            f"--baseline kGAN with --attention {self.attention_name}: its components do not attend; leave one of them "
            "out",
        )
        top = self.resolution.bit_length() - 1
        require(
            self.merge_layer == -1 or 2 <= self.merge_layer < top,
            f"--merge-layer {self.merge_layer} with --resolution {self.resolution}: choose N from 2 to {top - 1} to "
            "merge features at resolution 2^N, or -1 to merge the final images",
        )
        for name in ("g_img2img", "latent_stem"):
            require(
                not getattr(self, name),
                f"--baseline kGAN with {option_name(name)}: the paper has no such network; leave one of them out",
            )
        require(
            self.style, "--baseline kGAN with --style False: its latents act through the style; leave one of them out"
        )

    def _check_codes(self) -> None:
        stride, size = self.code_stride, self.image_size
        require(
            not self.has_components and self.g_img2img == 0,
            "--baseline VQGAN with another kind of network: it has no components and no attention to choose; leave one "
            "of them out",
        )
        require(stride & (stride - 1) == 0, f"--code-stride {stride}: choose a power of two")
        require(
            all(side % stride == 0 for side in size),
            f"--code-stride {stride} does not divide the images' {size[1]}x{size[0]} (width x height); choose a "
            "smaller power of two, or another --resolution or --ratio",
        )
        rows, columns = self.code_grid
        require(
            rows * columns <= MAX_CODES,
            f"--code-stride {stride} makes sequences of {columns}x{rows} = {rows * columns} codes, and a transformer "
            f"attends to at most {MAX_CODES}; choose a larger one",
        )
        require(
            self.transformer_width % self.transformer_heads == 0,
            f"--transformer-heads {self.transformer_heads} does not divide --transformer-width "
            f"{self.transformer_width}; choose a divisor",
        )

    def check_attention_acts(self) -> None:
        """Raise ConfigError if attention is asked for and no layer has it.

        Not part of the validation, because networks of the authors' may be like that.
        """
        for start, end, asked, found in (
            ("g_start_res", "g_end_res", self.has_attention, self.attention_resolutions),
            ("d_start_res", "d_end_res", self.d_transformer, self.d_attention_resolutions),
        ):
            require(
                bool(found) or not asked,
                f"{option_name(start)} {getattr(self, start)} and {option_name(end)} {getattr(self, end)} leave no "
                f"resolution for attention: 2^start ≤ r < 2^end must hold for one r of 4, 8, …, {self.resolution}",
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "configuration") -> ModelConfig:
        """See ``JsonConfig.from_dict``; a configuration of an earlier version keeps its meaning."""
        if values.get("use_pos") is False and "image_positions" not in values:
            # There, use_pos False removed the image's positions, too.
            values = {**values, "image_positions": False}
        if values.get("attention") == "duplex":
            # There, duplex was the paper's equation.
            values = {**values, "attention": "duplex-equation"}
        return super().from_dict(values, where)

    @property
    def attention_name(self) -> str:
        """The kind of attention as it is called: ``duplex`` for ``kmeans``, the layer of the authors' duplex models."""
        return "duplex" if self.attention == "kmeans" else self.attention

    @property
    def has_attention(self) -> bool:
        """Whether components attend to the image."""
        return self.attention != "none"

    @property
    def has_components(self) -> bool:
        """Whether there are components, which attend (GANsformer) or make images of their own (k-GAN)."""
        return self.has_attention or self.kgan

    @property
    def has_maps(self) -> bool:
        """Whether the generator has maps that say which component a pixel comes from."""
        return bool(self.attention_resolutions) or (self.kgan and self.merge_type in ("softmax", "leaves"))

    @property
    def can_be_local(self) -> bool:
        """Whether components can be asked to keep to regions: there are maps, and another component to compare with."""
        return self.has_maps and self.components_num >= 2

    @property
    def reads_component_positions(self) -> bool:
        """Whether anything in the generator reads the components' positions: k-means alone does not."""
        if not (self.has_attention and self.use_pos):
            return False
        in_mapping = self.mapping_ltnt2ltnt and self.mapping_num_layers > 0
        in_layers = self.attention != "kmeans" or self.g_ltnt2ltnt or self.ltnt_gate
        return in_mapping or (in_layers and bool(self.attention_resolutions))

    @property
    def reads_global_latent(self) -> bool:
        """Whether anything reads the global latent."""
        return self.style or self.latent_stem

    @property
    def component_size(self) -> int:
        """w, the size of one latent."""
        return self.latent_size // max(self.components_num, 1)

    @property
    def position_size(self) -> int:
        """p, the width of an image position."""
        return self.component_size if self.pos_dim is None else self.pos_dim

    @property
    def mapping_width(self) -> int:
        """Hidden width of the mapping network."""
        return self.component_size if self.mapping_dim is None else self.mapping_dim

    @property
    def z_shape(self) -> tuple[int, int]:
        """Shape of the latents of one image: ``(m + 1, w)``, the last is the global latent; k-GAN: ``(m, w)``."""
        return self.components_num + (not self.kgan), self.component_size

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """4, 8, … up to the resolution."""
        return tuple(2**i for i in range(2, self.resolution.bit_length()))

    @property
    def attention_resolutions(self) -> tuple[int, ...]:
        """The resolutions at which the generator attends."""
        if not self.has_attention:
            return ()
        return self._between(self.g_start_res, self.g_end_res)

    @property
    def d_attention_resolutions(self) -> tuple[int, ...]:
        """The resolutions at which the discriminator's aggregators attend."""
        return self._between(self.d_start_res, self.d_end_res) if self.d_transformer else ()

    def _between(self, start: int, end: int) -> tuple[int, ...]:
        return tuple(r for r in self.block_resolutions if start <= math.log2(r) < end)

    @property
    def num_ws(self) -> int:
        """L, the number of layers that read a latent: ``2·log₂R − 1``."""
        return 2 * (self.resolution.bit_length() - 1) - 1

    @property
    def code_grid(self) -> tuple[int, int]:
        """Rows and columns of the codes of an image."""
        height, width = self.image_size
        return height // self.code_stride, width // self.code_stride

    @property
    def code_levels(self) -> tuple[int, ...]:
        """The resolutions (longer side) of VQGAN's encoder, from the image's to that of the codes."""
        return tuple(self.resolution >> i for i in range(self.code_stride.bit_length()))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return image_size(self.resolution, self.ratio)

    def grid(self, resolution: int) -> tuple[int, int]:
        """Height and width of the feature maps of the blocks named ``resolution`` (the longer side)."""
        height, width = start_grid(1.0 if self.square_grid else self.ratio)
        return height * resolution // START_SIZE, width * resolution // START_SIZE

    def channels(self, resolution: int) -> int:
        """Channels at ``resolution``."""
        return min(self.channel_base // resolution, self.channel_max)


#: Settings that only bipartite attention reads.
_ATTENTION_ONLY = (
    *("num_heads", "integration", "normalize", "g_start_res", "g_end_res", "g_ltnt2ltnt", "img_gate", "ltnt_gate"),
    *("mapping_shared", "mapping_ltnt2ltnt"),
    *("attention_dropout", "use_pos", "pos_type", "pos_dim", "pos_directions_num", "pos_init", "d_transformer"),
)
_VQGAN_ONLY = (
    *("codebook_size", "code_dim", "code_stride", "transformer_layers", "transformer_width", "transformer_heads"),
)
_POSITIONS_ONLY = ("pos_type", "pos_dim", "pos_directions_num", "pos_init")
