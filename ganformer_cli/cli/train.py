"""``ganformer train``: build the configuration, show it, launch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ganformer_cli import config as settings
from ganformer_cli.cli.model_choice import find_model, load_networks, offline_option
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
)
from ganformer_cli.cli.progress import Progress, duration
from ganformer_cli.config import MODEL_FIELDS, TRAIN_FIELDS, ModelConfig, RunConfig, TrainConfig
from ganformer_cli.errors import ConfigError, NotYetError, TrainingError

if TYPE_CHECKING:
    import torch

    from ganformer_cli.cli.model_choice import Networks
    from ganformer_cli.data import ImageDataset
    from ganformer_cli.training.distributed import Group
    from ganformer_cli.training.fitting import Cost
    from ganformer_cli.training.loop import Means, RunResult

#: Longer side of the built-in scenes where none is asked for.
SCENES_RESOLUTION_CPU = 32
SCENES_RESOLUTION_GPU = 128

STOPPED = 130

#: Options whose default depends on the data set and the device: see config.size_preset.
_BY_SIZE = frozenset(settings.size_preset(settings.ModelConfig.resolution, True))
_DEFAULTS = {field.name: field.default for kind in (ModelConfig, TrainConfig) for field in dataclasses.fields(kind)}


def setting(field: str, kind: Any, help: str, *, group: str, rare: bool = True, **more: Any) -> Callable[[Any], Any]:
    """The option of a configuration field; its help ends with the default, its value is None unless given."""
    default = _DEFAULTS[field]
    if field in _BY_SIZE:
        text = f"{help}  [default: by size and device]"
    elif default is None:
        text = help
    else:
        text = f"{help}  [default: {default}]"
    name = settings.option_name(field)
    if kind is bool:
        return boolean_option(name, group=group, rare=rare, help=text, default=None, **more)
    return option(name, field, type=kind, group=group, rare=rare, help=text, default=None, **more)


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
@offline_option
@boolean_option("--restart", group="Run", default=False, help="Begin a new numbered run instead of going on.")
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
@setting("resolution", int, "Longer side in pixels (scenes: 32 on a CPU, 128 on a GPU).", group="Data", rare=False)
@setting("ratio", float, "Height / width.", group="Data", rare=False)
@setting("labels", bool, "Class-conditional: train with the data set's labels.", group="Data", rare=False)
@setting("mirror_augment", bool, "Also show pictures mirrored.", group="Data", rare=False)
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
@setting("use_pos", bool, "Positional embeddings.", group="Attention")
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
@setting("metrics", str, "Scores at each snapshot, or none.", group="Logging")
@setting("eval_images_num", int, "Pictures for the scores.", group="Logging")
# ----- Device -----
@gpus_option
@option(
    "--processes",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    group="Device",
    rare=True,
    help="Train in so many processes of this machine's CPU.  [default: one; on GPUs one for each of --gpus]",
)
@setting("allow_tf32", bool, "TF32 on a GPU.", group="Device")
@setting("cuda_bench", bool, "Let cuDNN choose its algorithms by trying.", group="Device")
# ----- The authors' options that come later, or say what happens anyway -----
@ignored_option("--train", why="this command trains")
@not_yet_option("--reload", help="Take the options of the run that goes on", issue="Robust training")
@not_yet_option("--autotune", help="Choose settings by size", issue="Robust training")
@not_yet_option("--merge-same", help="An option of k-GAN that is described nowhere")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    expname: str | None,
    result_dir: Path,
    restart: bool,
    override: bool,
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
    from ganformer_cli.training import distributed
    from ganformer_cli.training.launcher import run_workers

    baseline = baseline_name(ctx)
    options = chosen_settings(ctx, baseline)
    devices = pick_devices(gpus, training=True)
    count = processes or len(devices)
    if count > 1 and not distributed.asked_for() and not dry_run:
        check_count(count, devices)
        ctx.exit(run_workers(sys.argv[1:], count))
    device = distributed.own_device(devices, chosen=gpus is not None)
    dataset = open_data(options, data_dir, on_cpu=device.type == "cpu")
    config = resolve(options, dataset, baseline, data_dir, on_cpu=device.type == "cpu")
    start = None
    if config.train.pretrained_pkl is not None:
        start = load_networks(find_model(config.train.pretrained_pkl, None, result_dir, offline=offline))
        # What --ganformer-default stands for is no contradiction: the released CLEVR model differs from it.
        config = start_from(start.config, config, {k: v for k, v in given_options(ctx).items() if k in MODEL_FIELDS})
    if dry_run:
        show_plan(config, dataset, device, as_json=as_json, measured=True)
        return
    from ganformer_cli.training.run_folder import choose_run_folder

    name = expname or f"{dataset.name}-{(baseline or config.model.attention).lower()}"
    with distributed.joined(device) as group:
        # A second life under torchrun goes on with the run of the first.
        again = restart and not distributed.restarted()
        folder, resume = group.told(lambda: choose_run_folder(result_dir, name, restart=again))
        result = launch(
            config, dataset, folder, device,
            resume=resume, override=override, quiet=as_json, start=start, group=group,
        )  # fmt: skip
    if group.leads:
        report(result, as_json=as_json)
    if group.ranks > 1:
        end(0 if result.finished else STOPPED)
    if not result.finished:
        ctx.exit(STOPPED)


def end(status: int) -> NoReturn:
    """End one of several processes at once: taking Gloo's connections apart now and then aborts the process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def check_count(count: int, devices: list[torch.device]) -> None:
    """Raise ConfigError unless so many processes can use these devices."""
    if devices[0].type == "cuda" and count != len(devices):
        raise ConfigError(
            f"--processes {count}: on GPUs there is one process for each of --gpus, {len(devices)} here; leave it out"
        )
    if count > 1024:
        raise ConfigError(f"--processes {count}: choose at most 1024")


