"""The authors' PyTorch snapshots: a dictionary of persistent objects, to our configuration and tensors.

Settings come from the arguments that the networks were made with; what these lack, from the attributes of the modules;
what those lack, from the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ganformer_cli.config import ModelConfig, settings_of
from ganformer_cli.config.model import MAX_CHANNELS, MAX_LATENT, MAX_LAYERS, MAX_RESOLUTION
from ganformer_cli.errors import SnapshotError
from ganformer_cli.original_snapshots.accounting import SnapshotContents, Tensors, network_of
from ganformer_cli.original_snapshots.arguments import ATTENTION_ARGUMENTS, Arguments, read_attention
from ganformer_cli.original_snapshots.pickles import PersistentObject, as_dictionary, module_tensors, modules_within

_SETTINGS = settings_of(ModelConfig)
#: Arguments that do not affect images: names and numbers of training, and what follows from the others.
_WITHOUT_EFFECT = frozenset({
    "class_name", "component_mixing", "style_mixing", "w_avg_beta", "num_ws", "num_broadcast", "tanh", "fused_modconv",
    "pos_init",
})  # fmt: skip
#: Arguments of which one value can be read: their defaults.
_FIXED: dict[str, Any] = {
    "img_channels": 3, "act": "lrelu", "lrmul": 0.01, "kernel_size": 3, "resample_kernel": [1, 3, 3, 1],
    "use_noise": True, "parametric": True,
}  # fmt: skip
#: What a discriminator without attention has and does not read.
_UNREAD_BY_DISCRIMINATOR = frozenset({
    "components_num", "latent_size", "use_pos", "num_heads", "start_res", "end_res", "integration", "norm", "pos_dim",
    "pos_type", "pos_init", "pos_directions_num", "attention_dropout", "class_name", "mapping_kwargs",
})  # fmt: skip


def our_name(name: str) -> str:
    """The name in our networks of a tensor of the authors' generator or discriminator."""
    name = name.replace("biasAct.bias", "bias").replace("transformer.", "attention.")
    name = re.sub(r"\.conv([01])\.(att_weight|centroids)$", r".conv\1.attention.\2", name)
    name = re.sub(r"\.from_gate_attention\.gate(_pos)?\.", r".image_gate\1.", name)
    name = re.sub(r"\.to_gate_attention\.gate(_pos)?\.", r".latent_gate\1.", name)
    if name.startswith("synthesis."):
        name = re.sub(r"(conv[01]|torgb)\.(weight|affine)", r"\1.conv.\2", name)
    return re.sub(r"^(mapping|synthesis)\.", r"\1_network.", name)


def is_pytorch_snapshot(tree: Any) -> bool:
    """Whether ``tree`` has the form of a PyTorch snapshot of the GANsformer's."""
    if not isinstance(tree, dict) or not isinstance(tree.get("Gs"), PersistentObject):
        return False
    generator = tree["Gs"]
    return as_dictionary(generator.state.get("_init_kwargs")).get("k", generator.state.get("k")) is not None


def read_pytorch(tree: Mapping[str, Any], where: str) -> SnapshotContents:
    """What the file holds.

    Raises:
        SnapshotError: its generator is damaged, or one that our networks cannot be.
    """
    ema = tree["Gs"]
    found = _generator_settings(ema, where)
    settings = found.settings
    found.tensors["ema"] = _generator_tensors(ema, settings, f"{where} (Gs)")
    with found.optional("generator"):
        generator = network_of(tree.get("G"), PersistentObject, "G")
        if _generator_settings(generator, where).settings != settings:
            raise SnapshotError("G and Gs are of different settings")
        found.tensors["generator"] = _generator_tensors(generator, settings, "G")
    crop_ratio = None
    with found.optional("discriminator"):
        discriminator = network_of(tree.get("D"), PersistentObject, "D")
        more, crop_ratio = _discriminator_settings(discriminator, settings)
        found.tensors["discriminator"] = _tensors(discriminator, "D")
        settings.update(more)
    dataset = Arguments(where, "dataset_args", tree.get("dataset_args"))
    ratio = dataset.number("ratio", default=crop_ratio or 1.0, low=1 / 8, high=8)
    settings.update(ratio=ratio, square_grid=ratio != 1)
    path = dataset.get("path")
    if isinstance(path, str) and path:
        found.about["dataset"] = {"name": re.split(r"[\\/]", path)[-1]}
    return found


