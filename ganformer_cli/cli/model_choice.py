"""Options that choose a model and real images, and how the model is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.completion import complete_datasets, complete_models, complete_runs
from ganformer_cli.cli.options import MAX_PSI, F, collected, folder_option, option, path_option, switch, warn
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.errors import SnapshotError
from ganformer_cli.files import sha256_of

if TYPE_CHECKING:
    pass

#: How the authors name the snapshots that they published.
GDRIVE = "gdrive:"
#: A model on the Hugging Face Hub; ``downloads.HUB_PREFIX``, which is too heavy to import here.
HUB = "hf:"


offline_option = switch("--offline", group="Model", rare=True, help="Download nothing.")


@dataclass(frozen=True)
class ModelChoice:
    """What the options of :data:`model_options` say."""

    model: str | None
    expname: str | None
    result_dir: Path
    offline: bool

    def find(self) -> Path:
        """The snapshot file that is meant; one that is published is downloaded if necessary.

        Raises:
            SnapshotError: there is none.
            DownloadError: it cannot be downloaded.
        """
        from ganformer_cli.checkpoints.run_folder import runs_of, snapshots_of

        if self.model is not None:
            return named_model(self.model, "--model", offline=self.offline)
        folder = self.result_dir
        if self.expname is None:
            runs = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        else:
            runs = [*runs_of(folder, self.expname), folder / self.expname]
        # A run that has just begun has no snapshot yet.
        ready = [snapshots[-1] for snapshots in map(snapshots_of, runs) if snapshots]
        if not ready:
            what = (
                f"--expname {self.expname}: no run of that name" if self.expname else f"--result-dir {folder}: no run"
            )
            raise SnapshotError(
                f"{what} with a snapshot in {folder}; train one with ganformer train, or give --expname or --model"
            )
        return ready[-1] if self.expname else max(ready, key=lambda snapshot: snapshot.stat().st_mtime)


#: ``--model``, ``--expname``, ``--result-dir`` and ``--offline``, as the parameter ``model``: a :class:`ModelChoice`.
model_options = collected(
    "model",
    option(
        "--model",
        "--pretrained-pkl",
        metavar="RUN|FILE",
        shell_complete=complete_models,
        group="Model",
        help="A run folder (its newest snapshot), a snapshot file of ours or of the authors' (.pkl), one that the "
        "authors published (gdrive:clevr-snapshot.pkl), or one on the Hugging Face Hub (hf:USER/REPO).  [default: see "
        "--expname]",
    ),
    option(
        "--expname",
        metavar="NAME",
        shell_complete=complete_runs,
        group="Model",
        help="Without --model: name of the run.  [default: the run that saved last]",
    ),
    path_option("--result-dir", default="results", group="Model", help="Without --model: folder of the runs."),
    offline_option,
    into=ModelChoice,
)


def psi_option(*, default: float, help: str) -> Callable[[F], F]:
    """``--truncation-psi``."""
    return option("--truncation-psi", type=click.FloatRange(-MAX_PSI, MAX_PSI), default=default, help=help)


def dataset_option(help: str) -> Callable[[F], F]:
    """``--dataset``, real images by name or path."""
    return option("--dataset", shell_complete=complete_datasets, metavar="NAME|PATH", help=help)


data_dir_option = folder_option("--data-dir", default="datasets", help="Folder of prepared data sets.")


def named_model(model: str, option: str, *, offline: bool) -> Path:
    """The snapshot file that ``option`` names: in a run folder, a file, or published, ``gdrive:…`` or ``hf:…``.

    What is published is downloaded, with a progress bar, if it is not in the cache.

    Raises:
        SnapshotError, ConfigError: there is none of that name.
        DownloadError: it cannot be downloaded.
    """
    from ganformer_cli.checkpoints.run_folder import resolve_model
    from ganformer_cli.downloads.hub import fetch_hub, parse_hub_address
    from ganformer_cli.original_snapshots import fetch_snapshot

    if not model.startswith((GDRIVE, HUB)):
        return resolve_model(model, option)
    with ProgressBar() as progress:

        def report(done: int, total: int | None) -> None:
            progress.show_bytes(model.partition(":")[2], done, total)

        if model.startswith(HUB):
            address = parse_hub_address(model, option)
            return fetch_hub(address, offline=offline, progress=report, notice=warn)
        return fetch_snapshot(model, offline=offline, progress=report)


def run_of(snapshot: Path) -> Path | None:
    """The run folder that contains a snapshot file, or None."""
    from ganformer_cli.checkpoints.run_folder import CONFIG_FILE, SNAPSHOT_FOLDER

    run = snapshot.resolve().parent.parent
    return run if snapshot.resolve().parent.name == SNAPSHOT_FOLDER and (run / CONFIG_FILE).is_file() else None


def model_name(file: Path) -> str:
    """The name of its run, else that of the file without its ending."""
    run = run_of(file)
    return file.stem if run is None else run.name


def model_metadata(file: Path) -> dict[str, Any]:
    """What images that a model makes say of it: its checksum, its run, if it lies in one, and its file."""
    run = run_of(file)
    return {"model": sha256_of(file), **({} if run is None else {"run": run.name}), "file": file.name}
