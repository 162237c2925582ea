"""Our networks against numbers of the authors' released ones (tests/golden): forward, gradients, second gradients."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ganformer_cli.config import ModelConfig
from ganformer_cli.models import AttentionMap, Discriminator, Generator
from ganformer_cli.training.losses import gradient_penalty, real_loss

GOLDEN = Path(__file__).parent / "golden"
SETS: dict[str, dict[str, Any]] = {
    "duplex-kmeans": {"attention": "kmeans", "components_num": 4, "integration": "mul"},
    "simplex": {"attention": "simplex", "components_num": 4, "integration": "mul"},
    "stylegan2": {"attention": "none", "components_num": 0, "g_arch": "skip", "mapping_resnet": False},
}
FORWARD = 1e-5
GRADIENT = 1e-4


# Each test with native operators and with plain torch.
pytestmark = pytest.mark.usefixtures("backend")


def relative(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    return ((a - b).norm() / b.norm()).item()


def our_name(name: str) -> str:
    """The name of a tensor of the authors' in our networks."""
    name = name.replace("biasAct.bias", "bias").replace("transformer.", "attention.")
    if name.startswith("synthesis."):
        name = re.sub(r"(conv[01]|torgb)\.(weight|affine)", r"\1.conv.\2", name)
    return re.sub(r"^(mapping|synthesis)\.", r"\1_network.", name)


def load(name: str, file: str) -> dict[str, Tensor]:
    """The tensors of a golden file under our names."""
    return {our_name(key): value for key, value in load_file(GOLDEN / name / f"{file}.safetensors").items()}


def build(name: str, dtype: torch.dtype) -> tuple[Generator, Discriminator]:
    """The golden set's networks, holding its weights."""
    config = ModelConfig(
        resolution=32, latent_size=32, channel_base=512, channel_max=32, w_avg_per_component=False, **SETS[name]
    )
    generator, discriminator = Generator(config), Discriminator(config)
    for network, file in ((generator, "generator"), (discriminator, "discriminator")):
        tensors, own = load(name, file), network.state_dict()
        assert set(own) <= set(tensors)
        # What is left over has no effect on any output: constants, and keys that k-means never uses.
        surplus = {re.sub(r".*\.", "", re.sub(r"\.(weight|bias)$", "", key)) for key in set(tensors) - set(own)}
        assert surplus <= {"resample_kernel", "grid_pos", "to_keys", "to_pos_map"}
        network.load_state_dict({key: tensors[key] for key in own})
        network.eval().to(dtype)
    return generator, discriminator


def golden_io(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs and outputs."""
    return {key: value.to(dtype) for key, value in load_file(GOLDEN / name / "io.safetensors").items()}


def forward_errors(name: str) -> dict[str, float]:
    """Relative error of every output, float32."""
    generator, discriminator = build(name, torch.float32)
    io = golden_io(name, torch.float32)
    with torch.no_grad():
        ws = generator.mapping(io["z"])
        maps: list[AttentionMap] = []
        image = generator.synthesis(ws, "const", on_attention=maps.append)
        truncated = generator.mapping(io["z"], truncation_psi=0.7)
        found = {
            "ws": ws[:, :, 0],
            "img": image,
            "ws_psi07": truncated[:, :, 0],
            "img_psi07": generator.synthesis(truncated, "const"),
            "img_no_noise": generator.synthesis(ws, "none"),
            "logits": discriminator(io["real"]),
        }
    if maps:
        layers = [
            F.interpolate(layer.probabilities.flatten(1, 2), size=(32, 32), mode="nearest").unflatten(1, (1, 4))
            for layer in maps
        ]
        # [B, heads, m, layers, H, W] → [B, m, layers, heads, H, W]
        found["att"] = torch.stack(layers, 3).permute(0, 2, 3, 1, 4, 5)
    return {key: relative(value, io[key]) for key, value in found.items()}


def generator_gradient_errors(name: str) -> dict[str, float]:
    """Relative error of the gradients by z and ws, and of the parameters' as a share of what is allowed; float64."""
    generator, _ = build(name, torch.float64)
    io = golden_io(name, torch.float64)
    z = io["z"].requires_grad_()
    parameters = dict(generator.named_parameters())
    loss = (generator(z, noise_mode="const") * io["probe"]).sum()
    grad_z, *gradients = torch.autograd.grad(loss, [z, *parameters.values()])
    golden = {key: value.double() for key, value in load(name, "g_grads").items()}
    total = torch.stack([value.norm() for value in golden.values()]).norm()
    # Some small ones are mostly cancellation in the stored float32.
    shares = [
        (gradient - golden[key]).norm() / (golden[key].norm() + 2e-2 * total)
        for key, gradient in zip(parameters, gradients, strict=True)
    ]
    ws = generator.mapping(io["z"]).detach().clone().requires_grad_()
    (by_ws,) = torch.autograd.grad((generator.synthesis(ws, "const") * io["pl_noise"]).sum(), ws)
    return {
        "grad_z": relative(grad_z, io["grad_z"]),
        "g_grads": max(share.item() for share in shares),
        "pl_grad_ws": relative(by_ws, io["pl_grad_ws"]),
    }


def discriminator_gradient_errors(name: str) -> dict[str, float]:
    """Of R1 and of its gradient by the parameters, which goes through the second derivative; float64."""
    _, discriminator = build(name, torch.float64)
    io = golden_io(name, torch.float64)
    real = io["real"].requires_grad_()
    logits = discriminator(real)
    (image_gradient,) = torch.autograd.grad(logits.sum(), real, retain_graph=True)
    penalty = gradient_penalty(logits, real)
    parameters = dict(discriminator.named_parameters())
    gradients = torch.autograd.grad(real_loss(logits) + 5 * penalty.mean(), list(parameters.values()))
    golden = load(name, "d_grads")
    by_parameter = [relative(g, golden[key].double()) for key, g in zip(parameters, gradients, strict=True)]
    return {
        "r1_grad": relative(image_gradient, io["r1_grad"]),
        "r1_penalty": relative(penalty, io["r1_penalty"]),
        "d_grads": max(by_parameter),
    }


@pytest.mark.parametrize("name", SETS)
def test_outputs_agree(name: str) -> None:
    for key, error in forward_errors(name).items():
        assert error < FORWARD, key


@pytest.mark.parametrize("name", SETS)
def test_generator_gradients_agree(name: str) -> None:
    for key, error in generator_gradient_errors(name).items():
        assert error < GRADIENT, key


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_discriminator_gradients_agree(name: str) -> None:
    for key, error in discriminator_gradient_errors(name).items():
        assert error < GRADIENT, key


def table() -> str:
    """The errors as Markdown: ``python tests/test_models_golden.py``."""
    measured = {
        name: {**forward_errors(name), **generator_gradient_errors(name), **discriminator_gradient_errors(name)}
        for name in SETS
    }
    quantities = dict.fromkeys(key for errors in measured.values() for key in errors)
    lines = ["| quantity | " + " | ".join(SETS) + " |", "|---" * (len(SETS) + 1) + "|"]
    for key in quantities:
        cells = [f"{errors[key]:.1e}" if key in errors else "" for errors in measured.values()]
        lines.append(f"| `{key}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
