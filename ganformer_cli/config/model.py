"""``ModelConfig``: what both networks are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganformer_cli.config.base import JsonConfig, option_name, require

ATTENTION_KINDS = ("none", "simplex", "duplex", "kmeans")
ARCHITECTURES = ("resnet", "skip", "orig")
INTEGRATIONS = ("mul", "add", "both")
NORMALIZATIONS = ("layer", "instance", "none")
POSITIONS = ("sinus", "linear", "trainable", "trainable2d")
POSITION_INITS = ("uniform", "normal")
LATENT_NORMS = ("together", "each")
MERGES = ("softmax", "sum", "max", "leaves")

#: Longer side of the first grid.
START_SIZE = 4
MAX_RESOLUTION = 4096
#: A file that asks for more than this is damaged or hostile.
MAX_CHANNELS = 8192
MAX_LATENT = 65536
#: Classes, or numbers of a label.
MAX_LABELS = MAX_LATENT
MAX_LAYERS = 64


def image_size(resolution: int, ratio: float) -> tuple[int, int]:
    """Height and width in pixels of pictures with the longer side ``resolution`` and height/width ``ratio``."""
    if ratio <= 1:
        return max(1, round(resolution * ratio)), resolution
    return resolution, max(1, round(resolution / ratio))


def start_grid(ratio: float) -> tuple[int, int]:
    """Height and width of the first grid: 4 on the longer side, the next whole number on the shorter one."""
    shorter = math.ceil(START_SIZE * min(ratio, 1 / ratio) - 1e-9)
    return (shorter, START_SIZE) if ratio <= 1 else (START_SIZE, shorter)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(JsonConfig):
    """What both networks are. The fields are options of ``ganformer train`` with the same names, but for the last."""

    resolution: int = 256  # longer side of the pictures, pixels
    ratio: float = 1.0  # height / width of the pictures
    c_dim: int = 0  # numbers of a label: classes, or those of a vector; 0: no labels
    attention: str = "duplex"
    components_num: int = 16  # m; 0 without attention
    latent_size: int = 512  # of all components together; without attention, of the one latent
    channel_base: int = 32768  # channels at resolution r: min(channel_base / r, channel_max)
    channel_max: int = 512
    # Mapping network.
    mapping_num_layers: int = 8
    mapping_dim: int | None = None  # hidden width; None: the width of a component
    mapping_resnet: bool = True
    mapping_shared: bool = False  # the components' network maps the global latent too
    mapping_ltnt2ltnt: bool = True  # components attend to each other
    w_avg_per_component: bool = True  # False: one mean for all latents, as in the released networks
    # Generator.
    g_arch: str = "resnet"
    style: bool = True  # the global latent modulates the convolutions
    latent_stem: bool = False  # the first grid is computed from the global latent instead of trained
    local_noise: bool = True
    tanh: bool = False
    # Attention of the generator.
    num_heads: int = 1
    integration: str = "both"
    normalize: str = "layer"
    g_start_res: int = 0  # from resolution 2^g_start_res ...
    g_end_res: int = 8  # ... to below 2^g_end_res
    kmeans_iters: int = 1
    iterative: bool = False  # k-means starts from the assignments of the layer before instead of trained centroids
    g_ltnt2ltnt: bool = False  # components attend to each other before they attend to the image
    img_gate: bool = False
    ltnt_gate: bool = False
    attention_dropout: float = 0.12
    use_pos: bool = True  # components have positions; the image always has
    pos_type: str = "sinus"  # of image positions
    pos_dim: int | None = None  # width of an image position; None: the width of a component
    pos_directions_num: int = 2  # of sinus and linear
    pos_init: str = "uniform"  # of trained positions: the components' always, the image's where pos_type trains them
    # What the paper's baselines have instead of bipartite attention.
    g_img2img: int = 0  # resolution at which all positions attend to all (SAGAN); 0: none
    kgan: bool = False  # a picture from each component, merged into one (k-GAN)
    merge_type: str = "softmax"
    merge_layer: int = -1  # merge the features of resolution 2^merge_layer; -1: the finished pictures
    # Discriminator.
    d_arch: str = "resnet"
    mbstd_group_size: int = 4
    d_transformer: bool = False  # trained aggregators attend to the picture
    d_ltnt2img: bool = False  # ... and the picture to them
    d_start_res: int = 0
    d_end_res: int = 8
    # What only networks of earlier versions, or converted from the authors' files, have; no options of training.
    image_positions: bool = True  # False: what use_pos False meant earlier, no positions of the image either
    cropped_positions: bool = False  # image positions are those of the square grid, cropped in the middle
    mapping_ltnt_gate: bool = False  # the components' attention to each other in the mapping is gated, both ways
    square_grid: bool = False  # the networks compute a square, whatever the ratio, and crop it
    conv_last: bool = True  # the generator's last convolution before torgb
    latent_norm: str = "together"  # components of z are normalised together; or "each" by itself, the global one not
    kmeans_weight_per_iter: bool = False
    truncation_cutoff: int | None = None  # truncate the first so many layers only

    def __post_init__(self) -> None:
        for name, choices in (
            ("attention", ATTENTION_KINDS),
            ("g_arch", ARCHITECTURES),
            ("d_arch", ARCHITECTURES),
            ("integration", INTEGRATIONS),
            ("normalize", NORMALIZATIONS),
            ("pos_type", POSITIONS),
            ("pos_init", POSITION_INITS),
            ("merge_type", MERGES),
            ("latent_norm", LATENT_NORMS),
        ):
            value = getattr(self, name)
            require(value in choices, f"{option_name(name)} {value}: choose one of {', '.join(choices)}")
        self._check_sizes()
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
        require(
            self.g_img2img == 0 or self.g_img2img in self.block_resolutions,
            f"--g-img2img {self.g_img2img} is none of the resolutions 4, 8, … up to --resolution {self.resolution}; "
            "choose one of them, or 0 for no self-attention",
        )

    def _check_everything_acts(self) -> None:
        """Refuse a setting that nothing would read."""
        attention = f"--attention {self.attention}"
        needs: tuple[tuple[bool, str, str, tuple[str, ...]], ...] = (
            (self.has_attention, attention, "an --attention other than none", _ATTENTION_ONLY),
            (self.attention == "kmeans", attention, "--attention kmeans", ("kmeans_iters", "iterative")),
            (self.kmeans_iters > 1, "--kmeans-iters 1", "--kmeans-iters 2", ("kmeans_weight_per_iter",)),
            (self.image_positions, "--use-pos False", "--use-pos True", _POSITIONS_ONLY),
            (
                self.pos_type in ("sinus", "linear"),
                f"--pos-type {self.pos_type}",
                "--pos-type sinus or linear",
                ("pos_directions_num",),
            ),
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
                    value == _MODEL_DEFAULTS[name],
                    f"{option_name(name)} {value} does nothing with {present}: it needs {needed}; leave it out",
                )

    def _check_global_latent(self) -> None:
        require(
            self.style or self.latent_stem or self.has_components,
            "--style False with --attention none: nothing would tell one picture from another; add --latent-stem "
            "(--baseline GAN), or choose an --attention",
        )
        require(
            self.c_dim == 0 or self.reads_global_latent,
            "--labels with --style False: labels have no way into the picture, they act through the global latent; "
            "use --style True or --latent-stem, or leave out --labels",
        )
        trained = self.pos_type != "sinus" or self.d_transformer or self.reads_component_positions
        require(
            self.pos_init == _MODEL_DEFAULTS["pos_init"] or trained,
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
                "--mapping-shared with --labels: the global latent is wider by the label's embedding, and cannot "
                "share the components' network; leave out one",
            )

    def _check_sizes(self) -> None:
        size = self.resolution
        require(
            8 <= size <= MAX_RESOLUTION and size & (size - 1) == 0,
            f"--resolution {size}: the networks need a power of two from 8 to {MAX_RESOLUTION}",
        )
        require(
            math.isfinite(self.ratio) and 1 / 8 <= self.ratio <= 8,
            f"--ratio {self.ratio}: height / width must lie between 0.125 and 8",
        )
        for name, low, high in (
            ("c_dim", 0, MAX_LABELS),
            ("latent_size", 1, MAX_LATENT),
            ("channel_base", 1, MAX_CHANNELS * MAX_RESOLUTION),
            ("channel_max", 1, MAX_CHANNELS),
            ("mapping_num_layers", 0, MAX_LAYERS),
            ("mbstd_group_size", 1, 1024),
        ):
            value = getattr(self, name)
            require(low <= value <= high, f"{option_name(name)} {value}: choose a number from {low} to {high}")
        require(
            self.channel_base >= self.resolution,
            f"--channel-base {self.channel_base} leaves no channel at resolution {size}: give at least {size}",
        )
        if self.mapping_dim is not None:
            require(
                1 <= self.mapping_dim <= MAX_LATENT,
                f"--mapping-dim {self.mapping_dim}: choose a number from 1 to {MAX_LATENT}",
            )

    def _check_components(self) -> None:
        components, latent = self.components_num, self.latent_size
        asked = "--baseline kGAN" if self.kgan else f"--attention {self.attention}"
        require(components >= 1, f"--components-num {components}: {asked} needs at least 1")
        require(
            latent % components == 0,
            f"--components-num {components} does not divide --latent-size {latent}: each component gets an equal part; "
            f"try --latent-size {max(1, round(latent / components)) * components}",
        )

    def _check_attention(self) -> None:
        require(
            0 <= self.attention_dropout < 1,
            f"--attention-dropout {self.attention_dropout}: choose a rate from 0 to below 1",
        )
        require(1 <= self.kmeans_iters <= 64, f"--kmeans-iters {self.kmeans_iters}: choose a number from 1 to 64")
        for name in ("g_start_res", "g_end_res", "d_start_res", "d_end_res"):
            value = getattr(self, name)
            require(0 <= value <= 64, f"{option_name(name)} {value}: choose a number from 0 to 64")
        require(
            not self.iterative or max(self.attention_resolutions, default=START_SIZE) > START_SIZE,
            f"--iterative does nothing with --g-end-res {self.g_end_res}: only one layer attends, and it has nothing "
            "to take over; leave it out, or raise --g-end-res",
        )
        require(self.num_heads >= 1, f"--num-heads {self.num_heads}: choose at least 1")
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
                f"--num-heads {self.num_heads} does not divide the {width} numbers of a component, which attend to "
                "each other; change --num-heads or --latent-size, or leave out --mapping-ltnt2ltnt and --g-ltnt2ltnt",
            )
        require(
            self.image_positions or not self.use_pos,
            "--use-pos True: components have positions only where the image has; leave out one",
        )
        if self.image_positions:
            self._check_positions()

    def _check_positions(self) -> None:
        directions = self.pos_directions_num
        require(1 <= directions <= 64, f"--pos-directions-num {directions}: choose a number from 1 to 64")
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
            f"--baseline kGAN with --attention {self.attention}: its components do not attend; leave out one",
        )
        top = self.resolution.bit_length() - 1
        require(
            self.merge_layer == -1 or 2 <= self.merge_layer < top,
            f"--merge-layer {self.merge_layer} with --resolution {self.resolution}: choose 2 to {top - 1} to merge the "
            "features of that power of two, or -1 for the finished pictures",
        )
        for name in ("g_img2img", "latent_stem"):
            require(
                not getattr(self, name),
                f"--baseline kGAN with {option_name(name)}: not a network of the paper; leave out one",
            )
        require(self.style, "--baseline kGAN with --style False: its latents act through the style; leave out one")

    def check_attention_acts(self) -> None:
        """Raise ConfigError where attention is asked for and no layer has it: networks of the authors' may be like
        that, new ones should not."""
        for start, end, asked, found in (
            ("g_start_res", "g_end_res", self.has_attention, self.attention_resolutions),
            ("d_start_res", "d_end_res", self.d_transformer, self.d_attention_resolutions),
        ):
            require(
                bool(found) or not asked,
                f"{option_name(start)} {getattr(self, start)} and {option_name(end)} {getattr(self, end)} leave no "
                f"resolution for attention: 2^start ≤ r < 2^end must hold for one of 4 … {self.resolution}",
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "configuration") -> ModelConfig:
        """See ``JsonConfig.from_dict``; a configuration of an earlier version keeps its meaning."""
        if values.get("use_pos") is False and "image_positions" not in values:
            # It took away the image's positions, too.
            values = {**values, "image_positions": False}
        return super().from_dict(values, where)

    @property
    def has_attention(self) -> bool:
        """Whether components attend to the image."""
        return self.attention != "none"

    @property
    def has_components(self) -> bool:
        """Whether there are components, that attend or that make pictures of their own."""
        return self.has_attention or self.kgan

    @property
    def has_maps(self) -> bool:
        """Whether the generator can tell which component a pixel comes from."""
        return bool(self.attention_resolutions) or (self.kgan and self.merge_type in ("softmax", "leaves"))

    @property
    def reads_component_positions(self) -> bool:
        """Whether anything in the generator reads the components' own positions: k-means alone does not."""
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
        """Shape of one picture's latents: ``(m + 1, w)``, the last one the global latent; k-GAN: ``(m, w)``."""
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
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return image_size(self.resolution, self.ratio)

    def grid(self, resolution: int) -> tuple[int, int]:
        """Height and width of the feature maps of the blocks named ``resolution`` (the longer side)."""
        height, width = start_grid(1.0 if self.square_grid else self.ratio)
        return height * resolution // START_SIZE, width * resolution // START_SIZE

    def channels(self, resolution: int) -> int:
        """Channels at ``resolution``."""
        return min(self.channel_base // resolution, self.channel_max)


#: Settings of bipartite attention: without it, nothing reads them.
_ATTENTION_ONLY = (
    *("num_heads", "integration", "normalize", "g_start_res", "g_end_res", "g_ltnt2ltnt", "img_gate", "ltnt_gate"),
    *("mapping_shared", "mapping_ltnt2ltnt"),
    *("attention_dropout", "use_pos", "pos_type", "pos_dim", "pos_directions_num", "pos_init", "d_transformer"),
)
_POSITIONS_ONLY = ("pos_type", "pos_dim", "pos_directions_num", "pos_init")
_MODEL_DEFAULTS = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
