"""The authors' TensorFlow snapshots: a tuple of networks of named arrays, to our configuration and tensors.

The same weights mean something else there (``ModelConfig``'s last fields): latents are normalised each by itself, a
weight for each iteration of k-means, no last convolution in some, fewer layers in plain mapping networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import SnapshotError
from ganformer_cli.original_snapshots.pickles import Network

Tensors = dict[str, Tensor]
Array = npt.NDArray[Any]

#: The only version that the GANsformer's networks were saved in.
VERSION = 4

_ATTENTION = {
    **{"query": "to_queries", "key": "to_keys", "value": "to_values", "out": "modulation"},
    **{"from_pos": "from_pos_map", "to_pos": "to_pos_map"},
    **{"n_cont": "image_gate", "n_pos": "image_gate_pos", "e_cont": "latent_gate", "e_pos": "latent_gate_pos"},
}
_CONVOLUTIONS = {
    **{"Conv0_up": "conv0.conv", "Conv1": "conv1.conv", "Conv": "conv1.conv", "ToRGB": "torgb.conv"},
    **{"ToRGB/extraLayer": "conv_last", "Skip": "skip"},
}


def is_snapshot(tree: Any) -> bool:
    """Whether ``tree`` has the form of a TensorFlow snapshot."""
    return isinstance(tree, tuple) and len(tree) == 3 and all(isinstance(part, Network) for part in tree)


def read(tree: tuple[Network, ...], where: str) -> tuple[dict[str, Any], dict[str, Tensors], dict[str, Any]]:
    """Settings of ``ModelConfig``, the tensors of ``generator``, ``discriminator`` and ``ema``, and what else is known.

    Raises:
        SnapshotError: it is another network's snapshot, too old, or describes what our networks cannot do.
    """
    parts = dict(zip(("generator", "discriminator", "ema"), tree, strict=True))
    for network in tree:
        version = network.state.get("version")
        if version != VERSION:
            raise SnapshotError(
                f"{where}: a TensorFlow network of version {version!r}, and only {VERSION} can be read; load it with "
                "the code that wrote it and save it anew"
            )
        name = str(network.state.get("build_func_name"))
        if "GANformer" not in name:
            raise SnapshotError(f"{where}: a snapshot of another network ({name}); give one of the GANsformer's")
    given = _kwargs(parts["ema"])
    variables = {name: _variables(network) for name, network in parts.items()}
    settings, about = _settings(given, _kwargs(parts["discriminator"]), variables, where)
    tensors = {
        name: _discriminator(values) if name == "discriminator" else _generator(values, settings)
        for name, values in variables.items()
    }
    return settings, tensors, about


def _kwargs(network: Network) -> dict[str, Any]:
    found = network.state.get("static_kwargs")
    return found if isinstance(found, dict) else {}


def _variables(network: Network, prefix: str = "") -> dict[str, Array]:
    """All arrays of a network, those of its components under ``mapping/`` and ``synthesis/``."""
    found: dict[str, Array] = {}
    for variable in network.state.get("variables") or []:
        name, value = variable
        if isinstance(value, np.ndarray | float | int):
            found[f"{prefix}{name}"] = np.asarray(value)
    components = network.state.get("components")
    for name, component in components.items() if isinstance(components, dict) else ():
        if isinstance(component, Network) and not prefix:
            found.update(_variables(component, f"{name}/"))
    return found


def _settings(
    given: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    variables: Mapping[str, Mapping[str, Array]],
    where: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    def first(*names: str, default: Any) -> Any:
        return next((given[name] for name in names if given.get(name) is not None), default)

    ema = variables["ema"]

    def has(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in ema)

    for option in ("component_dropout", "latent_stem", "img2img", "ltnt2ltnt", "img2ltnt", "iterative"):
        if given.get(option):
            raise SnapshotError(f"{where}: made with {option} {given[option]}, which acts differently there; refused")
    if given.get("merge_layer", -1) not in (-1, None) or given.get("merge"):
        raise SnapshotError(f"{where}: a k-GAN of the TensorFlow version, which cannot be read")
    const = ema.get("synthesis/4x4/Const/const")
    if const is None or const.ndim != 4:
        raise SnapshotError(f"{where}: no trained first grid (4x4/Const/const): not a generator that can be read")
    height, width = const.shape[2:]
    resolution = int(first("resolution", default=0))
    attends = has(r"^synthesis/.*/AttLayer_l2n/")
    components = int(first("components_num", default=1)) if attends else 0
    layers = int(first("mapping_num_layers", "mapping_layersnum", default=8))
    resnet = has(r"^mapping/.*Dense0_0/")
    settings: dict[str, Any] = {
        "resolution": resolution,
        "ratio": height / width,
        "c_dim": int(first("c_dim", "label_size", default=0)),
        "latent_size": int(first("w_dim", "dlatent_size", "z_dim", "latent_size", default=512)) * max(components, 1),
        "components_num": components,
        # PyTorch's base is twice TensorFlow's.
        "channel_base": 2 * int(first("channel_base", "fmap_base", default=16384)),
        "channel_max": int(first("channel_max", "fmap_max", default=512)),
        "mapping_resnet": resnet,
        # Plain mapping networks have as many layers as they say, the last one included.
        "mapping_num_layers": layers if resnet else layers - 1,
        "w_avg_per_component": False,
        "latent_norm": "each",
        "g_arch": str(first("architecture", default="skip")),
        "d_arch": str(discriminator.get("architecture") or "resnet"),
        "style": has(r"/mod_weight$"),
        "local_noise": has(r"/noise_strength$"),
        "tanh": bool(first("tanh", default=False)),
        "conv_last": has(r"/extraLayer/"),
        "mbstd_group_size": int(discriminator.get("mbstd_group_size") or 4),
    }
    cutoff = given.get("truncation_cutoff")
    if cutoff is not None:
        # A convolution reads the latent one place further on there.
        settings["truncation_cutoff"] = max(0, int(cutoff) - 1)
    settings["attention"] = "none"
    if attends:
        _attention_settings(settings, first, has)
    about: dict[str, Any] = {}
    if given.get("truncation_psi") is not None:
        about["truncation_psi"] = float(given["truncation_psi"])
    return settings, about


def _attention_settings(settings: dict[str, Any], first: Any, has: Any) -> None:
    """What only networks with attention have."""
    iterations = int(first("kmeans_iters", default=1))
    kmeans = has(r"/toasgn_init$")
    settings.update(
        attention="kmeans" if kmeans else "simplex",
        mapping_ltnt2ltnt=has(r"^mapping/AttLayer_0/"),
        num_heads=int(first("num_heads", default=1)),
        integration=str(first("integration", default="add")),
        normalize=str(first("norm", default="none")),
        g_start_res=int(first("start_res", default=0)),
        g_end_res=int(first("end_res", default=8)),
        img_gate=has(r"/weight_n_cont$"),
        ltnt_gate=has(r"/weight_e_cont$"),
        use_pos=has(r"^ltnt_emb/emb$"),
    )
    if kmeans:
        settings.update(kmeans_iters=iterations, kmeans_weight_per_iter=iterations > 1)
    if settings["use_pos"]:
        settings.update(
            pos_type=str(first("pos_type", default="sinus")),
            pos_init=str(first("pos_init", default="uniform")),
            pos_dim=first("pos_dim", default=None),
        )
        if settings["pos_type"] in ("sinus", "linear"):
            settings["pos_directions_num"] = int(first("pos_directions_num", default=2))


def _tensor(value: Array) -> Tensor:
    return torch.from_numpy(np.array(value, dtype=np.float32, order="C"))


def _convolution(value: Array, *, flip: bool) -> Tensor:
    """``[kh, kw, in, out] → [out, in, kh, kw]``, mirrored in space where the original transposes its convolution."""
    value = value[::-1, ::-1] if flip else value
    return _tensor(value.transpose(3, 2, 0, 1))


def _generator(variables: Mapping[str, Array], settings: Mapping[str, Any]) -> Tensors:
    """A generator's tensors under our names; what is not one of ours keeps its own and is refused later."""
    tensors: Tensors = {}
    for name, value in variables.items():
        if name == "ltnt_emb/emb":
            tensors["pos"] = _tensor(value)
        elif name == "dlatent_avg":
            tensors["mapping_network.w_avg"] = _tensor(value)
        elif name.startswith("mapping/"):
            _mapping(tensors, name.removeprefix("mapping/"), value, settings)
        elif name.startswith("synthesis/"):
            _synthesis(tensors, name.removeprefix("synthesis/"), value, settings)
    if settings["attention"] == "kmeans":
        _stack_weights(tensors, int(settings["kmeans_iters"]))
    return tensors


