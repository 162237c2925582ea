"""What both attention operators share: the contract of their arguments, and their plain-torch form.

Shapes: ``x [B, d, n]`` image features at n positions, h heads, m components, ``p`` wide positions. Queries, position
maps and modulation have been multiplied into the m components beforehand (``models/attention.py``), so that a pixel
costs ``2·h·m·d`` multiply-adds and no ``d²`` term. This form keeps the probabilities for the backward pass, is
differentiable to any order, and serves where there is no native operator.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ganformer_cli.errors import GanformerError

Integration = Literal["add", "mul", "both"]
Normalization = Literal["none", "layer", "instance"]
Over = Literal["components", "positions"]

#: Inside the root of the normalisation.
EPSILON = 1e-8

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


class Keys(NamedTuple):
    """What the image is compared with, brought into the space of x: ``S = x·content + positions·place + bias``.

    ``positions`` and ``place`` are None together. A batch of 1 is shared by all pictures.
    """

    content: Tensor  # [B or 1, h, m, d]
    bias: Tensor  # [B or 1, h, m]: biases, and the mask of dropped components
    positions: Tensor | None  # [n, p]
    place: Tensor | None  # [B or 1, h, m, p]


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the operators compute for features of ``dtype``, and that of their m-sized tensors."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def checked(operator: str, x: Tensor, tensors: dict[str, tuple[Tensor, str, tuple[int, ...]]]) -> list[Tensor]:
    """The tensors, in the operators' arithmetic.

    Args:
        operator: its name, for messages.
        x: the features.
        tensors: name → the tensor, its shape in words, and in numbers. "B or 1" in words lets its first size be 1.

    Raises:
        GanformerError: names the argument whose shape, dtype or device does not fit.
    """
    for name, (tensor, words, shape) in tensors.items():
        sizes = tuple(tensor.shape)
        shared = "B or 1" in words and sizes[:1] == (1,) and sizes[1:] == shape[1:]
        if sizes != shape and not shared:
            raise GanformerError(
                f"{operator}: {name} must be {words}, {list(shape)} beside x {list(x.shape)}, not {list(sizes)}"
            )
        if not tensor.is_floating_point():
            raise GanformerError(f"{operator}: {name} must be floating, not {tensor.dtype}")
        if tensor.device != x.device:
            raise GanformerError(f"{operator}: {name} is on {tensor.device}, x on {x.device}; move one of them")
    return [tensor.to(arithmetic(x.dtype)) for tensor, _, _ in tensors.values()]


def checked_keys(operator: str, x: Tensor, keys: Keys) -> Keys:
    """The keys in the operators' arithmetic.

    Raises:
        GanformerError: names the argument whose shape, dtype or device does not fit.
    """
    content, bias, positions, place = keys
    if x.ndim != 3 or not x.is_floating_point():
        raise GanformerError(f"{operator}: x must be floating [B, d, n], not {x.dtype} {list(x.shape)}")
    if content.ndim != 4 or 0 in content.shape[1:3]:
        raise GanformerError(f"{operator}: keys.content must be [B or 1, h, m, d], not {list(content.shape)}")
    batch, channels, size = x.shape
    _, heads, components, _ = content.shape
    tensors = {
        "keys.content": (content, "[B or 1, h, m, d]", (batch, heads, components, channels)),
        "keys.bias": (bias, "[B or 1, h, m]", (batch, heads, components)),
    }
    if positions is None and place is None:
        content, bias = checked(operator, x, tensors)
        return Keys(content, bias, None, None)
    if positions is None or place is None:
        raise GanformerError(f"{operator}: keys.positions and keys.place go together; give both or neither")
    width = positions.shape[-1] if positions.ndim else 0
    tensors["keys.positions"] = (positions, "[n, p]", (size, width))
    tensors["keys.place"] = (place, "[B or 1, h, m, p]", (batch, heads, components, width))
    return Keys(*checked(operator, x, tensors))


def dense(x: Tensor) -> Tensor:
    """``x [B, d, n]`` as the native operators take it: position after position or channel after channel, no gaps."""
    return x if x.is_contiguous() or x.transpose(1, 2).is_contiguous() else x.contiguous()


def scores(x: Tensor, keys: Keys) -> Tensor:
    """``[B, h, m, n]`` in the dtype of the keys."""
    heads, components = keys.content.shape[1:3]
    offset = keys.bias[..., None]
    if keys.positions is not None and keys.place is not None:
        # Of the batch's size only where the keys are: those of k-means are shared.
        offset = offset + keys.place @ keys.positions.t()
    flat = keys.content.flatten(1, 2).expand(len(x), -1, -1)
    return torch.baddbmm(offset.flatten(1, 2), flat, x.to(flat.dtype)).unflatten(1, (heads, components))


def probabilities_of(x: Tensor, keys: Keys, over: Over) -> Tensor:
    """``[B, h, m, n]``: softmax of the scores over the components or over the positions."""
    return scores(x, keys).softmax(2 if over == "components" else 3)


def attend(weights: Tensor, values: Tensor, value_bias: Tensor, *, channels_last: bool) -> Tensor:
    """``g = value_bias + Σ_hm weights · values``: what each position gathers from the components.

    Args:
        weights: ``[B, h, m, n]``.
        values: ``[B or 1, h, m, d']``.
        value_bias: ``[B or 1, d']``.
        channels_last: the memory format of the result. In another one than x has, every later step would transpose.

    Returns:
        ``[B, d', n]``.
    """
    shares = weights.flatten(1, 2)
    flat = values.flatten(1, 2).expand(len(shares), -1, -1)
    if channels_last:
        return torch.baddbmm(value_bias[:, None], shares.transpose(1, 2), flat).transpose(1, 2)
    return torch.baddbmm(value_bias[..., None], flat.transpose(1, 2), shares)


def integrate(x: Tensor, g: Tensor, integration: Integration, normalization: Normalization) -> Tensor:
    """``mul``: ω(x)·g; ``add``: ω(x) + g; ``both``: ω(x)·g₁ + g₂.

    Args:
        x: ``[B, d, n]``.
        g: ``[B, d, n]``, or ``[B, 2d, n]`` for ``both``, in the operators' arithmetic.
        integration: see above.
        normalization: see ``normalize_features``.

    Returns:
        ``[B, d, n]`` of x's dtype.
    """
    features = normalize_features(x.to(g.dtype), normalization, integration)
    if integration == "add":
        return (features + g).to(x.dtype)
    if integration == "mul":
        return (features * g).to(x.dtype)
    scale, shift = g.chunk(2, dim=1)
    return torch.addcmul(shift, features, scale).to(x.dtype)


def normalize_features(x: Tensor, normalization: Normalization, integration: Integration) -> Tensor:
    """ω(x) over the channels (``layer``) or the positions (``instance``) of ``x [B, d, n]``, or x itself.

    ``add`` subtracts the mean only, ``mul`` divides by the root mean square only, ``both`` does one after the other.
    """
    if normalization == "none":
        return x
    axis = 1 if normalization == "layer" else 2
    if integration != "mul":
        x = x - x.mean(axis, keepdim=True)
    if integration != "add":
        x = x * (x.square().mean(axis, keepdim=True) + EPSILON).rsqrt()
    return x


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of one position of ``x [B, d, n]`` lie side by side."""
    return x.stride(1) < x.stride(2)


def draw_seed(device: torch.device) -> Tensor:
    """A seed for the dropout of cells, int64 [], from the device's default generator."""
    return torch.empty((), dtype=torch.int64, device=device).random_()


def drop_cells(probabilities: Tensor, rate: float, seed: Tensor) -> Tensor:
    """Drop single cells of ``[B, h, m, n]`` and rescale the others; which ones is a function of seed and place alone.

    Args:
        probabilities: ``[B, h, m, n]``.
        rate: share that is dropped, below 1.
        seed: int64, one number. The native operators compute the same hash, in 32 bits.
    """
    batch, heads, components, positions = probabilities.shape

    def count(size: int) -> Tensor:
        return torch.arange(size, device=seed.device)

    seed = seed.reshape(())
    start = _mix(_mix(seed & _MASK) ^ ((seed >> 32) & _MASK))
    head = _mix((start + count(batch * heads) * _GOLDEN) & _MASK)
    row = _mix((head[:, None] + count(positions)) & _MASK)
    cell = _mix((row[:, None] + count(components)[:, None] * _GOLDEN) & _MASK)
    kept = ((cell >> 8) >= dropout_threshold(rate)).unflatten(0, (batch, heads))
    return torch.where(kept, probabilities / (1 - rate), 0)


def dropout_threshold(rate: float) -> int:
    """The hashes, of 24 bits, below this are dropped."""
    return round(rate * 2**24)


def _mix(v: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 (public domain) on numbers of 32 bits held in int64."""
    v = ((v ^ (v >> 16)) * 0x85EBCA6B) & _MASK
    v = ((v ^ (v >> 13)) * 0xC2B2AE35) & _MASK
    return v ^ (v >> 16)
