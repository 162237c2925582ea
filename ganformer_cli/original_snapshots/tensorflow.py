"""The authors' TensorFlow snapshots: a tuple of networks of named arrays, to our configuration and tensors.

The same weights mean something else there (``ModelConfig``'s last fields): latents are normalised each by itself, a
weight for each iteration of k-means, no last convolution in some, fewer layers in plain mapping networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.config import MAX_RESOLUTION, ModelConfig, settings_of, start_grid
from ganformer_cli.config.model import MAX_CHANNELS, MAX_LATENT, MAX_LAYERS, START_SIZE
from ganformer_cli.errors import SnapshotError
from ganformer_cli.original_snapshots.accounting import SnapshotContents, Tensors, network_of
from ganformer_cli.original_snapshots.arguments import ATTENTION_ARGUMENTS, Arguments, read_attention
from ganformer_cli.original_snapshots.pickles import TensorFlowNetwork, as_dictionary

Array = npt.NDArray[Any]

#: The only version that the GANsformer's networks were saved in.
VERSION = 4

_SETTINGS = settings_of(ModelConfig)

_ATTENTION = {
    "query": "to_queries", "key": "to_keys", "value": "to_values", "out": "modulation",
    "from_pos": "from_pos_map", "to_pos": "to_pos_map",
    "n_cont": "image_gate", "n_pos": "image_gate_pos", "e_cont": "latent_gate", "e_pos": "latent_gate_pos",
}  # fmt: skip
#: Arguments that only the GANsformer's networks have; NVIDIA's StyleGAN2 has none of them.
_OF_GANSFORMER = ("components_num", "transformer", "mapping_resnet", "mapping_ltnt2ltnt", "kmeans", "local_noise")
#: Arguments that do not affect images: those of training, exact variants, and how trained numbers began.
_WITHOUT_EFFECT = frozenset({
    "fused_modconv", "style_mixing", "component_mixing", "dlatent_avg_beta", "w_avg_beta", "pos_init", "num_ws",
    "dlatent_broadcast", "merge_layer", "merge_type", "merge_same", "randomize_noise", "func_name", "dtype",
    "crop_ratio",
})  # fmt: skip
#: Arguments of which one value can be read: their defaults.
_FIXED: dict[str, Any] = {
    "num_channels": 3, "nonlinearity": "lrelu", "mapping_nonlinearity": "lrelu", "mapping_lrmul": 0.01,
    "resample_kernel": [1, 3, 3, 1], "fmap_decay": 1.0, "fmap_min": 1, "normalize_latents": True,
}  # fmt: skip
_OF_ATTENTION = (*ATTENTION_ARGUMENTS, "mapping_ltnt2ltnt", "mapping_shared")
#: What a discriminator without attention has and does not read.
_UNREAD_BY_DISCRIMINATOR = frozenset({*_OF_ATTENTION, *_WITHOUT_EFFECT, "components_num", "latent_size", "a_dim"})
_MAX_BASE = MAX_CHANNELS * MAX_RESOLUTION
_CONVOLUTIONS = {
    "Conv0_up": "conv0.conv", "Conv1": "conv1.conv", "Conv": "conv1.conv", "ToRGB": "torgb.conv",
    "ToRGB/extraLayer": "conv_last", "Skip": "skip",
}  # fmt: skip


def is_tensorflow_snapshot(tree: Any) -> bool:
    """Whether ``tree`` has the form of a TensorFlow snapshot of the GANsformer's."""
    if not isinstance(tree, tuple) or len(tree) != 3 or not isinstance(tree[2], TensorFlowNetwork):
        return False
    given = as_dictionary(tree[2].state.get("static_kwargs"))
    return any(given.get(name) is not None for name in _OF_GANSFORMER)


def read_tensorflow(tree: tuple[Any, ...], where: str) -> SnapshotContents:
    """What the file holds.

    Raises:
        SnapshotError: its generator is damaged, too old, or one that our networks cannot be.
    """
    ema = tree[2]
    found = _generator_settings(ema, where)
    settings = found.settings
    found.tensors["ema"] = _generator(_variables(ema, f"{where} (Gs)"), settings, f"{where} (Gs)")
    with found.optional("generator"):
        generator = network_of(tree[0], TensorFlowNetwork, "G")
        if _generator_settings(generator, "G").settings != settings:
            raise SnapshotError("G and Gs are of different settings")
        found.tensors["generator"] = _generator(_variables(generator, "G"), settings, "G")
    with found.optional("discriminator"):
        discriminator = network_of(tree[1], TensorFlowNetwork, "D")
        more = _discriminator_settings(discriminator, settings)
        found.tensors["discriminator"] = _discriminator(_variables(discriminator, "D"))
        settings.update(more)
    return found


