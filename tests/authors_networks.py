"""The authors' networks written down a second time, from their description, in plain torch and without any of ours.

And their files: networks of random numbers, written as the authors' programs write them. For tests.
"""

from __future__ import annotations

import math
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

#: What a network is made with unless a case says otherwise.
BASE: dict[str, Any] = {
    **{"resolution": 16, "m": 3, "w": 8, "c_dim": 0, "base": 128, "max": 8, "arch": "resnet", "style": True},
    **{"attention": "kmeans", "heads": 1, "norm": "layer", "integration": "mul", "iters": 1, "start": 0, "end": 8},
    **{"use_pos": True, "pos_type": "sinus", "pos_dim": None, "directions": 2, "img_gate": False, "ltnt_gate": False},
    **{"depth": 4, "resnet": True, "ltnt2ltnt": True, "layer_dim": None, "shared": False, "noise": True, "ratio": 1.0},
    # Of TensorFlow's only.
    **{"tf": False, "conv_last": True, "tanh": False, "native": None, "cutoff": None, "gate_in_mapping": True},
}


# ----- The networks -----


def dense(state: State, name: str, x: Tensor, *, lrmul: float = 1.0, act: bool = False) -> Tensor:
    weight = state[f"{name}.weight"]
    x = x @ (weight * (lrmul / weight.shape[1] ** 0.5)).T + state[f"{name}.bias"] * lrmul
    return F.leaky_relu(x, 0.2) * 2**0.5 if act else x


def fir(x: Tensor, before: int, after: int, gain: float) -> Tensor:
    taps = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 8
    kernel = (taps[:, None] * taps * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (before, after, before, after)), kernel, groups=x.shape[1])


def zoom(x: Tensor) -> Tensor:
    """Twice as large: zeros between, then the filter."""
    wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, ::2, ::2] = x
    return fir(wide, 2, 1, 4)


