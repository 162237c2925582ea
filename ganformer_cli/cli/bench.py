"""``ganformer bench``: how fast pictures, scores, operators, the generator and training are on this machine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ganformer_cli import __version__
from ganformer_cli.cli.options import (
    MAX_BATCH_SIZE,
    GroupedCommand,
    boolean_option,
    given_options,
    json_option,
    option,
    warn,
)
from ganformer_cli.cli.output import cell, echo, echo_json
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.outputs import check_output, write_output

if TYPE_CHECKING:
    from ganformer_cli.benchmarks.measuring import Backend, Cases, Conditions, Memory, Row
    from ganformer_cli.config import RunConfig

#: What can be measured, in this order, and what the column of MiB says of it.
GROUPS = {
    "build": "",
    "data": "",
    "metrics": "",
    "operators": "MiB: what a call adds",
    "layer": "MiB: what a call adds",
    "generator": "MiB: all of the process",
    "training": "MiB: all of the process",
}
#: A network that is small enough for a test.
QUICK = {"components_num": 4, "latent_size": 32, "channel_base": 256, "channel_max": 16, "mapping_num_layers": 2}
QUICK_PICTURES = {"pictures": 4, "side": 64, "resolution": 16, "reads": 8}
QUICK_SCORING = {"pictures": 4, "side": 32, "repeats": 1}
#: How long measuring memory takes, as a share of measuring times.
MEMORY = 0.3
COLUMNS = ("", "native ms", "images/s", "reference ms", "ratio", "native MiB", "reference MiB", "against")


class Plan(NamedTuple):
    """What is to be measured, and how."""

    conditions: Conditions
    groups: tuple[str, ...]
    cases: Mapping[str, Cases]  # by group
    settings: dict[str, Any]  # for the record
    sides: tuple[Backend, ...]
    without_native: str | None  # why there is no native side
    memory: bool


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
@option("--preset", default="ffhq", metavar="NAME", group="What", help="The networks of which data set's preset.")
@option("--resolution", type=click.IntRange(1, 4096), default=256, group="What", help="Longer side of their pictures.")
@option(
    "--attention",
    type=click.Choice(["simplex", "kmeans", "duplex", "none"]),
    default=None,
    group="What",
    help="Their attention. Left out: that of the preset.",
)
@option("--batch-size", type=click.IntRange(1, MAX_BATCH_SIZE), default=4, group="What", help="Pictures at a time.")
@boolean_option("--quick", default=False, group="What", help="Tiny sizes: shows that everything runs, not how fast.")
@option(
    "--device",
    default=None,
    metavar="cpu|cuda",
    callback=device_of,
    group="How",
    help="Where. Left out: the first GPU if there is one.",
)
@option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    default=None,
    group="How",
    help="Of multiplications. Left out: tf32 on a GPU, fp32 on a CPU.",
)
@option("--repeats", type=click.IntRange(1, 1_000_000), default=5, group="How", help="Samples of each time, at least.")
@option(
    "--threads", type=click.IntRange(1, 1024), default=None, group="How", help="Of the CPU. Left out: what torch takes."
)
@boolean_option("--memory", default=True, group="How", help="Measure memory too; on a CPU in processes of their own.")
@json_option
@option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    group="Output",
    help="Write the JSON object to a file as well. One that is there is replaced with --overwrite only.",
)
@boolean_option("--overwrite", default=False, group="Output", help="Replace the file of --output.")
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
    overwrite: bool,
) -> None:
    """Measure speed and memory: native operators, plain torch, and what neither can avoid.

    Everything on one line was measured in one run, in turn; times are the least of all samples. "against" says how many
    times as long the native side takes (without one, plain torch) as: copying the features once into memory that is
    there (copy) or new (clone), writing the result (fill), the layer with a query and a modulation for every pixel as
    the equations read, up-sampling by inserted zeros, or the step's bare convolutions in their fastest form.

    \b
      ganformer bench                               everything; on two CPU cores 40 minutes, most of it training
      ganformer bench --only layer,operators --json
      ganformer bench --device cuda --precision bf16
    """
    import torch

    from ganformer_cli.benchmarks.measuring import Conditions, native_missing

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision is None:
        precision = "fp32" if device == "cpu" else "tf32"
    conditions = Conditions(
        device=device,
        precision=precision,  # type: ignore[arg-type]  # one of the choices
        repeats=repeats,
        threads=threads,
        **({"seconds": 0.0, "sample": 0.0} if quick else {}),
    )
    conditions.check()
    settings: dict[str, Any] = {"preset": preset, "resolution": resolution, "batch_size": batch_size, "quick": quick}
    if quick and "resolution" not in given_options(click.get_current_context()):
        settings["resolution"] = 32
    config = run_config(settings, attention, training="training" in groups, precision=precision)
    settings["attention"] = config.model.attention
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}; make it, or choose another file")
    if output is not None:
        check_output(output, "--output", overwrite=overwrite)
    keep_memory()
    with conditions.apply():
        missing = native_missing(conditions)
        sides: tuple[Backend, ...] = ("reference",) if missing else ("native", "reference")
        cases = cases_of(groups, conditions, config, settings)
        plan = Plan(conditions, groups, cases, settings, sides, missing, memory)
        record = measure_all(plan)
    text = json.dumps(record, indent=2)
    if output is not None:
        write_output(output, (text + "\n").encode("utf-8"), "--output", overwrite=overwrite)
    if as_json:
        echo_json(record)
    else:
        show(record)
    failed = [row for row in record["rows"] if "error" in row]
    if failed:
        first = failed[0]
        said = f"{first['group']}: {first['what']}: {first['error']}"
        raise GanformerError(f"{len(failed)} of {len(record['rows'])} measurements failed; the first: {said}")


# ----- What is measured -----


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
    # A generator alone takes any number of pictures.
    given |= {"batch_size": settings["batch_size"] if training else 4, "batch_gpu": None}
    if attention is not None:
        given["attention"] = attention
    if settings["quick"]:
        given |= {key: value for key, value in QUICK.items() if attention != "none" or key != "components_num"}
    # The same networks on every device: this is no first run that must end within minutes.
    return resolve_run(given, dataset_preset=entry.preset, on_cpu=False)


def cases_of(
    groups: Sequence[str], conditions: Conditions, config: RunConfig, settings: Mapping[str, Any]
) -> dict[str, Cases]:
    """By group, a function that lists its cases; another process can call it too."""
    from ganformer_cli.benchmarks.networks import LayerSizes, generator_cases, layer_cases
    from ganformer_cli.benchmarks.operators import OperatorSizes, operator_cases
    from ganformer_cli.benchmarks.training import training_cases

    images = settings["batch_size"]
    if settings["quick"]:
        operators = OperatorSizes(images=images, side=8, channels=8, features=16, components=4, position=8)
        layer = LayerSizes(images=images, side=8, features=16, components=4, component=8)
    else:
        operators, layer = OperatorSizes(images=images), LayerSizes(images=images)
    known: dict[str, Cases] = {
        "operators": partial(operator_cases, conditions, operators),
        "layer": partial(layer_cases, conditions, layer),
        "generator": partial(generator_cases, conditions, config.model, images),
        "training": partial(training_cases, conditions, config),
    }
    return {group: known[group] for group in groups if group in known}


# ----- Measuring -----


def measure_all(plan: Plan) -> dict[str, Any]:
    """Everything of the plan, as JSON values."""
    from ganformer_cli.benchmarks.data import ImageSizes, measure_images
    from ganformer_cli.benchmarks.measuring import first_line, in_fresh_process, measure
    from ganformer_cli.benchmarks.operators import load_times
    from ganformer_cli.benchmarks.scoring import ScoringSizes, measure_scoring

    listed = {group: plan.cases[group]() for group in plan.cases}
    separate = plan.memory and not plan.conditions.on_cuda
    parts = {group: sum(case.weight for case in cases) * (1 + MEMORY * separate) for group, cases in listed.items()}
    if "build" in plan.groups:
        parts["build"] = 30.0
    if "data" in plan.groups:
        parts["data"] = 60.0
    if "metrics" in plan.groups:
        parts["metrics"] = 120.0
    total = sum(parts.values())
    results: list[dict[str, Any]] = []
    built = pictures = scoring = None
    with ProgressBar() as progress:
        minutes = max(1, round(total / 60))
        if not plan.settings["quick"] and not plan.conditions.on_cuda:
            progress.message(f"this takes about {minutes} minute{'s' * (minutes > 1)} on two CPU cores")
        progress.start(100, "%", "measuring")
        done = 0.0

        def go_on(weight: float, what: str) -> None:
            nonlocal done
            done += weight
            progress.update(round(100 * done / total, 1), behind=what)

        if "build" in plan.groups and not plan.without_native:
            try:
                built = load_times()._asdict()
            except GanformerError as error:
                warn(f"build: {error}")
            go_on(parts["build"], "build")
        if "data" in plan.groups:
            sizes = ImageSizes(**QUICK_PICTURES) if plan.settings["quick"] else ImageSizes()
            pictures = measure_images(sizes, lambda what: go_on(parts["data"] / 4, f"data: {what}"))
        if "metrics" in plan.groups:
            amounts = ScoringSizes(**QUICK_SCORING) if plan.settings["quick"] else ScoringSizes()
            scoring = measure_scoring(
                amounts,
                plan.conditions.device,
                partial(in_fresh_process, daemon=False) if plan.memory else lambda run: run(),
                lambda share, what: go_on(parts["metrics"] * share, f"metrics: {what}"),
            )
        for group, cases in listed.items():
            keep_memory(group)
            memories: dict[str, list[Memory | None]] = {}
            for side in plan.sides if separate else ():
                memories[side] = memories_of(plan, group, side)
                go_on(sum(case.weight for case in cases) * MEMORY / len(plan.sides), f"{group}: memory, {side}")
            # Listed anew, and given up one by one: what a case has made must not lie there while others are measured.
            for index, case in enumerate(cases):
                try:
                    row = measure(case, plan.conditions, plan.sides)
                except (GanformerError, RuntimeError) as error:  # the latter are torch's: not enough memory, for one
                    results.append({"group": group, "what": case.what, "error": first_line(error)})
                else:
                    for name, found in memories.items():
                        row.sides[name].memory = found[index] if index < len(found) else None
                    results.append(row_record(row, plan.sides[0]))
                go_on(case.weight, f"{group}: {case.what}")
    return {
        "version": __version__,
        **machine(plan.conditions),
        **plan.settings,
        "operators": plan.sides[0],
        "operators_reason": plan.without_native,
        "build_seconds": built,
        "data": pictures,
        "metrics": scoring,
        "rows": results,
    }


def memories_of(plan: Plan, group: str, side: Backend) -> list[Memory | None]:
    """Memory of a group's cases, each in turn in one new process."""
    from ganformer_cli.benchmarks.measuring import in_fresh_process, process_memories

    prepare = partial(keep_memory, group)
    try:
        return in_fresh_process(partial(process_memories, plan.cases[group], side, plan.conditions, prepare))
    except GanformerError as error:
        warn(f"{group}: no memory of the {side} side: {error}")
        return []