def _variables(network: TensorFlowNetwork, where: str, prefix: str = "") -> dict[str, Array]:
    """All arrays of a network, those of its components under ``mapping/`` and ``synthesis/``."""
    version = network.state.get("version")
    if version != VERSION:
        raise SnapshotError(
            f"{where}: a TensorFlow network of version {version!r}, and only {VERSION} can be read; load it with the "
            "code that wrote it and save it again"
        )
    found: dict[str, Array] = {}
    variables = network.state.get("variables") or []
    if not isinstance(variables, list | tuple):
        raise SnapshotError(f"{where}: its variables are not a list; the file is damaged")
    for variable in variables:
        name, value = variable if isinstance(variable, list | tuple) and len(variable) == 2 else (None, None)
        if not isinstance(name, str) or not isinstance(value, np.ndarray | float | int) or f"{prefix}{name}" in found:
            raise SnapshotError(
                f"{where}: its variable {prefix}{name} is not an array, or appears twice; the file is damaged"
            )
        found[f"{prefix}{name}"] = np.asarray(value)
    for name, component in as_dictionary(network.state.get("components")).items():
        if isinstance(component, TensorFlowNetwork) and not prefix:
            found.update(_variables(component, where, f"{name}/"))
    return found


def _generator_settings(generator: TensorFlowNetwork, where: str) -> SnapshotContents:
    """What a generator's arguments say, and what only its variables can say."""
    given = Arguments(where, "static_kwargs", as_dictionary(generator.state.get("static_kwargs")))
    variables = _variables(generator, where)

    def has(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in variables)

    for option in ("component_dropout", "latent_stem", "img2img", "ltnt2ltnt", "img2ltnt", "iterative"):
        given.refuse(option, "which acts differently there")
    if given.get("merge_layer") not in (-1, None) or given.get("merge"):
        raise SnapshotError(f"{where}: a k-GAN of the TensorFlow version, which cannot be read")
    const = variables.get("synthesis/4x4/Const/const")
    if const is None or const.ndim != 4 or 0 in const.shape:
        raise SnapshotError(f"{where}: no trained first grid (4x4/Const/const): not a generator that can be read")
    height, width = const.shape[2:]
    transformer = given.flag("transformer", default=has(r"^synthesis/.*/AttLayer_l2n/"))
    components = given.integer("components_num", default=1, low=1, high=MAX_LATENT)
    if components > 1 and not transformer:
        raise SnapshotError(
            f"{where}: made with components_num {components} and transformer False, a k-GAN perhaps, which cannot be "
            "read"
        )
    size = given.integer("w_dim", "dlatent_size", "z_dim", "latent_size", default=512, low=1, high=MAX_LATENT)
    if given.integer("z_dim", "latent_size", default=size, low=1, high=MAX_LATENT) != size:
        raise SnapshotError(f"{where}: its z and w are of different widths, which cannot be read; it is refused")
    kmeans = given.flag("kmeans", default=has(r"/toasgn_init$"))
    depth = given.integer("mapping_num_layers", "mapping_layersnum", default=8, low=1, high=MAX_LAYERS)
    resnet = given.flag("mapping_resnet", default=has(r"^mapping/.*Dense0_0/"))
    if resnet:
        # An odd layer left over has a block of its own, or none: only the variables can tell.
        blocks = sum(1 for name in variables if re.fullmatch(r"mapping/Dense\d+_0/weight", name))
        depth = depth - 1 if blocks == depth // 2 else depth
    ratio = height / width
    crop = given.number("crop_ratio", default=ratio, low=1 / 8, high=8)
    square = height == width
    if square or start_grid(crop) == (height, width):
        ratio = crop
    settings: dict[str, Any] = {
        "resolution": given.integer("resolution", default=0, low=8, high=MAX_RESOLUTION),
        "ratio": ratio,
        "square_grid": square and ratio != 1,
        "c_dim": given.integer("c_dim", "label_size", default=0, low=0, high=MAX_LATENT),
        "attention": ("kmeans" if kmeans else "simplex") if transformer else "none",
        "components_num": components if transformer else 0,
        "latent_size": size * components,
        # PyTorch's base is twice TensorFlow's.
        "channel_base": 2 * given.integer("channel_base", "fmap_base", default=16384, low=1, high=_MAX_BASE),
        "channel_max": given.integer("channel_max", "fmap_max", default=512, low=1, high=MAX_CHANNELS),
        # Plain mapping networks have as many layers as they say, the last one included.
        "mapping_num_layers": depth if resnet else depth - 1,
        "mapping_dim": given.optional_integer("mapping_dim", "mapping_fmaps", low=1, high=MAX_LATENT),
        "mapping_resnet": resnet,
        "w_avg_per_component": False,
        "latent_norm": "each",
        "g_arch": given.choice("architecture", default="skip", choices=_SETTINGS["g_arch"].choices),
        "style": given.flag("style", default=True),
        "local_noise": given.flag("local_noise", default=has(r"/noise_strength$")),
        "tanh": given.flag("tanh", default=False),
        # No argument says so: it depends on attention and resolution.
        "conv_last": has(r"/extraLayer/weight$"),
    }
    if settings["mapping_dim"] == size or settings["mapping_num_layers"] == 0:
        settings["mapping_dim"] = None
    cutoff = given.optional_integer("truncation_cutoff", low=0, high=1024)
    if cutoff is not None:
        # A convolution reads the latent one place further on there.
        settings["truncation_cutoff"] = max(0, cutoff - 1)
        last = 2 * (settings["resolution"].bit_length() - 1) - 2
        at_the_end = (last - 1, last)
        elsewhere = settings["g_arch"] == "skip" and cutoff % 2 == 0 and 0 < cutoff <= last
        if cutoff - 1 in at_the_end or elsewhere:
            # But the colours of a block, and the extra layer, read it at the same place.
            raise SnapshotError(
                f"{where}: made with static_kwargs.truncation_cutoff {cutoff}, which ends between layers that read the "
                "same latent here; it is refused"
            )
    if transformer:
        settings |= _attention_settings(given, kmeans, size, has)
        settings["mapping_shared"] &= settings["style"]
        # Of a rectangle.
        settings["cropped_positions"] = not square
    about: dict[str, Any] = {}
    if given.get("truncation_psi") is not None:
        about["truncation_psi"] = given.number("truncation_psi", default=1.0, low=-100, high=100)
    for name in () if transformer else _OF_ATTENTION:
        given.get(name)  # without components nothing reads it
    given.check_the_rest(_WITHOUT_EFFECT, _FIXED)
    return SnapshotContents(settings, {}, about)