def convolve(x: Tensor, weight: Tensor, *, up: bool = False, down: bool = False) -> Tensor:
    size = weight.shape[-1]
    if up:
        if size == 1:
            return zoom(F.conv2d(x, weight))
        return fir(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, 1, 4)
    if down:
        if size == 1:
            return F.conv2d(fir(x, 1, 1, 1)[:, :, ::2, ::2], weight)
        return F.conv2d(fir(x, 2, 2, 1), weight, stride=2)
    return F.conv2d(x, weight, padding=size // 2)


def scaled(weight: Tensor) -> Tensor:
    return weight / math.prod(weight.shape[1:]) ** 0.5


def modulated(state: State, s: dict[str, Any], name: str, x: Tensor, w: Tensor, *, up: bool = False) -> Tensor:
    weight = scaled(state[f"{name}.weight"])
    if not s["style"]:
        return convolve(x, weight, up=up)
    found = []
    for one, style in zip(x, dense(state, f"{name}.affine", w), strict=True):
        own = weight * style[:, None, None]
        if weight.shape[0] != 3 or not name.endswith("torgb"):
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        found.append(convolve(one[None], own, up=up))
    return torch.cat(found)


def positions_of(state: State, s: dict[str, Any], layer: str, height: int, width: int) -> Tensor:
    """``[n, p]``."""
    size, n = s["pos_dim"] or s["w"], s["directions"]
    if s["pos_type"] == "trainable2d":
        return state[f"{layer}.pos0"].flatten(0, 1)
    side = max(height, width)  # a rectangle has the positions of the square's middle
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    parts = []
    for j in range(n):
        along = x * math.cos(j * math.pi / n) + y * math.sin(j * math.pi / n)
        count = size // (2 * n)
        angles = along[..., None] * 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
        parts += [angles.sin(), angles.cos()]
    top, left = (side - height) // 2, (side - width) // 2
    square = torch.cat(parts, -1)
    return square[top : top + height, left : left + width].flatten(0, 1)


def attend(
    state: State, s: dict[str, Any], name: str, x: Tensor, y: Tensor, pos_x: Tensor | None, pos_y: Tensor | None
) -> Tensor:
    """``x [B, n, d]``, ``y [B, m, w]`` → the new ``x``."""
    heads, dim = s["heads"], x.shape[2]

    def split(value: Tensor) -> Tensor:
        return value.unflatten(-1, (heads, -1)).transpose(-2, -3)

    q = dense(state, f"{name}.to_queries", x)
    place = torch.zeros_like(q) if pos_x is None else dense(state, f"{name}.from_pos_map", pos_x).expand_as(q)
    if s["attention"] == "kmeans":
        elements = split(torch.cat([q, place], -1))
        centroids = state[f"{name}.centroids"]
        shares: Tensor | None = None
        for i in range(s["iters"]):
            weight = state[f"{name}.att_weight.{i}" if s["tf"] else f"{name}.att_weight"]
            if shares is not None:
                centroids = (shares / (shares.sum(2, keepdim=True) + 1e-8)).transpose(2, 3) @ elements
            shares = ((elements * weight) @ centroids.transpose(2, 3) / (dim / heads) ** 0.5).softmax(3)
    else:
        keys = dense(state, f"{name}.to_keys", y)
        if pos_y is not None:
            keys = keys + dense(state, f"{name}.to_pos_map", pos_y)
        shares = (split(q + place) @ split(keys).transpose(2, 3) / (dim / heads) ** 0.5).softmax(3)
    assert shares is not None
    for side, value, pos, bias, axis in (("from", x, pos_x, 1, 3), ("to", y, pos_y, 0, 2)):
        if s["img_gate" if side == "from" else "ltnt_gate"]:
            gate = dense(state, f"{name}.{side}_gate_attention.gate", value) + bias
            if pos is not None:
                gate = gate + dense(state, f"{name}.{side}_gate_attention.gate_pos", pos)
            shares = shares * gate.sigmoid().transpose(1, 2).unsqueeze(axis)
    found = (shares @ split(dense(state, f"{name}.to_values", y))).transpose(1, 2).flatten(2)
    change = dense(state, f"{name}.modulation", found)
    axis = 2 if s["norm"] == "layer" else 1
    if s["norm"] != "none" and s["integration"] in ("add", "both"):
        x = x - x.mean(axis, keepdim=True)
    if s["norm"] != "none" and s["integration"] in ("mul", "both"):
        x = x / (x.square().mean(axis, keepdim=True) + 1e-8).sqrt()
    if s["integration"] == "both":
        return x * (1 + change[..., :dim]) + change[..., dim:]
    return x + change if s["integration"] == "add" else x * (1 + change)


def mlp(state: State, s: dict[str, Any], name: str, x: Tensor, pos: Tensor | None, *, attends: bool) -> Tensor:
    inside = {**s, "attention": "simplex", "norm": "none", "integration": "add"}
    inside |= {"img_gate": s["ltnt_gate"], "ltnt_gate": s["ltnt_gate"]}
    plain = s["depth"] - 1 if s["tf"] else s["depth"]
    for i in range(math.ceil(s["depth"] / 2) if s["resnet"] else plain):
        before = x
        if attends:
            x = attend(state, inside, f"{name}.sa{i}", x, x, pos, pos)
        if s["resnet"]:
            hidden = dense(state, f"{name}.l{i}.fc0", x, lrmul=0.01, act=True)
            x = F.leaky_relu(dense(state, f"{name}.l{i}.fc1", hidden, lrmul=0.01) + before, 0.2)
        else:
            x = dense(state, f"{name}.l{i}", x, lrmul=0.01, act=True)
    return dense(state, f"{name}.out_layer", x, lrmul=0.01, act=True)


def normalized(x: Tensor, *axes: int) -> Tensor:
    return x / (x.square().mean(axes, keepdim=True) + 1e-8).sqrt()


def mapped(state: State, s: dict[str, Any], z: Tensor, c: Tensor | None = None) -> Tensor:
    """``z [B, m+1, w]`` → ``w [B, m+1, w]``."""
    style = z[:, -1] if s["tf"] and s["m"] else normalized(z[:, -1], 1)
    if c is not None:
        style = torch.cat([style, normalized(dense(state, "mapping.embed", c), 1)], 1)
    if s["style"]:
        style = mlp(state, s, "mapping.mlp" if s["shared"] else "mapping.global_mlp", style, None, attends=False)
    if not s["m"]:
        return style[:, None]
    pos = state["pos"] if s["use_pos"] else None
    components = normalized(z[:, :-1], *((2,) if s["tf"] else (1, 2)))
    components = mlp(state, s, "mapping.mlp", components, pos, attends=s["ltnt2ltnt"])
    return torch.cat([components, style[:, None]], 1)


def generate(state: State, s: dict[str, Any], z: Tensor, c: Tensor | None = None, psi: float = 1.0) -> Tensor:
    """Pictures with constant noise, before any crop."""
    w = mapped(state, s, z, c)
    average = state["mapping.w_avg"]
    count = 2 * int(math.log2(s["resolution"])) - 1
    # TensorFlow's convolutions read one place further on.
    cutoff = count if s["cutoff"] is None else s["cutoff"] - 1
    ws = [average + (w - average) * psi if i < cutoff else w for i in range(count)]
    x = state["synthesis.b4.const"].expand(len(z), -1, -1, -1)
    image: Tensor | None = None
    index, resolution = 0, 4
    while resolution <= s["resolution"]:
        block, last, skip = f"synthesis.b{resolution}", resolution == s["resolution"], None
        for conv in ("conv0", "conv1") if resolution > 4 else ("conv1",):
            if conv == "conv0" and s["arch"] == "resnet":
                skip = convolve(x, scaled(state[f"{block}.skip.weight"]), up=True) * 0.5**0.5
            layer, own = f"{block}.{conv}", ws[index]
            x = modulated(state, s, layer, x, own[:, -1], up=conv == "conv0")
            if s["m"] and s["attention"] != "none" and 2 ** s["start"] <= resolution < 2 ** s["end"]:
                height, width = x.shape[2:]
                place = positions_of(state, s, layer, height, width).to(x.dtype)
                pos_y = state["pos"] if s["use_pos"] else None
                flat = attend(state, s, f"{layer}.transformer", x.flatten(2).mT, own[:, :-1], place, pos_y)
                x = flat.mT.unflatten(2, (height, width))
            if s["noise"]:
                x = x + state[f"{layer}.noise_strength"] * state[f"{layer}.noise_const"]
            x = F.leaky_relu(x + state[f"{layer}.biasAct.bias"][:, None, None], 0.2) * 2**0.5
            index += 1
        if skip is not None:
            x = x * 0.5**0.5 + skip
        if last and s["conv_last"]:
            x = modulated(state, s, f"{block}.conv_last", x, ws[index][:, -1])
            index += 1
        image = None if image is None else zoom(image)
        if last or s["arch"] == "skip":
            colours = modulated(state, s, f"{block}.torgb", x, ws[index][:, -1])
            colours = colours + state[f"{block}.torgb.biasAct.bias"][:, None, None]
            image = colours if image is None else image + colours
        resolution *= 2
    assert image is not None
    return image.tanh() if s["tanh"] else image


def judge(state: State, resolution: int, image: Tensor, group: int = 4) -> Tensor:
    """A residual discriminator's logits."""

    def layer(name: str, x: Tensor, *, down: bool = False, gain: float = 1.0) -> Tensor:
        bias = next(state[key] for key in (f"{name}.biasAct.bias", f"{name}.bias") if key in state)
        x = convolve(x, scaled(state[f"{name}.weight"]), down=down) + bias[:, None, None]
        return F.leaky_relu(x, 0.2) * (2**0.5 * gain)

    x = layer(f"b{resolution}.fromrgb", image)
    while resolution > 4:
        skip = convolve(x, scaled(state[f"b{resolution}.skip.weight"]), down=True) * 0.5**0.5
        x = skip + layer(f"b{resolution}.conv1", layer(f"b{resolution}.conv0", x), down=True, gain=0.5**0.5)
        resolution //= 2
    batch, group = len(x), min(group, len(x))
    groups = x.unflatten(0, (group, batch // group))
    spread = ((groups - groups.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3)).repeat(group)
    x = torch.cat([x, spread[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)
    x = dense(state, "b4.fc", layer("b4.conv", x).flatten(1), act=True)
    return dense(state, "b4.out", x)


# ----- Networks of random numbers, and files as the authors' programs write them -----


def channels(s: dict[str, Any], resolution: int) -> int:
    return int(min(s["base"] // resolution, s["max"]))


def random_state(s: dict[str, Any], seed: int = 0) -> State:
    """What the authors' modules create under these settings, what they do not use included; biases are not zero."""
    source = torch.Generator().manual_seed(seed)
    state: State = {}

    def put(name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> None:
        state[name] = torch.randn(shape, generator=source) * scale + shift

    def linear(name: str, inputs: int, outputs: int, scale: float = 1.0, bias: float = 0.0) -> None:
        put(f"{name}.weight", outputs, inputs, scale=scale)
        put(f"{name}.bias", outputs, scale=0.3, shift=bias)

    w, m, p, kmeans = s["w"], s["m"], s["pos_dim"] or s["w"], s["attention"] == "kmeans"

    def attention(name: str, d: int, place: int, *, inside: bool = False) -> None:
        heads = s["heads"]
        for part, inputs in (("queries", d), ("keys", w if not inside else d), ("values", w if not inside else d)):
            linear(f"{name}.to_{part}", inputs, d)
        linear(f"{name}.from_pos_map", place, d)
        if s["use_pos"] or not s["tf"]:
            linear(f"{name}.to_pos_map", place, d)
        linear(f"{name}.modulation", d, 2 * d if s["integration"] == "both" and not inside else d)
        if kmeans and not inside:
            put(f"{name}.centroids", 1, heads, m, 2 * d // heads)
            for i in range(s["iters"] if s["tf"] else 1):
                put(f"{name}.att_weight" + (f".{i}" if s["tf"] else ""), heads, 1, 2 * d // heads, scale=0.2, shift=1)
        from_gate, to_gate = (s["ltnt_gate"], s["ltnt_gate"]) if inside else (s["img_gate"], s["ltnt_gate"])
        for side, there, width in (("from", from_gate, d), ("to", to_gate, w)):
            if there:
                linear(f"{name}.{side}_gate_attention.gate", width, heads)
                linear(f"{name}.{side}_gate_attention.gate_pos", place, heads)

    def network(name: str, inputs: int, attends: bool) -> None:
        width, hidden = inputs, s["layer_dim"] or w
        plain = s["depth"] - 1 if s["tf"] else s["depth"]
        for i in range(math.ceil(s["depth"] / 2) if s["resnet"] else plain):
            if attends:
                attention(f"{name}.sa{i}", width, w, inside=True)
            if s["resnet"]:
                linear(f"{name}.l{i}.fc0", width, hidden, scale=100)
                linear(f"{name}.l{i}.fc1", hidden, hidden, scale=100)
            else:
                linear(f"{name}.l{i}", width, hidden, scale=100)
            width = hidden
        linear(f"{name}.out_layer", width, w, scale=100)

    def convolution(name: str, inputs: int, outputs: int, size: int) -> None:
        put(f"{name}.weight", outputs, inputs, size, size)
        linear(f"{name}.affine", w, inputs, bias=1)

    if m and (s["use_pos"] or not s["tf"]):
        put("pos", m, w)
    put("mapping.w_avg", w, scale=0.5)
    if s["c_dim"]:
        linear("mapping.embed", s["c_dim"], w)
    if not s["shared"]:
        network("mapping.global_mlp", 2 * w if s["c_dim"] else w, False)
    if m:
        network("mapping.mlp", w, s["ltnt2ltnt"])
    shape = s["native"] or (4, 4)
    put("synthesis.b4.const", channels(s, 4), *shape)
    resolution = 4
    while resolution <= s["resolution"]:
        block, d = f"synthesis.b{resolution}", channels(s, resolution)
        before = channels(s, resolution // 2) if resolution > 4 else d
        grid = [side * resolution // 4 for side in shape]
        for conv in ("conv0", "conv1") if resolution > 4 else ("conv1",):
            layer = f"{block}.{conv}"
            convolution(layer, before if conv == "conv0" else d, d, 3)
            put(f"{layer}.biasAct.bias", d, scale=0.3)
            if s["noise"]:
                put(f"{layer}.noise_strength", scale=0.3)
                put(f"{layer}.noise_const", *grid)
            if m and 2 ** s["start"] <= resolution < 2 ** s["end"]:
                attention(f"{layer}.transformer", d, p)
                if s["pos_type"] == "trainable2d":
                    # One for both layers in TensorFlow.
                    first = f"{block}.conv0.pos0"
                    if s["tf"] and first in state:
                        state[f"{layer}.pos0"] = state[first]
                    else:
                        put(f"{layer}.pos0", *grid, p)
                if not s["tf"]:
                    state[f"{layer}.grid_pos"] = positions_of(state, s, layer, *grid).unflatten(0, grid).float()
        if resolution > 4 and s["arch"] == "resnet":
            put(f"{block}.skip.weight", d, before, 1, 1)
        if resolution == s["resolution"] and s["conv_last"]:
            convolution(f"{block}.conv_last", d, d, 3)
        if resolution == s["resolution"] or s["arch"] == "skip":
            convolution(f"{block}.torgb", d, 3, 1)
            put(f"{block}.torgb.biasAct.bias", 3, scale=0.3)
        if not s["tf"]:
            state[f"{block}.resample_kernel"] = torch.ones(4, 4)
        resolution *= 2
    return state


class Written:
    """Pickles as a call of ``function``, as the authors' classes do."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def authors_modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names of the authors' modules, so that pickles can name them."""

    def rebuild(meta: Any) -> None: ...

    class Network: ...

    names: dict[str, Any] = {"rebuild": rebuild, "Network": Network}
    for module, thing, name in (
        ("torch_utils.persistence", rebuild, "_reconstruct_persistent_obj"),
        ("dnnlib.tflib.network", Network, "Network"),
    ):
        thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
        parts = module.split(".")
        for i in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        setattr(sys.modules[module], name, thing)
    return names


def pytorch_arguments(s: dict[str, Any]) -> dict[str, Any]:
    """``_init_kwargs``."""
    shared = {"transformer": s["m"] > 0, "use_pos": s["use_pos"], "num_heads": s["heads"], "ltnt_gate": s["ltnt_gate"]}
    mapping = {"num_layers": s["depth"], "layer_dim": s["layer_dim"], "resnet": s["resnet"], "shared": s["shared"]}
    mapping |= {"ltnt2ltnt": s["ltnt2ltnt"], **shared}
    synthesis = {"architecture": s["arch"], "style": s["style"], "local_noise": s["noise"], "latent_stem": False}
    synthesis |= {"start_res": s["start"], "end_res": s["end"], "integration": s["integration"], "iterative": False}
    synthesis |= {"norm": None if s["norm"] == "none" else s["norm"], "kmeans": s["attention"] == "kmeans"}
    synthesis |= {"kmeans_iters": s["iters"], "channel_base": s["base"], "channel_max": s["max"], **shared}
    synthesis |= {"pos_dim": s["pos_dim"], "pos_type": s["pos_type"], "pos_directions_num": s["directions"]}
    synthesis |= {"img_gate": s["img_gate"], "pos_init": "uniform"}
    top = {"z_dim": s["w"], "w_dim": s["w"], "k": s["m"] + 1, "c_dim": s["c_dim"], "img_resolution": s["resolution"]}
    return {**top, "img_channels": 3, "mapping_kwargs": mapping, "synthesis_kwargs": synthesis}


def module_of(state: State, class_name: str, authors: dict[str, Any], prefix: str = "", **more: Any) -> Written:
    """A persistent object with the tensors whose names begin with ``prefix``."""
    here = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    own = {name: value for name, value in here.items() if "." not in name}
    children = {name.partition(".")[0]: None for name in here if "." in name}
    inner = {name: module_of(here, name.title(), authors, f"{name}.") for name in children} | more.pop("children", {})
    meta = {"type": "class", "version": 6, "module_src": "raise RuntimeError('was run')", "class_name": class_name}
    return Written(
        authors["rebuild"], {**meta, "state": {"_parameters": own, "_buffers": {}, "_modules": inner, **more}}
    )


def write_pytorch(
    path: Path, s: dict[str, Any], state: State, authors: dict[str, Any], change: Callable[[dict[str, Any]], Any] = dict
) -> Path:
    """A snapshot with a generator only; ``change`` the arguments that it says it was made with."""
    arguments = pytorch_arguments(s)
    change(arguments)
    generator = module_of(state, "Generator", authors, _init_args=(), _init_kwargs=arguments)
    tree = {"G": None, "D": None, "Gs": generator, "dataset_args": {"path": "datasets/toy", "ratio": s["ratio"]}}
    path.write_bytes(pickle.dumps(tree, protocol=4))
    return path


#: Parts of an attention layer in TensorFlow.
PARTS = {"to_queries": "query", "to_keys": "key", "to_values": "value", "from_pos_map": "from_pos", "modulation": "out"}
PARTS |= {"to_pos_map": "to_pos", "from_gate_attention.gate": "n_cont", "from_gate_attention.gate_pos": "n_pos"}
PARTS |= {"to_gate_attention.gate": "e_cont", "to_gate_attention.gate_pos": "e_pos"}


def tensorflow_variables(s: dict[str, Any], state: State) -> dict[str, dict[str, Any]]:
    """The variables of the top network and of its two parts."""
    found: dict[str, dict[str, Any]] = {"": {}, "mapping": {}, "synthesis": {}}
    steps = math.ceil(s["depth"] / 2) if s["resnet"] else s["depth"] - 1
    for name, tensor in state.items():
        value: Any = tensor.numpy()
        if name in ("pos", "mapping.w_avg"):
            found[""]["ltnt_emb/emb" if name == "pos" else "dlatent_avg"] = value
            continue
        network, _, rest = name.partition(".")
        if network == "mapping":
            part, _, rest = rest.partition(".")
            layer, _, kind = rest.rpartition(".")
            value = value.T
            if layer.startswith("sa"):
                number, _, inner = layer.partition(".")
                new = f"AttLayer_{number[2:]}/{kind}_{PARTS[inner]}"
            elif layer == "out_layer":
                new = f"Dense{steps - 1 if s['resnet'] else steps}/{kind}"
            else:
                new = "Dense" + layer.removeprefix("l").replace(".fc", "_") + f"/{kind}"
            found["mapping"][("global/" if part == "global_mlp" and s["m"] else "") + new] = value
            continue
        resolution, _, rest = rest.partition(".")
        size = resolution[1:]
        power = int(math.log2(int(size)))
        layer, _, kind = rest.partition(".")
        if rest == "const":
            found["synthesis"]["4x4/Const/const"] = value[None]
            continue
        base = {"conv0": "Conv0_up", "conv1": "Conv1" if power > 2 else "Conv", "skip": "Skip", "torgb": "ToRGB"}
        where = f"{size}x{size}/" + {**base, "conv_last": "ToRGB/extraLayer"}[layer]
        if kind == "weight":
            value = value.transpose(2, 3, 1, 0)
            new = f"{where}/weight"
            if layer in ("conv0", "skip"):
                value = value[::-1, ::-1]
        elif kind.startswith("affine."):
            new, value = (
                (f"{where}/mod_weight", value.T) if kind.endswith("weight") else (f"{where}/mod_bias", value - 1)
            )
        elif kind == "biasAct.bias":
            new = f"{where}/bias"
        elif kind == "noise_strength":
            new, value = f"{where}/noise_strength", float(value)
        elif kind == "noise_const":
            new, value = f"noise{2 * power - 5 + int(layer[-1])}", value[None, None]
        elif kind == "pos0":
            new = f"pos_emb{power}"
        else:
            inner, _, last = kind.removeprefix("transformer.").rpartition(".")
            where += "/AttLayer_l2n"
            if kind.endswith(".centroids"):
                new = f"{where}/toasgn_init"
            elif inner == "att_weight":
                new = f"{where}/iter_{last}/st_weights"
            else:
                new, value = f"{where}/{last}_{PARTS[inner]}", value.T
        found["synthesis"][new] = np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
    side = s["resolution"] * 2
    found["synthesis"][f"noise{2 * int(math.log2(side)) - 5}"] = np.zeros((1, 1, side, side), np.float32)
    return found


def write_tensorflow(
    path: Path,
    s: dict[str, Any],
    state: State,
    authors: dict[str, Any],
    change: Callable[[dict[str, Any]], Any] = dict,
    function: str = "G_GANsformer",
    newer: bool = False,
) -> Path:
    """A snapshot with a generator only."""
    names = {"z": "latent_size", "w": "dlatent_size", "base": "fmap_base", "max": "fmap_max", "c": "label_size"}
    names |= {"depth": "mapping_layersnum"}
    if newer:
        names = {"z": "z_dim", "w": "w_dim", "base": "channel_base", "max": "channel_max", "c": "c_dim"}
        names |= {"depth": "mapping_num_layers"}
    given = {"num_channels": 3, "resolution": s["resolution"], "architecture": s["arch"], "style": s["style"]}
    given |= {names["z"]: s["w"], names["w"]: s["w"], names["base"]: s["base"] // 2, names["max"]: s["max"]}
    given |= {names["c"]: 0, names["depth"]: s["depth"], "components_num": max(s["m"], 1), "transformer": s["m"] > 0}
    given |= {"mapping_resnet": s["resnet"], "mapping_ltnt2ltnt": s["ltnt2ltnt"], "local_noise": s["noise"]}
    given |= {"norm": s["norm"], "integration": s["integration"], "kmeans": s["attention"] == "kmeans"}
    given |= {"kmeans_iters": s["iters"], "use_pos": s["use_pos"], "num_heads": s["heads"], "pos_type": s["pos_type"]}
    given |= {"start_res": s["start"], "end_res": s["end"], "img_gate": s["img_gate"], "ltnt_gate": s["ltnt_gate"]}
    given |= {"tanh": s["tanh"], "truncation_cutoff": s["cutoff"], "pos_dim": s["pos_dim"], "fused_modconv": True}
    given |= {"pos_directions_num": s["directions"], "merge_layer": -1, "style_mixing": 0.9}
    if s["native"]:
        given["crop_ratio"] = s["native"][0] / s["native"][1]
    change(given)
    variables = tensorflow_variables(s, state)

    def network(name: str, parts: dict[str, Any]) -> Any:
        state = {"version": 4, "name": name, "static_kwargs": given if name == "Gs" else {}, "components": parts}
        state |= {"build_module_src": "raise RuntimeError('was run')", "build_func_name": function}
        state["variables"] = list(variables["" if name == "Gs" else name].items())
        found = authors["Network"]()
        found.__dict__.update(state)
        return found

    parts = {name: network(name, {}) for name in ("mapping", "synthesis")}
    path.write_bytes(pickle.dumps((None, None, network("Gs", parts)), protocol=4))
    return path
