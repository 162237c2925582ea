"""The labels that a model keeps: bounded, drawn as often as they are in the data, whole in its file or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganformer_cli.checkpoints.snapshots import (
    load_available,
    load_snapshot,
    read_tensors,
    save_snapshot,
    save_tensors,
)
from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import SnapshotError
from ganformer_cli.models import Generator, LabelDistribution, labels
from ganformer_cli.sampling import labels_from_seeds, sample, sample_seeds

CONFIG = ModelConfig(resolution=16, components_num=2, latent_size=16, channel_base=64, channel_max=8, c_dim=3)
ROWS = np.array([[0.25, -1, 3], [0, 0, 0], [0.25, -1, 3], [7, 8, 9]])


def model(kept: LabelDistribution | None) -> Generator:
    torch.manual_seed(0)
    generator = Generator(CONFIG).eval()
    generator.label_distribution = kept
    return generator


def saved(path: Path, kept: LabelDistribution | None) -> Path:
    generator = model(kept)
    save_snapshot(
        path, config=CONFIG, ema=generator, generator=None, discriminator=None, kimg=0, provenance={"labels": "other"}
    )
    return path


def test_classes_without_images_are_never_drawn() -> None:
    kept = LabelDistribution.from_labels(np.array([4, 1, 1, 4, 4, 4]), 6)
    assert (kept.kind, kept.counts.tolist()) == ("classes", [0, 2, 0, 0, 4, 0])
    drawn = kept.draw([0.0, 0.3, 0.34, 0.99, 1 - 1e-16]).argmax(1).tolist()
    assert drawn == [1, 1, 4, 4, 4]


def test_vectors_are_rows_of_the_data_with_their_frequencies() -> None:
    kept = LabelDistribution.from_labels(ROWS, 3)
    assert kept.vectors is not None
    assert (kept.kind, kept.distinct, kept.is_whole) == ("vectors", 3, True)
    assert kept.vectors.tolist() == [[0.25, -1, 3], [0, 0, 0], [7, 8, 9]]
    assert kept.counts.tolist() == [2, 1, 1]
    assert kept.draw([0.0, 0.4999, 0.5, 0.75]).tolist() == [[0.25, -1, 3], [0.25, -1, 3], [0, 0, 0], [7, 8, 9]]


def test_minus_zero_is_zero() -> None:
    assert LabelDistribution.from_labels(np.array([[-0.0, 1], [0.0, 1]]), 2).distinct == 1


def test_of_many_vectors_a_choice_is_kept_that_has_their_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MAX_NUMBERS", 2000)
    data = np.random.default_rng(0).standard_normal((6000, 2))
    data[: 6000 // 2] = [5, 5]  # half of the images
    first, again = LabelDistribution.from_labels(data, 2), LabelDistribution.from_labels(data, 2)
    assert first.vectors is not None
    assert again.vectors is not None
    assert (first.distinct, first.is_whole) == (3001, False)
    assert len(first.vectors) <= 1000
    assert int(first.counts.sum()) == 1000
    assert np.array_equal(first.vectors, again.vectors)
    often = (first.vectors == 5).all(1)
    assert 0.45 < first.counts[often].item() / 1000 < 0.55
    there = {tuple(row) for row in data.astype(np.float32).tolist()}
    assert {tuple(row) for row in first.vectors.tolist()} <= there


@pytest.mark.parametrize(
    "kept",
    [
        LabelDistribution.from_labels(np.array([0, 2, 2]), 3, ["a", "b", "ä"]),
        LabelDistribution.from_labels(ROWS, 3),
        None,
    ],
)
def test_a_snapshot_keeps_them(tmp_path: Path, kept: LabelDistribution | None) -> None:
    path = saved(tmp_path / "a.safetensors", kept) if kept else save_plain(tmp_path / "a.safetensors")
    for found in (load_snapshot(path).label_distribution, load_available(path)[0].label_distribution):
        if kept is None:
            assert found is None
            continue
        assert found is not None
        assert (found.kind, found.names, found.distinct) == (kept.kind, kept.names, kept.distinct)
        assert torch.equal(found.draw([0.1, 0.5, 0.9]), kept.draw([0.1, 0.5, 0.9]))


def save_plain(path: Path) -> Path:
    save_snapshot(path, config=CONFIG, ema=model(None), generator=None, discriminator=None, kimg=0, provenance={})
    return path


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({"counts": torch.tensor([1, 2])}, {}, "2 classes in a network for 3"),
        ({"counts": torch.tensor([1.0, 2, 3])}, {}, "not counts"),
        ({"counts": torch.tensor([1, -2, 3])}, {}, "not counts"),
        ({"counts": torch.tensor([0, 0, 0])}, {}, "out of range"),
        ({"counts": torch.full((3,), 2**62)}, {}, "out of range"),
        ({"counts": torch.ones(3, dtype=torch.int64)}, {"names": ["a"]}, "names of the classes"),
        ({"counts": torch.ones(3, dtype=torch.int64)}, {"names": [1, 2, 3]}, "names of the classes"),
        ({"counts": torch.ones(3, dtype=torch.int64)}, None, "part of them is missing"),
        ({"vectors": torch.ones(3, 3)}, {}, "part of them is missing"),
        ({"counts": torch.ones(2, dtype=torch.int64), "vectors": torch.ones(2, 2)}, {}, r"vectors \[2, 2\]"),
        ({"counts": torch.ones(1, dtype=torch.int64), "vectors": torch.full((1, 3), torch.nan)}, {}, "not finite"),
    ],
)
def test_damaged_ones_are_refused(tmp_path: Path, tensors: dict[str, Any], header: Any, message: str) -> None:
    path = save_plain(tmp_path / "a.safetensors")
    more = {f"labels.{name}": tensor for name, tensor in tensors.items()}
    save_tensors(path, {**read_tensors(path), **more}, {"config": CONFIG.to_dict(), "kimg": 0, "labels": header})
    with pytest.raises(SnapshotError, match=f"a.safetensors: the labels that it keeps are damaged .*{message}"):
        load_snapshot(path)


def test_a_seed_draws_the_same_label_and_image_in_every_batch() -> None:
    generator = model(LabelDistribution.from_labels(ROWS, 3))
    drawn = labels_from_seeds(generator, range(200))
    assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in ROWS.tolist()}
    assert 0.4 < (drawn[:, 1] == -1).float().mean() < 0.6
    assert torch.equal(labels_from_seeds(generator, [150, 3]), drawn[[150, 3]])
    images = sample(generator, range(6), truncation_psi=0.7)
    for size in (1, 3, 6):
        for seed, image, _ in sample_seeds(generator, range(6), truncation_psi=0.7, batch_size=size):
            assert np.array_equal(image, images[seed].numpy())
    given = sample(generator, range(6), truncation_psi=0.7, labels=drawn[:6].numpy())
    assert torch.equal(images, given)


def test_without_kept_labels_classes_are_equally_likely() -> None:
    drawn = labels_from_seeds(model(None), range(300))
    assert drawn.sum(1).eq(1).all()
    assert (drawn.sum(0) > 70).all()
