"""Generator and discriminator: shapes, options, what changes a picture and what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ganformer_cli.config import ModelConfig
from ganformer_cli.models import AttentionMap, Discriminator, Generator
from ganformer_cli.models.attention import DuplexAttention
from ganformer_cli.models.layers import Conv2d, FullyConnected, ModulatedConv2d, minibatch_std
from ganformer_cli.models.merge import Merge
from ganformer_cli.models.positions import ImagePositions, projected_coordinates, sinusoidal_positions
from ganformer_cli.operators import binomial_filter, upfirdn2d


def config(**options: Any) -> ModelConfig:
    """A tiny network."""
    small = {"resolution": 16, "channel_base": 256, "channel_max": 16, "latent_size": 32, "mapping_num_layers": 2}
    components = 0 if options.get("attention") == "none" and not options.get("kgan") else 4
    return ModelConfig(**{**small, "components_num": components, **options})


def noticeable(generator: Generator) -> Generator:
    """Strengths (of noise, of self-attention), biases and more start at zero; give them values so that they show."""
    for name, parameter in generator.named_parameters():
        if name.endswith(("strength", "bias", "gather_out.weight")):
            torch.nn.init.normal_(parameter)
    return generator.eval()


VARIANTS: list[dict[str, Any]] = [
    *({"attention": kind} for kind in ("none", "simplex", "duplex-equation", "kmeans")),
    *({"attention": kind, "num_heads": 2, "integration": "add"} for kind in ("simplex", "duplex-equation", "kmeans")),
    {"attention": "kmeans", "kmeans_iters": 2, "integration": "both"},
    {"g_arch": "skip", "d_arch": "skip"},
    {"g_arch": "orig", "d_arch": "orig"},
    {"style": False},
    {"local_noise": False},
    {"tanh": True},
    {"use_pos": False},
    {"pos_dim": 12},
    {"normalize": "instance"},
    {"normalize": "none"},
    {"img_gate": True, "ltnt_gate": True},
    {"mapping_resnet": False},
    {"mapping_dim": 20},
    {"mapping_dim": 20, "mapping_resnet": False},
    {"mapping_ltnt2ltnt": False},
    {"w_avg_per_component": False},
    {"c_dim": 3},
    {"c_dim": 3, "mapping_resnet": False},
    {"g_start_res": 3, "g_end_res": 4},
    {"ratio": 0.5},
    {"ratio": 0.7},
    {"ratio": 2.0},
    {"attention": "none", "ratio": 0.75, "g_arch": "skip", "d_arch": "skip"},
    {"attention": "kmeans", "iterative": True, "kmeans_iters": 2, "ratio": 0.75},
    {"pos_type": "trainable", "ratio": 0.5},
    {"pos_type": "linear", "ratio": 0.5, "pos_directions_num": 4},
    {"pos_type": "trainable2d", "ratio": 0.5, "d_transformer": True},
    {"d_transformer": True, "d_ltnt2img": True, "c_dim": 3},
    {"attention": "none", "style": False, "latent_stem": True, "ratio": 0.75},
    {"attention": "none", "style": False, "latent_stem": True, "g_img2img": 8, "ratio": 0.75},
    *({"attention": "none", "kgan": True, "merge_type": kind} for kind in ("softmax", "sum", "max", "leaves")),
    {"attention": "none", "kgan": True, "merge_layer": 3, "ratio": 0.5, "c_dim": 3, "g_arch": "skip"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()) or "default")
def test_every_variant_works(options: dict[str, Any]) -> None:
    """Shapes, two latents give two pictures, and every parameter gets a gradient."""
    torch.manual_seed(0)
    cfg = config(**options)
    generator, discriminator = noticeable(Generator(cfg)), Discriminator(cfg)
    z = torch.randn(4, *generator.z_shape)
    c = torch.eye(max(cfg.c_dim, 1))[torch.arange(4) % max(cfg.c_dim, 1)] if cfg.c_dim else None
    images = generator(z, c, noise_mode="const")
    assert images.shape == (4, 3, *cfg.image_size)
    assert torch.isfinite(images).all()
    assert (images[0] - images[1]).abs().max() > 1e-3
    logits = discriminator(images, c)
    assert logits.shape == (4, 1)
    logits.sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.norm() > 0, name


@pytest.mark.parametrize(("ratio", "start"), [(0.5, (2, 4)), (0.75, (3, 4)), (2.0, (4, 2))])
def test_rectangles_compute_nothing_that_is_thrown_away(ratio: float, start: tuple[int, int]) -> None:
    """Every feature map of either network has the picture's shape; the originals compute the square."""
    cfg = config(ratio=ratio)
    generator, discriminator = Generator(cfg).eval(), Discriminator(cfg)
    seen: set[tuple[int, ...]] = set()
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, ModulatedConv2d | Conv2d):
                module.register_forward_hook(lambda module, args, result: seen.add(tuple(result.shape[2:])))
    images = generator(torch.randn(2, *generator.z_shape))
    assert images.shape[2:] == (start[0] * 4, start[1] * 4)
    discriminator(images)
    assert seen == {(start[0] * k, start[1] * k) for k in (1, 2, 4)}


