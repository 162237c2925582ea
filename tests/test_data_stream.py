"""The stream: every image once an epoch, in an order that follows from the position."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from ganformer_cli.data.loading.batches import SampleOrder
from ganformer_cli.data.loading.datasets import ImageArray, ImageDataset, LabelArray, SceneDataset
from ganformer_cli.data.loading.stream import ImageStream
from ganformer_cli.errors import ConfigError


class Numbers(ImageDataset):
    """Image i is all i on the left and all 255 on the right; its label is i."""

    label_dim = 1

    def __init__(self, count: int) -> None:
        super().__init__("numbers", 2, 2, 1.0, count, "")
        self.loads = 0

    def _load(self, index: int) -> ImageArray:
        self.loads += 1
        picture = np.full((3, 2, 2), 255, np.uint8)
        picture[:, :, 0] = index
        return picture

    def label(self, index: int) -> LabelArray:
        return np.array([index], np.float32)


def take(stream: ImageStream, batches: int) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [next(stream) for _ in range(batches)]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def test_an_epoch_shows_each_picture_once_and_the_next_in_another_order() -> None:
    _, labels = take(ImageStream(Numbers(30), batch_size=10, seed=5, mirror=False), 6)
    first, second = labels[:30, 0].tolist(), labels[30:, 0].tolist()
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second
    assert first != sorted(first)


def test_seeds_give_different_orders() -> None:
    orders = {tuple(SampleOrder(20, seed, mirror=False)[k][0] for k in range(20)) for seed in (0, 1, 2, -1, 2**40)}
    assert len(orders) == 5


def test_pictures_and_labels_belong_together() -> None:
    images, labels = take(ImageStream(Numbers(30), batch_size=10, seed=5, mirror=False), 3)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.float32
    assert images.shape == (30, 3, 2, 2)
    assert labels.shape == (30, 1)
    assert torch.equal(images[:, 0, 0, 0].float(), labels[:, 0])
    assert bool((images[:, :, :, 1] == 255).all())


def test_mirror_shows_each_picture_both_ways_in_two_epochs() -> None:
    order = SampleOrder(40, 7, mirror=True)
    for pair in range(3):
        shown = Counter(order[80 * pair + k] for k in range(80))
        assert shown == Counter({(i, flip): 1 for i in range(40) for flip in (False, True)})
    flips = [order[k][1] for k in range(40)]
    assert 8 <= sum(flips) <= 32


def test_mirror_flips_left_and_right() -> None:
    images, _ = take(ImageStream(Numbers(20), batch_size=20, seed=1, mirror=True), 1)
    mirrored = images[:, 0, 0, 0] == 255
    assert 0 < int(mirrored.sum()) < 20
    assert bool((images[mirrored][:, :, :, 0] == 255).all())


@pytest.mark.parametrize("mirror", [False, True])
def test_resumes_at_any_position_with_any_batch_size(mirror: bool) -> None:
    dataset = Numbers(13)
    stream = ImageStream(dataset, batch_size=7, seed=3, mirror=mirror)
    images, labels = take(stream, 9)
    assert stream.position == 63
    for position, batch_size in ((7, 7), (14, 5), (26, 1)):
        other = ImageStream(dataset, batch_size=batch_size, seed=3, mirror=mirror, position=position)
        again, labels_again = take(other, 4)
        until = position + 4 * batch_size
        assert torch.equal(again, images[position:until])
        assert torch.equal(labels_again, labels[position:until])
        assert other.position == until


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_stream_without_overlap(world_size: int) -> None:
    dataset = Numbers(13)
    whole, labels = take(ImageStream(dataset, batch_size=2 * world_size, seed=3, mirror=True, position=6), 5)
    parts = []
    for rank in range(world_size):
        stream = ImageStream(dataset, batch_size=2, seed=3, mirror=True, position=6, rank=rank, world_size=world_size)
        parts.append([next(stream) for _ in range(5)])
        assert stream.position == 6 + 5 * 2 * world_size
    together = [batch for step in zip(*parts, strict=True) for batch in step]
    assert torch.equal(torch.cat([images for images, _ in together]), whole)
    assert torch.equal(torch.cat([names for _, names in together]), labels)


@pytest.mark.slow
def test_workers_share_the_stream_too() -> None:
    dataset = SceneDataset(resolution=32, count=12)
    given: dict[str, Any] = {"batch_size": 2, "seed": 2, "mirror": False, "rank": 1, "world_size": 2}
    alone = take(ImageStream(dataset, **given), 3)
    with ImageStream(dataset, workers=1, **given) as stream:
        assert torch.equal(take(stream, 3)[0], alone[0])


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    _, labels = take(ImageStream(Numbers(3), batch_size=8, seed=0, mirror=False), 1)
    assert sorted(labels[:3, 0].tolist()) == sorted(labels[3:6, 0].tolist()) == [0, 1, 2]


@pytest.mark.slow
def test_workers_give_the_same_stream_and_leave_torchs_generator_alone() -> None:
    dataset = SceneDataset(resolution=32, count=12)
    alone = take(ImageStream(dataset, batch_size=4, seed=2, mirror=True, position=4), 4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with ImageStream(dataset, batch_size=4, seed=2, mirror=True, position=4, workers=1) as stream:
        together = take(stream, 4)
        assert stream.position == 20
    assert torch.equal(alone[0], together[0])
    assert together[1].shape == (16, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_pictures_are_loaded_once_and_memory_is_bounded() -> None:
    dataset = Numbers(10)
    take(ImageStream(dataset, batch_size=10, seed=0, mirror=False), 5)
    assert dataset.loads == 10
    bounded = Numbers(10)
    bounded.cache_bytes = 4 * 12  # room for four images of 12 bytes
    images, labels = take(ImageStream(bounded, batch_size=10, seed=0, mirror=False), 5)
    assert bounded.loads == 4 + 5 * 6
    assert torch.equal(images[:, 0, 0, 0].float(), labels[:, 0])


def test_what_is_handed_out_is_a_copy() -> None:
    dataset = Numbers(2)
    dataset.image(1)[:] = 9
    images, _ = next(ImageStream(dataset, batch_size=2, seed=0, mirror=False))
    images.zero_()
    assert dataset.image(1)[0, 0].tolist() == [1, 255]


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"position": -1}, {"workers": -1}, {"world_size": 0}, {"rank": 1}]
)
def test_impossible_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("batch_size", "batch size")):
        ImageStream(Numbers(3), seed=0, mirror=False, **{"batch_size": 1, **wrong})


def test_indices_beyond_the_end_are_refused() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError):
            Numbers(3).image(index)