def keep_memory(group: str = "training") -> None:
    """As the commands do that need what is measured in ``group``."""
    from ganformer_cli.memory import EVALUATION_MIB, TRAINING_MIB, keep_large_blocks

    keep_large_blocks(EVALUATION_MIB if group == "generator" else TRAINING_MIB)


def machine(conditions: Conditions) -> dict[str, Any]:
    """What was measured on."""
    import torch

    name = torch.cuda.get_device_name(conditions.device) if conditions.on_cuda else cpu_name()
    return {
        "device": conditions.device,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": conditions.precision,
        "repeats": conditions.repeats,
    }


def cpu_name() -> str:
    """As the system calls the processor, and the vector instructions that torch uses."""
    import platform

    import torch

    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        name = found.group(1) if found else name
    return f"{name or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def row_record(row: Row, first: Backend) -> dict[str, Any]:
    """A line of the table as JSON values: times in milliseconds, ratios of least times."""
    record: dict[str, Any] = {"group": row.group, "what": row.what, "images": row.images}
    for side in ("native", "reference"):
        result = row.sides.get(side)
        if result is None:
            record[side] = None
            continue
        memory = result.memory
        record[side] = {
            "ms": rounded(result.timing.least * 1e3),
            "ms_median": rounded(result.timing.median * 1e3),
            "samples": result.timing.samples,
            "images_per_second": rounded(row.images / result.timing.least),
            "peak_mib": None if memory is None else round(memory.peak, 1),
            "added_mib": None if memory is None else round(memory.added, 1),
            "kept_percent": None if result.kept is None else round(100 * result.kept, 2),
        }
    own = row.sides[first].timing.least
    record["reference_over_native"] = rounded(row.sides["reference"].timing.least / own) if first == "native" else None
    record["against"] = {
        name: {"ms": rounded(timing.least * 1e3), "ms_median": rounded(timing.median * 1e3),
               "ratio": rounded(own / timing.least)}
        for name, timing in row.against.items()
    }  # fmt: skip
    return record


