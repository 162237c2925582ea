"""Running a training from the command line: progress, stopping, the closing lines."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ganformer_cli.cli.eval_networks import fetch_networks
from ganformer_cli.cli.output import VERBOSITY, echo, echo_json
from ganformer_cli.cli.progress import ProgressBar, duration
from ganformer_cli.cli.train_plan import show_plan
from ganformer_cli.config import RunConfig
from ganformer_cli.config.names import quoted
from ganformer_cli.errors import ConfigError
from ganformer_cli.stop_signals import stop_requested

if TYPE_CHECKING:
    import torch

    from ganformer_cli.data import ImageDataset
    from ganformer_cli.original_snapshots.model_files import Origin
    from ganformer_cli.training.autotune import Parallelism
    from ganformer_cli.training.distributed import Group
    from ganformer_cli.training.loop import RunningMeans, RunResult

#: What the progress line shows of the means of a tick, and under which names.
_SHOWN = (("G", "loss_g"), ("D", "loss_d"), ("codes", "loss_codes"), ("p", "augment_p"))


def end(status: int) -> NoReturn:
    """End one of several processes at once, because closing Gloo's connections aborts the process now and then."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def save_and_end() -> None:
    """End a process whose launcher is gone as SIGTERM does, and if that has no effect, at once."""
    from ganformer_cli.checkpoints.run_lock import ORPHAN_GRACE

    with contextlib.suppress(OSError, ValueError):  # whoever reads this may be gone, too
        echo("the process that started this one is gone; ending", err=True)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(ORPHAN_GRACE)
    end(1)


def check_count(count: int, devices: list[torch.device]) -> None:
    """Raise ConfigError unless ``count`` processes can use these devices."""
    if devices[0].type == "cuda" and count != len(devices):
        raise ConfigError(
            f"--processes {count}: on GPUs there is one process for each of --gpus, {len(devices)} here; leave it out"
        )
    if count > 1024:
        raise ConfigError(f"--processes {count}: choose at most 1024")


def check_resume_from(result_dir: Path, name: str, kimg: float, *, restart: bool) -> None:
    """Raise ConfigError unless the run ``name`` has a training state at ``kimg`` to go on from."""
    from ganformer_cli.checkpoints.rewind import find_state
    from ganformer_cli.checkpoints.run_folder import choose_run_folder

    if restart:
        raise ConfigError("--resume-from contradicts --restart, which begins a new run; leave one of them out")
    folder, resume = choose_run_folder(result_dir, name, restart=False)
    if not resume:
        raise ConfigError(
            f"--resume-from {kimg:g}: there is no run {name} in {result_dir} yet; name it with --expname and "
            "--result-dir, or leave the option out"
        )
    find_state(folder, kimg)


def fetch_needed_networks(config: RunConfig, group: Group, *, offline: bool) -> None:
    """Download the weights that a run's metrics and its perceptual loss need, in each process.

    Raises:
        DownloadError: they cannot be had; the message says how to get them by hand.
    """
    from ganformer_cli.metrics.processes import fail_together
    from ganformer_cli.metrics.registry import networks_of, parse_metrics

    names = dict.fromkeys(networks_of(parse_metrics(config.train.metrics)))
    if config.train.vq_perceptual == "lpips":
        names["lpips"] = None
    fail_together(group, lambda: fetch_networks(list(names), offline=offline, silent=not group.is_main))


def use_cpu(
    config: RunConfig, name: str, result_dir: Path, *, processes: int | None, threads: int | None, restart: bool
) -> Parallelism:
    """Choose how many processes and threads train the run ``name`` on the CPU, and set the threads of this process.

    Raises:
        ConfigError: more processes are asked for than this machine can run at once.
    """
    import torch

    from ganformer_cli.checkpoints.run_folder import choose_run_folder
    from ganformer_cli.training.autotune import choose_parallelism

    folder, resume = choose_run_folder(result_dir, name, restart=restart)
    parallelism = choose_parallelism(
        config,
        processes=processes,
        threads=threads,
        folder=folder if resume else None,
        message=lambda text: echo(text, err=True),
    )
    torch.set_num_threads(parallelism.threads)
    return parallelism