def _child(module: PersistentObject | None, *path: str) -> PersistentObject | None:
    """A module within ``module``."""
    for name in path:
        found = as_dictionary(module.state.get("_modules")).get(name) if module else None
        module = found if isinstance(found, PersistentObject) else None
    return module


def _remembered(module: PersistentObject | None, *names: str) -> dict[str, Any]:
    """Arguments that a module keeps as attributes."""
    return {name: module.state[name] for name in names if name in module.state} if module else {}


def _init_kwargs(module: PersistentObject | None) -> dict[str, Any]:
    return as_dictionary(module.state.get("_init_kwargs")) if module else {}


def _tensors(module: PersistentObject, where: str) -> Tensors:
    """All tensors of a module and those within it, by our names."""
    tensors = Tensors()
    try:
        for name, value in module_tensors(module):
            tensors.put(our_name(name), name, value)
    except ValueError as error:
        raise SnapshotError(f"{where}: {error}; the file is damaged") from error
    stray = next(_strays(module), None)
    if stray is not None:
        raise SnapshotError(f"{where}: holds a tensor in a place that is not known here, {stray}; it is refused")
    return tensors


def _strays(module: PersistentObject) -> Iterator[str]:
    """Names of tensors that are neither parameters nor buffers."""
    for prefix, current in modules_within(module):
        yield from (f"{prefix}{name}" for name, value in current.state.items() if isinstance(value, Tensor))


def _generator_tensors(module: PersistentObject, settings: Mapping[str, Any], where: str) -> Tensors:
    """A generator's tensors, trained positions and a shared mapping network among them."""
    tensors = _tensors(module, where)
    kind = settings.get("pos_type")
    ours = {"linear": ["vectors"], "trainable": ["rows", "columns"], "trainable2d": ["cells"]}.get(str(kind), [])
    for number, part in enumerate(ours):
        for place in [
            name for name in tensors if re.fullmatch(rf"synthesis_network\.b\d+\.conv[01]\.pos{number}", name)
        ]:
            name, value = tensors.pop(place)
            if part == "cells" and value.ndim == 3:
                value = value.flatten(0, 1)
            tensors.put(f"{place.rpartition('.')[0]}.image_positions.{part}", name, value)
    if settings.get("mapping_shared"):
        # The global latent's network may be there a second time: it is the components'.
        for name in [name for name in tensors if name.startswith("mapping_network.global_mlp.")]:
            same = tensors.get(name.replace("global_mlp", "mlp"))
            if same is not None and same.value.equal(tensors[name].value):
                del tensors[name]
    return tensors


