"""The plan of a training run: what ``ganformer train`` and its ``--dry-run`` print about it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.cli.progress import duration
from ganformer_cli.config import PERCEPTUAL_LOSSES, RunConfig

if TYPE_CHECKING:
    import torch

    from ganformer_cli.data import ImageDataset
    from ganformer_cli.training.autotune import Parallelism


def show_plan(
    config: RunConfig,
    dataset: ImageDataset,
    device: torch.device,
    *,
    as_json: bool,
    measured: bool = False,
    parallelism: Parallelism | None = None,
) -> None:
    """Print what is trained and how; if ``measured``, also what it costs, from a few training steps.

    ``parallelism`` is that of the CPU, where it is to be printed.
    """
    import torch

    from ganformer_cli.data.loading.datasets import small_dataset_hint
    from ganformer_cli.models import parameter_count
    from ganformer_cli.models.families import build_discriminator, build_generator
    from ganformer_cli.operators import native
    from ganformer_cli.training.estimate import run_estimate

    with torch.device("meta"):
        counts = {
            "generator": parameter_count(build_generator(config.model)),
            "discriminator": parameter_count(build_discriminator(config.model)),
        }
    processes = 1 if parallelism is None else parallelism.processes
    operators = native.status(device.type)  # builds them if necessary
    if as_json:
        side = "native" if operators.native else "reference"
        plan = {"config": config.to_dict(), "parameters": counts, "device": str(device), "operators": side}
        if parallelism is not None:
            plan["parallelism"] = dataclasses.asdict(parallelism)
        if measured:
            plan["cost"] = dataclasses.asdict(run_estimate(config, device, processes))
        echo_json(plan)
        return
    model, train = config.model, config.train
    height, width = model.image_size
    grid = model.grid(model.resolution)
    components = f", {model.components_num} components of {model.component_size}" if model.has_components else ""
    kind = f"attention {model.attention_name}"
    if not model.has_attention:
        kind = "k-GAN" if model.kgan else f"no attention{', no style' * (not model.style)}"
    if model.vqgan:
        rows, columns = model.code_grid
        kind = f"VQGAN, {columns}x{rows} of {model.codebook_size} codes"
    if model.g_img2img:
        components += f", self-attention at {model.g_img2img}"
    if model.c_dim:
        labels = f"labels of {model.c_dim} numbers" if dataset.label_kind == "vectors" else f"{model.c_dim} classes"
        components += f", {labels}"
    unused = "; its labels are not used (see --labels)" if dataset.label_dim and not model.c_dim else ""
    echo(f"data       {dataset.name}: {len(dataset)} images of {width}x{height} (width x height){unused}")
    if not model.vqgan and (hint := small_dataset_hint(dataset, train.augment)):
        echo(f"hint       {hint}")
    if grid != (height, width):
        echo(f"grid       {grid[1]}x{grid[0]}, the next larger multiple of the first grid, cropped to the image size")
    echo(f"model      {kind}{components}, {counts['generator']:,} parameters in the")
    echo(f"           generator, {counts['discriminator']:,} in the discriminator")
    gamma = "" if model.vqgan else f", gamma {train.gamma:g}"
    echo(f"training   {train.total_kimg:g} kimg, batch {train.batch_size}{gamma} on {device}")
    if model.vqgan:
        first = {"1": train.total_kimg, "2": 0.0, "both": train.vq_kimg or 0.0}[train.vq_stage]
        echo(f"stages     1 (codes of images) for {first:g} kimg, 2 (transformer) for the rest")
        if first:
            echo(f"loss       L1 and {PERCEPTUAL_LOSSES[train.vq_perceptual]}")
    said = "native" if operators.native else f"plain torch ({operators.reason}); see ganformer doctor"
    echo(f"operators  {said}")
    if parallelism is not None:
        echo(f"cpu        {parallelism}")
    if measured:
        found = run_estimate(config, device, processes)
        if train.precision == "auto" and device.type == "cpu":
            from ganformer_cli.training.precision_trial import described

            echo(f"precision  {described(found.precision)}")
        free = "" if found.free_mib is None else f" of {found.free_mib / 1024:.3g} GiB free"
        needed = "unknown" if found.memory_mib is None else f"about {found.memory_mib / 1024:.2g} GiB{free}"
        echo(f"memory     {needed}, with {found.micro_batch} images per forward pass")
        whole = duration(found.seconds_per_kimg * train.total_kimg)
        echo(f"time       {found.seconds_per_kimg:.3g} s/kimg here, {whole} in total, without image grids and metrics")
        echo(f"disk       about {found.disk_mib / 1024:.2g} GiB for {train.last_snapshots} snapshots and the state")
