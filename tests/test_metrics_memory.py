"""Scores where memory runs out: work is done in smaller blocks, with the same results; no traceback."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import Tensor

from ganformer_cli.data import open_dataset
from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import is_out_of_memory
from ganformer_cli.metrics import diversity, features, manifold, sliced_wasserstein
from ganformer_cli.metrics.blocks import BlockSize
from ganformer_cli.metrics.evaluate import evaluate
from ganformer_cli.metrics.features import FeatureNetwork, LearnedDistance
from ganformer_cli.metrics.opening import FeatureNetworks
from ganformer_cli.metrics.vgg import Lpips, trunk_shapes

Run = Callable[..., Result]

#: What torch and the libraries below it say.
ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("could not create a primitive"),
    RuntimeError("std::bad_alloc"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4194304 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you tried"),
    RuntimeError("can't start new thread"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


class Small(torch.nn.Module):
    """Random projections of 8x8 pixels; memory runs out where more than ``most`` images pass at a time."""

    side = 8
    outputs = {"pool": 12}

    def __init__(self, most: int = 1000, error: Exception | None = None) -> None:
        super().__init__()
        self.most, self.error = most, error or MemoryError()
        self.weight = torch.randn(192, 12, generator=torch.Generator().manual_seed(0)) / 14
        self.seen: list[int] = []

    def scaled(self, pixels: Tensor) -> Tensor:
        return pixels / 255

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.error
        return {"pool": (x.flatten(1) @ self.weight).relu()}


def network(small: Small) -> FeatureNetwork:
    return FeatureNetwork("inception", small, weights_sha256="f" * 64, published=False, resize="tf1")


def images(count: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, (count, 3, 8, 8)).astype(np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=[f"{type(error).__name__} {error}"[:40] for error in ERRORS])
def test_a_network_takes_fewer_images_where_memory_runs_out(error: Exception) -> None:
    assert is_out_of_memory(error)
    expected = network(Small())(images(11))["pool"]
    small = Small(2, error)
    limited = network(small)
    found = limited(images(11))["pool"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert small.seen[-6:] == [2] * 6
    assert set(small.seen[:-6]) == {4}  # once or more: another thread may have begun when the first one failed
    small.seen.clear()
    limited(images(3))  # and what did not fit is not tried again
    assert small.seen == [2, 2]


@pytest.mark.slow
def test_fewer_groups_at_once_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = network(Small())(images(32))["pool"]
    each, asked = features.map_single_threaded, []

    def limited(compute: Any, items: Sequence[Any], *, at_most: int) -> Any:
        asked.append(at_most)
        if at_most > 1:
            raise MemoryError
        return each(compute, items, at_most=at_most)

    monkeypatch.setattr(features, "map_single_threaded", limited)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert torch.equal(network(Small())(images(32))["pool"], expected)
    assert asked == [6, 3, 1]


def test_the_batch_size_limits_what_passes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    each, asked = features.map_single_threaded, []

    def watched(compute: Any, items: Sequence[Any], *, at_most: int) -> Any:
        asked.append(at_most * len(items[0]))
        return each(compute, items, at_most=at_most)

    monkeypatch.setattr(features, "map_single_threaded", watched)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    scenes = open_dataset("scenes", resolution=32, max_images=48)
    scores = []
    for batch_size, most in ((None, 24), (64, 24), (12, 12), (3, 4)):
        asked.clear()
        networks = FeatureNetworks({"inception": network(Small())})
        scores.append(evaluate(scenes, scenes, batch_size=batch_size, metrics=["fid"], networks=networks)["fid"])
        assert set(asked) == {most}
    assert len(set(scores)) == 1


@pytest.mark.slow
def test_batches_of_a_gpu_become_smaller() -> None:
    """Whole batches pass there; the method that does it runs on any device."""
    expected = network(Small())(images(64))["pool"]
    small = Small(10)
    limited = network(small)
    found = BlockSize(64, "testing").run(lambda size: limited._in_batches(images(64), size))
    torch.testing.assert_close(torch.cat([each["pool"] for each in found]), expected, rtol=1e-6, atol=1e-6)
    assert small.seen == [64, 32, 16, *[8] * 8]


@pytest.mark.slow
def test_a_single_image_that_does_not_fit_is_one_error() -> None:
    with pytest.raises(GanformerError, match="memory ran out while computing the features of a single image in incep"):
        network(Small(0))(images(5))
    with pytest.raises(ValueError, match="shapes"):
        network(Small(0, ValueError("shapes")))(images(5))


@pytest.mark.slow
def test_distances_of_pairs_are_measured_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distance(torch.nn.Module):
        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return (one - other).double().square().mean((1, 2, 3))

    each = features.map_single_threaded

    def limited(compute: Any, items: Sequence[Any], *, at_most: int) -> Any:
        if at_most > 1:
            raise RuntimeError("could not create a primitive")
        return each(compute, items, at_most=at_most)

    one, other = images(7).float(), images(7).flip(0).float()
    distance = LearnedDistance(Distance(), weights_sha256="", published=False)  # type: ignore[arg-type]
    expected = distance(one, other)
    monkeypatch.setattr(features, "map_single_threaded", limited)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    again = LearnedDistance(Distance(), weights_sha256="", published=False)  # type: ignore[arg-type]
    assert torch.equal(again(one, other), expected)


@pytest.mark.slow
@pytest.mark.parametrize("measure", [manifold.precision_recall, manifold.density_coverage])
def test_neighbours_are_found_in_smaller_blocks(
    monkeypatch: pytest.MonkeyPatch, measure: Callable[..., tuple[float, float]]
) -> None:
    random = np.random.RandomState(0)
    reals, fakes = random.randn(90, 6), random.randn(70, 6) * 0.8 + 0.3
    expected, addmm, seen = measure(reals, fakes), torch.addmm, []

    def limited(lengths: Tensor, rows: Tensor, *others: Tensor, **how: Any) -> Tensor:
        seen.append(len(rows))
        if len(rows) > 9:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return addmm(lengths, rows, *others, **how)

    monkeypatch.setattr(torch, "addmm", limited)
    assert measure(reals, fakes) == expected
    assert max(seen[10:]) <= 9


@pytest.mark.slow
def test_distances_of_images_and_sorted_projections_too(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.RandomState(0)
    reals, fakes = (random.randint(0, 256, (9, 3, 32, 32)).astype(np.uint8) for _ in range(2))
    expected = diversity.mean_pairwise_distance(reals), sliced_wasserstein.sliced_wasserstein(reals, fakes)
    triu, pool, empty = np.triu, sliced_wasserstein.ThreadPoolExecutor, np.empty
    asked: list[int] = []

    def limited(distances: Any, k: int) -> Any:
        if len(distances) > 2:
            raise MemoryError
        return triu(distances, k)

    def threads(count: int) -> Any:
        asked.append(count)
        if count > 1:
            raise MemoryError
        return pool(count)

    def large(shape: Any, *args: Any, **how: Any) -> Any:
        if isinstance(shape, tuple) and len(shape) == 5:
            raise MemoryError
        return empty(shape, *args, **how)

    monkeypatch.setattr(np, "triu", limited)
    monkeypatch.setattr(sliced_wasserstein, "ThreadPoolExecutor", threads)
    monkeypatch.setattr(sliced_wasserstein, "_CHUNK_BYTES", 9 * 128 * 8 * 16)  # many chunks
    monkeypatch.setattr(sliced_wasserstein.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(np, "empty", large)  # descriptors then go where large arrays go
    assert diversity.mean_pairwise_distance(reals) == pytest.approx(expected[0], rel=1e-12)
    assert sliced_wasserstein.sliced_wasserstein(reals, fakes) == pytest.approx(expected[1], rel=1e-5)
    assert asked == [4, 2, 1] * 2


# ----- Evaluations -----


def test_where_no_thread_can_be_started_the_work_is_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tiny_features: dict[str, int]
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from ganformer_cli.metrics import collecting, sources

    class NoThreads(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("can't start new thread")

    scenes = open_dataset("scenes", resolution=32, max_images=12)
    how: dict[str, Any] = {
        "metrics": ["fid", "diversity"],
        "networks": FeatureNetworks({"inception": network(Small())}),
    }
    expected = evaluate(scenes, scenes, **how)
    for module in (collecting, sources):
        monkeypatch.setattr(module, "ThreadPoolExecutor", NoThreads)
    assert evaluate(scenes, scenes, **how) == expected


def test_a_metric_that_does_not_fit_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tiny_features: dict[str, int]
) -> None:
    def fails(*_: Any) -> float:
        raise MemoryError

    monkeypatch.setattr(np, "trace", fails)
    scenes = open_dataset("scenes", resolution=32, max_images=12)
    networks = FeatureNetworks({"inception": network(Small())})
    scores = evaluate(scenes, scenes, metrics=["kid", "diversity"], networks=networks)
    assert scores["diversity"] == 1
    assert scores["failed"]["kid"].startswith("memory ran out while comparing features; close other programs")


@pytest.mark.slow
@pytest.mark.parametrize("most", [0, 2])
def test_eval_says_it_in_one_line_or_goes_on(
    ganformer: Run, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    def open_network(name: str, **_: Any) -> FeatureNetwork:
        return network(Small(most, RuntimeError("could not create a primitive")))

    monkeypatch.setattr(features, "open_network", open_network)
    done = ganformer("eval", "--metrics", "fid", "--eval-images-num", "20", "--json")
    if most:
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["fid"] > 0
    else:
        assert (done.exit_code, done.stdout) == (1, "")
        assert "error: memory ran out while computing the features of a single image" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_distance_has_finite_gradients_where_all_features_are_zero() -> None:
    tensors = {name: torch.zeros(shape) for name, shape in (trunk_shapes() | Lpips.own_shapes()).items()}
    distance = LearnedDistance(Lpips(tensors), weights_sha256="", published=False)
    one, other = torch.zeros(1, 3, 16, 16, requires_grad=True), torch.ones(1, 3, 16, 16)
    distance.differentiable(one, other).sum().backward()
    assert one.grad is not None
    assert one.grad.isfinite().all()
