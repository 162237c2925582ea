"""``ganformer train``: build the configuration, show it, launch."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ganformer_cli import config as settings
from ganformer_cli.cli.eval_networks import fetch_networks
from ganformer_cli.cli.model_choice import offline_option
from ganformer_cli.cli.options import (
    GroupedCommand,
    boolean_option,
    given_options,
    gpus_option,
    ignored_option,
    json_option,
    not_yet_option,
    option,
    pick_devices,
    processes_option,
)
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.cli.progress import Progress, duration
from ganformer_cli.cli.train_plan import show_plan
from ganformer_cli.cli.train_settings import (
    as_begun,
    baseline_name,
    check_precision,
    chosen_settings,
    find_start,
    inherited,
    open_data,
    reloaded,
    resolve,
    setting,
    start_from,
)
from ganformer_cli.cli.train_tensorflow import tensorflow_options
from ganformer_cli.config import MODEL_FIELDS, RunConfig
from ganformer_cli.config.names import check_name, quoted, valid_name
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.stop_signals import stop_requested

if TYPE_CHECKING:
    import torch

    from ganformer_cli.cli.model_choice import Origin
    from ganformer_cli.data import ImageDataset
    from ganformer_cli.training.distributed import Group
    from ganformer_cli.training.loop import Means, RunResult

#: Status of a run that was asked to stop.
STOPPED = 130

_SPARE = 12  # characters of a run's name behind that of its data set


@click.command("train", cls=GroupedCommand)
# ----- The run -----
@option("--expname", default=None, metavar="NAME", group="Run", help="Name of the run.  [default: DATASET-ATTENTION]")
@option(
    "--result-dir",
    type=click.Path(path_type=Path),
    default=Path("results"),
    group="Run",
    help="Folder of all runs.",
)
@setting(
    "pretrained_pkl",
    str,
    "Start from the networks of a snapshot, ours or the authors', or of gdrive:clevr-snapshot.pkl and the like.",
    group="Run",
    rare=False,
    metavar="RUN|FILE",
)
@setting(
    "init_from",
    str,
    "Begin a run with the weights of a snapshot that fit, whatever its resolution, classes or attention, and list "
    "the others.",
    group="Run",
    metavar="RUN|FILE",
)
@offline_option
@boolean_option("--restart", group="Run", default=False, help="Begin a new numbered run instead of going on.")
@boolean_option(
    "--reload",
    group="Run",
    rare=True,
    default=False,
    help="Take the settings that are not given from the newest run of --expname, or from the run begun last.",
)
@boolean_option(
    "--override",
    group="Run",
    rare=True,
    default=False,
    help="Go on although settings of training, or the pictures, are others than before.",
)
@boolean_option(
    "--dry-run", group="Run", default=False, help="Show configuration, parameters, and what the run takes; stop."
)
@setting("total_kimg", float, "Thousands of real pictures to show.", group="Run", rare=False)
@setting("seed", int, "Of weights, order and latents.", group="Run", rare=False)
@json_option
# ----- Data -----
@setting("dataset", str, "Built in: scenes. Or a prepared set's name or path.", group="Data", rare=False)
@option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("datasets"),
    group="Data",
    help="Folder of prepared data sets.",
)
@setting("resolution", int, "Longer side in pixels.", group="Data", rare=False)
@setting("ratio", float, "Height / width.", group="Data", rare=False)
@setting("labels", bool, "Class-conditional: train with the data set's labels.", group="Data", rare=False)
@setting("mirror_augment", bool, "Also show pictures mirrored.", group="Data", rare=False)
@setting(
    "augment",
    click.Choice(settings.AUGMENTATIONS),
    "Transform what the discriminator sees, for small data sets: ada finds out how often, fixed takes --augment-p.",
    group="Data",
    rare=False,
)
@setting("augment_p", float, "Probability of each transformation; with ada at the start.", group="Data")
@setting("augment_target", float, "With ada: the mean sign of D's output for real pictures to aim at.", group="Data")
@setting("augment_kimg", float, "With ada: kimg in which the probability can go from 0 to 1.", group="Data")
@setting("train_images_num", int, "Use the first so many pictures only.", group="Data")
@setting("num_threads", int, "Processes that decode pictures beside the main one.", group="Data")
# ----- Model -----
@setting("attention", click.Choice(settings.ATTENTION_KINDS), "Kind of attention.", group="Model", rare=False)
@setting("components_num", int, "Number of latent components.", group="Model", rare=False)
@setting("latent_size", int, "Size of all components together.", group="Model", rare=False)
@option(
    "--baseline",
    type=click.Choice([*settings.BASELINES, "k-GAN", "VQGAN"], case_sensitive=False),
    default=None,
    group="Model",
    help="Instead: a network that the paper compares with.",
)
@boolean_option(
    "--ganformer-default", group="Model", default=False, help="The settings of the authors' released models (kmeans)."
)
@setting("channel_base", int, "Channels at resolution r: min(base / r, max).", group="Model")
@setting("channel_max", int, "Most channels.", group="Model")
@setting("g_arch", click.Choice(settings.ARCHITECTURES), "Generator's architecture.", group="Model")
@setting("d_arch", click.Choice(settings.ARCHITECTURES), "Discriminator's architecture.", group="Model")
@setting("style", bool, "The global latent modulates the convolutions.", group="Model")
@setting("latent_stem", bool, "Start from the global latent, not from a trained grid.", group="Model")
@setting("local_noise", bool, "Noise for each pixel.", group="Model")
@setting("tanh", bool, "End with tanh.", group="Model")
@setting("mapping_num_layers", int, "Layers of the mapping network.", group="Model")
@setting("mapping_dim", int, "Hidden width of the mapping network.  [default: of a component]", group="Model")
@setting("mapping_resnet", bool, "Residual mapping network.", group="Model")
@setting("mapping_shared", bool, "One mapping network for components and global latent.", group="Model")
@setting("mapping_ltnt2ltnt", bool, "Components attend to each other in the mapping.", group="Model")
@setting("w_avg_per_component", bool, "Truncate each component towards a mean of its own.", group="Model")
@setting("g_img2img", int, "Dense self-attention of the picture at this resolution (SAGAN); 0: none.", group="Model")
@setting("merge_type", click.Choice(settings.MERGES), "How k-GAN merges its pictures.", group="Model")
@setting("merge_layer", int, "k-GAN merges features of resolution 2^N; -1: the pictures.", group="Model")
@setting("mbstd_group_size", int, "Group of the minibatch standard deviation.", group="Model")
# ----- Attention -----
@setting("num_heads", int, "Attention heads.", group="Attention")
@option(
    "--integration",
    type=click.Choice(settings.INTEGRATIONS),
    default=None,
    group="Attention",
    rare=True,
    help="How attention changes the image.  [default: mul with kmeans, else both]",
)
@setting("normalize", click.Choice(settings.NORMALIZATIONS), "Normalisation before it.", group="Attention")
@setting("g_start_res", int, "Attention from resolution 2^N on ...", group="Attention")
@setting("g_end_res", int, "... to below 2^N.", group="Attention")
@setting("kmeans_iters", int, "k-means iterations of a layer.", group="Attention")
@setting("iterative", bool, "k-means starts from the assignments of the layer before.", group="Attention")
@setting("g_ltnt2ltnt", bool, "Components attend to each other in the generator too.", group="Attention")
@setting("img_gate", bool, "Gate of the image positions.", group="Attention")
@setting("ltnt_gate", bool, "Gate of the components.", group="Attention")
@setting("use_pos", bool, "Positions of the components; the image always has positions.", group="Attention")
@setting("pos_type", click.Choice(settings.POSITIONS), "Kind of image positions.", group="Attention")
@setting("pos_dim", int, "Width of an image position.  [default: of a component]", group="Attention")
@setting("pos_directions_num", int, "Directions of sinus and linear positions.", group="Attention")
@setting("pos_init", click.Choice(settings.POSITION_INITS), "Start of trained positions.", group="Attention")
@setting("attention_dropout", float, "Dropout rate of the attention.", group="Attention")
@boolean_option(
    "--transformer", group="Attention", rare=True, default=None, help="Attention at all; False is --attention none."
)
@boolean_option("--kmeans", group="Attention", rare=True, default=None, help="Same as --attention kmeans.")
@boolean_option("--g-img2ltnt", group="Attention", rare=True, default=None, help="Same as --attention duplex.")
@setting("d_transformer", bool, "Aggregators in the discriminator attend to the picture.", group="Attention")
@setting("d_ltnt2img", bool, "... and the picture from them.", group="Attention")
@setting("d_start_res", int, "There, from resolution 2^N on ...", group="Attention")
@setting("d_end_res", int, "... to below 2^N.", group="Attention")
# ----- Training -----
@setting("batch_size", int, "Pictures a step.", group="Training", rare=False)
@setting(
    "batch_gpu",
    int,
    "Pictures at a time; the rest is accumulated.  [default: as many as fit into memory]",
    group="Training",
)
@boolean_option(
    "--autotune",
    group="Training",
    rare=True,
    default=False,
    help="Choose --gamma, --g-lr, --d-lr and --ema-kimg by rule, from the pictures' size and --batch-size.",
)
@setting("gamma", float, "Weight of the R1 penalty.", group="Training", rare=False)
@setting("g_lr", float, "Generator's learning rate.", group="Training")
@setting("d_lr", float, "Discriminator's learning rate.", group="Training")
@setting("g_loss", click.Choice(settings.G_LOSSES), "Generator's loss.", group="Training")
@setting("d_loss", click.Choice(settings.D_LOSSES), "Discriminator's loss.", group="Training")
@setting("pl_weight", float, "Weight of path length regularisation.", group="Training")
@setting("g_reg_interval", int, "Path length every so many steps.", group="Training")
@setting("d_reg_interval", int, "R1 every so many steps.", group="Training")
@setting("style_mixing", float, "Probability of mixing two latents across layers.", group="Training")
@setting("component_mixing", float, "Probability of mixing two latents across components.", group="Training")
@setting("component_dropout", float, "Rate at which components are dropped.", group="Training")
@setting("ema_kimg", float, "Half-life of the averaged generator, kimg.", group="Training")
@setting("ema_rampup", float, "That half-life at most this share of the pictures shown.", group="Training")
# ----- Logging -----
@setting("tick_kimg", float, "A line in log.jsonl every so many kimg.", group="Logging")
@setting("snapshot_kimg", float, "A snapshot and its grids every so many kimg.", group="Logging")
@setting("last_snapshots", int, "How many snapshots are kept.", group="Logging")
@setting("save_minutes", float, "Also save the state of the run every so many minutes.", group="Logging")
@setting("keep_samples", bool, "Keep the grids of all snapshots.", group="Logging")
@setting("vis_num", int, "Pictures in a grid.", group="Logging")
@setting("truncation_psi", float, "Truncation of the grids' latents.", group="Logging")
@setting("metrics", str, "Scores at each snapshot, or none: as ganformer eval has them.", group="Logging")
@setting("metrics_every", int, "Scores at every so manieth snapshot, and at the last.", group="Logging")
@setting("eval_images_num", int, "Pictures for the scores.", group="Logging")
# ----- Device -----
@gpus_option
@processes_option("Train")
@setting(
    "precision",
    click.Choice(settings.PRECISIONS),
    "Of a GPU's multiplications; on a CPU tf32 is fp32. bf16, fp16 (a GPU's): image features of the four highest "
    "resolutions take half the memory.",
    group="Device",
    rare=False,
)
@setting(
    "checkpoint_activations",
    bool,
    "Compute features again in the backward pass instead of keeping them: less memory, more time, the same weights.",
    group="Device",
    rare=False,
)
@boolean_option("--allow-tf32", group="Device", rare=True, default=None, help="False is --precision fp32.")
@setting("cuda_bench", bool, "Let cuDNN choose its algorithms by trying.", group="Device")
# ----- The authors' options that come later, or say what happens anyway -----
@ignored_option("--train", why="this command trains")
@tensorflow_options
@not_yet_option("--merge-same", help="An option of k-GAN that is described nowhere")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    expname: str | None,
    result_dir: Path,
    restart: bool,
    reload: bool,
    override: bool,
    autotune: bool,
    dry_run: bool,
    as_json: bool,
    data_dir: Path,
    gpus: tuple[int, ...] | None,
    processes: int | None,
    offline: bool,
    **_: Any,
) -> None:
    """Train a model.

    Without any option: on the built-in scenes, on whatever there is, ending with pictures within minutes. The same
    command again goes on with the run. Ctrl-C saves and stops.
    """
    from ganformer_cli.cli.main import Failure
    from ganformer_cli.training import distributed
    from ganformer_cli.training.launcher import run_workers, when_launcher_ends
    from ganformer_cli.training.loop import check_batch

    when_launcher_ends(save_and_end)
    if expname is not None:
        expname = check_name("--expname", expname)
    baseline = baseline_name(ctx)
    options = chosen_settings(ctx, baseline)
    # What the data set's preset says is more particular: the authors' CLEVR network is not quite the default one.
    defaults = settings.GANFORMER_DEFAULT if ctx.params.get("ganformer_default") else {}
    if reload:
        expname, before = reloaded(result_dir, expname)
        options, defaults = {**before, **defaults, **options}, {}
    devices = pick_devices(gpus, training=True)
    count = distributed.asked_for() or processes or len(devices)
    if not distributed.asked_for():
        check_count(count, devices)
    device = distributed.own_device(devices, chosen=gpus is not None)
    on_cpu = device.type == "cpu"
    origin = find_start(options, offline=offline)
    if origin is not None and options.get("init_from") is not None:
        options = {**inherited(origin.config, options, baseline), **options}
    dataset = open_data(options, data_dir, on_cpu=on_cpu)
    config = resolve(options, dataset, baseline, data_dir, on_cpu=on_cpu, autotune=autotune, defaults=defaults)
    if origin is not None and config.train.pretrained_pkl is not None:
        # What --ganformer-default stands for is no contradiction: the released CLEVR model differs from it.
        config = start_from(origin, config, {k: v for k, v in given_options(ctx).items() if k in MODEL_FIELDS})
    check_precision(config, devices)
    check_batch(config, count)
    if dry_run:
        show_plan(config, dataset, device, as_json=as_json, measured=True)
        return
    if count > 1 and not distributed.asked_for():
        ctx.exit(run_workers(sys.argv[1:], count))
    from ganformer_cli.metrics.processes import together
    from ganformer_cli.metrics.registry import parse_metrics
    from ganformer_cli.training.run_folder import claimed

    name = expname or f"{valid_name(dataset.name, spare=_SPARE)}-{(baseline or config.model.attention).lower()}"
    try:
        with distributed.joined(device) as group, contextlib.ExitStack() as stack:
            # A second life under torchrun goes on with the run of the first.
            again = restart and not distributed.restarted()
            # The first process has the lock of the run, and is the only one that writes.
            folder, resume = group.run_on_rank0(
                lambda: stack.enter_context(
                    claimed(result_dir, name, restart=again, message=lambda text: echo(text, err=True))
                )
            )
            if resume:
                begun = config
                config = group.run_on_rank0(lambda: as_begun(begun, folder))
            scored = parse_metrics(config.train.metrics)
            together(group, lambda: fetch_networks(scored, offline=offline, silent=not group.is_main))
            result = launch(
                config, dataset, folder, device,
                resume=resume, override=override, quiet=as_json, origin=origin, group=group,
            )  # fmt: skip
    except GanformerError as error:
        if not distributed.asked_for():
            raise
        Failure(ctx.command_path, str(error)).show()
        end(1)
    if group.is_main:
        report(result, as_json=as_json)
    # torchrun takes any other status for a failure, and would start the run again at once.
    status = 0 if result.finished or distributed.would_be_restarted() else STOPPED
    if group.world_size > 1:
        end(status)
    ctx.exit(status)


def end(status: int) -> NoReturn:
    """End one of several processes at once: taking Gloo's connections apart now and then aborts the process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def save_and_end() -> None:
    """End one of several processes, whose launcher is gone, as SIGTERM does; at once if it has not within a minute."""
    from ganformer_cli.training.launcher import ORPHAN_GRACE

    with contextlib.suppress(OSError, ValueError):  # whoever reads this may be gone, too
        echo("the process that started this one is gone; ending", err=True)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(ORPHAN_GRACE)
    end(1)


