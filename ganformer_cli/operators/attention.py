"""The two attention operators: their contract, plain-torch reference and registration (GANsformer, section 3).

Shapes: ``x [B, d, n]`` image features at n positions, h heads, m components, positions p wide. Queries, position maps
and modulation have been multiplied into the m components beforehand (``models/attention.py``), so that a position costs
``2·h·m·d`` multiply-adds and no ``d²`` term.

The native operators read x once and keep nothing for the backward pass except x and m-sized tensors. The references
keep the probabilities, are differentiable to any order, and serve where there is no native operator. The operators'
schemas, which the CUDA library implements too, are in ``ops/bipartite_attention.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ganformer_cli.config import Integration, Normalization
from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import native
from ganformer_cli.operators.self_tests import OperatorResults, self_test

Over = Literal["components", "positions"]

#: Inside the root of the normalisation.
EPSILON = 1e-8

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


class Keys(NamedTuple):
    """What the image is compared with, in the space of x: ``S = x·content + positions·place + bias``.

    ``positions`` and ``place`` are None together. A batch of 1 is shared by all images.
    """

    content: Tensor  # [B or 1, h, m, d]
    bias: Tensor  # [B or 1, h, m]: biases, and the mask of dropped components
    positions: Tensor | None  # [n, p]
    place: Tensor | None  # [B or 1, h, m, p]


class AttentionMeans(NamedTuple):
    """Sums over the positions, weighted with the probabilities."""

    content: Tensor  # Σₙ A x, [B, h, m, d]
    place: Tensor | None  # Σₙ A positions, [B, h, m, p]
    total: Tensor  # Σₙ A, [B, h, m]; 1 where the softmax runs over the positions


# ----- Attention of the image -----


def bipartite_attention(
    x: Tensor,
    keys: Keys,
    values: Tensor,
    value_bias: Tensor,
    *,
    integration: Integration = "mul",
    normalization: Normalization = "layer",
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """Every position gathers from the components and is modulated by the result; differentiable to any order.

    ``S = x·content + positions·place + bias``; ``A = softmax over m``; single cells of A are dropped and the others
    divided by ``1 − dropout``; ``g = value_bias + Σ_hm A·values``; then ``mul``: ω(x)·g, ``add``: ω(x) + g, ``both``:
    ω(x)·g₁ + g₂. The paper's ``1 + g`` is a ``value_bias`` that contains the 1.

    Args:
        x: ``[B, d, n]``, floating, n = the image's positions. Contiguous, or the view of a channels-last image;
            anything else is copied.
        keys: see ``Keys``. All tensors but x are converted to float32 (float64 if x is float64).
        values: ``[B or 1, h, m, d']``, d' = 2d for ``both`` (g₁, then g₂), else d.
        value_bias: ``[B or 1, d']``.
        integration: ``mul``, ``add`` or ``both``.
        normalization: ω over the channels (``layer``) or none (``none``). ``add`` subtracts the mean only, ``mul``
            divides by the root mean square only, ``both`` does both in this order. Normalisation over the positions is
            a factor and a bias of each channel: fold it into values and value_bias.
        dropout: rate in [0, 1).
        seed: int64, one number, on x's device; decides which cells are dropped. See ``draw_seed``.

    Returns:
        ``[B, d, n]`` of x's dtype and memory format.

    Raises:
        GanformerError: an argument's shape, dtype or device does not fit; the message names it.
    """
    name = "bipartite_attention"
    if integration not in ("mul", "add", "both"):
        raise GanformerError(f"{name}: integration must be mul, add or both, not {integration!r}")
    if normalization not in ("layer", "none"):
        raise GanformerError(f"{name}: normalization must be layer or none, not {normalization!r}")
    if not 0 <= dropout < 1:
        raise GanformerError(f"{name}: dropout must be at least 0 and below 1, not {dropout}")
    if dropout == 0:
        seed = None
    elif seed is None or seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != x.device:
        raise GanformerError(f"{name}: with dropout, seed must be one int64 number on {x.device}")
    settings = integration, normalization, dropout, seed

    def checked() -> list[Tensor | None]:
        found = _checked_keys(name, x, keys)
        channels = x.shape[1] * (2 if integration == "both" else 1)
        expected = {
            "values": (values, "[B or 1, h, m, d']", (x.shape[0], *found.bias.shape[1:], channels)),
            "value_bias": (value_bias, "[B or 1, d']", (x.shape[0], channels)),
        }
        return [*found, *_checked(name, x, expected)]

    result: Tensor = _run(x, [*keys, values, value_bias], checked, _Attention, settings, _attention_reference)
    return result


def bipartite_attention_reference(
    x: Tensor,
    keys: Keys,
    values: Tensor,
    value_bias: Tensor,
    integration: Integration,
    normalization: Normalization,
    dropout: float,
    seed: Tensor | None,
) -> Tensor:
    """``bipartite_attention`` in plain torch."""
    weights = _probabilities(x, keys, "components")
    if seed is not None:
        weights = drop_cells(weights, dropout, seed)
    return integrate(x, attend(weights, values, value_bias, like=x), integration, normalization)


def attention_probabilities(x: Tensor, keys: Keys, *, over: Over = "components") -> Tensor:
    """The softmax of the scores before dropout, ``[B, h, m, n]``: for maps, and for layers that need all of it.

    Args:
        x: ``[B, d, n]``.
        keys: see ``Keys``.
        over: the axis that sums to 1, ``components`` or ``positions``.

    Returns:
        float32, or float64 if x is float64.

    Raises:
        GanformerError: an argument's shape, dtype or device does not fit; the message names it.
    """
    return _probabilities(x, _checked_keys("attention_probabilities", x, keys), over)


def _probabilities(x: Tensor, keys: Keys, over: Over) -> Tensor:
    heads, components = keys.content.shape[1:3]
    offset = keys.bias[..., None]
    if keys.positions is not None and keys.place is not None:
        # Of the batch's size only if the keys are: k-means' are shared.
        offset = offset + keys.place @ keys.positions.t()
    content = keys.content.flatten(1, 2).expand(x.shape[0], -1, -1)  # not len(x), which torch.export would fix
    scores = torch.baddbmm(offset.flatten(1, 2), content, x.to(content.dtype)).unflatten(1, (heads, components))
    return scores.softmax(2 if over == "components" else 3)


def attend(weights: Tensor, values: Tensor, value_bias: Tensor, *, like: Tensor) -> Tensor:
    """``g = value_bias + Σ_hm weights · values``: what each position gathers from the components.

    Args:
        weights: ``[B, h, m, n]``.
        values: ``[B or 1, h, m, d']``.
        value_bias: ``[B or 1, d']``.
        like: ``[B, d, n]``; the result has its memory format, since in another one every later step would transpose.

    Returns:
        ``[B, d', n]``.
    """
    weights = weights.flatten(1, 2)
    values = values.flatten(1, 2).expand(weights.shape[0], -1, -1)
    if like.stride(1) < like.stride(2):  # channels-last
        return torch.baddbmm(value_bias[:, None], weights.transpose(1, 2), values).transpose(1, 2)
    return torch.baddbmm(value_bias[..., None], values.transpose(1, 2), weights)


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

    ``add`` subtracts the mean only, ``mul`` divides by the root mean square only, ``both`` does both in this order.
    """
    if normalization == "none":
        return x
    axis = 1 if normalization == "layer" else 2
    if integration != "mul":
        x = x - x.mean(axis, keepdim=True)
    if integration != "add":
        x = x * (x.square().mean(axis, keepdim=True) + EPSILON).rsqrt()
    return x


# ----- Means of the image -----


def attention_means(x: Tensor, keys: Keys, *, over: Over) -> AttentionMeans:
    """Sums of features and positions weighted with attention; differentiable to any order.

    ``S = x·content + positions·place + bias``, A its softmax over the components or over the positions. They are the
    centroids of k-means, and what duplex gathers: ``h·m·d`` multiply-adds a position for the scores, as many for the
    sums.

    Args:
        x: ``[B, d, n]``, floating. Contiguous, or the view of a channels-last image; anything else is copied.
        keys: see ``Keys``; converted to float32 (float64 if x is float64). Where the softmax runs over the positions,
            the bias has no effect.
        over: ``components`` (k-means: every position divides itself among the components) or ``positions`` (duplex:
            every component divides itself among the positions).

    Returns:
        float32 sums, float64 if x is float64.

    Raises:
        GanformerError: an argument's shape, dtype or device does not fit; the message names it.
    """
    name = "attention_means"
    if over not in ("components", "positions"):
        raise GanformerError(f"{name}: over must be components or positions, not {over!r}")
    if over == "positions" and x.ndim == 3 and x.shape[2] == 0:
        raise GanformerError(f"{name}: x must have at least one position if the softmax runs over them")
    settings = (int(over == "positions"),)
    content, place, total, *_ = _run(
        x, list(keys), lambda: list(_checked_keys(name, x, keys)), _Means, settings, _means_reference
    )
    return AttentionMeans(content, None if keys.positions is None else place, total)


def attention_means_reference(x: Tensor, keys: Keys, over: Over) -> AttentionMeans:
    """``attention_means`` in plain torch."""
    return weighted_sums(x, _probabilities(x, keys, over), keys.positions)


def weighted_sums(x: Tensor, weights: Tensor, positions: Tensor | None) -> AttentionMeans:
    """The sums for given ``weights [B, h, m, n]``, in plain torch."""
    flat = weights.flatten(1, 2)
    content = (flat @ x.to(flat.dtype).transpose(1, 2)).unflatten(1, weights.shape[1:3])
    place = None if positions is None else weights @ positions.to(flat.dtype)
    return AttentionMeans(content, place, weights.sum(3))


# ----- Dropout of cells -----


def draw_seed(device: torch.device) -> Tensor:
    """A seed for ``drop_cells``, int64 [], from the device's default generator."""
    return torch.empty((), dtype=torch.int64, device=device).random_()


def drop_cells(probabilities: Tensor, rate: float, seed: Tensor) -> Tensor:
    """Drop single cells and rescale the others; which ones depends on the seed and their place alone.

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
    kept = ((cell >> 8) >= round(rate * 2**24)).unflatten(0, (batch, heads))
    return torch.where(kept, probabilities / (1 - rate), 0)


def _mix(v: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 (public domain) on 32-bit numbers held in int64."""
    v = ((v ^ (v >> 16)) * 0x85EBCA6B) & _MASK
    v = ((v ^ (v >> 13)) * 0xC2B2AE35) & _MASK
    return v ^ (v >> 16)


# ----- Arguments -----


def _checked(operator: str, x: Tensor, tensors: dict[str, tuple[Tensor, str, tuple[int, ...]]]) -> list[Tensor]:
    """The tensors, in the dtype of the operators' arithmetic.

    Args:
        operator: its name, for messages.
        x: the features.
        tensors: name → the tensor, its shape in words, and in numbers. "B or 1" in words allows 1 for the first size.

    Raises:
        GanformerError: names the argument whose shape, dtype or device does not fit.
    """
    for name, (tensor, words, shape) in tensors.items():
        sizes = tuple(tensor.shape)
        if sizes != shape and not ("B or 1" in words and sizes[:1] == (1,) and sizes[1:] == shape[1:]):
            raise GanformerError(
                f"{operator}: {name} must be {words}, {list(shape)} beside x {list(x.shape)}, not {list(sizes)}"
            )
        if not tensor.is_floating_point():
            raise GanformerError(f"{operator}: {name} must be floating, not {tensor.dtype}")
        if tensor.device != x.device:
            raise GanformerError(f"{operator}: {name} is on {tensor.device}, x on {x.device}; move one of them")
    return [tensor.to(native.math_dtype(x.dtype)) for tensor, _, _ in tensors.values()]


def _checked_keys(operator: str, x: Tensor, keys: Keys) -> Keys:
    """The keys in the dtype of the operators' arithmetic; raises as ``_checked`` does."""
    content, bias, positions, place = keys
    if x.ndim != 3 or not x.is_floating_point():
        raise GanformerError(f"{operator}: x must be floating [B, d, n], not {x.dtype} {list(x.shape)}")
    if content.ndim != 4 or 0 in content.shape[1:3]:
        raise GanformerError(f"{operator}: keys.content must be [B or 1, h, m, d], not {list(content.shape)}")
    if (positions is None) != (place is None):
        raise GanformerError(f"{operator}: keys.positions and keys.place go together; give both or neither")
    batch, channels, size = x.shape
    heads_of_keys = batch, *content.shape[1:3]
    tensors = {
        "keys.content": (content, "[B or 1, h, m, d]", (*heads_of_keys, channels)),
        "keys.bias": (bias, "[B or 1, h, m]", heads_of_keys),
    }
    if positions is None or place is None:
        content, bias = _checked(operator, x, tensors)
        return Keys(content, bias, None, None)
    width = positions.shape[-1] if positions.ndim else 0
    tensors["keys.positions"] = (positions, "[n, p]", (size, width))
    tensors["keys.place"] = (place, "[B or 1, h, m, p]", (*heads_of_keys, width))
    return Keys(*_checked(operator, x, tensors))


def dense(x: Tensor) -> Tensor:
    """``x [B, d, n]`` as the native operators take it: contiguous, or channels-last without gaps."""
    return x if x.is_contiguous() or x.transpose(1, 2).is_contiguous() else x.contiguous()


# ----- The native operators and their derivatives -----

_Tensors = list[Any]  # Tensor | None


def _run(
    x: Tensor,
    tensors: _Tensors,
    checked: Callable[[], _Tensors],
    function: type[_Attention] | type[_Means],
    settings: tuple[Any, ...],
    reference: Callable[..., Any],
) -> Any:
    """The native operator of ``function``, or its reference.

    Args:
        x: the features.
        tensors: the other tensors, as they were given.
        checked: checks all of them and converts ``tensors``. The native operator checks by itself, at less cost.
        function: records the operator for autograd.
        settings: the operator's other arguments.
        reference: its form in plain torch, from all tensors and ``settings``.
    """
    serves = native.serves(x)
    fits = serves and native.fits(x, native.math_dtype(x.dtype), *tensors) and x.ndim == 3
    if not fits:
        tensors = checked()
    if not serves:
        return reference([x, *tensors], *settings)
    arguments = dense(x), *(None if tensor is None else tensor.contiguous() for tensor in tensors)
    try:
        if native.needs_gradient(*arguments):
            return function.apply(*arguments, *settings)
        return native.call(function.operator(), *arguments, *settings)
    except GanformerError:
        checked()  # names the argument as it was given
        raise


def _attention_reference(tensors: _Tensors, *settings: Any) -> Tensor:
    x, content, bias, positions, place, values, value_bias = tensors
    return bipartite_attention_reference(x, Keys(content, bias, positions, place), values, value_bias, *settings)


def _means_reference(tensors: _Tensors, over_positions: int) -> _Tensors:
    found = attention_means_reference(tensors[0], Keys(*tensors[1:]), "positions" if over_positions else "components")
    return [found.content, found.content if found.place is None else found.place, found.total]


def _differentiable_gradients(
    outputs: Callable[[_Tensors], _Tensors], inputs: _Tensors, gradients: _Tensors
) -> _Tensors:
    """Gradients that can be differentiated again, through the plain-torch form.

    Args:
        outputs: the function that they are of.
        inputs: what it was given.
        gradients: by its outputs, or None.

    Returns:
        For each input its gradient, or None.
    """
    with torch.enable_grad():
        # Views, so that a tensor that is given twice gets each of its two gradients once.
        views = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        needed = {i: view for i, view in enumerate(views) if view is not None and view.requires_grad}
        pairs = [
            (output, gradient)
            for output, gradient in zip(outputs(views), gradients, strict=True)
            if gradient is not None and output.requires_grad
        ]
        found = torch.autograd.grad(
            [output for output, _ in pairs],
            list(needed.values()),
            [gradient for _, gradient in pairs],
            create_graph=True,
            allow_unused=True,
        )
    by_place = dict(zip(needed, found, strict=True))
    return [by_place.get(i) for i in range(len(inputs))]


def _needed(found: _Tensors, tensors: _Tensors, needs_input_grad: tuple[bool, ...]) -> _Tensors:
    """Gradients of the inputs that exist and need one, None for the others: the operators return empty tensors."""
    rows = zip(found, tensors, needs_input_grad, strict=False)
    return [value if tensor is not None and needed else None for value, tensor, needed in rows]


def _fake_gradients(x: Tensor, tensors: tuple[Any, ...], need_positions: bool) -> tuple[Tensor, ...]:
    """Shapes of the gradients by x and ``tensors``, the positions third: empty for what is absent or not needed."""
    found = [x.new_empty(0) if tensor is None else torch.empty_like(tensor) for tensor in tensors]
    if not need_positions:
        found[2] = found[0].new_empty(0)
    return (torch.empty_like(x), *found)


class _Attention(torch.autograd.Function):
    @staticmethod
    def operator() -> Any:
        return torch.ops.ganformer.bipartite_attention

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, ctx.integration, ctx.normalization, ctx.dropout, seed = arguments
        ctx.save_for_backward(*tensors, seed)
        out: Tensor = native.call(_Attention.operator(), *arguments)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        *tensors, seed = ctx.saved_tensors
        settings = ctx.integration, ctx.normalization, ctx.dropout, seed
        if torch.is_grad_enabled():
            found = _differentiable_gradients(
                lambda given: [_attention_reference(given, *settings)], tensors, [gradient]
            )
            return (*found, None, None, None, None)
        found = native.call(
            torch.ops.ganformer.bipartite_attention_backward,
            dense(gradient),
            *tensors,
            *settings,
            ctx.needs_input_grad[3],
        )
        return (*_needed(found, tensors, ctx.needs_input_grad), None, None, None, None)


class _Means(torch.autograd.Function):
    @staticmethod
    def operator() -> Any:
        return torch.ops.ganformer.attention_means

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        *tensors, ctx.over = arguments
        content, place, total, logsumexp = native.call(_Means.operator(), *arguments)
        ctx.mark_non_differentiable(logsumexp)
        ctx.save_for_backward(*tensors, content, place, logsumexp)
        return content, place, total, logsumexp

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        *tensors, content, place, logsumexp = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = [gradients[0], None if tensors[3] is None else gradients[1], gradients[2]]
            found = _differentiable_gradients(lambda given: _means_reference(given, ctx.over), tensors, wanted)
            return (*found, None)
        found = native.call(
            torch.ops.ganformer.attention_means_backward,
            *(gradient.contiguous() for gradient in gradients[:3]),
            *tensors,
            content,
            place,
            logsumexp,
            ctx.over,
            ctx.needs_input_grad[3],
        )
        return (*_needed(found, tensors, ctx.needs_input_grad), None)


# Two images of 9 channels and 35 positions; two heads, 5 components, positions 4 wide.
_X, _KEYS = (2, 9, 35), ((2, 2, 5, 9), (2, 2, 5), (35, 4), (2, 2, 5, 4))


@self_test("bipartite_attention", _X, *_KEYS, (2, 2, 5, 9), (2, 2, 5, 18), (2, 9), (2, 18))
def _test_attention(x: Tensor, *rest: Tensor) -> OperatorResults:
    *keys, values, both, value_bias, both_bias = rest
    channels_last = x.mT.contiguous().mT
    return [
        bipartite_attention(x, Keys(*keys), values, value_bias, integration="mul"),
        bipartite_attention(channels_last, Keys(*keys), both, both_bias, integration="both"),
    ]


@self_test("attention_means", _X, *_KEYS)
def _test_means(x: Tensor, *keys: Tensor) -> OperatorResults:
    return [*attention_means(x, Keys(*keys), over="components"), *attention_means(x, Keys(*keys), over="positions")]


@native.when_loaded
def _register() -> None:
    @native.register("bipartite_attention")
    def attention(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x)

    @native.register("bipartite_attention_backward")
    def attention_backward(gradient: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        return _fake_gradients(x, rest[:6], rest[-1])

    @native.register("attention_means")
    def means(
        x: Tensor, keys: Tensor, key_bias: Tensor, positions: Tensor | None, position_keys: Tensor | None, over: int
    ) -> tuple[Tensor, ...]:
        batch, (heads, components) = len(x), keys.shape[1:3]
        width = 0 if position_keys is None else position_keys.shape[3]
        return (
            keys.new_empty(batch, heads, components, x.shape[1]),
            keys.new_empty(batch, heads, components, width),
            keys.new_empty(batch, heads, components),
            # The logarithm of the sum of exponentials, for the backward pass.
            keys.new_empty(
                (batch, heads, components) if over == 1 else (0,),
                dtype=torch.float64 if x.device.type == "cpu" else keys.dtype,
            ),
        )

    @native.register("attention_means_backward")
    def means_backward(
        grad_content: Tensor, grad_place: Tensor, grad_total: Tensor, x: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        return _fake_gradients(x, rest[:4], rest[-1])
