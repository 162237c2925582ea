"""``ganformer bench``: how fast images, scores, operators, the generator and training are on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.options import (
    MAX_BATCH_SIZE,
    GroupedCommand,
    boolean_option,
    given_options,
    json_option,
    option,
    warn,
)
from ganformer_cli.cli.output import echo, echo_json, echo_table
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.outputs import check_output, write_output

if TYPE_CHECKING:
    from ganformer_cli.config import RunConfig

#: What can be measured, in this order.
GROUPS = ("build", "data", "metrics", "operators", "layer", "generator", "training", "busy", "curve")
#: What the column of MiB says, where it is not what a call adds.
UNITS = dict.fromkeys(("metrics", "generator", "training"), "MiB: all of the process")
#: A network that is small enough for a test.
QUICK = {"components_num": 4, "latent_size": 32, "channel_base": 256, "channel_max": 16, "mapping_num_layers": 2}
COLUMNS = ("", "ms", "images/s", "MiB", "against")


def groups_of(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """``--only`` as names of ``GROUPS``."""
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in GROUPS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(GROUPS)}")
    return tuple(name for name in GROUPS if name in names)


def device_of(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """``--device`` in torch's spelling."""
    if value is not None and not re.fullmatch(r"cpu|cuda(:\d{1,3})?", value):
        raise click.BadParameter(f"{value!r}: choose cpu, cuda, or one GPU of several such as cuda:1")
    return value


@click.command("bench", cls=GroupedCommand)
@option(
    "--only",
    "groups",
    default=",".join(GROUPS),
    metavar="WHAT,...",
    callback=groups_of,
    group="What",
    help="What to measure.",
)
@option("--preset", default="ffhq", metavar="NAME", group="What", help="Data set whose preset gives the networks.")
@option("--resolution", type=click.IntRange(1, 4096), default=256, group="What", help="Longer side of the images.")
@option(
    "--attention",
    type=click.Choice(["simplex", "duplex", "kmeans", "duplex-equation", "none"]),
    default=None,
    group="What",
    help="Kind of attention.  [default: that of the preset]",
)
@option("--batch-size", type=click.IntRange(1, MAX_BATCH_SIZE), default=4, group="What", help="Images per batch.")
@boolean_option("--quick", default=False, group="What", help="Use tiny sizes, to check that everything runs.")
@option(
    "--device",
    default=None,
    metavar="cpu|cuda",
    callback=device_of,
    group="How",
    help="Device.  [default: the first GPU, or the CPU]",
)
@option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    default=None,
    group="How",
    help="Precision of multiplications.  [default: tf32 on a GPU, fp32 on a CPU]",
)
@option(
    "--repeats",
    type=click.IntRange(1, 1_000_000),
    default=5,
    group="How",
    help="Minimum number of samples of each time.",
)
@option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=None,
    group="How",
    help="CPU threads.  [default: as torch chooses]",
)
@boolean_option("--memory", default=True, group="How", help="Also measure memory, on a CPU in separate processes.")
@json_option
@option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    group="Output",
    help="Also write the JSON object to a file.",
)
@option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE.png|FILE.svg",
    group="Output",
    help="Plot the curve: time and memory of attention over positions. Needs matplotlib (extra plots).",
)
@boolean_option("--overwrite", default=False, group="Output", help="Replace existing files of --output and --plot.")
def command(
    groups: tuple[str, ...],
    preset: str,
    resolution: int,
    attention: str | None,
    batch_size: int,
    quick: bool,
    device: str | None,
    precision: str | None,
    repeats: int,
    threads: int | None,
    memory: bool,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
    overwrite: bool,
) -> None:
    """Measure speed and memory, each against a baseline.

    What is on one line was measured alternately, in one run. The time is the minimum of all samples. "against" is the
    ratio to the baseline, as the median over the rounds of the run with its quartiles; a single sample gives no ratio.
    Baselines are: the plain-torch operators; one copy of the features into existing (copy) or new memory (clone);
    writing the result (fill); upsampling by inserted zeros; the layer with a query and a modulation for every pixel, as
    in the equations; only the convolutions of a step, in their fastest form; Pillow; and torch-fidelity.

    \b
      ganformer bench                               everything; on two CPU cores 40 minutes, most of it training
      ganformer bench --only layer,operators --json
      ganformer bench --device cuda --precision bf16
      ganformer bench --only busy                   the default training run beside a program that keeps a core busy
      ganformer bench --only curve --plot curve.svg   attention over 8x8 to 256x256 positions, and dense attention
    """
    import torch

    from ganformer_cli.benchmarks.curve import curve_panels
    from ganformer_cli.benchmarks.measuring import Conditions
    from ganformer_cli.benchmarks.suite import BenchmarkPlan, run_benchmarks
    from ganformer_cli.visualization.charts import chart_format, draw_chart

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision is None:
        precision = "fp32" if device == "cpu" else "tf32"
    check_device(device, precision)
    quickly: dict[str, Any] = {"seconds": 0.0, "sample": 0.0} if quick else {}
    conditions = Conditions(
        device=device, precision=precision, repeats=repeats, threads=threads, memory=memory, **quickly
    )
    settings: dict[str, Any] = {"preset": preset, "resolution": resolution, "batch_size": batch_size, "quick": quick}
    if quick and "resolution" not in given_options(click.get_current_context()):
        settings["resolution"] = 32
    config = run_config(settings, attention, training="training" in groups, precision=precision)
    settings["attention"] = config.model.attention
    for path, name in ((output, "--output"), (plot, "--plot")):
        if path is not None:
            if not path.parent.is_dir():
                raise ConfigError(f"{name} {path}: there is no folder {path.parent}; make it, or choose another file")
            check_output(path, name, overwrite=overwrite)
    if plot is not None:
        chart_format(plot, "--plot")
        if "curve" not in groups:
            raise click.UsageError("--plot draws the curve; add curve to --only")
    plan = BenchmarkPlan(groups=groups, conditions=conditions, config=config, images=batch_size, quick=quick)
    with ProgressBar() as progress:
        if not quick and not conditions.on_cuda:
            minutes = max(1, round(plan.seconds() / 60))
            progress.message(f"this takes about {minutes} minute{'s' * (minutes > 1)} on two CPU cores")
        progress.start(100, "%", "measuring")
        found = run_benchmarks(
            plan, lambda fraction, what: progress.update(round(100 * fraction, 1), behind=what), warn
        )
    record = {**found, **settings, "rows": found["rows"]}
    if output is not None:
        text = json.dumps(record, indent=2) + "\n"
        write_output(output, text.encode("utf-8"), "--output", overwrite=overwrite)
    if plot is not None and (panels := curve_panels([row for row in record["rows"] if "positions" in row])):
        write_output(plot, draw_chart(panels, chart_format(plot, "--plot")), "--plot", overwrite=overwrite)
    if as_json:
        echo_json(record)
    else:
        print_record(record)
    failed = [row for row in record["rows"] if "error" in row]
    if failed:
        first = f"{failed[0]['group']}: {failed[0]['what']}: {failed[0]['error']}"
        raise GanformerError(f"{len(failed)} of {len(record['rows'])} measurements failed; the first: {first}")


