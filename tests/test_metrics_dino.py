"""DINOv2's vision transformer, against torch's own encoder layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ganformer_cli.metrics.dino import DinoV2, VitSizes
from ganformer_cli.metrics.features import FeatureNetwork
from tests.random_weights import random_weights

SMALL = VitSizes(width=32, blocks=3, heads=4)
Weights = dict[str, Tensor]


@pytest.fixture
def weights() -> Weights:
    return random_weights(DinoV2.shapes(SMALL))


def by_torch(weights: Weights, x: Tensor) -> Tensor:
    """The same of torch's layers; a scale behind a linear layer is one inside of it."""
    patches = nn.functional.conv2d(x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14)
    tokens = torch.cat([weights["cls_token"].expand(len(x), 1, -1), patches.flatten(2).transpose(1, 2)], 1)
    places = weights["pos_embed"][0, 1:].T.reshape(1, SMALL.width, 37, 37)
    scale = (16.1 / 37, 16.1 / 37)
    places = nn.functional.interpolate(places, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
    tokens = tokens + torch.cat([weights["pos_embed"][:, :1], places], 1)
    for number in range(SMALL.blocks):
        given = {name.removeprefix(f"blocks.{number}."): w for name, w in weights.items()}
        layer = nn.TransformerEncoderLayer(
            SMALL.width, SMALL.heads, 4 * SMALL.width, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        ).eval()
        renamed = {
            "self_attn.in_proj_weight": given["attn.qkv.weight"],
            "self_attn.in_proj_bias": given["attn.qkv.bias"],
            "self_attn.out_proj.weight": given["attn.proj.weight"] * given["ls1.gamma"][:, None],
            "self_attn.out_proj.bias": given["attn.proj.bias"] * given["ls1.gamma"],
            "linear1.weight": given["mlp.fc1.weight"],
            "linear1.bias": given["mlp.fc1.bias"],
            "linear2.weight": given["mlp.fc2.weight"] * given["ls2.gamma"][:, None],
            "linear2.bias": given["mlp.fc2.bias"] * given["ls2.gamma"],
            **{name: given[name] for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")},
        }
        layer.load_state_dict(renamed)
        tokens = layer(tokens)
    return nn.functional.layer_norm(tokens[:, 0], [SMALL.width], weights["norm.weight"], weights["norm.bias"], 1e-6)


def test_it_is_the_transformer_of_torchs_own_layers(weights: Weights) -> None:
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = by_torch(weights, x)
    found = DinoV2(weights, SMALL)(x)["cls"]
    assert expected.std(0).mean() > 1e-3  # the pictures differ
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_places_that_are_all_alike_stay_so(weights: Weights) -> None:
    weights["pos_embed"] = torch.ones_like(weights["pos_embed"]) * 3
    places = DinoV2(weights, SMALL).get_buffer("places")
    assert places.shape == (1, 256, SMALL.width)
    torch.testing.assert_close(places, torch.full_like(places, 3))


def test_sizes_are_those_of_the_published_file() -> None:
    shapes = DinoV2.shapes()
    assert len(shapes) == 343
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 304_368_640
    assert shapes["pos_embed"] == (1, 1370, 1024)


def test_pictures_pass_through_it_as_through_the_others(weights: Weights) -> None:
    network = DinoV2(weights, SMALL)
    network.outputs = {"cls": SMALL.width}
    opened = FeatureNetwork("dinov2", network, weights_sha256="", published=False, resize="clean")
    images = torch.randint(0, 256, (3, 3, 40, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = opened(images)["cls"]
    assert found.shape == (3, SMALL.width)
    torch.testing.assert_close(opened(images[2:])["cls"], found[2:], rtol=1e-6, atol=1e-6)