def launch(
    config: RunConfig,
    dataset: ImageDataset,
    folder: Path,
    device: torch.device,
    *,
    resume: bool,
    override: bool,
    quiet: bool,
    origin: Origin | None,
    group: Group,
    max_minutes: float | None = None,
    parallelism: Parallelism | None = None,
    tensorboard: bool = False,
    wandb: bool = False,
    resume_from: float | None = None,
) -> RunResult:
    """Train with a progress bar, for at most ``max_minutes``; a new run starts from the weights of ``origin``.

    Ctrl-C, SIGTERM and the like ask the loop to save and return; see ``stop_signals``.
    """
    from ganformer_cli.training import Callbacks, open_run
    from ganformer_cli.training.initial_weights import InitialWeights
    from ganformer_cli.training.run_writers import open_writers
    from ganformer_cli.web.report import ReportWriter, run_environment

    with ProgressBar() as progress, stop_requested(say_stopping) as should_stop:
        started = False

        def on_progress(kimg: float, means: RunningMeans) -> None:
            nonlocal started
            if not started:
                started = True
                done = kimg - config.train.batch_size / 1000
                progress.start(config.train.total_kimg, "kimg", "training", done=done, rate=("images/s", 1000))
            values = means.read() if device.type == "cpu" or means.steps % 16 == 1 else {}
            shown = {name: values[key] for name, key in _SHOWN if key in values}
            progress.update(kimg, **shown)

        callbacks = Callbacks(should_stop=should_stop)
        if group.is_main:
            callbacks = Callbacks(
                progress=on_progress,
                message=progress.message,
                should_stop=should_stop,
                listeners=[
                    ReportWriter(run_environment(sys.argv[1:], device, group, parallelism)),
                    *open_writers(tensorboard=tensorboard, wandb=wandb, message=progress.message),
                ],
            )
        start = None
        if origin is not None:
            left_out = origin.header.get("left_out") or {}
            whole = config.train.pretrained_pkl is not None
            start = InitialWeights(origin.option, origin.networks, whole=whole, left_out=left_out)
        run = open_run(
            config, dataset, folder,
            device=device, resume=resume, callbacks=callbacks, start=start, override=override,
            resume_from=resume_from, group=group,
        )  # fmt: skip
        if group.is_main and not (quiet or VERBOSITY.quiet):
            show_plan(config, dataset, device, as_json=False, parallelism=parallelism)
        if max_minutes is not None:
            run.max_seconds = max_minutes * 60
        return run.run()


def say_stopping() -> None:
    """Answer the first request to stop."""
    echo("\nfinishing the step and saving; once more to stop at once", err=True, lines=True)


def report(result: RunResult, *, as_json: bool, rewound: bool = False) -> None:
    """Print how the run ended and where its images are; ``rewound`` by --resume-from."""
    if as_json:
        paths = {"run": result.folder, "snapshot": result.snapshot, "samples": result.samples}
        places = {name: path.as_posix() for name, path in paths.items()}
        best = None if result.best is None else result.best.as_posix()
        figures: dict[str, Any] = {"kimg": result.kimg, "finished": result.finished, "time_is_up": result.time_is_up}
        figures |= {"scores": result.scores, "best": best}
        echo_json({**places, **figures}, indent=None)
        return
    again = "the same command without --resume-from" if rewound else "the same command"
    if result.time_is_up:
        echo(f"time is up at {result.kimg:g} kimg (--max-minutes); {again} resumes the run")
        return
    if not result.finished:
        echo(f"stopped at {result.kimg:g} kimg; {again} resumes the run")
        return
    echo(f"finished   {result.kimg:g} kimg in {duration(result.seconds)}")
    echo(f"images     {result.samples}")
    echo(f"model      {result.snapshot}")
    if result.best is not None and result.best != result.snapshot:
        echo(f"best       {result.best}")
    echo(f"more       ganformer generate --model {quoted(str(result.folder))}")
