"""The catalogue: what is shipped is complete, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganformer_cli.config import MODEL_FIELDS, TRAIN_FIELDS, ModelConfig
from ganformer_cli.data.catalogue import (
    CatalogueEntry,
    DownloadSource,
    find_entry,
    load_catalogue,
    own_entries,
    read_entry,
)
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
                assert source.md5
                assert source.size


def test_where_the_shipped_data_sets_come_from() -> None:
    catalogue = load_catalogue()
    found = {
        name: [(s.format, s.url or s.drive, s.md5, s.gigabytes, s.folder) for s in entry.source]
        for name, entry in catalogue.items()
        if name != "scenes"
    }
    assert found == {
        "ffhq": [
            (
                "tfrecords",
                "http://downloads.cs.stanford.edu/nlp/data/dorarad/ffhq-r08.tfrecords1of1",
                "74de4f07dc7bfb07c0ad4471fdac5e67",
                13,
                None,
            )
        ],
        "bedrooms": [
            (
                "zip of lmdb",
                "http://dl.yf.io/lsun/scenes/bedroom_train_lmdb.zip",
                "f2c5d904a82a6295dbdccb322b4b0a99",
                43,
                None,
            )
        ],
        "cityscapes": [
            (
                "zip of tfrecords",
                "1t9Qhxm0iHFd3k-xTYEbKosSx_DkyoLLJ",
                "953d231046275120dc1f73a5aebc9087",
                2,
                None,
            )
        ],
        "clevr": [
            ("zip of tfrecords", "1lY4JE30yk26v0MWHNpXBOMzltufUcTXj", "3040bb20a29cd2f0e1e9231aebddf2a1", 6, None),
            (
                "zip of pictures",
                "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
                "b11922020e72d0cd9154779b2d3d07d2",
                18,
                "CLEVR_v1.0/images",
            ),
        ],
    }
    assert {name: (entry.ratio, entry.images) for name, entry in catalogue.items()} == {
        "ffhq": (1, 70000),
        "bedrooms": (188 / 256, 3033042),
        "cityscapes": (0.5, 24998),
        "clevr": (0.75, 100000),
        "scenes": (1, 10000),
    }
    assert catalogue["clevr"].source[1].checksum == "md5:b11922020e72d0cd9154779b2d3d07d2"
    assert catalogue["clevr"].source[0].address == (
        "https://drive.google.com/uc?export=download&id=1lY4JE30yk26v0MWHNpXBOMzltufUcTXj"
    )
    assert [source.file_name("clevr") for source in catalogue["clevr"].source] == ["clevr.zip", "CLEVR_v1.0.zip"]


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
    assert {name for name, preset in presets.items() if preset.get("style") is False} == {"clevr", "scenes"}
    assert {name for name, preset in presets.items() if preset.get("mapping_ltnt2ltnt") is False} == {"clevr", "scenes"}


def test_presets_make_models() -> None:
    for entry in load_catalogue().values():
        model = {key: value for key, value in entry.preset.items() if key in MODEL_FIELDS}
        assert set(entry.preset) <= MODEL_FIELDS | TRAIN_FIELDS
        ModelConfig.from_dict({**model, "ratio": entry.ratio})


OWN = """
title = "Mine"
licence = "CC0"
ratio = 1
{entry}
[[source]]
form = "zip of pictures"
url = "https://example.org/a%20b/my.zip?version=2"
{source}
"""


def own(entry: str = "", source: str = "") -> str:
    return OWN.format(entry=entry, source=source)


def test_an_entry_of_the_users_own() -> None:
    path = Path("my-set.toml")
    path.write_text(own("images = 12", 'sha256 = "' + 64 * "A" + '"\nbytes = 77\nfolder = "a/b"'), encoding="utf-8")
    with path.open("a", encoding="utf-8") as stream:
        stream.write("[preset]\ngamma = 5\nstyle = false\n")
    entry = read_entry(path)
    assert entry == CatalogueEntry(
        "my-set", "Mine", "CC0", 1.0, images=12, preset={"gamma": 5, "style": False}, source=entry.source
    )
    (source,) = entry.source
    assert (source.size, source.checksum, source.folder) == (77, "sha256:" + 64 * "a", "a/b")
    assert source.file_name(entry.name) == "my.zip"
    assert source.opened_as == "zip"


def test_own_entries_lie_in_the_folder_of_the_data_sets(checkout: Path) -> None:
    folder = Path("sets")
    folder.mkdir()
    (folder / "mine.toml").write_text(own(), encoding="utf-8")
    (folder / "broken.toml").write_text("title", encoding="utf-8")
    (folder / "ffhq.toml").write_text("title", encoding="utf-8")
    mine = find_entry("mine", folder)
    assert mine is not None
    assert mine.title == "Mine"
    assert find_entry("ffhq", folder) is load_catalogue()["ffhq"]
    assert find_entry("nothing", folder) is None
    assert find_entry("../sets/mine", folder) is None
    assert [path.name for path in own_entries(folder)] == ["broken.toml", "mine.toml"]
    assert own_entries(checkout / "datasets") == []
    with pytest.raises(DataError, match="broken"):
        find_entry("broken", folder)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://example.org/a.zip", "a.zip"),
        ("https://example.org/a/%C3%A4%20b.zip#x", "ä b.zip"),
        ("https://example.org/", "mine.zip"),
        ("https://example.org/a/..", "mine.zip"),
        ("https://example.org/.hidden", "mine.zip"),
        ("https://example.org/%2e%2e%2fx", "x"),
        ("https://example.org/a%5cb", "mine.zip"),
        ("https://example.org/" + 200 * "a", "mine.zip"),
        ("https://example.org/a%00", "mine.zip"),
    ],
)
def test_names_of_downloads_are_harmless(address: str, name: str) -> None:
    assert DownloadSource("zip of pictures", url=address).file_name("mine") == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title =", "Invalid value"),
        ('title = "x"', "licence is missing: a line of text"),
        ('title = "x"\nlicence = "y"\nratio = 1.0\nrattio = 2', "rattio is not a known key; did you mean ratio?"),
        (own("qqq = 1"), "qqq is not a known key; known are title, licence"),
        (own("resolution = true"), "resolution = True must be a whole number"),
        (own("resolution = 48"), "power of two"),
        (own("images = 1.5"), "images = 1.5 must be a whole number"),
        (own('homepage = "example.org"'), "homepage = 'example.org' must be an address"),
        (own().replace("ratio = 1", 'ratio = "1"'), "ratio = '1' must be height / width"),
        (own().replace("ratio = 1", "ratio = inf"), "mine.toml, line 4: has a number that is not finite"),
        (own().replace("ratio = 1", "ratio = 100"), "--ratio 100"),
        (own().replace('"CC0"', '"a\\nb"'), "licence = 'a\\nb' must be a line of text"),
        (own("source = 3").replace("[[source]]", "[x]"), "source = 3 must be written as [[source]]"),
        (
            own("source = [3]").replace("[[source]]", "[x]"),
            "x is not a known key|source: must be written as [[source]]",
        ),
        (own().replace("zip of pictures", "zap"), "source: form = 'zap' must be one of zip of pictures, zip of tfrec"),
        (own().replace('"zip of pictures"', "[1]"), "source: form = [1] must be one of"),
        (own(source='md4 = "x"'), "source: md4 is not a known key; did you mean md5?"),
        (own(source='md5 = "12"'), "source: md5 = '12' must be 32 hexadecimal digits"),
        (own(source=f'sha256 = "{"g" * 64}"'), "must be 64 hexadecimal digits"),
        (own(source="gigabytes = -1"), "source: gigabytes = -1 must be a number above 0"),
        (own(source="gigabytes = 1e300"), "source: gigabytes = 1e+300 must be a number above 0, at most 1,000,000"),
        (own(source="gigabytes = inf"), "has a number that is not finite"),
        (own(source=f"bytes = 1{18 * '0'}"), f"source: bytes = 1{18 * '0'} must be a whole number above 0"),
        (own(f"images = {'9' * 400}"), "has a number that is too large"),
        (own("resolution = 100000000"), "resolution = 100000000 must be a whole number of pixels"),
        (own('"\\u001b]0;x\\u0007" = 1'), r"\x1b]0;x\x07 is not a known key"),
        (own(source=f"md5 = {'[' * 40 + ']' * 40}"), "source: md5 = [[["),
        (own(source=f"[preset]\ngamma = {'9' * 400}"), "has a number that is too large"),
        (own(source='gigabytes = "2"'), "gigabytes = '2' must be a number above 0"),
        (own(source='folder = "../x"'), "source: folder = '../x' must be a folder inside the archive"),
        (own(source='folder = "/x"'), "source: folder = '/x' must be a folder inside the archive"),
        (own(source='drive = "1t9Qhxm0iHFd3k-xTYEb"'), "source: must have either url or drive"),
        (own().replace("url = ", "# "), "source: must have either url or drive"),
        (own().replace("https:", "ftp:"), "source: url = 'ftp:"),
        (own().replace("url = ", 'drive = "a/b" #'), "source: drive = 'a/b' must be the id"),
        (
            own(source='[[source]]\nform = "npy"\nurl = "http://x/y"\nfolder = "z"'),
            "source 2: folder needs a zip of pictures",
        ),
        (own(source="[preset]\ngama = 1"), "preset: gama is unknown; did you mean gamma?"),
        (own(source='[preset]\ngamma = "high"'), "setting gamma has the value 'high' of the wrong type"),
        (own(source="[preset]\ncomponents_num = 3\nlatent_size = 32"), "--components-num 3"),
        (own(source="[preset]\nbatch_size = 0"), "--batch-size 0"),
        (own("name = 'x'"), "name is not a known key"),
    ],
)
def test_wrong_entries_are_named(text: str, words: str) -> None:
    path = Path("mine.toml")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_entry(path)
    assert str(caught.value).startswith(("mine.toml is not a valid catalogue entry: ", "mine.toml, line "))
    assert len(str(caught.value)) < 400
    assert any(word in str(caught.value) for word in words.split("|")), caught.value


def test_an_entry_that_is_no_text() -> None:
    path = Path("mine.toml")
    with pytest.raises(DataError, match=r"mine\.toml: cannot be read \("):
        read_entry(path)
    path.write_bytes(b"title = '\xff'")
    with pytest.raises(DataError, match=r"mine\.toml, line 1: is not UTF-8"):
        read_entry(path)


def test_what_the_paper_reports_is_data_with_its_source() -> None:
    reported = {name: entry.reported for name, entry in load_catalogue().items() if entry.reported}
    assert set(reported) == {"clevr", "bedrooms", "ffhq", "cityscapes"}
    models = ["GAN", "kGAN", "SAGAN", "StyleGAN2", "VQGAN", "simplex", "duplex"]
    for said in reported.values():
        assert list(said.fid) == models
        assert "2103.01209" in said.source
        assert (said.images, said.resolution) == (50_000, 256)
    assert reported["cityscapes"].fid["VQGAN"] == 173.8
    assert {name: said.fid["duplex"] for name, said in reported.items()} == {
        "clevr": 9.17, "bedrooms": 6.51, "ffhq": 7.42, "cityscapes": 5.76,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('source = "x"\nresolution = 256\nimages = 5\n', "reported: fid is missing"),
        ('source = "x"\nresolution = 256\nimages = 5\n[reported.fid]\na = "low"\n', "reported: fid = "),
        ('sauce = "x"\n', "reported: sauce is not a known key; did you mean source?"),
    ],
)
def test_reports_that_are_wrong_are_named(own_folder: Path, text: str, message: str) -> None:
    path = Path("own.toml")
    path.write_text(f'title = "a"\nlicence = "b"\nratio = 1\n[reported]\n{text}', encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_entry(path)