def rounded(value: float) -> float:
    """Four digits that say something."""
    return float(f"{value:.4g}")


# ----- The table -----


def show(record: Mapping[str, Any]) -> None:
    """The record as tables on stdout: drawn on a terminal, plain elsewhere."""
    echo(f"{record['device_name']}, {record['threads']} threads, torch {record['torch']}, {record['precision']}")
    if record["operators_reason"]:
        echo(f"no native operators: {record['operators_reason']}")
    if built := record["build_seconds"]:
        echo(f"the native operators are built in {built['cold']:.1f} s and loaded in {built['warm']:.2f} s")
    if found := record["data"]:
        show_images(found)
    if found := record["metrics"]:
        show_scoring(found)
    for group, unit in GROUPS.items():
        rows = [row for row in record["rows"] if row["group"] == group]
        if rows:
            show_table(f"{group} ({unit})", [cells(row, record["operators"]) for row in rows])


def show_images(found: Mapping[str, Any]) -> None:
    """How fast pictures are prepared and read."""
    size = f"{found['side']} to {found['resolution']} px"
    for rate in found["preparing"]:
        echo(
            f"prepare {rate['form']}, {size}: {number(rate['prepared'])} pictures/s in {rate['processes']} processes, "
            f"{rate['prepared'] / rate['loop']:.2f}x a loop of Pillow in one ({number(rate['loop'])})"
        )
    for rate in found["reading"]:
        echo(
            f"read {found['resolution']} px, --compression {rate['compression']}: {number(rate['read'])} pictures/s in "
            f"one process, {number(rate['kib'])} KiB each (a fast GPU takes {found['needed']})"
        )