def baseline_name(ctx: click.Context) -> str | None:
    """The baseline that was asked for, as ``config.BASELINES`` spells it."""
    asked: str | None = ctx.params.get("baseline")
    if asked == "VQGAN":
        raise NotYetError("--baseline VQGAN is not in this version yet; there are GAN, StyleGAN2, SAGAN and kGAN")
    return "kGAN" if asked == "k-GAN" else asked


def chosen_settings(ctx: click.Context, baseline: str | None) -> dict[str, Any]:
    """The configuration fields that the user gave, and what --baseline, --ganformer-default and the like stand for."""
    given = given_options(ctx)
    options = {name: value for name, value in given.items() if name in MODEL_FIELDS | TRAIN_FIELDS}
    implied: list[tuple[str, dict[str, Any], bool]] = [
        ("--kmeans", {"attention": "kmeans"}, given.get("kmeans") is True),
        ("--g-img2ltnt", {"attention": "duplex"}, given.get("g_img2ltnt") is True),
        ("--transformer False", {"attention": "none"}, given.get("transformer") is False),
        ("--ganformer-default", {"attention": "kmeans"}, given.get("ganformer_default") is True),
    ]
    if baseline is not None:
        # What it means wins over nothing that the user says: a contradiction is a mistake.
        meaning = {name: value for name, value in settings.BASELINES[baseline].items() if name != "g_img2img"}
        implied.append((f"--baseline {baseline}", meaning, True))
    for name, meaning, present in implied:
        for setting_name, value in meaning.items() if present else ():
            if options.setdefault(setting_name, value) != value:
                said = settings.option_name(setting_name)
                raise ConfigError(
                    f"{name} means {said} {value} and contradicts {said} {options[setting_name]}; leave one of them out"
                )
    if given.get("transformer") is True and options.get("attention") == "none":
        raise ConfigError(f"--transformer contradicts {baseline_said(baseline)}; leave one of them out")
    if given.get("ganformer_default"):
        options = {**settings.GANFORMER_DEFAULT, **options}
    return options


def baseline_said(baseline: str | None) -> str:
    """How the user said that there be no attention."""
    return "--attention none" if baseline is None else f"--baseline {baseline}"


def open_data(options: dict[str, Any], data_dir: Path, *, on_cpu: bool) -> ImageDataset:
    """The data set that the options name."""
    from ganformer_cli.data import open_dataset

    name = options.get("dataset", TrainConfig.dataset)
    resolution = options.get("resolution")
    if name == "scenes" and resolution is None:
        resolution = SCENES_RESOLUTION_CPU if on_cpu else SCENES_RESOLUTION_GPU
    return open_dataset(
        name,
        data_dir=data_dir,
        resolution=resolution,
        ratio=options.get("ratio"),
        max_images=options.get("train_images_num"),
    )


