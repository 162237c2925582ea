"""``ganformer eval``: scores of a model against a data set."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.model_choice import batch_size_option, find_model, load_model, model_options, psi_option, run_of
from ganformer_cli.cli.options import (
    GroupedCommand,
    gpus_option,
    ignored_option,
    json_option,
    option,
    pick_device,
    warn,
)
from ganformer_cli.cli.progress import Progress
from ganformer_cli.errors import ConfigError, NotYetError, OutputError
from ganformer_cli.files import sha256_of

if TYPE_CHECKING:
    from ganformer_cli.config import ModelConfig
    from ganformer_cli.data import ImageDataset

HERE = {"swd": "sliced Wasserstein distance", "diversity": "diversity"}
LATER = ("fid", "kid", "is", "pr", "dc", "ppl", "ppl_zfull", "ppl_wfull", "ppl_zend", "ppl_wend", "fd_dinov2")


class Metrics(click.ParamType):
    """``swd,diversity`` as a tuple of names, each once."""

    name = "metrics"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if not isinstance(value, str):
            return tuple(value)
        names = tuple(dict.fromkeys(name.strip().lower() for name in value.split(",")))
        available = ", ".join(HERE)
        for name in names:
            if name in LATER:
                raise NotYetError(
                    f"--metrics {name} is not in this version yet (it comes with: Eval); available: {available}"
                )
            if name not in HERE:
                self.fail(f"there is no metric {name!r}; available: {available}", param, ctx)
        return names


@click.command("eval", cls=GroupedCommand)
@model_options
@option(
    "--dataset",
    metavar="NAME|PATH",
    group="Data",
    help="What to compare with: scenes, a prepared data set's name, or its path. "
    "Left out: what the model was trained on.",
)
@option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default="datasets",
    group="Data",
    help="The folder of the prepared data sets.",
)
@option("--metrics", type=Metrics(), default="swd,diversity", group="Scores", help="Which scores, separated by commas.")
@option(
    "--eval-images-num",
    type=click.IntRange(min=2, max=10_000_000),
    metavar="N",
    group="Scores",
    help="How many generated and real pictures are compared.  [default: 2048, or all of a smaller data set]",
)
@psi_option(
    default=1.0,
    group="Scores",
    help="Of the generated pictures. Below 1 they vary less: a score of another model.",
)
@option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    group="Scores",
    help="Chooses the pictures of either kind; the same seed gives the same scores.",
)
@json_option
@gpus_option
@batch_size_option(help="Pictures fetched from the device at a time. It never changes a score.")
@ignored_option("--eval", why="scoring is what this command does")
def command(
    model: str | None,
    expname: str | None,
    result_dir: Path,
    dataset: str | None,
    data_dir: Path,
    metrics: tuple[str, ...],
    eval_images_num: int | None,
    truncation_psi: float,
    seed: int,
    as_json: bool,
    gpus: tuple[int, ...] | None,
    batch_size: int,
    offline: bool,
) -> None:
    """Score a trained model against a data set.

    swd is the sliced Wasserstein distance on a Laplacian pyramid (Karras et al. 2018), times 1000: lower is better, and
    the floor, the distance between two sets of real pictures, is as low as it gets. diversity is the mean distance
    between two generated pictures over that between two real ones: 1 is right, 0 is one and the same picture. Scores of
    different numbers of pictures do not compare. A run keeps its scores in metrics.jsonl.

    \b
      ganformer eval                                    the run that saved last
      ganformer eval --model results/faces-002 --eval-images-num 10000 --json
    """
    file = find_model(model, expname, result_dir, offline=offline)

    from ganformer_cli.metrics.evaluate import evaluate

    generator, header = load_model(file, pick_device(gpus))
    reals = _open_dataset(dataset, data_dir, header, generator.config)
    if eval_images_num is not None and eval_images_num > len(reals):
        warn(f"--eval-images-num {eval_images_num}: {reals.name} has {len(reals)} pictures; comparing so many of each")
    with Progress() as progress:
        stage = ""

        def report(now: str, done: int, total: int) -> None:
            nonlocal stage
            if now != stage:
                stage = now
                progress.start(total, "steps" if now == "comparing" else "images", now)
            progress.update(done)

        scores = evaluate(
            generator,
            reals,
            num_images=eval_images_num,
            seed=seed,
            truncation_psi=truncation_psi,
            batch_size=batch_size,
            metrics=metrics,
            floor=True,
            progress=report,
        )
    record = {"snapshot": file.name, "kimg": header.get("kimg"), **scores}
    record["provenance"]["snapshot_sha256"] = sha256_of(file)
    click.echo(json.dumps({"model": str(file), **record}, indent=2) if as_json else _table(record), nl=as_json)
    _remember(file, record)


def _open_dataset(name: str | None, data_dir: Path, header: Mapping[str, Any], config: ModelConfig) -> ImageDataset:
    """The named data set, or the one of the snapshot's header with as many pictures as were trained on."""
    from ganformer_cli.data import open_dataset
    from ganformer_cli.data.catalogue import SCENES

    trained_on = header.get("dataset")
    limit = fingerprint = None
    if name is None:
        if not isinstance(trained_on, Mapping) or not isinstance(trained_on.get("name"), str):
            raise ConfigError("--dataset is needed: this snapshot does not say what it was trained on")
        name, limit, fingerprint = trained_on["name"], trained_on.get("images"), trained_on.get("fingerprint")
    # The built-in scenes come in any size; whether a prepared set's size fits, `evaluate` says.
    size: dict[str, Any] = {"resolution": config.resolution, "ratio": config.ratio} if name == SCENES else {}
    dataset = open_dataset(name, data_dir=data_dir, max_images=limit if isinstance(limit, int) else None, **size)
    if fingerprint is not None and fingerprint != dataset.fingerprint:
        warn(f"the data set {name} has changed since this model was trained; the scores are for what is there now")
    return dataset