def _generator_settings(generator: PersistentObject, where: str) -> SnapshotContents:
    """What a generator's arguments say."""
    names = "\n".join(name for name, _ in module_tensors(generator))

    def has(pattern: str) -> bool:
        return re.search(pattern, names, re.MULTILINE) is not None

    kwargs = _init_kwargs(generator)
    attributes = ("z_dim", "c_dim", "w_dim", "k", "img_resolution", "img_channels", "component_dropout")
    top = Arguments(where, "", kwargs, _remembered(generator, *attributes))
    network, layer = _child(generator, "mapping"), _child(generator, "synthesis", "b4", "conv1")
    mapping = Arguments(
        where,
        "mapping_kwargs",
        kwargs.get("mapping_kwargs"),
        _init_kwargs(network),
        _remembered(network, "num_layers", "use_pos", "transformer", "normalize_global"),
    )
    attention = _child(layer, "transformer")
    synthesis = Arguments(
        where,
        "synthesis_kwargs",
        kwargs.get("synthesis_kwargs"),
        _init_kwargs(_child(generator, "synthesis")),
        _remembered(layer, "style", "local_noise", "use_pos"),
        _remembered(attention, "num_heads", "norm", "integration", "kmeans", "kmeans_iters", "pos_dim"),
    )
    for name in ("mapping_kwargs", "synthesis_kwargs"):
        if top.get(name) is not None and not isinstance(top.get(name), dict):
            raise SnapshotError(f"{where}: its {name} is not a table of settings; the file is damaged")
    # A latent's width is one number there; two would need layers between that no network of theirs has.
    size = top.integer("w_dim", "z_dim", default=0, low=1, high=MAX_LATENT)
    if top.integer("z_dim", default=size, low=1, high=MAX_LATENT) != size:
        raise SnapshotError(f"{where}: its z_dim and w_dim differ, which cannot be read; it is refused")
    for arguments in (top, synthesis, mapping):
        arguments.refuse("iterative", "which the authors' own code cannot run")
        arguments.refuse("latent_stem", "which the authors' own code cannot run")
    transformer = synthesis.flag("transformer", default=has(r"^synthesis\..*\.transformer\."))
    in_mapping = mapping.flag("transformer", default=transformer)
    components = top.integer("k", default=1, low=1, high=MAX_LATENT) - 1
    if transformer != (components > 0) or (in_mapping and not transformer):
        raise SnapshotError(
            f"{where}: made with k = {components + 1} latents and transformer = {transformer} (in the mapping "
            f"{in_mapping}), which contradict each other; it is refused"
        )
    if transformer and not in_mapping:
        raise SnapshotError(f"{where}: made with mapping_kwargs.transformer False, which cannot be read; it is refused")
    kmeans = synthesis.flag("kmeans", default=has(r"\.centroids$"))
    # The default follows from the tensors.
    shown = "skip" if has(r"\.b4\.torgb\.") else "resnet" if has(r"\.skip\.weight$") else "orig"
    settings: dict[str, Any] = {
        "resolution": top.integer("img_resolution", default=0, low=8, high=MAX_RESOLUTION),
        "c_dim": top.integer("c_dim", default=0, low=0, high=MAX_LATENT),
        "attention": ("kmeans" if kmeans else "simplex") if transformer else "none",
        "components_num": components,
        "latent_size": size * max(components, 1),
        "channel_base": synthesis.integer("channel_base", default=32768, low=1, high=MAX_CHANNELS * MAX_RESOLUTION),
        "channel_max": synthesis.integer("channel_max", default=512, low=1, high=MAX_CHANNELS),
        "mapping_num_layers": mapping.integer("num_layers", default=8, low=0, high=MAX_LAYERS),
        "mapping_dim": mapping.optional_integer("layer_dim", low=1, high=MAX_LATENT),
        "mapping_resnet": mapping.flag("resnet", default=has(r"^mapping\..*\.fc0\.")),
        "w_avg_per_component": False,
        "g_arch": synthesis.choice("architecture", default=shown, choices=_SETTINGS["g_arch"].choices),
        "style": synthesis.flag("style", default=True),
        "local_noise": synthesis.flag("local_noise", default=has(r"\.noise_strength$")),
        # No argument names it.
        "conv_last": has(r"\.conv_last\.weight$"),
    }
    if settings["mapping_dim"] == size or settings["mapping_num_layers"] == 0:
        settings["mapping_dim"] = None
    about: dict[str, Any] = {}
    if transformer:
        settings |= _attention_settings(mapping, synthesis, kmeans, size, where)
        settings |= _mapping_settings(mapping, network, settings, has, where)
    else:
        # Read, so that they are known: without components nothing reads them.
        for name in (*ATTENTION_ARGUMENTS, "shared", "ltnt2ltnt"):
            synthesis.get(name)
            mapping.get(name)
    if not mapping.flag("normalize_global", default=True):
        raise SnapshotError(f"{where}: made with normalize_global False, which cannot be read; it is refused")
    dropout = top.number("component_dropout", default=0.0, low=0, high=1)
    if dropout:
        # It acts in training only.
        about["training"] = {"component_dropout": dropout}
    found = SnapshotContents(settings, {}, about)
    rate = settings.get("attention_dropout")
    other = mapping.number("attention_dropout", default=rate or 0.0, low=0, high=0.999)
    if rate is not None and rate != other:
        # One number serves both here.
        found.notes.append(f"trains on with attention dropout {rate:g} in the mapping network too, which had {other:g}")
    for arguments in (top, mapping, synthesis):
        arguments.check_the_rest(_WITHOUT_EFFECT, _FIXED)
    return found


