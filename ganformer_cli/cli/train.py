"""``ganformer train``: build the configuration, show it, launch."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from ganformer_cli import config as settings
from ganformer_cli.cli import train_run
from ganformer_cli.cli.completion import complete_runs
from ganformer_cli.cli.config_file import config_text
from ganformer_cli.cli.devices import check_precision, gpus_option, pick_devices, processes_option
from ganformer_cli.cli.model_choice import offline_option
from ganformer_cli.cli.options import (
    MAX_PROCESSES,
    GroupedCommand,
    file_option,
    given_options,
    json_option,
    option,
    path_option,
    section,
    switch,
)
from ganformer_cli.cli.output import VERBOSITY, echo
from ganformer_cli.cli.train_compatibility import compatibility_options
from ganformer_cli.cli.train_options import setting_options
from ganformer_cli.cli.train_plan import show_plan
from ganformer_cli.cli.train_settings import baseline_name, chosen_settings, find_start, open_data
from ganformer_cli.cli.verbosity import verbosity_options
from ganformer_cli.config.names import check_name, valid_name
from ganformer_cli.cpus import limit_spinning
from ganformer_cli.errors import GanformerError
from ganformer_cli.outputs import write_output

#: Status of a run that was asked to stop.
STOPPED = 130

_SPARE = 12  # characters of a run's name behind that of its data set


@click.command("train", cls=GroupedCommand)
@section("Run")
@option(
    "--expname", metavar="NAME", shell_complete=complete_runs, help="Name of the run.  [default: DATASET-ATTENTION]"
)
@path_option("--result-dir", default="results", help="Folder of all runs.")
@switch("--restart", help="Start a new numbered run instead of resuming.")
@option(
    "--max-minutes",
    type=click.FloatRange(0, 10_000_000, min_open=True),
    metavar="N",
    help="Save and end after N minutes; the same command resumes the run.",
)
@switch("--dry-run", help="Show the configuration and an estimate of time and memory, and exit.")
@setting_options("Run")
@file_option(
    "--write-config", metavar="FILE.toml", rare=True, help="Write the settings of the run to a file for --config."
)
@switch(
    "--reload",
    rare=True,
    help="Take settings that are not given from the newest run of --expname, or else from the newest run.",
)
@option(
    "--resume-from",
    type=click.FloatRange(0, 10**9),
    metavar="KIMG",
    rare=True,
    help="Resume from an earlier training state (see --last-states); what is later is moved aside in the run folder.",
)
@switch("--override", rare=True, help="Resume although training settings or images have changed.")
@section("Data")
@path_option("--data-dir", default="datasets", help="Folder of prepared data sets.")
@setting_options("Data")
@section("Model")
@option(
    "--baseline",
    type=click.Choice([*settings.BASELINES, "k-GAN"], case_sensitive=False),
    help="A network that the paper compares with, instead of the GANsformer.",
)
@switch("--ganformer-default", help="Settings of the authors' released models (kmeans).")
@setting_options("Model")
@offline_option
@setting_options("Attention")
@setting_options("VQGAN")
@section("Training")
@switch(
    "--autotune", rare=True, help="Choose --gamma, --g-lr, --d-lr and --ema-kimg from the image size and --batch-size."
)
@setting_options("Training")
@setting_options("Logging")
@section("Logging")
@switch("--tensorboard", help="Also write curves and images for TensorBoard to the run folder (needs tensorboard).")
@switch("--wandb", rare=True, help="Also log to Weights & Biases (needs wandb).")
@gpus_option
@processes_option("Train", default="what a trial finds fastest; on GPUs one for each of --gpus")
@section("Device")
@option(
    "--threads",
    type=click.IntRange(1, MAX_PROCESSES),
    rare=True,
    help="Threads of each process on the CPU.  [default: what a trial finds fastest, or OMP_NUM_THREADS]",
)
@setting_options("Device")
@compatibility_options
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    expname: str | None,
    result_dir: Path,
    restart: bool,
    reload: bool,
    resume_from: float | None,
    override: bool,
    autotune: bool,
    dry_run: bool,
    write_config: Path | None,
    as_json: bool,
    data_dir: Path,
    gpus: tuple[int, ...] | None,
    processes: int | None,
    threads: int | None,
    max_minutes: float | None,
    offline: bool,
    tensorboard: bool,
    summarize: bool,
    wandb: bool,
    **_: Any,
) -> None:
    """Train a model.

    Without any option, it trains on the built-in scenes, on a GPU if there is one, and ends with images within minutes.
    The same command again resumes the run. Ctrl-C saves and stops.
    """
    from ganformer_cli.cli.main import Failure

    limit_spinning()
    from ganformer_cli.training import distributed, run_settings
    from ganformer_cli.training.launcher import run_workers, when_launcher_ends
    from ganformer_cli.training.opening import check_batch

    when_launcher_ends(train_run.save_and_end)
    if expname is not None:
        expname = check_name("--expname", expname)
    baseline = baseline_name(ctx)
    options = chosen_settings(ctx)
    # Weaker than the data set's preset: the authors' CLEVR network is not quite their default one.
    defaults = settings.GANFORMER_DEFAULT if ctx.params.get("ganformer_default") else {}
    if reload:
        expname, before = run_settings.reloaded_settings(result_dir, expname)
        options, defaults = {**before, **defaults, **options}, {}
    devices = pick_devices(gpus, training=True)
    launched = distributed.launched_world_size()
    count = launched or processes or len(devices)
    if not launched:
        train_run.check_count(count, devices)
    device = distributed.local_device(devices, chosen=gpus is not None)
    on_cpu = device.type == "cpu"
    origin = find_start(options, offline=offline)
    if origin is not None and options.get("init_from") is not None:
        options = {**run_settings.network_settings(origin.config, options, baseline), **options}
    dataset = open_data(options, data_dir, on_cpu=on_cpu)
    config = run_settings.resolve(
        options, dataset, baseline, data_dir, on_cpu=on_cpu, autotune=autotune, defaults=defaults
    )
    if origin is not None and config.train.pretrained_pkl is not None:
        config = run_settings.pretrained_config(origin, config, given_options(ctx))
    check_precision(config.train.precision, devices)
    spelled = given_options(ctx).get("attention")
    # As it is asked for, so that the same command finds the same run; that of a given snapshot as files call it.
    default = config.model.attention_name if origin is None else config.model.attention
    kind = (baseline or spelled or options.get("attention") or default).lower()
    name = expname or f"{valid_name(dataset.name, spare=_SPARE)}-{kind}"
    parallelism = None
    if on_cpu and not launched:
        parallelism = train_run.use_cpu(config, name, result_dir, processes=processes, threads=threads, restart=restart)
        count = parallelism.processes
    check_batch(config, count)
    if write_config is not None:
        write_output(write_config, config_text(config).encode("utf-8"), "--write-config")
    if resume_from is not None and not launched:
        train_run.check_resume_from(result_dir, name, resume_from, restart=restart)
    if dry_run:
        show_plan(config, dataset, device, as_json=as_json, measured=True, parallelism=parallelism)
        return
    if count > 1 and not launched:
        if parallelism is not None and not (as_json or VERBOSITY.quiet):
            echo(f"cpu        {parallelism}")
        ctx.exit(run_workers(sys.argv[1:], count, None if parallelism is None else parallelism.threads))
    from ganformer_cli.checkpoints.run_folder import claimed

    say = partial(echo, err=True)
    try:
        with distributed.process_group(device) as group, contextlib.ExitStack() as stack:
            # Restarted by torchrun, it resumes the run that it began.
            again = restart and not distributed.is_restart()
            # Rank 0 holds the lock of the run, and is the only one that writes.
            folder, resume = group.run_on_rank0(
                lambda: stack.enter_context(claimed(result_dir, name, restart=again, message=say))
            )
            if resume:
                begun = config
                config = group.run_on_rank0(
                    lambda: run_settings.resumed_config(begun, folder, options, attention=spelled, say=say)
                )
            train_run.fetch_needed_networks(config, group, offline=offline)
            result = train_run.launch(
                config, dataset, folder, device,
                resume=resume, override=override, quiet=as_json, origin=origin, group=group, max_minutes=max_minutes,
                parallelism=parallelism, tensorboard=tensorboard or summarize, wandb=wandb,
                # Restarted by torchrun, it goes on from the newest state.
                resume_from=None if distributed.is_restart() else resume_from,
            )  # fmt: skip
    except GanformerError as error:
        if not distributed.launched_world_size():
            raise
        Failure(ctx.command_path, str(error)).show()
        train_run.end(1)
    if group.is_main:
        train_run.report(result, as_json=as_json, rewound=resume_from is not None)
    # torchrun takes any other status for a failure, and would restart the run at once.
    status = 0 if result.finished or result.time_is_up or distributed.will_be_restarted() else STOPPED
    if group.world_size > 1:
        train_run.end(status)
    ctx.exit(status)