def _attention_settings(given: Arguments, kmeans: bool, size: int, has: Any) -> dict[str, Any]:
    """What only networks with attention have."""
    attends = given.flag("mapping_ltnt2ltnt", default=has(r"^mapping/AttLayer_0/"))
    settings = {
        "mapping_ltnt2ltnt": attends,
        "mapping_shared": given.flag("mapping_shared", default=False),
        # Whether the gate is in the mapping as well, no argument says.
        "mapping_ltnt_gate": attends and has(r"^mapping/AttLayer_0/weight_e_cont$"),
        **read_attention(given, kmeans=kmeans, size=size, use_pos=has(r"^ltnt_emb/emb$")),
    }
    if kmeans:
        settings["kmeans_weight_per_iter"] = settings["kmeans_iters"] > 1
    return settings


def _discriminator_settings(discriminator: TensorFlowNetwork, generator: Mapping[str, Any]) -> dict[str, Any]:
    """The discriminator's fields of ``ModelConfig``."""
    given = Arguments("D", "static_kwargs", as_dictionary(discriminator.state.get("static_kwargs")))
    for names, default, factor, same in (
        (("resolution",), generator["resolution"], 1, "resolution"),
        (("c_dim", "label_size"), 0, 1, "c_dim"),
        (("channel_base", "fmap_base"), 16384, 2, "channel_base"),
        (("channel_max", "fmap_max"), 512, 1, "channel_max"),
    ):
        if factor * given.integer(*names, default=default, low=0, high=_MAX_BASE) != generator[same]:
            raise SnapshotError(f"D has another {names[0]} than G, and the two are trained with one here")
    for name in ("transformer", "img2img", "img2ltnt", "ltnt2img", "ltnt2ltnt"):
        given.refuse(name, "attention in the discriminator, which cannot be read")
    settings = {
        "d_arch": given.choice("architecture", default="resnet", choices=_SETTINGS["g_arch"].choices),
        "mbstd_group_size": given.integer("mbstd_group_size", default=4, low=1, high=1024),
    }
    given.check_the_rest(_UNREAD_BY_DISCRIMINATOR, {"mbstd_num_features": 1, **_FIXED})
    return settings