def _attention_settings(
    mapping: Arguments, synthesis: Arguments, kmeans: bool, size: int, where: str
) -> dict[str, Any]:
    """What only networks with attention have."""
    if synthesis.get("integration") == "both":
        raise SnapshotError(
            f"{where}: made with synthesis_kwargs.integration both, which the authors' PyTorch code does not compute "
            "as it is meant; how is not known here, so it is refused"
        )
    settings = read_attention(synthesis, kmeans=kmeans, size=size, use_pos=False)
    for name in ("num_heads", "use_pos"):
        said = mapping.get(name)
        if said is not None and said != settings[name]:
            raise SnapshotError(
                f"{where}: made with {name} {settings[name]} in synthesis_kwargs and {said} in mapping_kwargs, which "
                "cannot be read; it is refused"
            )
    return settings


def _mapping_settings(
    mapping: Arguments, network: PersistentObject | None, settings: Mapping[str, Any], has: Any, where: str
) -> dict[str, Any]:
    """Of the mapping network of a generator with components."""
    attends = mapping.flag("ltnt2ltnt", default=has(r"^mapping\.mlp\.sa0\."))
    shared = mapping.flag("shared", default=False)
    found: dict[str, Any] = {
        "mapping_ltnt2ltnt": attends,
        "mapping_shared": shared and settings["style"],
        "mapping_ltnt_gate": mapping.flag("ltnt_gate", default=False) and attends,
    }
    length = _init_kwargs(_child(network, "mlp")).get("from_len")
    if attends and length not in (None, settings["components_num"]):
        raise SnapshotError(
            f"{where}: its mapping network lets {length!r} latents attend to each other, not its "
            f"{settings['components_num']} components, which cannot be read; it is refused"
        )
    return found


def _discriminator_settings(
    discriminator: PersistentObject, generator: Mapping[str, Any]
) -> tuple[dict[str, Any], float | None]:
    """The discriminator's fields of ``ModelConfig``, and the ratio that it pads images for."""
    kwargs = _init_kwargs(discriminator)
    arguments = Arguments("D", "", kwargs, _remembered(discriminator, "c_dim", "img_resolution", "crop_ratio"))
    epilogue = Arguments("D", "epilogue_kwargs", arguments.get("epilogue_kwargs"))
    for name, high, same in (
        ("img_resolution", MAX_RESOLUTION, "resolution"),
        ("c_dim", MAX_LATENT, "c_dim"),
        ("channel_base", MAX_CHANNELS * MAX_RESOLUTION, "channel_base"),
        ("channel_max", MAX_CHANNELS, "channel_max"),
    ):
        default = {"channel_base": 32768, "channel_max": 512}.get(same, generator[same])
        if arguments.integer(name, default=default, low=0, high=high) != generator[same]:
            raise SnapshotError(f"D has another {name} than G, and the two are trained with one here")
    arguments.refuse("transformer", "attention in the discriminator, which cannot be read")
    settings = {
        "d_arch": arguments.choice("architecture", default="resnet", choices=_SETTINGS["g_arch"].choices),
        "mbstd_group_size": epilogue.integer("mbstd_group_size", default=4, low=1, high=1024),
    }
    ratio = arguments.number("crop_ratio", default=0.0, low=0, high=8)
    arguments.check_the_rest(_UNREAD_BY_DISCRIMINATOR, _FIXED)
    epilogue.check_the_rest((), {"mbstd_num_channels": 1, **_FIXED})
    return settings, ratio or None