def check_count(count: int, devices: list[torch.device]) -> None:
    """Raise ConfigError unless so many processes can use these devices."""
    if devices[0].type == "cuda" and count != len(devices):
        raise ConfigError(
            f"--processes {count}: on GPUs there is one process for each of --gpus, {len(devices)} here; leave it out"
        )
    if count > 1024:
        raise ConfigError(f"--processes {count}: choose at most 1024")


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
) -> RunResult:
    """Train with a progress bar, a new run with the weights of ``origin``.

    Ctrl-C, SIGTERM and the like ask the loop to save and return; see ``stop_signals``.
    """
    from ganformer_cli.training import Callbacks, open_run
    from ganformer_cli.training.starting import Start

    with Progress() as progress, stop_requested(say_stopping) as should_stop:
        started = False

        def on_progress(kimg: float, means: Means) -> None:
            nonlocal started
            if not started:
                started = True
                done = kimg - config.train.batch_size / 1000
                progress.start(config.train.total_kimg, "kimg", "training", done=done, rate=("images/s", 1000))
            values = means.read() if device.type == "cpu" or means.steps % 16 == 1 else {}
            shown = {name: values[key] for name, key in (("G", "loss_g"), ("D", "loss_d")) if key in values}
            progress.update(kimg, **shown)

        callbacks = Callbacks(should_stop=should_stop)
        if group.is_main:
            callbacks = Callbacks(progress=on_progress, message=progress.message, should_stop=should_stop)
        start = None
        if origin is not None:
            left_out = origin.header.get("left_out") or {}
            whole = config.train.pretrained_pkl is not None
            start = Start(origin.option, origin.networks, whole=whole, left_out=left_out)
        run = open_run(
            config, dataset, folder,
            device=device, resume=resume, callbacks=callbacks, start=start, override=override,
            group=group,
        )  # fmt: skip
        if group.is_main and not quiet:
            show_plan(config, dataset, device, as_json=False)
        return run.run()


def say_stopping() -> None:
    """What the first request to stop is answered with."""
    echo("\nfinishing the step and saving; once more to stop at once", err=True, lines=True)


def report(result: RunResult, *, as_json: bool) -> None:
    """Say how the run ended and where its pictures are."""
    if as_json:
        paths = {"run": result.folder, "snapshot": result.snapshot, "samples": result.samples}
        places = {name: path.as_posix() for name, path in paths.items()}
        best = None if result.best is None else result.best.as_posix()
        figures = {"kimg": result.kimg, "finished": result.finished, "scores": result.scores, "best": best}
        echo_json({**places, **figures}, indent=None)
        return
    if not result.finished:
        echo(f"stopped at {result.kimg:g} kimg; the same command goes on from here")
        return
    echo(f"finished   {result.kimg:g} kimg in {duration(result.seconds)}")
    echo(f"pictures   {result.samples}")
    echo(f"model      {result.snapshot}")
    if result.best is not None and result.best != result.snapshot:
        echo(f"best       {result.best}")
    echo(f"more       ganformer generate --model {quoted(str(result.folder))}")
