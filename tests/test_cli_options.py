"""Options that the commands share: sections, booleans, seeds, devices."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from ganformer_cli.cli import options
from ganformer_cli.cli.devices import gpus_option, pick_device, pick_devices
from ganformer_cli.cli.main import COMMANDS
from ganformer_cli.cli.option_types import SEEDS
from ganformer_cli.cli.options import (
    GroupedCommand,
    boolean_option,
    collected,
    combined,
    given_options,
    ignored_option,
    option,
    section,
    switch,
)
from ganformer_cli.errors import ConfigError


@click.command("try", cls=GroupedCommand)
@click.argument("source", required=False)
@section("Data")
@option("--size", type=int, default=7, help="A number.")
@boolean_option("--style", default=True, group="Model", help="Style.")
@boolean_option("--mirror", "--mirror-augment", "mirror", group="Data", help="Mirror.")
@option("--depth", type=int, group="Model", rare=True, help="Depth.")
@option("--seeds", type=SEEDS, group="Data", help="Seeds.")
@gpus_option
@ignored_option("--train", why="this command trains anyway")
@click.pass_context
def command(ctx: click.Context, **values: Any) -> dict[str, Any]:
    return {**values, "given": sorted(given_options(ctx))}


def values(line: str) -> dict[str, Any]:
    result = command.main(line.split(), standalone_mode=False)
    assert isinstance(result, dict)
    return result


def run(line: str) -> Result:
    return CliRunner().invoke(command, line.split())


def test_a_path_that_the_system_cannot_even_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows says so with a ValueError, of paths of more than 32,767 letters."""

    @click.command("try", cls=GroupedCommand)
    @option("--file", type=click.Path(exists=True), group="Data", help="A file.")
    def reads(file: str) -> None:
        pass

    def too_long(path: str, **_: Any) -> None:
        raise ValueError("stat: path too long for Windows")

    monkeypatch.setattr("os.stat", too_long)
    done = CliRunner().invoke(reads, ["--file", "x"])
    assert done.exit_code == 2
    assert "'--file': stat: path too long for Windows" in done.stderr


# ----- Booleans -----


@pytest.mark.parametrize(
    ("line", "style", "source"),
    [
        ("", True, None),
        ("--style", True, None),
        ("--style True", True, None),
        ("--style=true", True, None),
        ("--style False", False, None),
        ("--style=False", False, None),
        ("--style 0", False, None),
        ("--no-style", False, None),
        ("--no-style --style", True, None),
        ("--style --no-style", False, None),
        ("--style pictures.zip", True, "pictures.zip"),
        ("pictures.zip --style", True, "pictures.zip"),
        ("--style False pictures.zip", False, "pictures.zip"),
        ("--style -- False", True, "False"),
        ("-- --no-style", True, "--no-style"),
    ],
)
def test_boolean_options(line: str, style: bool, source: str | None) -> None:
    found = values(line)
    assert (found["style"], found["source"]) == (style, source)


@pytest.mark.parametrize(
    ("line", "mirror"),
    [("", None), ("--mirror-augment", True), ("--mirror-augment False", False), ("--no-mirror", False)],
)
def test_boolean_options_have_synonyms_and_may_be_left_open(line: str, mirror: bool | None) -> None:
    assert values(line)["mirror"] is mirror


def test_wrong_boolean() -> None:
    assert "'maybe' is not a valid boolean" in run("--style=maybe").stderr
    assert "No such option '--no-size'" in run("--no-size").stderr


# ----- Several options at once -----


def test_a_heading_is_the_section_of_what_lies_below_it_and_has_none() -> None:
    @click.command("try", cls=GroupedCommand)
    @section("Model")
    @option("--depth", help="Depth.")
    @combined(section("Data"), option("--size", help="A size."), option("--ratio", group="Image", help="A ratio."))
    def headed(**values: Any) -> None:
        pass

    found = {parameter.opts[0]: getattr(parameter, "group", None) for parameter in headed.params}
    assert found == {
        "--depth": "Model", "--size": "Data", "--ratio": "Image", "--config": "Configuration",
    }  # fmt: skip


