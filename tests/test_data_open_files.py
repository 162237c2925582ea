"""A system lets each process open so many files: a data set of hundreds of zips needs a few at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ganformer_cli.data.loading.datasets import PreparedDataset
from ganformer_cli.data.prepare.pipeline import prepare
from ganformer_cli.data.sources import open_source

resource = pytest.importorskip("resource", reason="this system has no limits of its own for a process")
SHARDS = 60


@pytest.fixture
def many_zips(own_folder: Path) -> Path:
    """A data set of sixty zips with an image each."""
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (SHARDS, 8, 8, 3), np.uint8))
    return prepare(Path("images.npy"), "many", data_dir=own_folder, shards_num=SHARDS, workers=1).folder


@contextlib.contextmanager
def few_files() -> Iterator[None]:
    """Within the block only thirty more files can be opened."""
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(folder))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 30, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_training_reads_them(many_zips: Path) -> None:
    with few_files(), contextlib.closing(PreparedDataset(many_zips)) as dataset:
        dataset.cache_bytes = 0
        images = np.load("images.npy").transpose(0, 3, 1, 2)
        order = np.random.default_rng(1).permutation(SHARDS)
        assert all(np.array_equal(dataset.image(int(index)), images[index]) for index in [*order, *order])


def test_preparing_reads_them(many_zips: Path) -> None:
    with few_files(), open_source(many_zips) as source:
        assert source.count() == SHARDS
        assert [item.error for item in source.items(7)] == [""] * (SHARDS - 7)
        assert sum(1 for _ in source.samples(SHARDS)) == SHARDS


def test_a_store_that_is_closed_goes_on(many_zips: Path) -> None:
    dataset = PreparedDataset(many_zips)
    dataset.cache_bytes = 0
    before = dataset.image(0)
    dataset.close()
    assert np.array_equal(dataset.image(0), before)
    dataset.close()
