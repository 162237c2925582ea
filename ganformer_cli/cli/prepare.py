"""``ganformer prepare``: images from anywhere, made into data sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ganformer_cli.cli.completion import complete_sources
from ganformer_cli.cli.option_types import ReadType
from ganformer_cli.cli.options import (
    MAX_PROCESSES,
    F,
    GroupedCommand,
    boolean_option,
    choice_option,
    combined,
    json_option,
    option,
    path_option,
    section,
    switch,
)
from ganformer_cli.cli.output import echo, echo_json, error_text
from ganformer_cli.cli.prepare_jobs import CATALOGUE_FLAGS, PrepareSettings, find_jobs
from ganformer_cli.cli.prepare_report import list_catalogue
from ganformer_cli.cli.prepare_run import run, verify_set
from ganformer_cli.cli.verbosity import verbosity_options
from ganformer_cli.config.source_formats import SOURCE_FORMATS
from ganformer_cli.errors import GanformerError


def read_value_range(text: str) -> tuple[float, float]:
    """``0,4095`` as two floats."""
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(f"{text!r} is not two numbers; write for instance 0,4095") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{text!r}: write the lower number first, as in 0,4095")
    return low, high


def _catalogue_option(name: str) -> Callable[[F], F]:
    text = f"The same as {name} as a SOURCE: download it and prepare it."
    return option(f"--{name}", "wanted", flag_value=name, multiple=True, rare=True, default=(), help=text)


#: A flag for each known data set, ``--ffhq`` and so on; those given come as the tuple ``wanted``.
catalogue_options = combined(*map(_catalogue_option, CATALOGUE_FLAGS))


@click.command("prepare", cls=GroupedCommand)
@click.argument("sources", nargs=-1, metavar="SOURCE...", shell_complete=complete_sources)
@section("Source")
@option("--images-dir", metavar="DIR", rare=True, help="Same as a SOURCE argument.")
@option("--max-images", type=click.IntRange(1, 10**10), help="Use at most N images.")
@option(
    "--format",
    type=click.Choice(SOURCE_FORMATS),
    help="Format of SOURCE: a container, or images with this suffix only (png, jpg).  [default: detected]",
)
@option(
    "--labels",
    metavar="folders|none|FILE",
    help="Source of the labels: the names of the sub-folders, or a .npy, .csv or .json file.  [default: labels in the "
    "source, such as a dataset.json]",
)
@switch("--strict", help="Treat an image that cannot be used as an error.")
@section("Data set")
@option("--name", "--task", metavar="NAME", help="Name of the data set.  [default: that of the source]")
@path_option("--data-dir", default="datasets", help="Folder of the data sets.")
@option(
    "--resolution",
    type=int,
    metavar="PIXELS",
    help="Longer side of the images, a power of two.  [default: the largest, up to 256, that nine in ten images "
    "reach; 256 for the catalogue]",
)
@option("--ratio", type=float, metavar="NUMBER", help="Height / width.  [default: 1, or that of the catalogue]")
@choice_option(
    "--fit",
    of=["crop", "pad", "stretch"],
    help="How to fit images of another aspect ratio: crop to the middle, pad with --background, or stretch.",
)
@option(
    "--background", metavar="COLOR", default="white", help="Background colour of transparent parts: a name, or #rrggbb."
)
@option(
    "--value-range",
    type=ReadType("range", read_value_range),
    metavar="LOW,HIGH",
    help="For more than 8 bits per channel: the values that become black and white, such as 0,4095 for 12 bits.  "
    "[default: 0,65535; for floating point 0,1]",
)
@switch("--overwrite", help="Replace an existing data set of this name.")
@option(
    "--shards-num",
    type=click.IntRange(1, 99_999),
    rare=True,
    help="Split the data set into N files.  [default: 1, more if it is large]",
)
@choice_option(
    "--compression",
    of=["png", "none"],
    rare=True,
    help="none: larger files that are faster to read, if decoding limits the training.",
)
@switch("--near-duplicates", rare=True, help="Also report similar images, not only identical ones.")
@option(
    "--workers",
    "--num-threads",
    type=click.IntRange(1, MAX_PROCESSES),
    rare=True,
    help="Number of processes; the result does not depend on it.  [default: one per core]",
)
@section("Known data sets")
@option("--list", "show_list", is_flag=True, help="List the catalogue, and exit.")
@path_option("--from-file", metavar="FILE", help="Archive of the catalogue's data set, downloaded before.")
@boolean_option(
    "--check", default=True, rare=True, help="Require that --from-file matches a checksum of the catalogue."
)
@option(
    "--source",
    "choice",
    type=click.IntRange(1, 1000),
    rare=True,
    help="Download from the N-th source of the data set only.  [default: the first that works]",
)
@boolean_option("--keep-download", default=True, rare=True, help="Keep the downloaded archive afterwards.")
@catalogue_options
@section("Output")
@option(
    "--verify",
    metavar="NAME|DIR",
    help="Check a prepared data set against its manifest, and exit; status 1 if anything is wrong.",
)
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context, sources: tuple[str, ...], images_dir: str | None, wanted: tuple[str, ...], data_dir: Path,
    name: str | None, format: str | None, labels: str | None, from_file: Path | None, check: bool, choice: int | None,
    keep_download: bool, show_list: bool, verify: str | None, as_json: bool, **options: Any
) -> None:  # fmt: skip
    """Make a data set from each SOURCE.

    A SOURCE is a folder (including its sub-folders), a zip or tar, a NumPy, HDF5, LMDB or TFRecord file, a data set of
    the catalogue (ffhq, clevr, cityscapes, bedrooms), which is downloaded, or an entry of your own, my-set.toml.

    All images become RGB images of one size: turned upright, cropped to their middle, and shrunk. Those that cannot be
    used are skipped and listed. After an interruption, the same command resumes.

    \b
      ganformer prepare holiday-photos --resolution 128
      ganformer train --dataset holiday-photos
    """
    given = [*sources, *([images_dir] if images_dir is not None else [])]
    if show_list or verify is not None:
        said = "--list" if show_list else "--verify"
        if given or wanted or from_file or (show_list and verify is not None):
            raise click.UsageError(f"{said} takes no SOURCE; run it alone")
        if verify is None:
            list_catalogue(data_dir, as_json=as_json)
        else:
            verify_set(verify, data_dir, as_json=as_json)
        return
    settings = PrepareSettings(data_dir, format, labels, from_file, check, choice, keep_download, as_json, options)
    jobs = find_jobs(given, wanted, name, settings)
    if len(jobs) == 1:
        answer = run(jobs[0], settings)
        if as_json:
            echo_json(answer, indent=None, ascii=False)
        return
    answers, errors = [], []
    for job in jobs:
        try:
            answers.append(run(job, settings))
        except (GanformerError, OSError) as error:
            message = " ".join(error_text(error).splitlines())
            answers.append({"name": job.name, "error": message})
            errors.append(f"{ctx.command_path}: error: {job.name}: {message}")
    if as_json:
        echo_json(answers, indent=None, ascii=False)
    for line in errors:
        echo(line, err=True)
    if errors:
        ctx.exit(1)