def test_collected_options_reach_the_command_as_one_value_and_count_as_given() -> None:
    @click.command("try", cls=GroupedCommand)
    @collected("place", option("--folder", default="results"), switch("--new-folder"), into=lambda **given: given)
    @option("--size", type=int)
    @click.pass_context
    def collecting(ctx: click.Context, **values: Any) -> dict[str, Any]:
        return {**values, "given": sorted(given_options(ctx))}

    found = collecting.main(["--new-folder", "--size", "3"], standalone_mode=False)
    assert found == {
        "place": {"folder": "results", "new_folder": True}, "size": 3, "given": ["new_folder", "size"],
    }  # fmt: skip


# ----- What the user gave -----


def test_given_options_are_those_of_the_line() -> None:
    assert values("")["given"] == []
    assert values("--size 7 --style True x")["given"] == ["size", "source", "style"]
    assert values("--size=7")["given"] == ["size"]


# ----- Help -----


def test_help_has_sections_without_rare_options() -> None:
    text = run("--help").stdout
    titles = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Data", "Model", "Device", "Configuration", "Help"]
    assert "--style / --no-style" in text
    assert "default: 7" in text
    assert "--depth" not in text
    assert "--train" not in text
    assert "--help-all" in text


def test_help_all_shows_every_option() -> None:
    text = run("--help-all").stdout
    assert all(parameter.opts[0] in text for parameter in command.params if isinstance(parameter, click.Option))


@pytest.mark.parametrize("line", ["--train", "--train True", "--train False"])
def test_ignored_options_count_as_not_given(line: str) -> None:
    assert values(line)["given"] == []


# ----- Seeds -----


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0", (0,)),
        ("0-3", (0, 1, 2, 3)),
        ("0-2,40", (0, 1, 2, 40)),
        ("5,1, 3", (5, 1, 3)),
        ("0-3,2-4", (0, 1, 2, 3, 4)),
        (str(2**63 - 1), (2**63 - 1,)),
    ],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert SEEDS.convert(text, None, None) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is neither a seed nor a range"),
        ("a", "'a' is neither a seed nor a range; write, for example, 0-31,40"),
        ("1,,2", "'' is neither a seed nor a range"),
        ("-1", "'-1' is neither a seed nor a range"),
        ("1-", "'1-' is neither a seed nor a range"),
        ("1-2-3", "'1-2-3' is neither a seed nor a range"),
        ("²", "is neither a seed nor a range"),
        ("5-2", "'5-2' ends before it begins; write 2-5"),
        ("0-99999999999", "more than 10000000 seeds"),
        (str(2**63), "is too large"),
    ],
)
def test_wrong_seeds(text: str, message: str) -> None:
    with pytest.raises(click.BadParameter, match=message):
        SEEDS.convert(text, None, None)


# ----- Devices -----


