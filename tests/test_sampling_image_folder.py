"""``images.json``: what is kept, what is made again, what is in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganformer_cli.errors import OutputError
from ganformer_cli.sampling import image_folder
from ganformer_cli.sampling.image_files import save_png
from ganformer_cli.sampling.image_folder import INDEX_FILE, ImagePlan, OutputFolders

SETTINGS = {"model": "abc", "run": "faces-000", "noise": "const"}
IMAGE = np.zeros((3, 2, 2), np.uint8)


def folders(*, overwrite: bool = False) -> OutputFolders:
    return OutputFolders(overwrite=overwrite, warn=lambda message: None)


def files(seeds: range, **changes: Any) -> dict[Path, dict[str, Any]]:
    plan = ImagePlan(Path("out"), "png", seeds, (changes.pop("psi", 0.7),), {**SETTINGS, **changes})
    return {path: entry for k in range(len(plan)) for path, entry in plan.files(plan.image(k), {}).items()}


def write(some: dict[Path, dict[str, Any]], *, metadata: bool = True) -> None:
    for path, entry in some.items():
        save_png(path, IMAGE, entry if metadata else None)


def index() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("out", INDEX_FILE).read_text(encoding="utf-8"))
    return content


def test_what_all_files_share_stands_once_at_the_top() -> None:
    folders().announce(files(range(3)))
    expected = {**SETTINGS, "truncation_psi": 0.7, "files": {f"seed000{k}.png": {"seed": k} for k in range(3)}}
    assert index() == expected
    folders().announce(files(range(3, 4), psi=1.0))
    assert "truncation_psi" not in index()
    assert index()["files"]["seed0003.png"] == {"seed": 3, "truncation_psi": 1.0}


def test_a_listed_file_that_is_there_is_kept() -> None:
    folders().announce(files(range(3)))
    assert not folders().holds(files(range(3)))
    write(files(range(3)), metadata=False)  # the list decides
    assert folders().holds(files(range(3)))
    assert folders().holds(files(range(3), run="faces-renamed")), "the model's checksum decides, not its name"
    with pytest.raises(OutputError, match=r"seed0000.png: was made with other settings \(truncation psi 0.7 instead"):
        folders().holds(files(range(3), psi=1.0))
    assert not folders(overwrite=True).holds(files(range(3), psi=1.0))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"files": 3}', '{"files": {"seed0001.png": 3}}'])
def test_files_that_are_not_listed_speak_for_themselves(content: str | None) -> None:
    write(files(range(3)))
    if content is not None:
        Path("out", INDEX_FILE).write_text(content, encoding="utf-8")
    assert folders().holds(files(range(3)))
    with pytest.raises(OutputError, match="noise const instead of none"):
        folders().holds(files(range(3), noise="none"))
    Path("out/seed0000.png").write_bytes(b"no image")
    with pytest.raises(OutputError, match="was not made by ganformer"):
        folders().holds(files(range(1), seed=9))


def test_what_is_to_be_replaced_is_not_listed_until_it_is() -> None:
    """A kill in the middle of --overwrite leaves no old image under new settings."""
    folders().announce(files(range(2)))
    write(files(range(2)))
    new = files(range(2), psi=1.0)
    folders(overwrite=True).announce(new)
    assert index()["files"] == {}
    write(dict([list(new.items())[0]]))
    assert folders(overwrite=True).holds(dict([list(new.items())[0]]))
    assert not folders(overwrite=True).holds(new)


def test_two_commands_in_one_folder_keep_their_lists() -> None:
    one, other = folders(), folders()
    one.holds(files(range(2)))
    other.holds(files(range(2, 4)))
    one.announce(files(range(2)))
    other.announce(files(range(2, 4)))
    one.add(files(range(2)))
    assert len(index()["files"]) == 4


def test_an_array_of_an_older_version_is_known() -> None:
    plan = ImagePlan(Path("out"), "npy", [6, 0], (0.7,), SETTINGS)
    wanted = {Path("out/images.npy"): plan.array_metadata()}
    Path("out").mkdir()
    np.save("out/images.npy", np.zeros(3))
    with pytest.raises(OutputError, match=r"images.npy: was not made by ganformer"):
        folders().holds(wanted)
    Path("out", INDEX_FILE).write_text(json.dumps(plan.array_metadata()), encoding="utf-8")
    assert folders().holds(wanted)
    folders().add(wanted)
    assert index()["seeds"] == [6, 0]
    other = ImagePlan(Path("out"), "npy", [6, 1], (0.7,), SETTINGS)
    with pytest.raises(OutputError, match=r"the choice of images, the seeds"):
        folders().holds({Path("out/images.npy"): other.array_metadata()})


def test_a_result_stays_with_its_file() -> None:
    path, entry = next(iter(files(range(1)).items()))
    write({path: entry})
    folders().add({path: {**entry, "result": {"measured": 0.5}}})
    assert folders().holds({path: entry})
    assert folders().result(path) == {"measured": 0.5}
    folders().announce({path: entry})
    assert folders().result(path) == {"measured": 0.5}


def test_what_a_kill_left_of_the_list_goes_and_a_command_at_the_same_time_writes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("out").mkdir()
    Path("out/.images.json.abcd1234.part").write_bytes(b"{")
    folders().announce(files(range(2)))
    assert sorted(path.name for path in Path("out").iterdir()) == [INDEX_FILE]
    lost = [True, True]
    written = image_folder.write_json

    def write_json(path: Path, value: Any) -> None:
        if lost:
            lost.pop()
            raise OutputError(f"cannot write {path}") from FileNotFoundError()
        written(path, value)

    monkeypatch.setattr(image_folder, "write_json", write_json)
    folders().announce(files(range(2, 4)))
    assert len(index()["files"]) == 4
