"""Precision, recall, density, coverage: sets of features as unions of balls."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ganformer_cli.errors import DataError
from ganformer_cli.metrics import manifold
from ganformer_cli.metrics.manifold import density_coverage, precision_recall

Rows = npt.NDArray[np.float64]


def normal(count: int, width: int = 16, seed: int = 0) -> Rows:
    return np.random.RandomState(seed).randn(count, width)


def distances(one: Rows, other: Rows) -> Rows:
    found: Rows = np.sqrt(((one[:, None] - other[None]) ** 2).sum(2))
    return found


def radii(rows: Rows, k: int) -> Rows:
    found: Rows = np.sort(distances(rows, rows), 1)[:, k]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("block_bytes", "k"), [(1, 3), (16 * 8 * 7, 1), (16 * 8 * 7, 3), (64 << 20, 5)])
def test_they_are_what_the_papers_say_whatever_the_blocks(
    block_bytes: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifold, "_BLOCK_BYTES", block_bytes)
    reals, fakes = normal(60), normal(45, seed=1) * 0.8 + 0.4
    between = distances(fakes, reals)
    precision = (between <= radii(reals, k)).any(1).mean()
    recall = (between <= radii(fakes, k)[:, None]).any(0).mean()
    assert 0 < recall < 1
    assert precision_recall(reals, fakes, k=k) == pytest.approx((precision, recall))
    inside = between < radii(reals, k)
    expected = inside.sum() / (k * 45), inside.any(0).mean()
    assert density_coverage(reals, fakes, k=k) == pytest.approx(expected)


def test_identical_sets_have_1_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, in several blocks, and where distances are compared with themselves."""
    monkeypatch.setattr(manifold, "_BLOCK_BYTES", 16 * 8 * 30)
    rows = normal(100) * 100 + 1e3
    for other in (rows, rows[::-1].copy()):
        assert precision_recall(rows, other) == (1, 1)
        assert density_coverage(rows, other) == pytest.approx((1, 1))


def test_sets_far_apart_have_0_of_everything() -> None:
    assert precision_recall(normal(50), normal(50, seed=1) + 100) == (0, 0)
    assert density_coverage(normal(50), normal(50, seed=1) + 100) == (0, 0)


def test_collapsed_fakes_are_precise_and_recall_little() -> None:
    reals = normal(300, 4)
    collapsed = reals[:1] + normal(300, 4, seed=1) * 0.01
    precision, recall = precision_recall(reals, collapsed)
    assert precision == 1
    assert recall < 0.05
    assert density_coverage(reals, collapsed)[1] < 0.2


@pytest.mark.parametrize("pictures", [1, 20])
def test_fakes_of_a_few_pictures_over_and_over_recall_those_only(pictures: int) -> None:
    """Balls of radius 0: only what is exactly there lies inside, whatever rounding makes of distances."""
    reals = normal(100, 301) * 1e3 + 1e5
    copies = np.tile(reals[:pictures], (10, 1))
    assert precision_recall(reals, copies) == (1, pictures / 100)


def test_fakes_that_scatter_too_much_recall_all_and_are_not_precise() -> None:
    reals = normal(300, 4)
    precision, recall = precision_recall(reals, normal(300, 4, seed=1) * 8)
    assert precision < 0.3
    assert recall > 0.9


def test_an_outlier_among_the_reals_raises_precision_more_than_density() -> None:
    """What density was made for: a ball around an outlier reaches far, and precision believes it."""
    reals, fakes = normal(200, 8), normal(200, 8, seed=1) + 6
    outlier = np.full((1, 8), 30.0)
    before = precision_recall(reals, fakes)[0], density_coverage(reals, fakes, k=3)[0]
    with_it = np.concatenate([reals, outlier])
    after = precision_recall(with_it, fakes)[0], density_coverage(with_it, fakes, k=3)[0]
    assert before[0] < 0.1
    assert after[0] > 0.9
    assert after[1] - before[1] < 0.5


def test_as_many_modes_as_are_covered() -> None:
    centres = np.repeat(np.arange(10) * 50.0, 40)[:, None] * np.ones(4)
    reals = centres + normal(400, 4)
    for modes in (1, 5, 10):
        fakes = centres[: 40 * modes] + normal(40 * modes, 4, seed=1)
        assert density_coverage(reals, fakes)[1] == pytest.approx(modes / 10, abs=0.05)
        # A sample of a mode does not reach every real of it; reals of other modes it does not reach at all.
        assert 0.7 * modes / 10 < precision_recall(reals, fakes)[1] <= modes / 10


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("rows.npy", normal(4000, 256).astype(np.float32))
    mapped = np.load("rows.npy", mmap_mode="r")
    monkeypatch.setattr(manifold, "_BLOCK_BYTES", 1 << 18)
    tracemalloc.start()
    assert precision_recall(mapped[:2000], mapped[2000:])[0] > 0.5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mapped.nbytes / 4  # what numpy holds; torch's blocks are as large


def test_numbers_of_old() -> None:
    reals, fakes = normal(150, 6), normal(130, 6, seed=1) * 0.7 + 0.4
    assert precision_recall(reals, fakes) == pytest.approx(GOLDEN[:2], rel=1e-9)
    assert density_coverage(reals, fakes) == pytest.approx(GOLDEN[2:], rel=1e-9)


GOLDEN = (0.9923076923076923, 0.5733333333333334, 1.396923076923077, 0.78)


def test_what_has_no_balls() -> None:
    with pytest.raises(DataError, match="3 nearest neighbours need at least 4 reals, not 3"):
        precision_recall(normal(3), normal(10))
    with pytest.raises(DataError, match="3 nearest neighbours need at least 4 fakes, not 3"):
        precision_recall(normal(10), normal(3))
    with pytest.raises(DataError, match="at least 1 fakes, not 0"):
        density_coverage(normal(10), normal(0))
    with pytest.raises(DataError, match="different networks"):
        precision_recall(normal(10), normal(10, 4))
    damaged = normal(10)
    damaged[7] = np.inf
    with pytest.raises(DataError, match="image 7 are not finite"):
        precision_recall(normal(10), damaged)
