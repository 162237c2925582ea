"""Weights that a run begins with: those of a snapshot, whole or as far as they fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import nn

from ganformer_cli.checkpoints import run_folder
from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.data import open_dataset
from ganformer_cli.errors import ConfigError, SnapshotError
from ganformer_cli.training import Callbacks, open_run
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.initial_weights import InitialWeights, TransferReport, load_fitting_weights

Run = Callable[..., Result]

TINY = (
    *("train", "--channel-base", "128", "--channel-max", "8", "--mapping-num-layers", "2", "--batch-size", "4"),
    *("--total-kimg", "0.008", "--train-images-num", "8", "--vis-num", "2", "--metrics", "none"),
    *("--batch-gpu", "4", "--precision", "fp32"),
)


def settings(tiny: dict[str, Any], **options: Any) -> RunConfig:
    """Of a short run."""
    given = {**tiny, "total_kimg": 0.008, "vis_num": 2, "metrics": "none", **options}
    return resolve_run(given, dataset_preset={}, on_cpu=True)


def networks_of(config: RunConfig, seed: int) -> GANTrainer:
    """With weights of their own."""
    torch.manual_seed(seed)
    return GANTrainer(config, torch.device("cpu"))


def tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of what a network saves."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def taken_over(own: GANTrainer, given: GANTrainer) -> dict[str, TransferReport]:
    """``load_fitting_weights``, checked against the tensors themselves: taken are those of the same name and shape."""
    before = {name: tensors(network) for name, network in own.networks.items()}
    found = load_fitting_weights(own, given.networks, "--init-from x")
    for name, network in own.networks.items():
        theirs = given.networks[name].state_dict()
        now = network.state_dict()
        fits = {key for key, value in now.items() if key in theirs and theirs[key].shape == value.shape}
        assert found[name].taken == len(fits)
        assert found[name].tensors == len(now)
        assert {*found[name].new, *found[name].other_shape} == set(now) - fits
        assert set(found[name].left_over) == set(theirs) - set(now)
        for key, value in now.items():
            assert torch.equal(value, theirs[key] if key in fits else before[name][key]), key
    return found


def test_the_same_networks_take_everything(tiny: dict[str, Any]) -> None:
    found = taken_over(networks_of(settings(tiny), 0), networks_of(settings(tiny), 1))
    assert all(taken.share == 1 and not taken.new and not taken.left_over for taken in found.values())


def test_a_higher_resolution_takes_the_blocks_below(tiny: dict[str, Any]) -> None:
    found = taken_over(networks_of(settings(tiny, resolution=64), 0), networks_of(settings(tiny), 1))
    assert {name.split(".")[1] for name in found["generator"].new} == {"b64"}
    assert not found["generator"].other_shape
    # The last block of the smaller network has what only a last block has.
    assert {".".join(name.split(".")[1:3]) for name in found["generator"].left_over} == {"b32.conv_last", "b32.torgb"}
    assert {name.split(".")[0] for name in found["discriminator"].new} == {"b64"}
    assert {".".join(name.split(".")[:2]) for name in found["discriminator"].left_over} == {"b32.fromrgb"}


def test_other_classes_are_listed_with_both_shapes(tiny: dict[str, Any]) -> None:
    found = taken_over(networks_of(settings(tiny, c_dim=5, labels=True), 0), networks_of(settings(tiny), 1))
    assert found["generator"].other_shape or found["generator"].new
    assert found["discriminator"].other_shape == {
        "b4.out.weight": "[1, 8] there, [5, 8] here",
        "b4.out.bias": "[1] there, [5] here",
    }


def test_an_averaged_generator_alone_serves_both_generators(tiny: dict[str, Any]) -> None:
    own, given = networks_of(settings(tiny), 0), networks_of(settings(tiny), 1)
    found = load_fitting_weights(own, {"ema": given.ema}, "--init-from x")
    for network in (own.ema, own.generator):
        assert all(torch.equal(value, given.ema.state_dict()[name]) for name, value in network.state_dict().items())
    assert found["discriminator"].taken == 0


def test_nothing_that_fits_is_an_error_that_names_the_option(tiny: dict[str, Any]) -> None:
    with pytest.raises(SnapshotError, match="--init-from x: none of its tensors fits"):
        load_fitting_weights(networks_of(settings(tiny), 0), {"ema": nn.Linear(3, 3)}, "--init-from x")


def test_a_run_killed_before_its_first_state_starts_from_the_weights_all_the_same(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    config, given = settings(tiny, init_from="x"), networks_of(settings(tiny), 1)
    run_folder.create_run_folder(tmp_path, config)  # and nothing else
    data = open_dataset("scenes", resolution=32, max_images=8)
    start = InitialWeights("--init-from x", lambda: given.networks, whole=False)
    trainer = open_run(config, data, tmp_path, device=torch.device("cpu"), resume=True, start=start)
    weights = trainer.gan.generator.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in given.generator.state_dict().items())


@pytest.mark.slow
def test_the_command_keeps_the_networks_settings_and_lists_what_fits(ganformer: Run) -> None:
    first = ganformer(*TINY, "--expname", "small", "--attention", "kmeans", "--components-num", "2")
    assert first.exit_code == 0, first.output
    large = ganformer(*TINY, "--expname", "large", "--resolution", "64", "--init-from", "results/small-000")
    assert large.exit_code == 0, large.output
    model = json.loads(Path("results/large-000/config.json").read_text(encoding="utf-8"))["model"]
    assert (model["attention"], model["components_num"], model["resolution"]) == ("kmeans", 2, 64)
    assert "new: synthesis_network.b64 (" in large.output
    record = json.loads(Path("results/large-000/init-from.json").read_text(encoding="utf-8"))
    assert 0.3 < record["networks"]["generator"]["share"] < 1
    # Another kind of attention shares the rest of the network.
    other = ganformer(*TINY, "--expname", "other", "--attention", "none", "--init-from", "results/small-000")
    assert other.exit_code == 0, other.output
    assert "left over: " in other.output


@pytest.mark.slow
def test_reload_takes_the_settings_of_the_run(ganformer: Run) -> None:
    begun = ganformer(*TINY, "--expname", "mine", "--gamma", "3", "--components-num", "2", "--latent-size", "16")
    assert begun.exit_code == 0, begun.output
    for words in (("--expname", "mine"), ()):
        again = ganformer("train", "--reload", *words, "--total-kimg", "0.012", "--json")
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["run"] == "results/mine-000"
        assert json.loads(again.stdout)["kimg"] == pytest.approx(0.012)
    config = json.loads(Path("results/mine-000/config.json").read_text(encoding="utf-8"))
    assert config["train"]["gamma"] == 3


@pytest.mark.slow
def test_autotune_follows_the_rule_where_nothing_is_said(ganformer: Run) -> None:
    small = TINY[: TINY.index("--batch-size")]
    words = (*small, "--dry-run", "--json", "--autotune", "--batch-size", "8", "--resolution", "32")
    train = json.loads(ganformer(*words).stdout)["config"]["train"]
    assert train["gamma"] == pytest.approx(0.0002 * 32 * 32 / 8)
    assert train["ema_kimg"] == pytest.approx(2.5)
    assert json.loads(ganformer(*words, "--gamma", "2").stdout)["config"]["train"]["gamma"] == 2


@pytest.mark.slow
def test_frozen_blocks_of_the_discriminator_keep_their_weights_and_resuming_is_exact(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    data = open_dataset("scenes", resolution=32, max_images=8)
    config = settings(tiny, freeze_d=2, pretrained_pkl="x", total_kimg=0.016, d_transformer=True, augment="ada")
    given = networks_of(config, 1)
    before = tensors(given.discriminator)
    start = InitialWeights("--pretrained-pkl x", lambda: given.networks, whole=True)

    def train(name: str, steps: int, *, resume: bool = False) -> GANTrainer:
        calls = iter(range(1, 100))
        callbacks = Callbacks(should_stop=lambda: next(calls) >= steps)
        run = open_run(
            config, data, tmp_path / name, device=torch.device("cpu"), resume=resume, start=start, callbacks=callbacks
        )
        run.run()
        assert isinstance(run.gan, GANTrainer)
        return run.gan

    whole = train("whole", 99)
    train("stopped", 2)
    resumed = train("stopped", 99, resume=True)
    after = tensors(whole.discriminator)
    frozen = ("b32.", "b16.", "aggregators.b32.", "aggregators.b16.")
    same = {
        name for name, parameter in whole.discriminator.named_parameters() if torch.equal(before[name], after[name])
    }
    assert {name for name, _ in whole.discriminator.named_parameters() if name.startswith(frozen)} <= same
    assert {"b8.conv0.weight", "b4.conv.weight"}.isdisjoint(same)
    for name, network in whole.networks.items():
        assert all(
            torch.equal(value, resumed.networks[name].state_dict()[key]) for key, value in tensors(network).items()
        )


def test_what_would_be_frozen_must_have_been_trained(tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--freeze-d 4: the discriminator of 32 pixels has 4 blocks.* at most 3"):
        settings(tiny, freeze_d=4, pretrained_pkl="x")
    with pytest.raises(ConfigError, match="--freeze-d 1: .* give --pretrained-pkl or --init-from"):
        settings(tiny, freeze_d=1)
    smaller = networks_of(settings(tiny), 1)
    larger = networks_of(settings(tiny, resolution=64, freeze_d=1, init_from="x"), 0)
    start = InitialWeights("--init-from x", lambda: smaller.networks, whole=False)
    with pytest.raises(SnapshotError, match="--freeze-d 1: --init-from x has no weights that fit b64"):
        start.apply(larger, lambda text: None)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--pretrained-pkl", "--init-from"])
@pytest.mark.parametrize(("network", "value"), [("ema", float("nan")), ("discriminator", -float("inf"))])
def test_weights_that_are_no_numbers_are_refused_before_anything_is_saved(
    ganformer: Run, tiny_run: Path, own_folder: Path, option: str, network: str, value: float
) -> None:
    from ganformer_cli.checkpoints.headers import read_header
    from ganformer_cli.checkpoints.snapshots import load_available, save_snapshot

    source = next((tiny_run / "snapshots").iterdir())
    names = ("ema", "generator", "discriminator")
    networks = dict(zip(names, load_available(source), strict=True))
    broken = networks[network]
    assert broken is not None
    with torch.no_grad():
        next(broken.parameters()).view(-1)[-1] = value
    header, file = read_header(source), own_folder / "broken.safetensors"
    config = networks["ema"].config  # type: ignore[union-attr]
    save_snapshot(file, config=config, kimg=1.0, provenance={"dataset": header["dataset"]}, **networks)  # type: ignore[arg-type]
    before = sorted(own_folder.rglob("*"))
    # The networks are those of the file, or would have to be.
    words = ["train", *TINY[TINY.index("--batch-size") :]]
    result = ganformer(*words, option, file)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for part in (option, "broken.safetensors", f"{network}.", "NaN or infinite"):
        assert part in result.stderr
    assert sorted(own_folder.rglob("*")) == before