def test_k_gan_composes_independent_pictures() -> None:
    """Another latent for one component changes its picture and its weight, and nothing else."""
    torch.manual_seed(0)
    generator = noticeable(Generator(config(attention="none", kgan=True)))
    assert generator.z_shape == (4, 8)
    z = torch.randn(2, *generator.z_shape)
    maps: list[AttentionMap] = []
    image = generator(z, noise_mode="const", on_attention=maps.append)
    (weights,) = maps
    assert weights.probabilities.shape == (2, 1, 4, 16, 16)
    torch.testing.assert_close(weights.probabilities.sum(2), torch.ones(2, 1, 16, 16))
    # The order of the latents does not matter to a softmax.
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(generator(z[:, order], noise_mode="const"), image, rtol=1e-4, atol=1e-5)


def test_leaves_lie_over_each_other() -> None:
    """By hand: opacities σ(0) = ½ and σ(large) = 1; the last one is the ground."""
    merge = Merge(1, 3, "leaves")
    scores = torch.tensor([0.0, 50.0, -50.0])[None, :, None, None]
    assert merge.weights(scores).flatten().tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert merge.weights(scores.flip(1)).flatten().tolist() == pytest.approx([0.0, 1.0, 0.0])


@pytest.mark.parametrize(("kind", "expected"), [("sum", 6.0), ("max", 3.0)])
def test_merging_without_scores(kind: str, expected: float) -> None:
    merge = Merge(1, 3, kind)
    pictures = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)
    assert merge(pictures, None)[0].item() == expected
    assert merge(pictures, None)[2] is None


def test_latent_stem_starts_from_the_global_latent() -> None:
    generator = noticeable(Generator(config(latent_stem=True, style=False)))
    z = torch.randn(1, *generator.z_shape)
    other = z.clone()
    other[:, -1] += 1
    assert not torch.equal(generator(z, noise_mode="const"), generator(other, noise_mode="const"))


def test_shared_mapping_maps_the_global_latent_as_a_component_on_its_own() -> None:
    separate = Generator(config(mapping_ltnt2ltnt=False)).mapping_network
    shared = Generator(config(mapping_ltnt2ltnt=False, mapping_shared=True)).mapping_network
    assert sum(p.numel() for p in shared.parameters()) * 2 == sum(p.numel() for p in separate.parameters())
    z = torch.randn(1, 1, 8).expand(1, 5, 8)  # all latents alike: normalised together or alone, they stay alike
    w = shared(z)
    torch.testing.assert_close(w[:, 0], w[:, 4])


def test_aggregators_see_the_picture() -> None:
    """Their scores are concatenated to the picture's own features before the last layer."""
    torch.manual_seed(0)
    discriminator = Discriminator(config(d_transformer=True))
    assert discriminator.aggregators is not None
    assert discriminator.b4.out.weight.shape == (1, 16 + 4)
    seen: list[Tensor] = []
    discriminator.b4.register_forward_hook(lambda module, args, result: seen.append(args[1]))
    discriminator(torch.randn(4, 3, 16, 16))
    discriminator(torch.randn(4, 3, 16, 16))
    assert seen[0].shape == (4, 4)
    assert (seen[0] - seen[1]).abs().min() > 0


def test_positions_that_are_trained() -> None:
    linear = ImagePositions((2, 3), config(pos_type="linear"))
    torch.nn.init.constant_(linear.vectors, 2.0)
    # Width 8: four channels of x, then four of y, each the coordinate times its vector.
    assert torch.equal(linear()[0], torch.tensor([-2.0] * 8))
    assert torch.equal(linear()[5], torch.tensor([2.0] * 8))
    assert torch.equal(linear()[2], torch.tensor([2.0] * 4 + [-2.0] * 4))
    parts = ImagePositions((2, 3), config(pos_type="trainable"))
    assert torch.equal(parts()[5], torch.cat([parts.rows[1], parts.columns[2]]))
    assert ImagePositions((2, 3), config(pos_type="trainable2d"))().shape == (6, 8)


def test_directions_turn_evenly() -> None:
    """θ_j = jπ/N: with four, the second is the diagonal."""
    grid = projected_coordinates(3, 3, 4)
    half = 0.5**0.5
    assert torch.allclose(grid[2, 2], torch.tensor([1.0, 2 * half, 1.0, 0.0]), atol=1e-6)
    assert torch.allclose(grid[0, 2], torch.tensor([1.0, 0.0, -1.0, -2 * half]), atol=1e-6)
    assert sinusoidal_positions(3, 5, 24, 3).shape == (3, 5, 24)


