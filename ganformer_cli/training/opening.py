"""Begins a run, or goes on with one: everything that is checked and prepared before the first step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from ganformer_cli.checkpoints import run_folder
from ganformer_cli.checkpoints.rewind import rewind
from ganformer_cli.config import RunConfig
from ganformer_cli.data import ImageDataset
from ganformer_cli.errors import ConfigError, OutputError
from ganformer_cli.files import MIB, write_json
from ganformer_cli.metrics.processes import fail_together
from ganformer_cli.metrics.registry import parse_metrics
from ganformer_cli.training.autotune import write_parallelism
from ganformer_cli.training.distributed import ONE_PROCESS, Group
from ganformer_cli.training.fitting import disk_mib, fit_micro_batch
from ganformer_cli.training.initial_weights import InitialWeights
from ganformer_cli.training.loop import Callbacks, Trainer
from ganformer_cli.training.network_trainer import NetworkTrainer, micro_batches
from ganformer_cli.training.precision_trial import precision_of_run


def open_run(
    config: RunConfig,
    dataset: ImageDataset,
    folder: Path,
    *,
    device: torch.device,
    resume: bool,
    callbacks: Callbacks | None = None,
    start: InitialWeights | None = None,
    override: bool = False,
    resume_from: float | None = None,
    group: Group = ONE_PROCESS,
) -> Trainer:
    """Begin a run in ``folder`` or go on with the one that is there; ``Trainer.run`` then trains.

    Args:
        config: the networks and how they are trained.
        dataset: images of the networks' size.
        folder: the run folder; created unless ``resume``.
        device: where to compute.
        resume: go on from the newest training state in ``folder``.
        callbacks: see ``Callbacks``.
        start: the weights that a new run begins with; None: random ones.
        override: go on even if settings of training, or the images, have changed.
        resume_from: go on from the training state at so many kimg instead; what is later is moved aside.
        group: the processes that train together; all of them call this alike.

    Raises:
        GanformerError: ``start`` does not fit; ``folder`` cannot be written to, or holds another run.
    """
    callbacks = callbacks or Callbacks()
    check_batch(config, group.world_size)
    parse_metrics(config.train.metrics)
    group.check_same(json.dumps(config.to_dict(), sort_keys=True), "the settings")
    group.check_same(dataset.fingerprint, "the images")
    trainer = Trainer(config, dataset, folder, device, callbacks, group)
    checkpointer = trainer.checkpointer
    fail_together(group, lambda: checkpointer.scoring.check(trainer.gan.ema))

    def begin() -> dict[str, str]:
        restored, before = False, None
        run_folder.remove_leftovers(folder)
        if not resume:
            run_folder.check_empty(folder)
            if resume_from is not None:
                raise ConfigError(f"--resume-from {resume_from:g}: {folder} holds no run yet; leave the option out")
        else:
            before = run_folder.read_run_config(folder)
            run_folder.check_same_run(folder, before, config, override=override)
            if resume_from is not None:
                rewind(folder, resume_from, callbacks.message)
            restored = checkpointer.restore(override=override)
        check_disk(folder, trainer.gan, callbacks.message)
        record = None if start is None or restored else start.apply(trainer.gan, callbacks.message)
        if not restored:
            trainer.gan.check_start()
        run_folder.create_run_folder(folder, config)
        if device.type == "cpu":
            write_parallelism(folder, group.world_size, torch.get_num_threads())
        if record is not None:
            write_json(folder / run_folder.TAKEN_FILE, record)
        if restored:
            checkpointer.record_resume()
        precision = None if before is None else before.train.precision
        return precision_of_run(trainer.gan, folder, before=precision, message=callbacks.message)

    blocks = group.run_on_rank0(begin)
    if config.train.precision == "auto":
        trainer.gan.use_precision(blocks)
    trainer.broadcast_state()
    if config.train.batch_gpu is None and not resume:
        fitting = fit_micro_batch(trainer.gan, callbacks.message)
        trainer.gan.micro_batch = group.all_reduce_min(fitting, device)
    return trainer


def check_batch(config: RunConfig, world_size: int) -> None:
    """Raise ConfigError unless ``world_size`` processes can share a batch equally."""
    batch, group = config.train.batch_size, config.model.mbstd_group_size
    if world_size == 1:
        return
    sizes = [] if batch % world_size else micro_batches(batch // world_size, group)
    if not sizes:
        raise ConfigError(
            f"--batch-size {batch} cannot be shared by {world_size} processes: each takes as many images as the "
            f"others, and minibatch-std needs two; choose a multiple of {2 * world_size}, or another number of "
            "processes"
        )
    micro = config.train.batch_gpu
    if micro is not None and micro not in sizes:
        raise ConfigError(
            f"--batch-gpu {micro} does not divide the {batch // world_size} images of --batch-size {batch} that each "
            f"of {world_size} processes takes; choose one of {', '.join(map(str, sizes))}"
        )


def check_disk(folder: Path, gan: NetworkTrainer, message: Callable[[str], None]) -> None:
    """Raise OutputError unless the disk of ``folder`` has room for a snapshot and a state; warn if it may fill up."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free / MIB
    minimum, whole = disk_mib(gan)
    if free < minimum:
        raise OutputError(
            f"--result-dir {folder}: its disk has {free:.1f} MiB free, and a snapshot and a state of this run take "
            f"{minimum:.1f}; free some space, or choose another folder"
        )
    if free < whole:
        message(
            f"warning: the disk of {folder} has {free:.0f} MiB free; this run takes about {whole:.0f}. Keep "
            "fewer snapshots with --last-snapshots, or free some space"
        )
