"""Models that are not the GANsformer's and that people have: named for what they are."""

from __future__ import annotations

import io
import pickletools
from pathlib import Path
from typing import Any

from torch import Tensor

from ganformer_cli.files import open_regular
from ganformer_cli.original_snapshots.pickles import PersistentObject, TensorFlowNetwork, as_dictionary, modules_within
from ganformer_cli.text import printable

#: How many instructions of a pickle are looked at for names.
_INSTRUCTIONS = 20_000
_BYTES = 1 << 22

#: Build functions of TensorFlow networks that are known.
_TENSORFLOW = {
    "G_main": "StyleGAN2 (NVIDIA, TensorFlow)",
    "G_main_stylegan2": "StyleGAN2 (NVIDIA, TensorFlow)",
    "G_style": "StyleGAN (NVIDIA, TensorFlow)",
    "G_paper": "ProGAN (NVIDIA, TensorFlow)",
}
#: Classes of modules that only one family of networks has.
_CLASSES = {
    "SynthesisInput": "StyleGAN3 (NVIDIA)",
    "TriPlaneGenerator": "EG3D (NVIDIA)",
    "SuperresolutionHybrid8XDC": "EG3D (NVIDIA)",
    "SongUNet": "a diffusion model (EDM, NVIDIA)",
    "DhariwalUNet": "a diffusion model (EDM, NVIDIA)",
    "EDMPrecond": "a diffusion model (EDM, NVIDIA)",
}


def name_of_tree(tree: Any) -> str | None:
    """What a pickle that could be read holds, with its article; None if that is not known."""
    if isinstance(tree, dict):
        for key in ("G_ema", "Gs", "G", "ema", "generator"):
            if isinstance(tree.get(key), PersistentObject):
                return _name_of_module(tree[key])
        if tree and all(isinstance(value, Tensor) for value in tree.values()):
            return "a bare state dict of tensors, without the settings of a network"
        if "G_ema" in tree:
            return "StyleGAN2-ADA or StyleGAN3 (NVIDIA)"
        if isinstance(tree.get("Gs", tree.get("G")), TensorFlowNetwork):
            return "a network of NVIDIA's TensorFlow code"
    if isinstance(tree, PersistentObject):
        return _name_of_module(tree)
    networks = [part for part in tree if isinstance(part, TensorFlowNetwork)] if isinstance(tree, list | tuple) else []
    if isinstance(tree, TensorFlowNetwork):
        networks = [tree]
    for network in reversed(networks):
        return _name_of_network(network)
    return None


def _name_of_module(module: PersistentObject) -> str:
    """A network of NVIDIA's PyTorch code: they name their classes alike, and differ in what these are made of."""
    names = {current.class_name for _, current in modules_within(module)}
    if family := next((family for name, family in _CLASSES.items() if name in names), None):
        return family
    kwargs = as_dictionary(module.state.get("_init_kwargs"))
    arguments = {*kwargs, *as_dictionary(kwargs.get("synthesis_kwargs"))}
    if arguments & {"magnitude_ema_beta", "conv_kernel", "use_radial_filters", "output_scale", "num_critical"}:
        return "StyleGAN3 (NVIDIA)"
    if module.class_name == "Generator" and {"SynthesisNetwork", "MappingNetwork"} <= names | {"MappingNetwork"}:
        return "StyleGAN2-ADA (NVIDIA), or a network made with its code"
    return f"a network of the class {printable(module.class_name, limit=60)}, of another program"


def _name_of_network(network: TensorFlowNetwork) -> str:
    name = str(network.state.get("build_func_name"))
    if name in _TENSORFLOW:
        return _TENSORFLOW[name]
    return f"a network of NVIDIA's TensorFlow code ({printable(name, limit=60)}) that is not the GANsformer's"


def name_of_pickle(path: Path) -> str | None:
    """What a pickle that was refused seems to hold, by the words in it: nothing in it is run."""
    words: set[str] = set()
    try:
        with open_regular(path) as file:
            data = io.BytesIO(file.read(_BYTES))
        for count, (_, argument, _) in enumerate(pickletools.genops(data)):
            if isinstance(argument, str) and len(argument) < 200:
                words.add(argument)
            if count > _INSTRUCTIONS:
                break
    except Exception:  # a look at what may be anything; whatever was seen until here counts
        pass
    if family := next((family for name, family in _CLASSES.items() if name in words), None):
        return family
    if "G_ema" in words:
        return "StyleGAN2-ADA or StyleGAN3 (NVIDIA), or a network made with their code"
    if "state_dict" in words or "g_ema" in words:
        return "a checkpoint of another program"
    if family := next((family for name, family in _TENSORFLOW.items() if name in words), None):
        return family
    if any(word.startswith("sklearn") for word in words):
        return "a model of scikit-learn's"
    return None