def _tensor(value: Array) -> Tensor:
    return torch.from_numpy(np.array(value, dtype=np.float32, order="C"))


def _convolution(value: Array, *, flip: bool) -> Tensor:
    """``[kh, kw, in, out] → [out, in, kh, kw]``, mirrored in space where the original transposes its convolution."""
    value = value[::-1, ::-1] if flip else value
    return _tensor(value.transpose(3, 2, 0, 1))


def _generator(variables: Mapping[str, Array], settings: Mapping[str, Any], where: str) -> Tensors:
    """A generator's tensors under our names."""
    tensors = Tensors()
    for name, value in variables.items():
        try:
            for ours, tensor in _generator_part(name, value, settings):
                tensors.put(ours, name, tensor)
        except (ValueError, IndexError) as error:
            raise SnapshotError(f"{where}: its variable {name} {list(value.shape)} is damaged ({error})") from error
    if settings["attention"] == "kmeans":
        _stack_weights(tensors, int(settings["kmeans_iters"]))
    return tensors


Parts = Iterator[tuple[str, Tensor]]


def _generator_part(name: str, value: Array, settings: Mapping[str, Any]) -> Parts:
    """What a variable becomes; what is not known keeps its name, and is refused later."""
    if name == "ltnt_emb/emb":
        yield "pos", _tensor(value)
    elif name == "dlatent_avg":
        yield "mapping_network.w_avg", _tensor(value)
    elif name.startswith("mapping/"):
        yield _mapping(name, value, settings)
    elif name.startswith("synthesis/"):
        yield from _synthesis(name, value, settings)
    else:
        yield name, _tensor(value)


def _mapping(name: str, value: Array, settings: Mapping[str, Any]) -> tuple[str, Tensor]:
    short = name.removeprefix("mapping/")
    part = "global_mlp" if short.startswith("global/") or settings["attention"] == "none" else "mlp"
    short = short.removeprefix("global/")
    last = settings["mapping_num_layers"]
    if match := re.fullmatch(r"AttLayer_(\d+)/(weight|bias)_(\w+)", short):
        if match[3] in _ATTENTION:
            return _attention(f"mapping_network.{part}.sa{match[1]}", match[2], match[3], value)
    elif match := re.fullmatch(r"Dense(\d+)(?:_([01]))?/(weight|bias)", short):
        block, layer, kind = int(match[1]), match[2], match[3]
        # A residual network's only layer without a second number is its last one.
        is_last = settings["mapping_resnet"] or block == last
        where = f"l{block}.fc{layer}" if layer else "out_layer" if is_last else f"l{block}"
        return f"mapping_network.{part}.{where}.{kind}", _tensor(value.T if kind == "weight" else value)
    return name, _tensor(value)


