"""The authors' PyTorch snapshots: a dictionary of persistent objects, to our configuration and tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganformer_cli.errors import SnapshotError
from ganformer_cli.original_snapshots.pickles import PersistentObject, module_tensors

Tensors = dict[str, Tensor]


def our_name(name: str) -> str:
    """The name in our networks of a tensor of the authors' generator or discriminator."""
    name = name.replace("biasAct.bias", "bias").replace("transformer.", "attention.")
    name = re.sub(r"\.conv([01])\.(att_weight|centroids)$", r".conv\1.attention.\2", name)
    if name.startswith("synthesis."):
        name = re.sub(r"(conv[01]|torgb)\.(weight|affine)", r"\1.conv.\2", name)
    return re.sub(r"^(mapping|synthesis)\.", r"\1_network.", name)


def is_snapshot(tree: Any) -> bool:
    """Whether ``tree`` has the form of a PyTorch snapshot."""
    return isinstance(tree, dict) and isinstance(tree.get("Gs"), PersistentObject)


def read(tree: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Tensors], dict[str, Any]]:
    """Settings of ``ModelConfig``, the tensors of ``ema``, ``generator`` and ``discriminator``, and what else is known.

    Raises:
        SnapshotError: it is another network's snapshot, or describes what our networks cannot do.
    """
    networks = {"ema": tree["Gs"], "generator": tree.get("G"), "discriminator": tree.get("D")}
    modules = {name: module for name, module in networks.items() if isinstance(module, PersistentObject)}
    tensors = {
        name: {our_name(key): value for key, value in module_tensors(module)} for name, module in modules.items()
    }
    generator = modules["ema"]
    arguments = _arguments(generator)
    if "k" not in arguments:
        raise SnapshotError(
            f"{where}: a snapshot of another network ({generator.class_name} without components, StyleGAN2 perhaps); "
            "give one of the GANsformer's"
        )
    options = {**_arguments(generator, "mapping_kwargs"), **_arguments(generator, "synthesis_kwargs")}
    mapping = _arguments(generator, "mapping_kwargs")
    discriminator = _arguments(modules["discriminator"]) if "discriminator" in modules else {}
    dataset = tree.get("dataset_args") if isinstance(tree.get("dataset_args"), dict) else {}
    settings = _settings(arguments, options, mapping, discriminator, tensors["ema"], where)
    ratio = float((dataset or {}).get("ratio") or discriminator.get("crop_ratio") or 1.0)
    settings.update(ratio=ratio, square_grid=ratio != 1)
    path = (dataset or {}).get("path")
    about = {"dataset": {"name": re.split(r"[\\/]", path)[-1]}} if isinstance(path, str) and path else {}
    return settings, tensors, about


def _arguments(module: PersistentObject, part: str | None = None) -> dict[str, Any]:
    found = module.state.get("_init_kwargs")
    if isinstance(found, dict) and part is not None:
        found = found.get(part)
    return found if isinstance(found, dict) else {}


def _settings(
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    mapping: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    where: str,
) -> dict[str, Any]:
    """``ModelConfig``'s fields: from the arguments, and where they are silent from the tensors."""
    names = "\n".join(tensors)

    def has(pattern: str) -> bool:
        return re.search(pattern, names, re.MULTILINE) is not None

    for option, fine in (("iterative", False), ("component_dropout", 0.0), ("latent_stem", False)):
        if (arguments.get(option) or options.get(option) or fine) != fine:
            raise SnapshotError(f"{where}: made with {option}, which the authors' own code cannot run either")
    components = int(arguments["k"]) - 1
    size = int(arguments.get("w_dim") or arguments.get("z_dim") or 0)
    if not has(r"^synthesis_network\..*\.attention\."):
        components_num, attention = 0, "none"
    else:
        components_num, attention = components, "kmeans" if has(r"\.centroids$") else "simplex"
    settings: dict[str, Any] = {
        "resolution": int(arguments.get("img_resolution") or 0),
        "c_dim": int(arguments.get("c_dim") or 0),
        "attention": attention,
        "components_num": components_num,
        "latent_size": size * max(components_num, 1),
        "channel_base": int(options.get("channel_base") or 32768),
        "channel_max": int(options.get("channel_max") or 512),
        "mapping_num_layers": int(mapping.get("num_layers") or 8),
        "mapping_dim": mapping.get("layer_dim"),
        "mapping_resnet": has(r"^mapping_network\..*\.fc0\."),
        "w_avg_per_component": False,
        "g_arch": "skip" if has(r"\.b4\.torgb\.") else "resnet" if has(r"\.skip\.weight$") else "orig",
        "style": has(r"^synthesis_network\..*\.affine\."),
        "local_noise": has(r"\.noise_strength$"),
        "conv_last": has(r"\.conv_last\."),
        "d_arch": str(discriminator.get("architecture") or "resnet"),
        "mbstd_group_size": int(_group_size(discriminator)),
    }
    if attention == "none":
        return settings
    use_pos = "pos" in tensors
    settings.update(
        mapping_ltnt2ltnt=has(r"^mapping_network\.mlp\.sa0\."),
        num_heads=int(options.get("num_heads") or 1),
        integration=str(options.get("integration") or "add"),
        normalize=str(options.get("norm") or "none"),
        g_start_res=int(options.get("start_res") or 0),
        g_end_res=int(options.get("end_res", 8)),
        img_gate=bool(options.get("img_gate")),
        ltnt_gate=bool(options.get("ltnt_gate")),
        use_pos=use_pos,
    )
    if attention == "kmeans":
        settings["kmeans_iters"] = int(options.get("kmeans_iters") or 1)
    if use_pos:
        settings.update(
            pos_type=str(options.get("pos_type") or "sinus"),
            pos_init=str(options.get("pos_init") or "uniform"),
            pos_dim=options.get("pos_dim"),
        )
        if settings["pos_type"] in ("sinus", "linear"):
            settings["pos_directions_num"] = int(options.get("pos_directions_num") or 2)
    return settings


def _group_size(discriminator: Mapping[str, Any]) -> int:
    epilogue = discriminator.get("epilogue_kwargs")
    found = epilogue.get("mbstd_group_size") if isinstance(epilogue, dict) else None
    return int(found or 4)
