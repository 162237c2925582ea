"""The attention layers against a plain transcription of their definitions, pixel by pixel, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganformer_cli.models.attention import (
    ATTENTION_LAYERS,
    AttentionOptions,
    AttentionSizes,
    BipartiteLayer,
    DuplexAttention,
    KMeansAttention,
    SelfAttention,
    SimplexAttention,
)
from ganformer_cli.operators import native

B, N, D, M, W, P = 2, 15, 8, 3, 6, 4


def make(kind: str, seed: int = 0, **options: Any) -> BipartiteLayer:
    """A layer in float64 whose every parameter is random, so that every term shows."""
    torch.manual_seed(seed)
    layer = ATTENTION_LAYERS[kind](AttentionSizes(D, W, P, W, M), AttentionOptions(**options)).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [B, d, n], y [B, m, w], positions [n, p], component positions [m, w]."""
    torch.manual_seed(seed)
    shapes = ((B, D, N), (B, M, W), (N, P), (M, W))
    x, y, positions, component_positions = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return x, y, positions, component_positions


def plain(
    layer: BipartiteLayer, x: Tensor, y: Tensor, positions: Tensor, component_positions: Tensor, mask: Tensor
) -> Any:
    """Queries, positions, scores, contexts and modulation for every pixel: (x, y, probabilities)."""
    options = layer.options
    heads, size = options.heads, D // options.heads
    pixels = x.transpose(1, 2)
    queries = layer.to_queries(pixels)
    place = layer.from_pos_map(positions).expand_as(queries) if layer.from_pos_map else torch.zeros_like(queries)

    def split(t: Tensor, width: int) -> Tensor:
        return torch.stack([t[..., i * width : (i + 1) * width] for i in range(heads)], dim=1)

    bias = mask[:, None, None, :] * -10000.0
    if isinstance(layer, KMeansAttention):
        assert layer.centroids is not None
        embedding = split(torch.cat([queries, place], dim=2), 2 * size)
        weighted = embedding * layer.att_weight
        attention = (weighted @ layer.centroids.transpose(2, 3) / size**0.5 + bias).softmax(3)
        for _ in range(options.kmeans_iters - 1):
            weights = attention / (attention.sum(2, keepdim=True) + 1e-8)
            centroids = weights.transpose(2, 3) @ embedding
            attention = (weighted @ centroids.transpose(2, 3) / size**0.5 + bias).softmax(3)
    else:
        embedding = split(queries + place, size)
        if isinstance(layer, SimplexAttention):
            keys = layer.to_keys(y) + (layer.to_pos_map(component_positions) if layer.to_pos_map else 0)
            keys = split(keys, size)
        else:
            assert isinstance(layer, DuplexAttention)
            duplex = layer

            def a(y: Tensor) -> Tensor:
                asking = duplex.gather_queries(y)
                offered = duplex.gather_keys(pixels)
                if duplex.gather_query_pos is not None and duplex.gather_key_pos is not None:
                    asking = asking + duplex.gather_query_pos(component_positions)
                    offered = offered + duplex.gather_key_pos(positions)
                scores = split(asking, size) @ split(offered, size).transpose(2, 3) / size**0.5
                return scores.softmax(3) @ embedding

            # Y := LayerNorm(Y + a(Y, X)), then K = a(Y, X) of the new Y.
            gathered = layer.gather_out(torch.cat(a(y).unbind(1), dim=2))
            y = F.layer_norm(y + gathered, (W,), layer.layer_norm.weight, layer.layer_norm.bias, eps=1e-5)
            keys = a(y)
        attention = (embedding @ keys.transpose(2, 3) / size**0.5 + bias).softmax(3)
    gated = attention
    if layer.image_gate is not None:
        gate = layer.image_gate(pixels)
        if layer.image_gate_pos is not None:
            gate = gate + layer.image_gate_pos(positions)
        gated = gated * torch.sigmoid(gate + 1).permute(0, 2, 1)[..., None]
    if layer.latent_gate is not None:
        gate = layer.latent_gate(y)
        if layer.latent_gate_pos is not None:
            gate = gate + layer.latent_gate_pos(component_positions)
        gated = gated * torch.sigmoid(gate).permute(0, 2, 1)[:, :, None, :]
    contexts = torch.cat((gated @ split(layer.to_values(y), size)).unbind(1), dim=2)
    modulation = layer.modulation(contexts)
    axis = {"layer": 2, "instance": 1}.get(options.normalization)
    if axis is not None:
        if options.integration in ("add", "both"):
            pixels = pixels - pixels.mean(axis, keepdim=True)
        if options.integration in ("mul", "both"):
            pixels = pixels / torch.sqrt(pixels.pow(2).mean(axis, keepdim=True) + 1e-8)
    if options.integration == "add":
        pixels = pixels + modulation
    elif options.integration == "mul":
        pixels = pixels * (1 + modulation)
    else:
        pixels = pixels * (1 + modulation[..., :D]) + modulation[..., D:]
    return pixels.transpose(1, 2), y, attention.transpose(2, 3)