def show_scoring(found: Mapping[str, Any]) -> None:
    """How fast pictures become features, and how fast torch-fidelity makes them."""
    ours, theirs = found["ours"], found["theirs"]

    def said(side: Mapping[str, Any]) -> str:
        peak = "" if side["peak_mib"] is None else f" with {side['peak_mib']:,.0f} MiB"
        return f"{number(side['per_second'])} pictures/s{peak}"

    rest = found["without_theirs"] or f"{found['ratio']:.2f}x torch-fidelity ({said(theirs)})"
    echo(f"Inception features, {found['side']} px: {said(ours)}; {rest}")


def cells(row: Mapping[str, Any], side: str) -> list[str]:
    """A row of the table."""
    if "error" in row:
        return [row["what"], *[""] * (len(COLUMNS) - 2), f"failed: {row['error']}"]
    native, reference = row["native"], row["reference"]
    whole = row["group"] in ("generator", "training")
    shown = row[side]
    faster = row["reference_over_native"]
    return [
        row["what"],
        "n/a" if native is None else number(native["ms"]),
        number(shown["images_per_second"]),
        number(reference["ms"]),
        "n/a" if faster is None else f"{faster:.2f}x",
        *(mebibytes(found, whole) for found in (native, reference)),
        ", ".join(limits(row["against"], shown["kept_percent"])),
    ]


def limits(rivals: Mapping[str, Mapping[str, float]], kept: float | None) -> Iterator[str]:
    """For example ``1/58 of per pixel`` and ``1.7x copy``."""
    for name, found in rivals.items():
        ratio = found["ratio"]
        yield f"{number(ratio)}x {name}" if ratio >= 0.2 else f"1/{number(1 / ratio)} of {name}"
    if kept is not None:
        yield f"keeps {kept:.1f} % of X"


def mebibytes(found: Mapping[str, Any] | None, whole: bool) -> str:
    value = None if found is None else found["peak_mib" if whole else "added_mib"]
    return "n/a" if value is None else f"{value:,.0f}"


def number(value: float) -> str:
    """Three digits that say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """A table; rich is imported for terminals only."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left")
        for index, name in enumerate(COLUMNS):
            table.add_column(name, justify="left" if index in (0, len(COLUMNS) - 1) else "right")
        for row in rows:
            table.add_row(*(Text(cell(text)) for text in row))
        Console().print(table)
        return
    widths = [max(len(row[index]) for row in (COLUMNS, *rows)) for index in range(len(COLUMNS))]
    echo()
    echo(title)
    for row in (COLUMNS, *rows):
        left, *middle, right = (
            text.ljust(width) if index in (0, len(COLUMNS) - 1) else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        echo("  ".join([left, *middle, right]).rstrip())
