"""Makes one data set of those that ``ganformer prepare`` is asked for, with its progress on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.options import warn
from ganformer_cli.cli.prepare_jobs import CatalogueSet, OwnImages, PrepareJob, PrepareSettings
from ganformer_cli.cli.prepare_report import report_verified, summarise, warn_of_empty_classes, warn_of_unused_range
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.errors import DataError
from ganformer_cli.files import MIB, folder_extent

if TYPE_CHECKING:
    from ganformer_cli.data.prepare.acquire import AcquiredArchive
    from ganformer_cli.data.prepare.options import PrepareOptions
    from ganformer_cli.data.prepare.pipeline import PreparedSet
    from ganformer_cli.data.sources import Source


def run(job: PrepareJob, settings: PrepareSettings) -> dict[str, Any]:
    """Make one data set and say so; what ``--json`` says of it."""
    from ganformer_cli.data.prepare.acquire import USUAL_RESOLUTION
    from ganformer_cli.data.prepare.options import PrepareOptions, check_dataset_name

    given = dict(settings.options)
    if given["ratio"] is None:
        given["ratio"] = job.ratio
    if isinstance(job, CatalogueSet) and given["resolution"] is None:
        given["resolution"] = job.entry.resolution or USUAL_RESOLUTION
    options = PrepareOptions(**given)
    check_dataset_name(job.name)
    kept: tuple[Path, int] | None = None
    with ProgressBar() as progress:
        try:
            if isinstance(job, OwnImages):
                prepared = _prepare(job.path, job.name, settings.format, settings, given, progress)
            else:
                prepared, kept = _prepare_known(job, settings, options, given, progress)
        except KeyboardInterrupt:
            progress.close()
            progress.message(f"{job.name}: what is done is kept; the same command resumes from there")
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


def _prepare_known(
    job: CatalogueSet, settings: PrepareSettings, options: PrepareOptions, given: dict[str, Any], progress: ProgressBar
) -> tuple[PreparedSet, tuple[Path, int] | None]:
    """Download a data set of the catalogue and prepare it; also the archive that is kept, and its size."""
    from ganformer_cli.data.prepare.acquire import find_existing

    if not (settings.from_file or settings.labels or options.overwrite or options.strict):
        existing = find_existing(job.entry, settings.data_dir / job.name, options)
        if existing is not None:
            return existing, None
    acquired = _acquire(job, settings, options, progress)
    with acquired.open(settings.labels, options.resolution) as source:
        prepared = _prepare(source, job.name, acquired.format, settings, given, progress)
    kept = acquired.release(keep_download=settings.keep_download)
    return prepared, (acquired.path, kept) if kept else None


def _prepare(
    source: Path | Source,
    name: str,
    format: str | None,
    settings: PrepareSettings,
    options: dict[str, Any],
    progress: ProgressBar,
) -> PreparedSet:
    from ganformer_cli.data.prepare.pipeline import prepare

    begun = 0

    def report(done: int, total: int, skipped: int) -> None:
        nonlocal begun
        if begun == 0:  # what was done in an earlier run says nothing of the speed
            progress.start(total, "images", f"prepare {name}", done=done)
        begun = done
        if done:
            progress.update(done, skipped=skipped)

    return prepare(
        source, name, data_dir=settings.data_dir, format=format, labels=settings.labels, progress=report, **options
    )


def _acquire(
    job: CatalogueSet, settings: PrepareSettings, options: PrepareOptions, progress: ProgressBar
) -> AcquiredArchive:
    """The archive of a catalogue's data set: the user's, or downloaded after the licence was shown."""
    from ganformer_cli.data.prepare.acquire import acquire, acquire_file, estimated_output

    entry = job.entry
    words = {"download": "downloading", "check": "checking"}
    stage: list[str] = []

    def report(what: str, done: int, total: int | None) -> None:
        if stage != [what]:
            stage[:] = [what]
            if what == "download" and done:
                progress.message(f"{entry.name}: the download resumes at {done / MIB:.0f} MiB")
        progress.show_bytes(f"{words[what]} {entry.name}", done, total)

    progress.message(f"{entry.name}: {entry.title}")
    progress.message(f"licence: {entry.licence}{f' ({entry.homepage})' if entry.homepage else ''}")
    if settings.from_file is not None:
        return acquire_file(entry, settings.from_file, check=settings.check, format=settings.format, progress=report)
    _, there = folder_extent(settings.data_dir / f".{job.name}.part")
    output = max(0, estimated_output(entry, options) - there)
    return acquire(
        entry, settings.data_dir, choice=settings.choice, output=output, progress=report,
        notice=progress.message,
    )  # fmt: skip


def verify_set(word: str, data_dir: Path, *, as_json: bool) -> None:
    from ganformer_cli.data.prepare.verify import verify

    folder = data_dir / word
    if not (folder / "manifest.json").is_file():
        folder = Path(word)
    if not folder.is_dir():
        raise DataError(
            f"--verify {word}: neither a data set in {data_dir} nor a folder; look for it with: ls {data_dir}"
        )
    with ProgressBar() as progress:

        def report(done: int, total: int, wrong: int) -> None:
            progress.show("verify", done, total, "images", problems=wrong)

        found = verify(folder, progress=report)
    report_verified(found, as_json=as_json)