def _mapping(tensors: Tensors, name: str, value: Array, settings: Mapping[str, Any]) -> None:
    part = "global_mlp" if name.startswith("global/") or settings["attention"] == "none" else "mlp"
    name = name.removeprefix("global/")
    last = settings["mapping_num_layers"] // 2 - 1 if settings["mapping_resnet"] else settings["mapping_num_layers"]
    if match := re.fullmatch(r"AttLayer_(\d+)/(weight|bias)_(\w+)", name):
        if match[3] in _ATTENTION:
            tensors |= _attention(f"mapping_network.{part}.sa{match[1]}", match[2], match[3], value)
    elif match := re.fullmatch(r"Dense(\d+)(?:_([01]))?/(weight|bias)", name):
        block, layer, kind = int(match[1]), match[2], match[3]
        where = f"l{block}.fc{layer}" if layer else "out_layer" if block == last else f"l{block}"
        tensors[f"mapping_network.{part}.{where}.{kind}"] = _tensor(value.T if kind == "weight" else value)
    else:
        tensors[f"mapping/{name}"] = _tensor(value)


def _synthesis(tensors: Tensors, name: str, value: Array, settings: Mapping[str, Any]) -> None:
    resolution = int(settings["resolution"])
    if match := re.fullmatch(r"noise(\d+)", name):
        # Layer 2·log₂r − 5 + i; there is one more, at twice the resolution, which nothing reads.
        number = int(match[1]) + 5
        size = 2 ** (number // 2)
        if size <= resolution and settings["local_noise"]:
            tensors[f"synthesis_network.b{size}.conv{number % 2}.noise_const"] = _tensor(value[0, 0])
        return
    if match := re.fullmatch(r"pos_emb(\d+)", name):
        for conv in ("conv0", "conv1") if int(match[1]) > 2 else ("conv1",):
            place = f"synthesis_network.b{2 ** int(match[1])}.{conv}.image_positions.cells"
            tensors[place] = _tensor(value.reshape(-1, value.shape[-1]))
        return
    match = re.fullmatch(r"(\d+)x\d+/(.+)/(\w+)", name)
    if match is None:
        tensors[f"synthesis/{name}"] = _tensor(value)
        return
    block, layer, kind = f"synthesis_network.b{match[1]}", str(match[2]), str(match[3])
    if (layer, kind) == ("Const", "const"):
        tensors[f"{block}.const"] = _tensor(value[0])
    elif "/AttLayer_l2n" in layer:
        conv, _, rest = layer.partition("/AttLayer_l2n")
        _bipartite(tensors, f"{block}.{_CONVOLUTIONS[conv].removesuffix('.conv')}.attention", rest, kind, value)
    elif layer in _CONVOLUTIONS:
        _convolution_part(tensors, f"{block}.{_CONVOLUTIONS[layer]}", layer, kind, value)
    else:
        tensors[f"synthesis/{name}"] = _tensor(value)


def _convolution_part(tensors: Tensors, place: str, layer: str, kind: str, value: Array) -> None:
    """One of a convolution's variables."""
    if kind == "weight":
        tensors[f"{place}.weight"] = _convolution(value, flip=layer in ("Conv0_up", "Skip"))
    elif kind == "mod_weight":
        tensors[f"{place}.affine.weight"] = _tensor(value.T)
    elif kind == "mod_bias":
        tensors[f"{place}.affine.bias"] = _tensor(value + 1)
    elif kind == "bias":
        tensors[f"{place.removesuffix('.conv')}.bias"] = _tensor(value)
    elif kind == "noise_strength":
        tensors[f"{place.removesuffix('.conv')}.noise_strength"] = _tensor(value).reshape([])
    else:
        tensors[f"{place}.{kind}"] = _tensor(value)


def _bipartite(tensors: Tensors, place: str, rest: str, kind: str, value: Array) -> None:
    """One of an attention layer's variables."""
    if kind == "toasgn_init":
        tensors[f"{place}.centroids"] = _tensor(value)
    elif kind == "st_weights":
        tensors[f"{place}.att_weight{rest.replace('/iter_', '.')}"] = _tensor(value)
    elif (match := re.fullmatch(r"(weight|bias)_(\w+)", kind)) and match[2] in _ATTENTION:
        tensors |= _attention(place, match[1], match[2], value)
    else:
        tensors[f"{place}.{kind}"] = _tensor(value)


def _attention(place: str, kind: str, what: str, value: Array) -> Tensors:
    return {f"{place}.{_ATTENTION[what]}.{kind}": _tensor(value.T if kind == "weight" else value)}


def _stack_weights(tensors: Tensors, iterations: int) -> None:
    """``att_weight.0``, ``att_weight.1``, … to one ``att_weight``."""
    for name in [name for name in tensors if name.endswith(".att_weight.0")]:
        whole = name.removesuffix(".0")
        weights = [tensors.pop(f"{whole}.{i}") for i in range(iterations) if f"{whole}.{i}" in tensors]
        tensors[whole] = weights[0] if iterations == 1 else torch.stack(weights)


def _discriminator(variables: Mapping[str, Array]) -> Tensors:
    names = {"FromRGB": "fromrgb", "Conv0": "conv0", "Conv1_down": "conv1", "Skip": "skip", "Conv": "conv"}
    tensors: Tensors = {}
    for name, value in variables.items():
        if name == "ltnt_emb/emb":
            continue  # nothing reads it
        if match := re.fullmatch(r"(\d+)x\d+/(\w+)/(weight|bias)", name):
            place = "fc" if match[2] == "Dense0" else names.get(match[2], match[2])
            place = f"b{match[1]}.{place}"
        elif match := re.fullmatch(r"()(Output)/(weight|bias)", name):
            place = "b4.out"
        else:
            tensors[name] = _tensor(value)
            continue
        weight = match[3] == "weight"
        if weight and value.ndim == 4:
            tensors[f"{place}.weight"] = _convolution(value, flip=False)
        else:
            tensors[f"{place}.{match[3]}"] = _tensor(value.T if weight else value)
    return tensors