@pytest.mark.parametrize("kind", ["simplex", "duplex-equation", "kmeans"])
def test_attention_maps(kind: str) -> None:
    generator = Generator(config(attention=kind, num_heads=2, g_end_res=4)).eval()
    z = torch.randn(3, *generator.z_shape)
    maps: list[AttentionMap] = []
    image = generator(z, noise_mode="const", on_attention=maps.append)
    assert torch.equal(image, generator(z, noise_mode="const"))
    assert [layer.layer for layer in maps] == ["b4.conv1", "b8.conv0", "b8.conv1"]
    assert [tuple(layer.probabilities.shape) for layer in maps] == [(3, 2, 4, size, size) for size in (4, 8, 8)]
    for layer in maps:
        total = layer.probabilities.sum(2)
        torch.testing.assert_close(total, torch.ones_like(total))


def test_noise_modes() -> None:
    torch.manual_seed(0)
    generator = noticeable(Generator(config()))
    z = torch.randn(2, *generator.z_shape)
    assert torch.equal(generator(z, noise_mode="const"), generator(z, noise_mode="const"))
    assert torch.equal(generator(z, noise_mode="none"), generator(z, noise_mode="none"))
    assert not torch.equal(generator(z, noise_mode="random"), generator(z, noise_mode="random"))
    assert not torch.equal(generator(z, noise_mode="const"), generator(z, noise_mode="none"))


@pytest.mark.parametrize(
    "options", [{}, {"attention": "none", "kgan": True}, {"attention": "none", "kgan": True, "merge_layer": 3}]
)
def test_given_noise(options: dict[str, Any]) -> None:
    """The stored maps, given, make the same images; each image may have its own; all get gradients."""
    torch.manual_seed(0)
    generator = noticeable(Generator(config(**options)))
    z = torch.randn(2, *generator.z_shape)
    state = dict(generator.synthesis_network.named_buffers())
    maps = {name: state[f"{name}.noise_const"][None, None] for name in generator.noise_shapes()}
    with torch.no_grad():
        expected = generator(z, noise_mode="const")
        torch.testing.assert_close(generator.synthesis(generator.mapping(z), maps), expected, rtol=1e-4, atol=1e-4)
    own = {name: each.repeat(2, 1, 1, 1).requires_grad_() for name, each in maps.items()}
    image = generator.synthesis(generator.mapping(z), own)
    torch.testing.assert_close(image.detach(), expected, rtol=1e-4, atol=1e-4)
    image[0].sum().backward()
    for name, each in own.items():
        assert each.grad is not None, name
        assert each.grad[0].any()
        assert not each.grad[1].any(), "the other image's noise does not act on the first"


@pytest.mark.parametrize("per_component", [True, False])
def test_truncation(per_component: bool) -> None:
    torch.manual_seed(0)
    generator = Generator(config(w_avg_per_component=per_component)).eval()
    z = torch.randn(8, *generator.z_shape)
    w = generator.mapping(z)
    for _ in range(2000):
        mapping = generator.mapping_network
        mapping.update_mean(mapping.mean_of(w[:, :, 0]))
    mean = w[:, :, 0].mean(0) if per_component else w[:, :, 0].mean((0, 1))
    torch.testing.assert_close(generator.mapping_network.w_avg, mean, rtol=1e-3, atol=1e-4)
    centre = generator.mapping(z, truncation_psi=0.0)
    assert (centre - centre[:1]).abs().max() < 1e-6
    half = generator.mapping(z, truncation_psi=0.5)
    torch.testing.assert_close(half, (w + centre) / 2)


def test_components_are_interchangeable_in_the_mapping() -> None:
    """Without positions, permuting the components of z permutes those of w and leaves the global latent alone."""
    generator = Generator(config(use_pos=False)).eval()
    z = torch.randn(2, *generator.z_shape)
    order = torch.tensor([2, 0, 3, 1, 4])
    torch.testing.assert_close(generator.mapping(z[:, order]), generator.mapping(z)[:, order])


def test_duplex_carries_its_components_from_layer_to_layer() -> None:
    """A change of the latents of the first attention layer alone is still felt by the last one."""
    torch.manual_seed(0)
    generator = noticeable(Generator(config(attention="duplex-equation")))
    ws = generator.mapping(torch.randn(2, *generator.z_shape)).clone()
    seen: list[Tensor] = []
    last = generator.synthesis_network.blocks()[-1].conv1.attention
    assert last is not None
    last.register_forward_hook(lambda module, args, result: seen.append(args[1]))
    generator.synthesis(ws, "none")
    changed = ws.clone()
    changed[:, :4, 0] += 0.1
    generator.synthesis(changed, "none")
    assert (seen[0] - seen[1]).abs().max() > 1e-4