def check_device(device: str, precision: str) -> None:
    """Raise ``ConfigError`` unless this machine has the device, and the device the precision."""
    import torch

    if precision == "tf32" and device == "cpu":
        raise ConfigError("--precision tf32: only CUDA devices have it; choose fp32, bf16 or --device cuda")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "cpu" and (torch.device(device).index or 0) >= found:
        there = f"finds {found} CUDA GPUs" if torch.version.cuda else "is built without CUDA"
        raise ConfigError(f"--device {device}: torch {torch.__version__} {there} here; choose --device cpu")


def run_config(settings: Mapping[str, Any], attention: str | None, *, training: bool, precision: str) -> RunConfig:
    """The networks and their training.

    Raises:
        ConfigError: there is no such preset, or the sizes contradict each other.
    """
    from ganformer_cli.config import resolve_run
    from ganformer_cli.data.catalogue import load_catalogue

    catalogue = load_catalogue()
    name = settings["preset"]
    if name not in catalogue:
        raise ConfigError(f"--preset {name}: there is no such data set; choose one of {', '.join(catalogue)}")
    entry = catalogue[name]
    given: dict[str, Any] = {"resolution": settings["resolution"], "ratio": entry.ratio, "precision": precision}
    # A generator alone takes any number of images.
    given |= {"batch_size": settings["batch_size"] if training else 4, "batch_gpu": None}
    if attention is not None:
        given["attention"] = attention
    if settings["quick"]:
        given |= {key: value for key, value in QUICK.items() if attention != "none" or key != "components_num"}
    # The same networks on every device: this is no first run that must end within minutes.
    return resolve_run(given, dataset_preset=entry.preset, on_cpu=False)


# ----- The table -----


def print_record(record: Mapping[str, Any]) -> None:
    """The record as tables on stdout."""
    features = f" ({', '.join(record['cpu_features'])})" if record["device"] == "cpu" else ""
    settings = (
        f"{record['threads']} thread{'s' * (record['threads'] > 1)}, torch {record['torch']}, {record['precision']}"
    )
    echo(f"{record['device_name']}{features}, {settings}")
    if record["operators_reason"]:
        echo(f"no native operators: {record['operators_reason']}")
    for group in dict.fromkeys(row["group"] for row in record["rows"]):
        rows = [cells(row) for row in record["rows"] if row["group"] == group]
        echo()
        echo_table(COLUMNS, rows, title=f"{group} ({UNITS.get(group, 'MiB: what a call adds')})", right=COLUMNS[1:4])


def cells(row: Mapping[str, Any]) -> tuple[str | tuple[str, ...], ...]:
    """A row of the table."""
    if "error" in row:
        return row["what"], "", "", "", f"failed: {row['error']}"
    against = [baseline_text(name, found, memory_text(found, row["group"])) for name, found in row["against"].items()]
    if row["kept_percent"] is not None:
        against.append(f"keeps {row['kept_percent']:.1f} % of X")
    speed = number(row["images_per_second"]) if row["images"] else ""
    return row["what"], number(row["ms"]), speed, memory_text(row, row["group"]) or "n/a", tuple(against) or ("",)


def baseline_text(name: str, found: Mapping[str, Any], memory: str) -> str:
    """For example ``1.70x copy (1.66 to 1.75), 6.20 ms``; below 0.2 the other way round, ``1/58 of per pixel``."""
    time = f"{number(found['ms'])} ms" + (f", {memory} MiB" if memory else "")
    if found["ratio"] is None:
        return f"{name}: {time}; one sample, no ratio"
    low, high = found["spread"]
    if found["ratio"] >= 0.2:
        return f"{number(found['ratio'])}x {name} ({number(low)} to {number(high)}), {time}"
    return f"1/{number(1 / found['ratio'])} of {name} (1/{number(1 / high)} to 1/{number(1 / low)}), {time}"


def memory_text(found: Mapping[str, Any], group: str) -> str:
    value = found["peak_mib" if group in UNITS else "added_mib"]
    return "" if value is None else f"{value:,.0f}"


def number(value: float) -> str:
    """Three digits that say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
