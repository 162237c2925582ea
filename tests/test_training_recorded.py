"""Recorded passes give the bits of the passes that they repeat, or are not used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ganformer_cli.config import ModelConfig, RunConfig, TrainConfig
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.network_trainer import RunningMeans
from ganformer_cli.training.recorded import PassResults, RecordedFunction

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kmeans": ({"attention": "kmeans", "style": False}, {"precision": "bf16"}),
    "duplex": (
        {"attention": "duplex-equation", "num_heads": 2, "d_transformer": True, "mapping_ltnt2ltnt": True},
        {"pl_weight": 2.0, "precision": "fp32", "component_mixing": 0.9},
    ),
    "simplex": (
        {"attention": "simplex", "img_gate": True, "c_dim": 3},
        {"labels": True, "component_dropout": 0.5, "batch_gpu": 2, "precision": "fp32"},
    ),
    "none": (
        {"attention": "none", "g_arch": "skip", "d_arch": "skip"},
        {"d_loss": "wgan", "freeze_d": 1, "pretrained_pkl": "x"},
    ),
    "relativistic": ({"attention": "kmeans", "iterative": True}, {"objective": "relativistic", "precision": "fp32"}),
    "locality": (
        {"attention": "kmeans", "style": False, "mapping_ltnt2ltnt": False},
        {"locality_weight": 1.0, "map_divergence_weight": 1.0, "pl_weight": 2.0},
    ),
}


def trained(
    model: dict[str, Any], train: dict[str, Any], numbers: list[int]
) -> tuple[GANTrainer, list[dict[str, float]]]:
    """Networks after the steps with these numbers, and what was logged."""
    sizes: dict[str, Any] = {
        "resolution": 8,
        "latent_size": 16,
        "channel_base": 64,
        "channel_max": 8,
        "mapping_num_layers": 2,
    }
    components: dict[str, Any] = {"components_num": 0 if model["attention"] == "none" else 2}
    config = RunConfig(model=ModelConfig(**sizes, **components, **model), train=TrainConfig(batch_size=4, **train))
    torch.manual_seed(0)
    trainer = GANTrainer(config, torch.device("cpu"))
    labels = torch.eye(4)[:, : config.model.c_dim]
    found = []
    for number in numbers:
        means = RunningMeans()
        images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        trainer.step((images, labels), number, means)
        found.append(means.read())
    return trainer, found


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


#: Threads share the work of torch's kernels, which are the same in all kinds; on two cores, more than one is slow.
OF_SEVERAL_THREADS = (("duplex", 2), ("locality", 2), ("kmeans", 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "threads"), [*((kind, 1) for kind in KINDS), *OF_SEVERAL_THREADS], indirect=["threads"]
)
@pytest.mark.usefixtures("threads")
def test_recorded_steps_have_the_bits_of_others(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [0, 16, 32, 1, 2, 3]
    fast, fast_log = trained(*KINDS[kind], steps)
    passes = {"generator", "discriminator", "regularised"} | ({"regions"} if kind == "locality" else set())
    assert {name for name, *_ in fast.recordings} == passes
    for name, recording in fast.recordings.items():
        assert recording.recorded.is_rehearsed, (name, recording.recorded.refusal)
    monkeypatch.setattr(GANTrainer, "can_record", False)
    slow, slow_log = trained(*KINDS[kind], steps)
    assert not slow.recordings
    assert fast_log == slow_log
    for (role, network), other in zip(fast.networks.items(), slow.networks.values(), strict=True):
        for key, value in network.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), (role, key)


def test_other_precision_or_weights_elsewhere_are_recorded_anew() -> None:
    trainer, _ = trained(*KINDS["kmeans"], [1, 2, 3])
    before = dict(trainer.recordings)
    trainer.use_precision({})
    assert not trainer.recordings
    recorded = before["generator", 4, 1].recorded
    program = recorded.program
    assert program is not None
    assert program.is_current()
    used = next(tensor for tensor in program.read if isinstance(tensor, torch.nn.Parameter))
    used.data = used.data.clone()
    assert not program.is_current()


def doubled(x: Tensor) -> PassResults:
    return [2 * x + torch.rand(3), None]


def test_random_numbers_are_drawn_anew() -> None:
    recorded, x = RecordedFunction(doubled, []), torch.arange(3.0)
    torch.manual_seed(1)
    expected = [doubled(x + i)[0] for i in range(5)]
    torch.manual_seed(1)
    found = [recorded(x + i)[0] for i in range(5)]
    assert recorded.is_rehearsed
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))  # type: ignore[arg-type]


def test_a_tensor_that_nobody_named_is_not_frozen_into_the_recording() -> None:
    held = [torch.ones(2)]
    recorded = RecordedFunction(lambda x: [x * held[0]], [])
    for i in range(4):
        held[0] = torch.full((2,), float(i))
        assert recorded(torch.ones(2))[0].tolist() == [i, i]  # type: ignore[union-attr]
    assert "no named input" in recorded.refusal


def test_a_number_of_python_that_changes_is_noticed_in_the_rehearsal() -> None:
    count = iter(range(10))
    recorded = RecordedFunction(lambda x: [x * next(count)], [])
    assert [float(recorded(torch.ones([]))[0]) for _ in range(4)] == [0, 1, 2, 3]  # type: ignore[arg-type]
    assert "other results" in recorded.refusal


def test_what_takes_long_by_itself_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganformer_cli.training.recorded.MAX_SECONDS", -1.0)
    recorded = RecordedFunction(lambda x: [2 * x], [])
    assert [float(recorded(torch.ones([]))[0]) for _ in range(3)] == [2, 2, 2]  # type: ignore[arg-type]
    assert recorded.program is None