def _table(record: Mapping[str, Any]) -> str:
    """The scores as text; a table where it is read on a terminal."""
    rows: list[tuple[str, str, str]] = []
    if "swd" in record:
        floor = record.get("swd_floor")
        same = record.get("swd_floor_images") == record["provenance"]["num_reals"]
        among = "" if same else f" ({record.get('swd_floor_images')} images)"
        note = "lower is better" if floor is None else f"lower is better; two sets of reals: {floor:.2f}{among}"
        rows.append(("swd", f"{record['swd']:.2f}", note))
        rows += [(f"  {size}", f"{value:.2f}", "") for size, value in record["swd_levels"].items()]
    if "diversity" in record:
        rows.append(("diversity", f"{record['diversity']:.3f}", "1 is as varied as the data, 0 is one picture"))
    provenance = record["provenance"]
    title = (
        f"{record['snapshot']} against {provenance['dataset']}: {provenance['num_fakes']} images of each, "
        f"truncation psi {provenance['truncation_psi']:g}, seed {provenance['seed']}"
    )
    if not sys.stdout.isatty():
        lines = [title, *(f"{name:<12}{value:>8}  {note}".rstrip() for name, value, note in rows)]
        return "\n".join(lines) + "\n"
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("score", "value", "", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.columns[1].justify = "right"
    for row in rows:
        table.add_row(*row)
    console = Console(file=sys.stdout)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _remember(file: Path, record: Mapping[str, Any]) -> None:
    """One more line in the run's ``metrics.jsonl``, if the model lies in a run."""
    from ganformer_cli.training.run_folder import METRICS_FILE, append_record

    run = run_of(file)
    if run is None:
        return
    try:
        append_record(run / METRICS_FILE, dict(record))
    except OutputError as error:
        # The scores are on the screen: a run that cannot be written to, someone else's perhaps, is no failure.
        warn(f"the scores were not kept: {error}")
