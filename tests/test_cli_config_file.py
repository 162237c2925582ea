"""``--config FILE.toml``: options from a file, and the file of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ganformer_cli.cli.config_file import config_text
from ganformer_cli.cli.info import command as info
from ganformer_cli.cli.train import command as train
from ganformer_cli.cli.train_settings import chosen_settings
from ganformer_cli.config import BASELINES, resolve_run
from ganformer_cli.errors import ConfigError
from ganformer_cli.training import estimate
from ganformer_cli.training.fitting import CostEstimate

Run = Callable[..., Result]


def settings(text: str, *words: str) -> dict[str, Any]:
    """What ``train --config`` with a file of this text, and further words, chooses."""
    Path("run.toml").write_text(text, encoding="utf-8")
    with train.make_context("train", ["--config", "run.toml", *words]) as ctx:
        return chosen_settings(ctx)


def test_options_by_their_long_names() -> None:
    text = 'attention = "simplex"\nbatch-size = 16\nbatch_gpu = 8\ngamma = 5\nmirror-augment = true\nstyle = false\n'
    assert settings(text) == {
        "attention": "simplex",
        "batch_size": 16,
        "batch_gpu": 8,
        "gamma": 5.0,
        "mirror_augment": True,
        "style": False,
    }
    assert settings("kmeans = true\n") == {"attention": "kmeans"}


def test_the_command_line_wins() -> None:
    assert settings("gamma = 5\nseed = 1\n", "--gamma", "7") == {"gamma": 7.0, "seed": 1}


def test_a_table_is_for_the_command_of_its_name() -> None:
    text = 'result-dir = "runs"\n[train]\nseed = 3\n[generate]\nseeds = "0-3"\n[info]\njson = true\n'
    assert settings(text) == {"seed": 3}
    with info.make_context("info", ["--config", "run.toml"]) as ctx:
        assert (ctx.params["as_json"], ctx.params["result_dir"]) == (True, Path("runs"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gama = 3\n", "line 1: 'gama' is not an option of ganformer train; did you mean gamma?"),
        ("# \n\nseed = 1\ngamma = -1\n", "line 4: --gamma -1.0: choose a number from 0 to 1000000"),
        ('gamma = "x"\n', "line 1: gamma: 'x' is not a valid float"),
        ("seed = 1.5\n", "line 1: seed: '1.5' is not a valid integer"),
        ("[train]\nattention = 'triplex'\n", "line 2: attention: 'triplex' is not one of 'none', 'simplex'"),
        ("batch-size = true\n", "line 1: batch-size: 'True' is not a valid integer"),
        ("gamma = 1979-05-27\n", "line 1: gamma: must be a text, a number, true or false"),
        ("d-ltnt2ltnt = true\n", "line 1: --d-ltnt2ltnt: the aggregators do not attend to each other"),
        ("config = 'other.toml'\n", "line 1: 'config' is not an option of ganformer train"),
        ("[trian]\nseed = 1\n", "table [trian] is not named like a command"),
        ("seed = 1\ngamma = [1", "line 2: is not TOML"),
        ("seed = 1\nseed = 2\n", "line 2: is not TOML"),
    ],
)
def test_wrong_files_name_the_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings(text)
    assert "run.toml" in str(error.value)
    assert message in str(error.value)


def test_what_contradicts_itself_names_the_line_too(ganformer: Run, own_folder: Path) -> None:
    Path("run.toml").write_text("seed = 1\nbatch-gpu = 3\n", encoding="utf-8")
    result = ganformer("train", "--config", "run.toml", "--dry-run")
    assert result.exit_code == 1
    assert "error: --config run.toml, line 2: --batch-gpu 3 does not divide --batch-size 8" in result.stderr
    other = ganformer("train", "--config", "run.toml", "--batch-gpu", "5", "--dry-run")
    assert "error: --batch-gpu 5 does not divide" in other.stderr


def test_a_wrong_file_is_one_line_on_stderr(ganformer: Run, own_folder: Path) -> None:
    Path("run.toml").write_text("seed = -1\n", encoding="utf-8")
    done = ganformer("train", "--config", "run.toml")
    assert done.exit_code == 1
    assert done.stderr.startswith("ganformer train: error: --config run.toml, line 1: --seed -1: choose a number")
    assert done.stderr.count("\n") == 1
    missing = ganformer("train", "--config", "none.toml").stderr
    assert "error: --config none.toml: cannot be read (" in missing
    assert "; give the path of a TOML file" in missing
    assert sorted(own_folder.iterdir()) == [own_folder / "run.toml"]


@pytest.mark.parametrize("changes", [{}, {"attention": "kmeans", "mapping_dim": 24}, *BASELINES.values()], ids=str)
def test_the_file_of_a_run_means_the_same_run(changes: dict[str, Any]) -> None:
    run = resolve_run({"resolution": 64, "ratio": 0.75, "seed": 3, **changes}, dataset_preset={}, on_cpu=True)
    preset = {"gamma": 40.0, "components_num": 4, "style": False}
    assert resolve_run(settings(config_text(run)), dataset_preset=preset, on_cpu=False) == run


def test_write_config(ganformer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "run_estimate", lambda *_: CostEstimate(4, 1.0, None, None, 1.0, {}))
    line = ("train", "--channel-max", "4", "--dry-run", "--write-config", "run.toml")
    assert ganformer(*line).exit_code == 0
    assert "seed = 0\n" in Path("run.toml").read_text(encoding="utf-8")
    refused = ganformer(*line, "--seed", "1")
    assert refused.exit_code == 1
    assert "--write-config run.toml: exists already" in refused.stderr