def test_duplex_begins_with_components_that_differ() -> None:
    """What they gather is alike at first; it must not drown, layer by layer, what tells one component from another."""
    torch.manual_seed(0)
    model = Generator(config(attention="duplex-equation", resolution=32)).eval().requires_grad_(False)
    held: list[Tensor] = []
    for layer in model.modules():
        if isinstance(layer, DuplexAttention):
            layer.register_forward_hook(lambda layer, given, result: held.append(result.y))
    model(torch.randn(64, *model.z_shape))
    assert len(held) == 7

    def spread(y: Tensor) -> float:
        """Share of the variance that the components of a picture do not have in common."""
        return float((y - y.mean(1, keepdim=True)).square().mean() / (y - y.mean((0, 1))).square().mean())

    assert spread(held[-1]) > 0.9 * spread(held[0]) > 0.5


def test_style_false_ignores_the_global_latent() -> None:
    generator = noticeable(Generator(config(style=False)))
    z = torch.randn(2, *generator.z_shape)
    other = z.clone()
    other[:, -1] = torch.randn_like(other[:, -1])
    assert torch.equal(generator(z, noise_mode="const"), generator(other, noise_mode="const"))


def test_classes_change_pictures_and_logits() -> None:
    cfg = config(c_dim=2)
    generator, discriminator = noticeable(Generator(cfg)), Discriminator(cfg)
    z = torch.randn(1, *generator.z_shape).expand(2, -1, -1)
    images = generator(z, torch.eye(2), noise_mode="const")
    assert (images[0] - images[1]).abs().max() > 1e-4
    same = images[:1].expand(2, -1, -1, -1)
    logits = discriminator(same, torch.eye(2))
    assert logits[0] != logits[1]


def test_equalised_learning_rate() -> None:
    """At the start a layer keeps the variance, whatever its learning-rate multiplier."""
    torch.manual_seed(0)
    x = torch.randn(4096, 64)
    for lrmul in (1.0, 0.01):
        layer = FullyConnected(64, 64, lrmul=lrmul, bias_init=3.0)
        assert layer.weight.std().item() == pytest.approx(1 / lrmul, rel=0.05)
        assert layer(x).std().item() == pytest.approx(1, rel=0.1)
    assert FullyConnected(64, 1, bias_init=3.0).scaled_bias().item() == 3.0


def test_minibatch_std_by_hand() -> None:
    x = torch.zeros(8, 1, 2, 2)
    # Picture i is in group i mod 2: pictures 0, 2, 4, 6 differ, 1, 3, 5, 7 are alike.
    x[0::2] = torch.tensor([1.0, 3.0, 1.0, 3.0]).reshape(4, 1, 1, 1)
    channel = minibatch_std(x, 4)[:, -1]
    torch.testing.assert_close(channel[0::2], torch.ones(4, 2, 2))
    torch.testing.assert_close(channel[1::2], torch.full((4, 2, 2), 1e-4))


def test_sinusoidal_positions_by_hand() -> None:
    grid = sinusoidal_positions(3, 5, 8)
    assert grid.shape == (3, 5, 8)
    assert torch.allclose(grid[0, 4, :2], torch.sin(torch.tensor([1.0, 0.01])), atol=1e-6)
    assert torch.allclose(grid[0, 4, 4:6], torch.sin(torch.tensor([-1.0, -0.01])), atol=1e-6)
    assert torch.equal(grid[1, 2], torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1]))


def test_resampling_keeps_a_constant_picture() -> None:
    x = torch.full((1, 2, 8, 8), 3.0)
    kernel = binomial_filter()
    up = upfirdn2d(x, kernel, up=2, padding=(2, 1), gain=4)
    down = upfirdn2d(x, kernel, down=2, padding=(1, 1))
    assert up.shape == (1, 2, 16, 16)
    assert down.shape == (1, 2, 4, 4)
    assert torch.allclose(up[:, :, 2:-2, 2:-2], x.new_tensor(3.0))
    assert torch.allclose(down[:, :, 1:-1, 1:-1], x.new_tensor(3.0))


def test_upfirdn_convolves() -> None:
    """An impulse gives the filter itself, not its mirror image; negative padding crops."""
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    kernel = torch.arange(6.0).reshape(2, 3)
    out = upfirdn2d(x, kernel, padding=(2, 2))
    assert torch.equal(out[0, 0, 3:5, 2:5], kernel)
    cropped = upfirdn2d(x, torch.ones(1, 1), padding=(-1, -2))
    assert torch.equal(cropped, x[:, :, 1:-2, 1:-2])
