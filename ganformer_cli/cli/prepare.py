"""``ganformer prepare``: pictures from anywhere, made into data sets."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.completion import complete_sources
from ganformer_cli.cli.options import MAX_PROCESSES, GroupedCommand, boolean_option, json_option, option, warn
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.cli.prepare_report import (
    list_catalogue,
    report_verified,
    summarise,
    warn_of_empty_classes,
    warn_of_unused_range,
)
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.config.names import check_name, quoted, same_name, valid_name
from ganformer_cli.errors import ConfigError, DataError, GanformerError

if TYPE_CHECKING:
    from ganformer_cli.data.catalogue import CatalogueEntry
    from ganformer_cli.data.prepare.acquire import AcquiredArchive
    from ganformer_cli.data.prepare.pipeline import PreparedSet
    from ganformer_cli.data.sources import Source

CATALOGUE = ("ffhq", "cityscapes", "clevr", "bedrooms")  # flags of the authors' script
FORMATS = ("png", "jpg", "zip", "tar", "npy", "hdf5", "tfds", "lmdb", "tfrecords", "webdataset")
MANIFEST_KEYS = ("resolution", "ratio", "max_images", "compression", "value_range")  # options that a manifest repeats
MIB = 1 << 20
USUAL_RESOLUTION = 256  # of an entry that does not say
SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # that are no part of a name; of others it is the last


class ValueRangeType(click.ParamType):
    """``0,4095`` as two floats."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        try:
            low, high = map(float, value.split(",") if isinstance(value, str) else value)
        except ValueError:
            self.fail(f"{value!r} is not two numbers; write for instance 0,4095", param, ctx)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            self.fail(f"{value!r}: write the lower number first, as in 0,4095", param, ctx)
        return low, high


def catalogue_options(function: Any) -> Any:
    """A flag for each known data set, ``--ffhq`` and so on; those given come as the tuple ``wanted``."""
    for name in reversed(CATALOGUE):
        function = option(
            f"--{name}", "wanted", flag_value=name, multiple=True, group="Known data sets", rare=True, default=(),
            help=f"The same as {name} as a SOURCE: download it and prepare it.",
        )(function)  # fmt: skip
    return function


