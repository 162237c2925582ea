"""Runs of earlier versions resume as what they are, and resumed runs keep what the command line does not give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError

Run = Callable[..., Result]

#: 16 images of ``ganformer train`` by version 0.1.0, where --attention duplex was the paper's equation.
EARLIER = Path(__file__).parent / "golden" / "run-0.1-duplex"
#: What that run was begun with.
OPTIONS = (
    *("--resolution", "32", "--channel-base", "64", "--channel-max", "8", "--latent-size", "16"),
    *("--components-num", "2", "--mapping-num-layers", "2", "--batch-size", "4"),
)
MORE = ("--total-kimg", "0.02", "--snapshot-kimg", "0.02", "--metrics", "none")


@pytest.fixture
def earlier(own_folder: Path) -> Path:
    shutil.copytree(EARLIER, own_folder / "results")
    return own_folder / "results" / "scenes-duplex-000"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--attention duplex-equation"),
        (OPTIONS, "--attention duplex-equation"),
        ((*OPTIONS, "--attention", "duplex"), "an earlier version"),
        (("--attention", "duplex-equation", "--expname", "scenes-duplex"), ""),
    ],
    ids=["no options", "the same options", "duplex by name", "as it is called now"],
)
def test_a_run_of_an_earlier_version_resumes(
    ganformer: Run, earlier: Path, options: tuple[str, ...], said: str
) -> None:
    result = ganformer("train", *options, *MORE)
    assert result.exit_code == 0, result.output
    assert said in result.stderr
    log = [json.loads(line)["kimg"] for line in (earlier / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert log[0] == 0.016
    assert log[-1] == 0.02
    assert len(list(earlier.parent.iterdir())) == 1
    snapshot = earlier / "snapshots" / "network-snapshot-000000_020.safetensors"
    assert json.loads(ganformer("info", str(snapshot), "--json").stdout)["attention"] == "duplex-equation"


def test_its_snapshot_is_the_papers_equation(ganformer: Run, earlier: Path) -> None:
    snapshot = earlier / "snapshots" / "network-snapshot-000000_016.safetensors"
    assert "duplex-equation attention" in ganformer("info", str(snapshot)).stdout
    assert ganformer("generate", "--model", str(snapshot), "--images-num", "1").exit_code == 0


def test_what_is_given_and_differs_is_refused(ganformer: Run, earlier: Path) -> None:
    result = ganformer("train", "--components-num", "4", *MORE)
    assert result.exit_code != 0
    assert "components_num was 2, now 4" in result.stderr


def test_duplex_is_kmeans_and_files_say_which() -> None:
    assert ModelConfig(attention="duplex") == ModelConfig(attention="kmeans")
    written = ModelConfig(attention="duplex").to_dict()
    assert written["attention"] == "kmeans"
    assert ModelConfig.from_dict(written) == ModelConfig(attention="duplex")
    assert ModelConfig.from_dict({"attention": "duplex"}) == ModelConfig(attention="duplex-equation")
    with pytest.raises(ConfigError, match="triplex"):
        ModelConfig.from_dict({"attention": "triplex"})