@pytest.fixture
def gpus_found(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    import torch

    def found(number: int) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return found


@pytest.mark.parametrize(
    ("line", "gpus"), [("", None), ("--gpus 0", (0,)), ("--gpus 0,1", (0, 1)), ("--gpus none", ()), ("--gpus cpu", ())]
)
def test_gpus(line: str, gpus: tuple[int, ...] | None) -> None:
    assert values(line)["gpus"] == gpus


@pytest.mark.parametrize("text", ["x", "0,", "-1", "0,0", "1.5"])
def test_wrong_gpus(text: str) -> None:
    result = run(f"--gpus={text}")
    assert result.exit_code == 2
    assert "write a GPU's number such as 0" in result.stderr


@pytest.mark.parametrize(
    ("found", "gpus", "device"),
    [(0, None, "cpu"), (0, (), "cpu"), (1, None, "cuda:0"), (1, (), "cpu"), (1, (0,), "cuda:0"), (2, (1,), "cuda:1")],
)
def test_device(
    gpus_found: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
    found: int,
    gpus: tuple[int, ...] | None,
    device: str,
) -> None:
    gpus_found(found)
    assert str(pick_device(gpus)) == device
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("gpus", [(0,), (0, 1), (3,)])
def test_machine_without_gpu_warns_once_and_uses_the_cpu(
    gpus_found: Callable[[int], None], capsys: pytest.CaptureFixture[str], gpus: tuple[int, ...]
) -> None:
    gpus_found(0)
    with click.Context(command, info_name="ganformer try"):
        assert [str(pick_device(gpus)) for _ in range(2)] == ["cpu", "cpu"]
    said = capsys.readouterr()
    number = ",".join(map(str, gpus))
    assert said == ("", f"ganformer try: warning: --gpus {number}: torch finds no GPU here; using the CPU\n")


@pytest.mark.parametrize(("driver", "index"), [((13, 1), "cu130"), ((12, 6), "cu126"), (None, "cu130")])
def test_a_torch_without_cuda_is_told_with_the_command_that_installs_one(
    gpus_found: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, driver: tuple[int, int] | None, index: str
) -> None:
    import torch

    from ganformer_cli.operators import checks

    gpus_found(0)
    monkeypatch.setattr(torch.version, "cuda", None)
    cards = checks.Cards(("card",), "580", driver, works=True) if driver else checks.Cards()
    monkeypatch.setattr(checks, "find_cards", lambda environment: cards)
    with pytest.raises(ConfigError) as error:
        pick_devices((0, 1), training=True)
    command = f"run: pip install --upgrade torch --index-url https://download.pytorch.org/whl/{index} "
    assert command in str(error.value)
    assert ("install NVIDIA's driver" in str(error.value)) == (driver is None)


def test_a_machine_without_gpus_does_not_train_for_several(gpus_found: Callable[[int], None]) -> None:
    gpus_found(0)
    with pytest.raises(ConfigError, match="--gpus 0,1: torch finds no GPU here"):
        pick_devices((0, 1), training=True)
    assert [str(device) for device in pick_devices((0,), training=True)] == ["cpu"]


def test_gpu_that_is_not_there(gpus_found: Callable[[int], None]) -> None:
    gpus_found(2)
    with pytest.raises(ConfigError, match="--gpus 2: there is no GPU 2 here; choose from 0 to 1"):
        pick_device((2,))


def test_several_gpus_are_for_training(gpus_found: Callable[[int], None]) -> None:
    gpus_found(4)
    assert [str(device) for device in pick_devices((0, 3), training=True)] == ["cuda:0", "cuda:3"]
    with pytest.raises(ConfigError, match="--gpus 0,1: this command uses one GPU"):
        pick_device((0, 1))


def test_the_number_of_gpus_means_all_of_them_in_training(gpus_found: Callable[[int], None]) -> None:
    gpus_found(4)
    assert [device.index for device in pick_devices((4,), training=True)] == [0, 1, 2, 3]
    assert [device.index for device in pick_devices((3,), training=True)] == [3]
    gpus_found(1)
    with pytest.raises(ConfigError, match="there is no GPU 1 here"):
        pick_devices((1,), training=True)


def test_warnings_need_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    options.warn("look out")
    assert capsys.readouterr().err == "ganformer: warning: look out\n"


# ----- JSON -----


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_a_boolean_like_others_in_every_command(name: str) -> None:
    """``--json``, ``--json True`` and ``--json False``, none of which takes the word behind it."""
    chosen = importlib.import_module(f"ganformer_cli.cli.{name.replace('-', '_')}").command
    known = [parameter for parameter in chosen.params if "--json" in parameter.opts]
    assert len(known) == 1
    for words, value in (([], False), (["--json"], True), (["--json", "True"], True), (["--json", "False"], False)):
        process_group = options.join_booleans([*words, "--other"], known)
        with click.Context(chosen) as ctx:
            parser = click.Command(name, params=known, context_settings={"ignore_unknown_options": True})
            assert parser.make_context(name, process_group[:-1], parent=ctx).params == {"as_json": value}
        assert process_group[-1] == "--other"


def test_json_may_be_said_no_to() -> None:
    doctor = importlib.import_module("ganformer_cli.cli.doctor").command
    plain = CliRunner().invoke(doctor, ["--json", "False"])
    assert plain.exit_code == 0
    assert not plain.stdout.startswith("{")
    assert CliRunner().invoke(doctor, ["--json", "True"]).stdout.startswith("{")