@click.command("prepare", cls=GroupedCommand)
@click.argument("sources", nargs=-1, metavar="SOURCE...", shell_complete=complete_sources)
@option("--images-dir", metavar="DIR", group="Source", rare=True, help="Another way to name a SOURCE.")
@option("--max-images", type=click.IntRange(1, 10**10), group="Source", help="Stop after so many pictures.")
@option(
    "--format", "form", type=click.Choice(FORMATS), group="Source",
    help="What SOURCE is: pictures of this suffix only (png, jpg), or a container. Left out: seen from its content.",
)  # fmt: skip
@option(
    "--labels", metavar="folders|none|FILE", group="Source",
    help="Where labels come from: the sub-folders' names, or a .npy, .csv or .json file. Left out: what lies in the "
    "source, such as a dataset.json.",
)  # fmt: skip
@boolean_option("--strict", default=False, group="Source", help="A picture that cannot be used is an error.")
@option(
    "--name", "--task", metavar="NAME", group="Data set",
    help="What to call the data set. Left out: as the source is called.",
)  # fmt: skip
@option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("datasets"), group="Data set",
    help="Folder that holds the data sets.",
)  # fmt: skip
@option(
    "--resolution", type=int, metavar="PIXELS", group="Data set",
    help="Longer side of the pictures, a power of two. Left out: the largest, up to 256, that nine in ten of the "
    "pictures reach; 256 for the catalogue's.",
)  # fmt: skip
@option(
    "--ratio", type=float, metavar="NUMBER", group="Data set",
    help="Height / width. Left out: 1, or what is usual for a data set of the catalogue.",
)  # fmt: skip
@option(
    "--background", metavar="COLOR", default="white", group="Data set",
    help="What shows through transparent parts: a colour's name, or #rrggbb.",
)  # fmt: skip
@option(
    "--value-range", type=ValueRangeType(), metavar="LOW,HIGH", group="Data set",
    help="Of pictures and arrays with more than 8 bits, the values that become black and white, such as 0,4095 for 12 "
    "bits.  [default: 0,65535, of floating point 0,1]",
)  # fmt: skip
@boolean_option("--overwrite", default=False, group="Data set", help="Replace a data set of this name.")
@option(
    "--shards-num", type=click.IntRange(1, 99_999), metavar="N", group="Data set", rare=True,
    help="Split the data set into so many files. Left out: one, and more only where it is large.",
)  # fmt: skip
@option(
    "--compression", type=click.Choice(["png", "none"]), default="png", group="Data set", rare=True,
    help="none: larger files that are read faster, where decoding holds up training.",
)  # fmt: skip
@boolean_option(
    "--near-duplicates", default=False, group="Data set", rare=True,
    help="Report pictures that look alike, too, and not only those that are the same.",
)  # fmt: skip
@option(
    "--workers", "--num-threads", type=click.IntRange(1, MAX_PROCESSES), metavar="N", group="Data set", rare=True,
    help="Processes at work. Left out: one for each core. The result is the same with any number.",
)  # fmt: skip
@option("--list", "show_list", is_flag=True, group="Known data sets", help="Show the catalogue, and exit.")
@option(
    "--from-file", type=click.Path(path_type=Path), metavar="FILE", group="Known data sets",
    help="The archive of the catalogue's data set that is named, downloaded before.",
)  # fmt: skip
@boolean_option(
    "--check", default=True, group="Known data sets", rare=True,
    help="Require that --from-file has a checksum of the catalogue.",
)  # fmt: skip
@option(
    "--source", "choice", type=click.IntRange(1, 1000), metavar="N", group="Known data sets", rare=True,
    help="Download from this source of the data set only. Left out: from the first that gives it.",
)  # fmt: skip
@boolean_option(
    "--keep-download", default=True, group="Known data sets", rare=True,
    help="Keep the downloaded archive when the data set is made.",
)  # fmt: skip
@catalogue_options
@option(
    "--verify", metavar="NAME|DIR", group="Output",
    help="Check a prepared data set against its manifest, and exit: status 1 if anything is wrong with it.",
)  # fmt: skip
@json_option
@click.pass_context
def command(
    ctx: click.Context, sources: tuple[str, ...], images_dir: str | None, wanted: tuple[str, ...], data_dir: Path,
    name: str | None, form: str | None, labels: str | None, from_file: Path | None, check: bool, choice: int | None,
    show_list: bool, verify: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Make data sets of pictures: of each SOURCE, one.

    A SOURCE is a folder (with all below it), a zip or tar, a NumPy, HDF5, LMDB or TFRecord file, a data set of the
    catalogue (ffhq, clevr, cityscapes, bedrooms), which is downloaded, or a catalogue entry of your own, my-set.toml.

    Pictures of any kind and size become RGB pictures of one size: turned upright, cropped to their middle, and shrunk.
    Those that cannot be used are skipped and listed. Interrupted, the same command goes on where it was.

    \b
      ganformer prepare holiday-photos --resolution 128
      ganformer train --dataset holiday-photos
    """
    given = [*sources, *([images_dir] if images_dir is not None else [])]
    if show_list or verify is not None:
        said = "--list" if show_list else "--verify"
        if given or wanted or from_file or (show_list and verify is not None):
            raise click.UsageError(f"{said} goes with no SOURCE and prepares nothing; run it alone")
        if verify is None:
            list_catalogue(data_dir, as_json=as_json)
        else:
            _verify(verify, data_dir, as_json=as_json)
        return
    jobs = _jobs(given, wanted, name, data_dir, form)
    _check_together(jobs, name, form, labels, from_file, check, choice)
    settings = Settings(data_dir, form, labels, from_file, check, choice, as_json, options)
    if len(jobs) == 1:
        answer = _run(jobs[0], settings)
        if as_json:
            echo_json(answer, indent=None, ascii=False)
        return
    answers, errors = [], []
    for job in jobs:
        try:
            answers.append(_run(job, settings))
        except (GanformerError, OSError) as error:
            message = " ".join(_said(error).splitlines())
            answers.append({"name": job.name, "error": message})
            errors.append(f"{ctx.command_path}: error: {job.name}: {message}")
    if as_json:
        echo_json(answers, indent=None, ascii=False)
    for line in errors:
        echo(line, err=True)
    if errors:
        ctx.exit(1)


# ---- What is to be done ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own:
    """A data set to make of the user's pictures."""

    name: str
    path: Path
    ratio: float  # unless another is asked for


@dataclass(frozen=True)
class Known:
    """A data set to make of what an entry of the catalogue names."""

    name: str
    entry: CatalogueEntry

    @property
    def ratio(self) -> float:
        return self.entry.ratio


Job = Own | Known


@dataclass(frozen=True)
class Settings:
    """What holds for all of them; ``options`` are those that ``prepare`` takes as they are, and a few more."""

    data_dir: Path
    form: str | None
    labels: str | None
    from_file: Path | None
    check: bool
    choice: int | None
    as_json: bool
    options: dict[str, Any]


def _jobs(given: list[str], wanted: tuple[str, ...], name: str | None, data_dir: Path, form: str | None) -> list[Job]:
    """The data sets that a line asks for, each once, in its order.

    Raises:
        click.UsageError: there is none, or two would have one name.
        ConfigError: the built-in data set is asked for.
        DataError: an entry of the user's own cannot be used.
    """
    from ganformer_cli.data.catalogue import SCENES, find_entry, load_catalogue, read_entry

    name = None if name is None else check_name("--name", name)
    jobs: list[Job] = []
    for word in [*given, *(f"--{flag}" for flag in wanted)]:
        path, entry = Path(word), None
        if word.startswith("--") and word[2:] in load_catalogue():
            entry = load_catalogue()[word[2:]]
        elif path.suffix.lower() == ".toml" and path.exists() and not path.is_dir():
            entry = read_entry(path)
        elif form != "tfds" and not path.exists():
            entry = find_entry(word, data_dir)
            near = difflib.get_close_matches(word, load_catalogue(), n=1) if entry is None else []
            if near:
                raise DataError(f"{word} does not exist, and no known data set has this name; did you mean {near[0]}?")
        if entry is not None and entry.name == SCENES:
            raise ConfigError(f"{SCENES} is built in and needs no preparing; run: ganformer train --dataset {SCENES}")
        if entry is not None:
            job: Job = Known(name or entry.name, entry)
        elif not word:
            raise click.UsageError("SOURCE is empty; give the path of a folder or a file of pictures")
        else:
            called = name or _called(path)
            usual = load_catalogue().get(called)
            job = Own(called, path, 1.0 if usual is None else usual.ratio)
        if job in jobs:
            continue
        if any(job.name == other.name for other in jobs):
            if name is not None:
                raise click.UsageError(f"--name {name} goes with one SOURCE; prepare one after the other")
            raise click.UsageError(f"two SOURCEs would be called {job.name}; prepare them one by one, with --name")
        jobs.append(job)
    if not jobs:
        raise click.UsageError(
            "SOURCE is missing; give the path of a folder or a file of pictures, or the name of a known data set "
            f"({', '.join(CATALOGUE)})"
        )
    return jobs


def _called(path: Path) -> str:
    """The name of the data set that is made of ``path``: its own, as far as that can be a name everywhere."""
    own = path.stem
    if path.is_dir():
        own = path.resolve().name
    else:
        for suffix in SUFFIXES:
            if path.name.lower().endswith(suffix):
                own = path.name[: -len(suffix)]
    called = valid_name(own)
    if not same_name(called, own):
        warn(f"{path}: the data set is called {quoted(called)}, which works on every system; --name chooses another")
    return called


def _check_together(
    jobs: list[Job], name: str | None, form: str | None, labels: str | None, from_file: Path | None, check: bool,
    choice: int | None,
) -> None:  # fmt: skip
    """Refuse options that do not go together.

    Raises:
        click.UsageError: they do not.
    """
    known = [job for job in jobs if isinstance(job, Known)]
    if from_file is not None and (len(jobs) != 1 or not known):
        example = next((job.name for job in known), "ffhq")
        raise click.UsageError(
            f"--from-file {from_file} goes with one data set of the catalogue, as in: ganformer prepare {example} "
            f"--from-file {quoted(str(from_file))}"
        )
    if not check and from_file is None:
        raise click.UsageError("--check False goes with --from-file; a download is always checked")
    if choice is not None and (len(known) != 1 or from_file is not None):
        raise click.UsageError("--source goes with one data set of the catalogue that is downloaded")
    if form is not None and known and (from_file is None or check):
        raise click.UsageError(
            f"--format {form}: the catalogue knows what {known[0].name} is; leave the option out, or give --from-file "
            "with --no-check"
        )
    if labels not in {None, "none", "folders"} and len(jobs) > 1:
        raise click.UsageError(f"--labels {labels} goes with one SOURCE; prepare one after the other")


# ---- Doing it --------------------------------------------------------------------------------------------------------


def _run(job: Job, settings: Settings) -> dict[str, Any]:
    """Make one data set and say so; what ``--json`` says of it."""
    options = dict(settings.options)
    keep_download = options.pop("keep_download")
    if options["ratio"] is None:
        options["ratio"] = job.ratio
    if isinstance(job, Known) and options["resolution"] is None:
        options["resolution"] = job.entry.resolution or USUAL_RESOLUTION
    kept: tuple[Path, int] | None = None
    with ProgressBar() as progress:
        try:
            if isinstance(job, Own):
                prepared = _prepared(job.path, job.name, settings.form, settings, options, progress)
            elif (found := _found(job, settings, options)) is not None:
                prepared = found
            else:
                acquired = _acquired(job, settings, options, progress)
                with acquired.open(settings.labels, options["resolution"]) as source:
                    prepared = _prepared(source, job.name, acquired.form, settings, options, progress)
                left = acquired.release(keep_download=keep_download)
                kept = (acquired.path, left) if left else None
        except KeyboardInterrupt:
            progress.close()
            progress.message(f"{job.name}: what is done is kept; the same command goes on from there")
            raise
    warn_of_empty_classes(prepared.manifest)
    warn_of_unused_range(prepared.manifest)
    if settings.as_json and prepared.not_read:
        from ganformer_cli.data.file_kinds import unread_count_text, unread_text

        warn(f"{job.name}: {unread_count_text(prepared.not_read)}: {unread_text(prepared.not_read)}")
    if not settings.as_json:
        summarise(prepared, settings.data_dir, kept)
    return {
        **prepared.manifest,
        "folder": str(prepared.folder),
        "not_read": dict(prepared.not_read),
        "unchanged": prepared.unchanged,
        "resumed": prepared.resumed,
    }


def _found(job: Known, settings: Settings, options: dict[str, Any]) -> PreparedSet | None:
    """The data set if it is there already, so that nothing needs to be downloaded for it; checks the options first."""
    from ganformer_cli.data.prepare.acquire import find_existing
    from ganformer_cli.data.prepare.pipeline import PreparedSet, check_settings

    checked = {key: value for key, value in options.items() if key not in {"strict", "overwrite", "near_duplicates"}}
    check_settings(job.name, **checked)
    if settings.from_file or settings.labels or options["overwrite"] or options["strict"]:
        return None
    wanted = {key: (f"--{key.replace('_', '-')}", options[key]) for key in MANIFEST_KEYS}
    if options["value_range"] is not None:
        wanted["value_range"] = ("--value-range", list(options["value_range"]))
    target = settings.data_dir / job.name
    manifest = find_existing(job.entry, target, wanted)
    if manifest is None:
        return None
    if options["near_duplicates"] and manifest["duplicates"]["near"] is None:
        raise DataError(f"{target} was made without --near-duplicates; add --overwrite to make it anew")
    if options["shards_num"] not in {None, len(manifest["shards"])}:
        raise DataError(
            f"{target} was made with --shards-num {len(manifest['shards'])}, not {options['shards_num']}; add "
            "--overwrite to make it anew"
        )
    return PreparedSet(target, manifest, unchanged=True, notes=manifest.get("label_notes", ()))


def _prepared(
    source: Path | Source,
    name: str,
    form: str | None,
    settings: Settings,
    options: dict[str, Any],
    progress: ProgressBar,
) -> PreparedSet:
    from ganformer_cli.data.prepare.pipeline import prepare

    begun = 0

    def report(done: int, total: int, skipped: int) -> None:
        nonlocal begun
        if begun == 0:  # what was done in an earlier run says nothing of the speed
            progress.start(total, "pictures", f"prepare {name}", done=done)
        begun = done
        if done:
            progress.update(done, skipped=skipped)

    return prepare(
        source, name, data_dir=settings.data_dir, form=form, labels=settings.labels, progress=report, **options
    )


def _acquired(job: Known, settings: Settings, options: dict[str, Any], progress: ProgressBar) -> AcquiredArchive:
    """The archive of a catalogue's data set: the user's, or downloaded after the licence was shown."""
    from ganformer_cli.data.prepare.acquire import acquire, acquire_file, estimated_output

    entry = job.entry
    words = {"download": "downloading", "check": "checking"}
    stage: list[str] = []

    def report(what: str, done: int, total: int | None) -> None:
        if stage != [what]:
            stage[:] = [what]
            if what == "download" and done:
                progress.message(f"{entry.name}: the download goes on at {done / MIB:.0f} MiB")
            progress.start((total or done) / MIB, "MiB", f"{words[what]} {entry.name}", done=done / MIB)
        progress.update(done / MIB)

    progress.message(f"{entry.name}: {entry.title}")
    progress.message(f"licence: {entry.licence}{f' ({entry.homepage})' if entry.homepage else ''}")
    if settings.from_file is not None:
        return acquire_file(entry, settings.from_file, check=settings.check, form=settings.form, progress=report)
    output = estimated_output(entry, *(options[key] for key in ("resolution", "ratio", "max_images", "compression")))
    output = max(0, output - _bytes_in(settings.data_dir / f".{job.name}.part"))
    return acquire(
        entry, settings.data_dir, choice=settings.choice, output=output, progress=report,
        notice=progress.message,
    )  # fmt: skip


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder and below; what goes away meanwhile does not count."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _verify(word: str, data_dir: Path, *, as_json: bool) -> None:
    from ganformer_cli.data.prepare.verify import verify

    folder = data_dir / word
    if not (folder / "manifest.json").is_file():
        folder = Path(word)
    if not folder.is_dir():
        raise DataError(
            f"--verify {word}: neither a data set in {data_dir} nor a folder; look for it with: ls {data_dir}"
        )
    with ProgressBar() as progress:
        started: list[bool] = []

        def report(done: int, total: int, wrong: int) -> None:
            if not started:
                started.append(True)
                progress.start(total, "pictures", "verify")
            progress.update(done, problems=wrong)

        found = verify(folder, progress=report)
    report_verified(found, as_json=as_json)


def _said(error: GanformerError | OSError) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return str(error)