def resolve(
    options: dict[str, Any], dataset: ImageDataset, baseline: str | None, data_dir: Path, *, on_cpu: bool
) -> RunConfig:
    """The run's configuration: what was given, completed by presets."""
    from ganformer_cli.data.catalogue import find_entry

    entry = find_entry(dataset.name, data_dir)
    given = {**options, "dataset": options.get("dataset", TrainConfig.dataset)}
    given.update(resolution=dataset.resolution, ratio=dataset.ratio)
    if baseline is not None and "g_img2img" in settings.BASELINES[baseline]:
        # The paper's resolution, or that of smaller pictures.
        given.setdefault("g_img2img", min(settings.BASELINES[baseline]["g_img2img"], dataset.resolution))
    if given.get("labels"):
        if dataset.label_dim == 0:
            raise ConfigError(
                f"--labels: --dataset {dataset.name} has no labels; leave the option out, or prepare the pictures with "
                "a dataset.json that has them"
            )
        given["c_dim"] = dataset.label_dim
    config = settings.resolve_run(given, dataset_preset=entry.preset if entry else {}, on_cpu=on_cpu)
    if len(dataset) < config.train.batch_size:
        raise ConfigError(
            f"--dataset {dataset.name}: {len(dataset)} pictures are fewer than --batch-size "
            f"{config.train.batch_size}; use a larger data set or a smaller batch"
        )
    return config


def start_from(found: ModelConfig, config: RunConfig, given: dict[str, Any]) -> RunConfig:
    """``config`` with the networks of a snapshot, whose settings win over presets and contradict nothing given.

    Raises:
        ConfigError: the user or the data set asked for other networks.
    """
    file = config.train.pretrained_pkl
    if found.image_size != config.model.image_size:
        height, width = config.model.image_size
        raise ConfigError(
            f"--pretrained-pkl {file} makes pictures of {found.image_size[1]}x{found.image_size[0]}, those of the data "
            f"set are {width}x{height}; prepare it at that size"
        )
    if found.c_dim != config.model.c_dim:
        raise ConfigError(
            f"--pretrained-pkl {file} has {found.c_dim} classes, this run {config.model.c_dim}; "
            f"{'give --labels and a data set that has them' if found.c_dim else 'leave out --labels'}"
        )
    for name in sorted(set(given) - {"resolution", "ratio"}):
        was = getattr(found, name)
        if given[name] != was:
            said = settings.option_name(name)
            raise ConfigError(f"{said} {given[name]}: the networks of --pretrained-pkl {file} have {was}; leave it out")
    train = config.train
    if not (found.style or found.has_components):
        train = dataclasses.replace(train, style_mixing=0.0)
    return RunConfig(model=found, train=train)


def show_plan(
    config: RunConfig, dataset: ImageDataset, device: torch.device, *, as_json: bool, measured: bool = False
) -> None:
    """Print what would be, or will be, trained; ``measured``: and what it takes, which takes some steps to find out."""
    import torch

    from ganformer_cli.models import Discriminator, Generator, parameter_count
    from ganformer_cli.operators import native

    with torch.device("meta"):
        counts = {
            "generator": parameter_count(Generator(config.model)),
            "discriminator": parameter_count(Discriminator(config.model)),
        }
    operators = native.status(device.type)  # builds them where that is still to be done
    if as_json:
        side = "native" if operators.native else "reference"
        plan = {"config": config.to_dict(), "parameters": counts, "device": str(device), "operators": side}
        if measured:
            plan["cost"] = dataclasses.asdict(cost_of(config, device))
        click.echo(json.dumps(plan, indent=2))
        return
    model, train = config.model, config.train
    height, width = model.image_size
    grid = model.grid(model.resolution)
    components = f", {model.components_num} components of {model.component_size}" if model.has_components else ""
    kind = f"attention {model.attention}"
    if not model.has_attention:
        kind = "k-GAN" if model.kgan else f"no attention{', no style' * (not model.style)}"
    if model.g_img2img:
        components += f", self-attention at {model.g_img2img}"
    if model.c_dim:
        components += f", {model.c_dim} classes"
    click.echo(f"data       {dataset.name}: {len(dataset)} pictures of {width}x{height} (width x height)")
    if grid != (height, width):
        click.echo(f"grid       {grid[1]}x{grid[0]}, the next larger one that 4·2^n gives, cropped to the picture")
    click.echo(f"model      {kind}{components}, {counts['generator']:,} parameters in the")
    click.echo(f"           generator, {counts['discriminator']:,} in the discriminator")
    click.echo(f"training   {train.total_kimg:g} kimg, batch {train.batch_size}, gamma {train.gamma:g} on {device}")
    said = "native" if operators.native else f"plain torch ({operators.reason}); see ganformer doctor"
    click.echo(f"operators  {said}")
    if measured:
        found = cost_of(config, device)
        free = "" if found.free_mib is None else f" of {found.free_mib / 1024:.3g} GiB free"
        needed = "unknown" if found.memory_mib is None else f"about {found.memory_mib / 1024:.2g} GiB{free}"
        click.echo(f"memory     {needed}, with {found.micro_batch} pictures at a time")
        whole = duration(found.seconds_per_kimg * train.total_kimg)
        click.echo(f"time       {found.seconds_per_kimg:.3g} s/kimg here, {whole} in all, beside grids and scores")
        click.echo(
            f"disk       about {found.disk_mib / 1024:.2g} GiB for {train.last_snapshots} snapshots and the state"
        )