def _synthesis(name: str, value: Array, settings: Mapping[str, Any]) -> Parts:
    short = name.removeprefix("synthesis/")
    resolution = int(settings["resolution"])
    if match := re.fullmatch(r"noise(\d{1,3})", short):
        # Layer 2·log₂r − 5 + i; there is one more, at twice the resolution, which nothing reads.
        number = int(match[1]) + 5
        size = 2 ** (number // 2)
        if value.ndim != 4 or value.shape[:2] != (1, 1):
            raise ValueError("a map of noise is [1, 1, H, W]")
        if number != 2 * resolution.bit_length():
            yield f"synthesis_network.b{size}.conv{number % 2}.noise_const", _tensor(value[0, 0])
        return
    if (match := re.fullmatch(r"pos_emb(\d{1,2})", short)) and settings.get("pos_type") == "trainable2d":
        cells = _cells(value, 2 ** int(match[1]), settings)
        for conv in ("conv0", "conv1") if int(match[1]) > 2 else ("conv1",):
            yield f"synthesis_network.b{2 ** int(match[1])}.{conv}.image_positions.cells", cells
        return
    match = re.fullmatch(r"(\d+)x\d+/(.+)/(\w+)", short)
    if match is None:
        yield name, _tensor(value)
        return
    block, layer, kind = f"synthesis_network.b{match[1]}", str(match[2]), str(match[3])
    conv, is_attention, rest = layer.partition("/AttLayer_l2n")
    if (layer, kind) == ("Const", "const"):
        yield f"{block}.const", _tensor(value[0])
    elif is_attention and conv in _CONVOLUTIONS:
        place = f"{block}.{_CONVOLUTIONS[conv].removesuffix('.conv')}.attention"
        yield _bipartite(place, rest, kind, value)
    elif layer in _CONVOLUTIONS:
        yield _convolution_part(f"{block}.{_CONVOLUTIONS[layer]}", layer, kind, value)
    else:
        yield name, _tensor(value)


def _cells(value: Array, size: int, settings: Mapping[str, Any]) -> Tensor:
    """Trained positions of a grid of ``size``, those of a rectangle in the middle of the square: ``[n, p]``."""
    flat = value.reshape(-1, value.shape[-1])
    if not settings["cropped_positions"] or len(flat) != size * size:
        return _tensor(flat)
    height, width = (side * size // START_SIZE for side in start_grid(settings["ratio"]))
    top, left = (size - height) // 2, (size - width) // 2
    square = flat.reshape(size, size, -1)
    return _tensor(square[top : top + height, left : left + width].reshape(height * width, -1))


def _convolution_part(place: str, layer: str, kind: str, value: Array) -> tuple[str, Tensor]:
    """One of a convolution's variables."""
    outer = place.removesuffix(".conv")
    if kind == "weight":
        return f"{place}.weight", _convolution(value, flip=layer in ("Conv0_up", "Skip"))
    if kind == "mod_weight":
        return f"{place}.affine.weight", _tensor(value.T)
    if kind == "mod_bias":
        return f"{place}.affine.bias", _tensor(value + 1)
    if kind == "bias":
        return f"{outer}.bias", _tensor(value)
    if kind == "noise_strength":
        return f"{outer}.noise_strength", _tensor(value).reshape([])
    return f"{place}.{kind}", _tensor(value)


def _bipartite(place: str, rest: str, kind: str, value: Array) -> tuple[str, Tensor]:
    """One of an attention layer's variables."""
    if kind == "toasgn_init" and not rest:
        return f"{place}.centroids", _tensor(value)
    if kind == "st_weights":
        return f"{place}.att_weight{rest.replace('/iter_', '.')}", _tensor(value)
    if (match := re.fullmatch(r"(weight|bias)_(\w+)", kind)) and match[2] in _ATTENTION and not rest:
        return _attention(place, match[1], match[2], value)
    return f"{place}{rest}.{kind}", _tensor(value)


def _attention(place: str, kind: str, what: str, value: Array) -> tuple[str, Tensor]:
    return f"{place}.{_ATTENTION[what]}.{kind}", _tensor(value.T if kind == "weight" else value)


def _stack_weights(tensors: Tensors, iterations: int) -> None:
    """``att_weight.0``, ``att_weight.1``, … to one ``att_weight``."""
    for first in [name for name in tensors if name.endswith(".att_weight.0")]:
        whole = first.removesuffix(".0")
        parts = [tensors[f"{whole}.{i}"] for i in range(iterations) if f"{whole}.{i}" in tensors]
        if len(parts) == iterations and len({part.value.shape for part in parts}) == 1:
            for i in range(iterations):
                del tensors[f"{whole}.{i}"]
            values = [part.value for part in parts]
            tensors.put(whole, parts[0].name, values[0] if iterations == 1 else torch.stack(values))


def _discriminator(variables: Mapping[str, Array]) -> Tensors:
    names = {"FromRGB": "fromrgb", "Conv0": "conv0", "Conv1_down": "conv1", "Skip": "skip", "Conv": "conv"}
    tensors = Tensors()
    for name, value in variables.items():
        if name == "ltnt_emb/emb":
            tensors.put("pos", name, _tensor(value))
            continue
        if match := re.fullmatch(r"(\d+)x\d+/(\w+)/(weight|bias)", name):
            place = "fc" if match[2] == "Dense0" else names.get(match[2], match[2])
            place = f"b{match[1]}.{place}"
        elif match := re.fullmatch(r"()(Output)/(weight|bias)", name):
            place = "b4.out"
        else:
            tensors.put(name, name, _tensor(value))
            continue
        weight = match[3] == "weight"
        if weight and value.ndim == 4:
            tensors.put(f"{place}.weight", name, _convolution(value, flip=False))
        else:
            tensors.put(f"{place}.{match[3]}", name, _tensor(value.T if weight else value))
    return tensors
