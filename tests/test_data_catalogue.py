"""The catalogue: what is shipped is complete, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganformer_cli.config import MODEL_FIELDS, TRAIN_FIELDS, ModelConfig
from ganformer_cli.data.catalogue import load_catalogue, read_entry
from ganformer_cli.errors import DataError


def test_the_shipped_data_sets() -> None:
    catalogue = load_catalogue()
    assert list(catalogue) == ["bedrooms", "cityscapes", "clevr", "ffhq", "scenes"]
    for name, entry in catalogue.items():
        assert entry.name == name
        assert entry.title
        assert entry.licence
        assert 0.25 <= entry.ratio <= 4
        if name != "scenes":
            assert entry.images
            assert entry.homepage
            for source in entry.source:
                assert len(source["md5"]) == 32
                assert ("url" in source) != ("drive" in source)


def test_presets_are_those_of_the_paper() -> None:
    presets = {name: entry.preset for name, entry in load_catalogue().items()}
    short = {
        name: (preset["gamma"], preset["components_num"], preset["latent_size"], preset.get("mirror_augment", False))
        for name, preset in presets.items()
        if name != "scenes"
    }
    assert short == {
        "ffhq": (10, 16, 512, True),
        "cityscapes": (20, 16, 512, True),
        "clevr": (40, 8, 128, False),
        "bedrooms": (100, 16, 512, False),
    }
    assert {name for name, preset in presets.items() if preset.get("style") is False} == {"clevr"}
    assert {name for name, preset in presets.items() if preset.get("mapping_ltnt2ltnt") is False} == {"clevr"}


def test_presets_make_models() -> None:
    for entry in load_catalogue().values():
        model = {key: value for key, value in entry.preset.items() if key in MODEL_FIELDS}
        assert set(entry.preset) <= MODEL_FIELDS | TRAIN_FIELDS
        ModelConfig.from_dict({**model, "ratio": entry.ratio})


@pytest.mark.parametrize("text", ["title =", 'title = "x"', 'title = "x"\nlicence = "y"\nratio = 1.0\nrattio = 2'])
def test_wrong_entries_are_named(text: str) -> None:
    path = Path("mine.toml")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"mine\.toml cannot be used"):
        read_entry(path)
