"""What a training step does with a device: it never waits for it.

The device is torch's ``meta``, which has shapes and no numbers: whoever reads one (``.item()``, ``.cpu()``, ``bool()``)
gets an error. On a GPU that would be a wait for all work that is under way.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ganformer_cli.config import ModelConfig, RunConfig, TrainConfig
from ganformer_cli.training import gan
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.network_trainer import RunningMeans, upload


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device; Adam in the form that it has."""

    def adam(module: torch.nn.Module, lr: float, interval: int) -> torch.optim.Adam:
        return torch.optim.Adam(module.parameters(), lr=lr, foreach=True)

    monkeypatch.setattr(gan, "adam", adam)
    return torch.device("meta")


@pytest.mark.not_wine("the error of torch for reading a tensor without data faults, in a script of torch alone, too")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "train"),
    [
        (
            {"attention": "duplex-equation", "num_heads": 2, "d_transformer": True},
            {"precision": "bf16", "batch_gpu": 2},
        ),
        ({"attention": "kmeans", "iterative": True}, {"augment": "ada", "precision": "fp16"}),
        ({"attention": "simplex"}, {"component_mixing": 0.9, "component_dropout": 0.5, "d_loss": "wgan"}),
        ({"attention": "simplex", "img_gate": True}, {"objective": "relativistic", "locality_weight": 1.0}),
        ({"attention": "none", "c_dim": 3}, {"checkpoint_activations": True, "labels": True}),
    ],
    ids=["duplex-equation", "kmeans", "simplex", "relativistic", "none"],
)
def test_a_step_waits_for_nothing(meta: torch.device, model: dict[str, Any], train: dict[str, Any]) -> None:
    sizes: dict[str, Any] = {"resolution": 8, "latent_size": 16, "channel_base": 64, "channel_max": 8}
    sizes["components_num"] = 0 if model["attention"] == "none" else 2
    config = RunConfig(model=ModelConfig(**sizes, **model), train=TrainConfig(batch_size=4, pl_weight=2.0, **train))
    trainer, means = GANTrainer(config, meta), RunningMeans()
    batch = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, config.model.c_dim)
    trainer.step(batch, 0, means)  # the first one is regularised
    trainer.average(4)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        means.read()  # what reads the log does wait


@pytest.mark.gpu
def test_a_batch_arrives_while_the_gpu_computes() -> None:
    batch = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(20):
        busy = busy @ busy / 64
    there = upload(batch, torch.device("cuda"))
    assert not torch.cuda.current_stream().query()  # the work that came before is still under way
    assert torch.equal(there.cpu(), batch)