def case(kind: str, name: str, heads: int = 2, **options: Any) -> Any:
    """One configuration of a layer, named ``kind-name``."""
    return pytest.param(kind, {"heads": heads, **options}, id=f"{kind}-{name}")


CASES = [
    *(case(kind, f"{heads}", heads, integration="both") for kind in ATTENTION_LAYERS for heads in (1, 2, 4)),
    *(
        case("simplex", f"{integration}-{normalization}", integration=integration, normalization=normalization)
        for integration, normalization in itertools.product(("add", "mul", "both"), ("layer", "instance", "none"))
    ),
    *(case("kmeans", f"{heads}-iters{n}", heads, kmeans_iters=n) for heads in (1, 2, 4) for n in (2, 3)),
    *(case(kind, "without-positions", image_positions=False, component_positions=False) for kind in ATTENTION_LAYERS),
    case("kmeans", "without-positions-iters2", image_positions=False, component_positions=False, kmeans_iters=2),
    *(case(kind, "gates", image_gate=True, latent_gate=True) for kind in ATTENTION_LAYERS),
    case("simplex", "gate-without-positions", image_gate=True, image_positions=False, component_positions=False),
]


@pytest.fixture(params=["native", "reference", "per pixel"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """Queries and modulation moved to the components, natively or in plain torch, or every pixel multiplied by them."""
    if request.param == "native" and native.status("cpu").no_compiler:
        pytest.skip(native.status("cpu").reason)
    with native.use("native" if request.param == "native" else "reference"):
        yield request.param


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_layer_is_its_definition(kind: str, options: dict[str, Any], form: str) -> None:
    """Forward, first and second derivatives."""
    layer = make(kind, **options)
    layer.per_pixel = form == "per pixel"
    x, y, positions, component_positions = inputs()
    mask = torch.zeros(B, M, dtype=torch.bool)
    mask[1, 0] = True
    given = [x, y, *layer.parameters()]
    probes = [torch.randn_like(t) for t in (x, y)]
    results = []
    for found in (
        layer(x.requires_grad_(), y.requires_grad_(), positions, component_positions, mask, need_probabilities=True),
        plain(layer, x, y, positions, component_positions, mask),
    ):
        value = (found[0] * probes[0]).sum() + (found[1] * probes[1]).sum()
        first = torch.autograd.grad(value, given, create_graph=True, allow_unused=True)
        norm = torch.stack([g.square().sum() for g in first if g is not None]).sum()
        second = torch.autograd.grad(norm, given, allow_unused=True)
        results.append([*found, *first, *second])
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            ours = ours.expand_as(theirs) if ours.ndim else ours
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("iterations", [1, 2])
def test_iterative_k_means_starts_from_the_assignments_of_the_layer_before(heads: int, iterations: int) -> None:
    """C₀ = assignmentsᵀ E, column by column a mean; then as any k-means."""
    torch.manual_seed(0)
    options = AttentionOptions(heads=heads, iterative=True, kmeans_iters=iterations)
    layer = KMeansAttention(AttentionSizes(D, W, P, W, M), options, takes_over=True).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    assert layer.centroids is None
    assert layer.from_pos_map is not None
    x, y, positions, component_positions = inputs()
    assignments = torch.randn(B, heads, M, N, dtype=torch.float64).softmax(2).requires_grad_()
    found = layer(x, y, positions, component_positions, None, assignments, need_probabilities=True).probabilities
    assert found is not None
    embedding = torch.cat([layer.to_queries(x.transpose(1, 2)), layer.from_pos_map(positions).expand(B, -1, -1)], 2)
    for b in range(B):
        for h in range(heads):
            part = embedding[b, :, h * 2 * D // heads : (h + 1) * 2 * D // heads]
            weights = assignments[b, h]
            for _ in range(iterations):
                centroids = torch.stack([(w[:, None] * part).sum(0) / w.sum() for w in weights])
                scores = (part * layer.att_weight[h, 0]) @ centroids.T / (D / heads) ** 0.5
                weights = scores.softmax(1).T
            torch.testing.assert_close(found[b, h], weights, rtol=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(found[:, :, 0].sum(), assignments)
    assert gradient.norm() > 0


def test_dense_self_attention_is_its_definition() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(16).double()
    x = torch.randn(B, 16, 3, 5, dtype=torch.float64)
    assert torch.equal(layer(x), x)  # at the start it does nothing
    torch.nn.init.constant_(layer.strength, 0.7)
    pixels = x.flatten(2).transpose(1, 2)
    scores = layer.to_queries(pixels) @ layer.to_keys(pixels).transpose(1, 2) / 2**0.5
    found = layer.out(scores.softmax(2) @ layer.to_values(pixels))
    torch.testing.assert_close(layer(x), x + 0.7 * found.transpose(1, 2).reshape(x.shape))


def test_gathering_alone_is_the_first_half_of_duplex() -> None:
    """What the discriminator's aggregators do, with none of the parameters that change the picture."""
    whole = make("duplex-equation", heads=2)
    half = make("duplex-equation", heads=2, updates_image=False)
    assert isinstance(half, DuplexAttention)
    own = half.state_dict()
    assert not any(name.startswith(("to_values", "modulation")) for name in own)
    half.load_state_dict({name: value for name, value in whole.state_dict().items() if name in own})
    torch.testing.assert_close(half.update_components(*inputs()), whole(*inputs()).y)


@pytest.mark.parametrize("kind", ATTENTION_LAYERS)
def test_probabilities_sum_to_one_over_components(kind: str) -> None:
    layer = make(kind, heads=2)
    probabilities = layer(*inputs(), need_probabilities=True).probabilities
    assert probabilities is not None
    torch.testing.assert_close(probabilities.sum(2), torch.ones_like(probabilities.sum(2)))


@pytest.mark.parametrize("kind", ATTENTION_LAYERS)
def test_dropped_component_gets_no_attention(kind: str) -> None:
    layer = make(kind, heads=2)
    mask = torch.zeros(B, M, dtype=torch.bool)
    mask[0, 1] = True
    probabilities = layer(*inputs(), mask, need_probabilities=True).probabilities
    assert probabilities is not None
    assert probabilities[0, :, 1].max() < 1e-12
    assert probabilities[-1, :, 1].max() > 1e-3


@pytest.mark.parametrize("kind", ATTENTION_LAYERS)
def test_every_parameter_acts(kind: str) -> None:
    """None is dead: that is what breaks distributed training of the original."""
    layer = make(kind, heads=2, image_gate=True, latent_gate=True)
    x, y, positions, component_positions = inputs()
    result = layer(x, y, positions, component_positions)
    # Duplex hands its components on to the next layer.
    gradients = torch.autograd.grad((result.x * torch.randn_like(x)).sum() + result.y.sum(), list(layer.parameters()))
    for (name, _), gradient in zip(layer.named_parameters(), gradients, strict=True):
        assert gradient.norm() > 0, name


def test_only_duplex_changes_the_components() -> None:
    x, y, positions, component_positions = inputs()
    for kind in ATTENTION_LAYERS:
        changed = make(kind)(x, y, positions, component_positions).y
        assert torch.equal(changed, y) == (kind != "duplex-equation")


@pytest.mark.parametrize("kind", ["simplex", "image-gate", "per-pixel"])
def test_dropout_keeps_the_mean_and_drops_cells_and_whole_components(kind: str) -> None:
    """Read off the output: values are unit vectors, one for each head and component, and all scores are equal."""
    torch.manual_seed(0)
    heads, components, size, batch, positions = 2, 4, 16, 64, 50
    options = AttentionOptions(
        heads=heads,
        dropout=0.5,
        integration="add",
        normalization="none",
        image_positions=False,
        component_positions=False,
        image_gate=kind == "image-gate",
    )
    layer = SimplexAttention(AttentionSizes(size, components, P, components, components), options)
    layer.per_pixel = kind == "per-pixel"
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for head in range(heads):
            block = layer.to_values.weight.unflatten(0, (heads, -1))[head, :components]
            block.copy_(torch.eye(components) / layer.to_values.weight_gain)
        layer.modulation.weight.copy_(torch.eye(size) / layer.modulation.weight_gain)
        if layer.image_gate is not None and layer.image_gate.bias is not None:
            layer.image_gate.bias.fill_(50)  # an open gate
    y = torch.eye(components).expand(batch, -1, -1)
    x = torch.zeros(batch, size, positions)

    def weights() -> Tensor:
        """[B, h, m, n]"""
        return layer(x, y, None, None).x.unflatten(1, (heads, -1))[:, :, :components]

    with torch.no_grad():
        dropped = weights()
        assert dropped.mean().item() == pytest.approx(1 / components, rel=0.05)
        whole = (dropped == 0).all(3).float().mean().item()
        assert whole == pytest.approx(0.25, abs=0.06)
        cells = (dropped == 0).float().mean().item()
        assert cells == pytest.approx(1 - 0.75**2, abs=0.06)
        assert not torch.equal(dropped, weights())
        layer.eval()
        torch.testing.assert_close(weights(), torch.full_like(dropped, 1 / components))
