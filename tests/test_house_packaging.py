"""The wheel and the source archive hold what they must, and nothing that would overwrite other people's packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESOURCES = sorted(
    f"{folder}/{path.name}"
    for folder, endings in {"ops": (".cpp", ".cu", ".h"), "datasets": (".toml",)}.items()
    for path in (ROOT / folder).iterdir()
    if path.suffix in endings
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without a network in a copy, so that the checkout stays clean."""
    pytest.importorskip("setuptools")
    copy, output = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("built")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "ganformer_cli", copy / "ganformer_cli", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("ops", "datasets"):  # not the prepared data sets below datasets/
        (copy / folder).mkdir()
        for path in (ROOT / folder).iterdir():
            if path.is_file():
                shutil.copy(path, copy / folder / path.name)
    for kind in ("wheel", "sdist"):
        build = f"import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", build, str(output)], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return output


@pytest.fixture
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_only_top_level_name_is_ganformer_cli(wheel: zipfile.ZipFile) -> None:
    top = {PurePosixPath(name).parts[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"ganformer_cli"}


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ganformer_cli").rglob("*.py")}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == modules


def test_ops_and_datasets_are_inside(wheel: zipfile.ZipFile) -> None:
    assert any(name.startswith("datasets/") for name in RESOURCES)
    assert {f"ganformer_cli/{name}" for name in RESOURCES} <= set(wheel.namelist())


def test_installed_package_finds_its_own_resources(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    ask = "from ganformer_cli.resources import resource_folder; print(resource_folder('datasets'))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", ask], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == (tmp_path / "site" / "ganformer_cli" / "datasets").resolve()


def test_metadata(wheel: zipfile.ZipFile) -> None:
    from ganformer_cli import __version__

    (folder,) = {PurePosixPath(name).parts[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{folder}/METADATA").decode("utf-8")
    assert f"\nVersion: {__version__}\n" in metadata.replace("\r\n", "\n")
    assert "License-Expression: Apache-2.0" in metadata
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    assert "ganformer = ganformer_cli.cli.main:main" in wheel.read(f"{folder}/entry_points.txt").decode("utf-8")


def test_source_archive_can_be_built_from(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", *RESOURCES} <= names


def test_requirements_pin_what_setup_asks_for() -> None:
    def names(lines: list[str]) -> set[str]:
        return {found[0] for line in lines if (found := re.match(r"[a-z0-9_-]+", line.strip(' "')))}

    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = (ROOT / "setup.py").read_text(encoding="utf-8").partition("install_requires=[")[2].partition("],")[0]
    assert names(pins) == names(asked.replace("'", '"').splitlines())
    assert all("==" in line for line in pins if line and not line.startswith("#"))
    assert "torch==2.13.0" in pins