def cost_of(config: RunConfig, device: torch.device) -> Cost:
    """What a run takes here, tried.

    Raises:
        TrainingError: not even the smallest part of a batch fits into memory.
    """
    import torch

    from ganformer_cli.training.fitting import cost, fit_micro_batch
    from ganformer_cli.training.memory import is_out_of_memory
    from ganformer_cli.training.players import Players

    torch.manual_seed(config.train.seed)
    players = Players(config, device)
    if config.train.batch_gpu is None:
        players.micro_batch = fit_micro_batch(players, lambda text: None)
    try:
        return cost(players)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory with {players.micro_batch} pictures at a time; choose a smaller --batch-gpu, a lower "
            "--resolution, --channel-max or --channel-base, or free memory on the device"
        ) from error


def launch(
    config: RunConfig,
    dataset: ImageDataset,
    folder: Path,
    device: torch.device,
    *,
    resume: bool,
    override: bool,
    quiet: bool,
    start: Networks | None = None,
    group: Group,
) -> RunResult:
    """Train with a progress bar, from the networks ``start``; Ctrl-C and SIGTERM ask the loop to save and return."""
    from ganformer_cli.training import Callbacks, open_run

    with Progress() as progress, stop_on_signals() as stop_requested:
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

        callbacks = Callbacks(should_stop=stop_requested)
        if group.leads:
            callbacks = Callbacks(progress=on_progress, message=progress.message, should_stop=stop_requested)
        networks = None
        if start is not None:
            networks = {name: getattr(start, name) for name in ("ema", "generator", "discriminator")}
        run = open_run(
            config, dataset, folder,
            device=device, resume=resume, callbacks=callbacks, start=networks, override=override,
            group=group,
        )  # fmt: skip
        if group.leads and not quiet:
            show_plan(config, dataset, device, as_json=False)
        return run.run()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Within the block the first signal to stop only sets what the yielded function tells; a second one acts.

    SIGINT is Ctrl-C, SIGTERM a shutdown, and SIGUSR1 how Slurm can announce that a job's time ends (--signal=USR1@120).
    """
    stop = False
    before: dict[signal.Signals, Any] = {}

    def request(number: int, frame: object) -> None:
        nonlocal stop
        stop = True
        signal.signal(number, before[signal.Signals(number)])
        click.echo("\nfinishing the step and saving; once more to stop at once", err=True)

    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
    for number in numbers:
        before[number] = signal.signal(number, request)
    try:
        yield lambda: stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(result: RunResult, *, as_json: bool) -> None:
    """Say how the run ended and where its pictures are."""
    if as_json:
        paths = {"run": result.folder, "snapshot": result.snapshot, "samples": result.samples}
        places = {name: path.as_posix() for name, path in paths.items()}
        click.echo(json.dumps({**places, "kimg": result.kimg, "finished": result.finished, "scores": result.scores}))
        return
    if not result.finished:
        click.echo(f"stopped at {result.kimg:g} kimg; the same command goes on from here")
        return
    click.echo(f"finished   {result.kimg:g} kimg in {duration(result.seconds)}")
    click.echo(f"pictures   {result.samples}")
    click.echo(f"model      {result.snapshot}")
    click.echo(f"more       ganformer generate --model {result.folder}")
