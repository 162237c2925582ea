"""``ganformer bench``: what it writes, and what it says of wrong lines. How fast anything is, no test asks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from ganformer_cli.benchmarks import curve, networks, operators
from ganformer_cli.benchmarks.measuring import Conditions, measure
from ganformer_cli.benchmarks.networks import training_cases
from ganformer_cli.benchmarks.operators import LayerInputs
from ganformer_cli.config import RunConfig
from ganformer_cli.operators import native

Run = Callable[..., Result]
QUICK = ("bench", "--quick", "--repeats", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """One run of everything but the build, without processes of its own."""
    from click.testing import CliRunner

    from ganformer_cli.cli.main import program

    line = [*QUICK, "--only", "operators,layer,generator,training", "--no-memory", "--json", "--threads", "1"]
    done = CliRunner().invoke(program, line, prog_name="ganformer")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_everything_is_measured(record: dict[str, Any]) -> None:
    groups = [row["group"] for row in record["rows"]]
    assert sorted(set(groups), key=groups.index) == ["operators", "layer", "generator", "training"]
    whats = [row["what"] for row in record["rows"]]
    assert len(set(whats)) == len(whats)
    for part in ("bias_act", "upfirdn2d", "bipartite_attention", "attention_means"):
        assert any(part in what for what in whats)
    layers = {row["what"]: row for row in record["rows"] if row["group"] == "layer"}
    for kind in ("simplex mul", "kmeans mul", "duplex-equation both"):
        for way in ("forward", "forward + backward"):
            assert {"copy", "clone", "per pixel"} <= set(layers[f"{kind}, {way}"]["against"])
    for other in ("simplex mul, contiguous", "simplex mul, bfloat16", "duplex-equation mul"):
        assert {f"{other}, forward", f"{other}, forward + backward"} <= set(layers)
    steps = [row["what"] for row in record["rows"] if row["group"] == "training"]
    assert [step.rpartition(", ")[2] for step in steps] == ["training step", "with R1", "with path length"]


def test_images_are_prepared_and_read(ganformer: Run) -> None:
    rows = {row["what"]: row for row in json.loads(ganformer(*QUICK, "--only", "data", "--json").stdout)["rows"]}
    assert list(rows) == [
        *("prepare jpg, 64 to 16 px", "prepare png, 64 to 16 px"),
        *("read 16 px, --compression png", "read 16 px, --compression none"),
    ]
    for what, row in rows.items():
        assert set(row["against"]) == {"Pillow in one process" if what.startswith("prepare") else "zipfile and Pillow"}
        assert row["images_per_second"] > 0


@pytest.mark.slow
def test_it_says_under_which_conditions(record: dict[str, Any]) -> None:
    assert (record["device"], record["precision"], record["threads"], record["torch"]) == (
        *("cpu", "fp32", 1),
        torch.__version__,
    )
    assert (record["preset"], record["resolution"], record["batch_size"], record["attention"]) == (
        *("ffhq", 32, 4),
        "kmeans",
    )
    assert record["operators"] == ("native" if native.status("cpu").native else "reference")
    assert record["cpu_features"][0] == torch.backends.cpu.get_cpu_capability()
    assert (record["operators_reason"] is None) == (record["operators"] == "native")


@pytest.mark.slow
def test_each_row_says_what_it_is_measured_against_and_how_sure_the_ratio_is(record: dict[str, Any]) -> None:
    for row in record["rows"]:
        assert "error" not in row, row
        assert 0 < row["ms"] <= row["ms_median"]
        assert row["images_per_second"] == pytest.approx(row["images"] / row["ms"] * 1e3, rel=2e-3)
        assert row["against"]
        for baseline in row["against"].values():
            low, high = baseline["spread"]
            assert low <= baseline["ratio"] <= high
        assert ("plain torch" in row["against"]) == (record["operators"] == "native")


@pytest.mark.slow
def test_a_single_sample_gives_no_ratio(ganformer: Run) -> None:
    line = [*QUICK, "--repeats", "1", "--only", "generator", "--no-memory"]
    (row,) = json.loads(ganformer(*line, "--json").stdout)["rows"]
    bare = row["against"]["bare convolutions"]
    assert (bare["samples"], bare["ratio"], bare["spread"]) == (1, None, None)
    assert "bare convolutions: " in (said := ganformer(*line).stdout)
    assert "one sample, no ratio" in said


@pytest.mark.slow
def test_networks_are_beside_their_bare_convolutions(record: dict[str, Any]) -> None:
    rows = [row for row in record["rows"] if row["group"] in ("generator", "training")]
    assert len(rows) == 4
    assert all(set(row["against"]) - {"plain torch"} == {"bare convolutions"} for row in rows)


@pytest.mark.slow
def test_the_curve_is_of_three_forms_over_positions(ganformer: Run, own_folder: Path) -> None:
    done = ganformer(*QUICK, "--only", "curve", "--no-memory", "--json", "--plot", "curve.svg")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["positions"] for row in rows] == [64, 256]
    for row in rows:
        assert set(row["against"]) == set(curve.FORMS)
    drawn = Path("curve.svg").read_text(encoding="utf-8")
    for name in ("positions n", "time of a forward pass, ms", curve.DENSE):
        assert f"<!-- {name} -->" in drawn
    assert "memory" not in drawn


def test_dense_attention_is_left_out_where_it_does_not_fit_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "free_memory_mib", lambda device: 1.0)
    small, large = curve.curve_cases(Conditions(), (8, 32))
    assert (small.what, large.what) == ("simplex, 8x8", "simplex, 32x32; dense needs 0 GiB and is left out")
    for case, names in ((small, ["", *curve.FORMS]), (large, ["", curve.PER_PIXEL])):
        with contextmanager(case.build)() as contenders:
            assert [contender.name for contender in contenders] == names


def test_the_per_pixel_form_computes_the_same() -> None:
    ours, per_pixel, _ = next(curve.build_forms(LayerInputs(Conditions(), images=1, side=4, features=16)))
    torch.testing.assert_close(per_pixel.call(), ours.call(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_training_keeps_is_said_of_layers_and_operators(record: dict[str, Any]) -> None:
    for row in record["rows"]:
        assert (row["kept_percent"] is not None) == row["what"].endswith("backward")


@pytest.mark.slow
def test_table_and_memory(ganformer: Run, own_folder: Path) -> None:
    with native.use("reference"):
        done = ganformer(*QUICK, "--only", "generator", "--output", "bench.json")
    assert done.exit_code == 0, done.output
    assert "no native operators: GANFORMER_OPS=reference" in done.stdout
    head, *rest = done.stdout.split("\ngenerator ")
    (row,) = (line for line in rest[0].splitlines() if line.startswith("kmeans, 32 px, forward"))
    assert "x bare convolutions" in row
    (kept,) = json.loads(Path("bench.json").read_text(encoding="utf-8"))["rows"]
    if sys.platform.startswith("linux"):
        # A process that has loaded torch, and a generator of a few hundred kilobytes.
        assert 50 < kept["peak_mib"] < 4000
        assert 0 <= kept["added_mib"] < kept["peak_mib"]


@pytest.mark.slow
def test_sides_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch, small: RunConfig) -> None:
    """Regularisation happens in the steps that say so, and in no other."""
    from ganformer_cli.training import losses

    seen: list[str] = []
    for name in ("gradient_penalty", "path_length_penalty"):
        original = getattr(losses, name)

        def noting(*arguments: Any, name: str = name, original: Any = original) -> Any:
            seen.append(name)
            return original(*arguments)

        monkeypatch.setattr(losses, name, noting)
    happened = []
    for case in training_cases(Conditions(), small):
        with contextmanager(case.build)() as (run, *_):
            for _ in range(2):  # a second step of the same kind is one of the same kind
                seen.clear()
                run.call()
                happened.append(list(seen))
    assert happened == [[]] * 2 + [["gradient_penalty"]] * 2 + [["path_length_penalty"]] * 2


def test_step_is_a_whole_one(monkeypatch: pytest.MonkeyPatch, small: RunConfig) -> None:
    made: list[networks.GANTrainer] = []
    trainer = networks.GANTrainer

    def make(*arguments: Any) -> networks.GANTrainer:
        made.append(trainer(*arguments))
        return made[-1]

    monkeypatch.setattr(networks, "GANTrainer", make)
    with contextmanager(training_cases(Conditions(), small)[0].build)() as (run, *_):
        parts = (made[0].generator, made[0].discriminator, made[0].ema)
        before = [[parameter.clone() for parameter in network.parameters()] for network in parts]
        run.call()
        for network, old in zip(parts, before, strict=True):
            assert any(not torch.equal(new, kept) for new, kept in zip(network.parameters(), old, strict=True))


@pytest.fixture
def small() -> RunConfig:
    from ganformer_cli.cli.bench import run_config

    settings = {"preset": "ffhq", "resolution": 16, "batch_size": 4, "quick": True}
    return run_config(settings, None, training=True, precision="fp32")


@pytest.mark.parametrize("preset", ["ffhq", "clevr", "cityscapes", "bedrooms", "scenes"])
def test_presets_are_those_of_training(preset: str) -> None:
    from ganformer_cli.cli.bench import run_config
    from ganformer_cli.config import resolve_run
    from ganformer_cli.data.catalogue import load_catalogue

    settings = {"preset": preset, "resolution": 256, "batch_size": 4, "quick": False}
    entry = load_catalogue()[preset]
    given = {"resolution": 256, "ratio": entry.ratio, "batch_size": 4, "batch_gpu": None, "precision": "fp32"}
    found = run_config(settings, None, training=True, precision="fp32")
    assert found == resolve_run(given, dataset_preset=entry.preset, on_cpu=False)


def test_a_measurement_that_fails_leaves_the_others(ganformer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*arguments: object) -> None:
        raise RuntimeError("not enough memory\nand much more")

    monkeypatch.setitem(operators.OPERATORS, "bias_act lrelu with noise", build)
    with native.use("reference"):
        done = ganformer(*QUICK, "--only", "operators", "--no-memory", "--json")
    assert done.exit_code == 1
    rows = json.loads(done.stdout)["rows"]
    failed = [row for row in rows if "error" in row]
    assert 0 < len(failed) < len(rows)
    assert all(row["error"] == "not enough memory" for row in failed)
    assert done.stderr.splitlines()[-1].startswith(
        f"ganformer bench: error: {len(failed)} of {len(rows)} measurements failed"
    )


def test_build_times_are_of_an_empty_cache_and_of_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, bool]] = []

    def seconds(cache: Path) -> float:
        full = (cache / "library").exists()
        seen.append((cache, full))
        (cache / "library").touch()
        return 0.25 if full else 1.0

    monkeypatch.setattr(operators, "seconds_to_load", seconds)
    monkeypatch.setattr(operators, "in_fresh_process", lambda function: function())
    (case,) = operators.build_cases()
    row = measure(case, Conditions(repeats=3, seconds=0.0), {})
    assert (row["ms"], row["ms_median"], row["against"]["building them"]["ms"]) == (250.0, 250.0, 1000.0)
    assert [full for _, full in seen].count(False) == 1 + 3
    assert not any(folder.exists() for folder, _ in seen)


WRONG = [
    (("--device", "cuda"), "--device cuda", "--device cpu"),
    (("--device", "tpu"), "tpu", "cuda"),
    (("--precision", "tf32"), "--precision tf32", "fp32"),
    (("--only", "layers"), "layers", "layer"),
    (("--preset", "cats"), "--preset cats", "ffhq"),
    (("--resolution", "48"), "--resolution 48", "power of two"),
    (("--batch-size", "1"), "--batch-size 1", "2"),
    (("--output", "nowhere/bench.json"), "--output nowhere", "folder"),
    (("--only", "layer", "--plot", "curve.png"), "--plot draws the curve", "--only"),
]


@pytest.mark.parametrize(("words", "named", "remedy"), WRONG, ids=[" ".join(words) for words, *_ in WRONG])
def test_wrong_lines(
    ganformer: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], named: str, remedy: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = ganformer("bench", "--quick", *words)
    assert done.exit_code in (1, 2)
    (message,) = done.stderr.splitlines()
    assert message.startswith("ganformer bench: error: ")
    assert named in message
    assert remedy in message
    assert done.stdout == ""
