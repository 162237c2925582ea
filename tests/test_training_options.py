"""Every option of the networks and their training, and every baseline, trained for a handful of steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ganformer_cli.config import BASELINES, ModelConfig, resolve_run
from ganformer_cli.data.images import ImageArray
from ganformer_cli.data.loading.datasets import ImageDataset
from ganformer_cli.models import AttentionMap, Generator
from ganformer_cli.models.prepared import PreparedWeights
from ganformer_cli.training import Callbacks, losses
from ganformer_cli.training.gan import GANTrainer, StepResult
from ganformer_cli.training.loop import Trainer
from ganformer_cli.training.network_trainer import RunningMeans
from tests.prepared_gradients import gradients_of
from tests.small_generators import SMALL_VQGAN

TINY: dict[str, Any] = {
    "resolution": 16,
    "components_num": 4,
    "latent_size": 32,
    "channel_base": 256,
    "channel_max": 16,
    "mapping_num_layers": 2,
    "precision": "fp32",
    "batch_size": 4,
    "metrics": "none",
}
STEPS = 3

SIMPLEX, EQUATION, KMEANS = ({"attention": kind} for kind in ("simplex", "duplex-equation", "kmeans"))
GATES: dict[str, Any] = {"img_gate": True, "ltnt_gate": True}
IN_TWO: dict[str, Any] = {"batch_size": 8, "batch_gpu": 4}
SMALL_SAGAN = {**BASELINES["SAGAN"], "g_img2img": 8}

#: Options that leave each other alone are trained at once: every run records its passes, which takes most of the time.
GROUPS: list[list[dict[str, Any]]] = [
    [
        SIMPLEX,  # integration "both" is its own
        {"pos_type": "trainable2d", **SIMPLEX},
        {"locality_weight": 2.0, **SIMPLEX},
        {"g_arch": "orig", "d_arch": "orig"},
        {"mapping_dim": 20},
    ],
    [
        {"num_heads": 2, **SIMPLEX},
        {"integration": "mul", **SIMPLEX},
        {"pos_type": "linear", **SIMPLEX},
        {**GATES, **SIMPLEX},
        {"labels": True, "d_transformer": True, "mapping_resnet": False},
    ],
    [
        {"integration": "add", **SIMPLEX},
        {"pos_type": "trainable", **SIMPLEX},
        {"pl_weight": 2.0, **SIMPLEX},
        {"g_arch": "skip", "d_arch": "skip"},
        {"w_avg_per_component": False},
        {"g_loss": "hinge", "d_loss": "hinge"},
    ],
    [EQUATION, {"pl_weight": 2.0, **EQUATION}, {"tanh": True}, {"mapping_shared": True}],
    [
        {"num_heads": 2, **EQUATION},
        {"integration": "mul", **EQUATION},
        {**GATES, **EQUATION},
        {"normalize": "none"},
        {"local_noise": False},
        {"g_loss": "wgan", "d_loss": "wgan"},
    ],
    [
        {"integration": "add", **EQUATION},
        {"locality_weight": 2.0, **EQUATION},
        {"labels": True},
        {"pos_directions_num": 4},
    ],
    [KMEANS, {"attention_dropout": 0.0, "style_mixing": 0.0, "mirror_augment": True, "ema_kimg": 0.0}],
    [
        {"num_heads": 2, **KMEANS},
        {"kmeans_iters": 3, **KMEANS},
        {**GATES, **KMEANS},
        {"normalize": "instance"},
        {"mapping_resnet": False},
    ],
    [
        {"iterative": True, **KMEANS},
        {"pl_weight": 2.0, **KMEANS},
        {"pos_type": "trainable2d", "pos_init": "normal", **KMEANS},
        {"g_ltnt2ltnt": True},
        {"mbstd_group_size": 2, "g_loss": "logistic", "gamma": 0.0},
    ],
    [
        {"mapping_ltnt2ltnt": False, **KMEANS},
        {"locality_weight": 2.0, **KMEANS},
        {"use_pos": False},
        {"component_dropout": 0.3, "component_mixing": 1.0, "ema_rampup": None},
    ],
    [
        {"mapping_ltnt2ltnt": False, "ltnt_gate": True, **KMEANS},
        {"pos_dim": 12},
        {"latent_stem": True},
        {"map_divergence_weight": 1.0},
    ],
    [
        {"iterative": True, "kmeans_iters": 2, "num_heads": 2, "g_start_res": 3, **KMEANS},
        {"d_transformer": True, "d_ltnt2img": True, "num_heads": 2},
    ],
    [
        {"g_start_res": 3, "g_end_res": 4, "resolution": 16},
        {"d_transformer": True, "d_ltnt2img": True, "d_start_res": 3, "d_end_res": 4, "use_pos": False},
    ],
    [{"style": False}, {"mapping_num_layers": 0}],
    [
        {"style": False, "latent_stem": True, **KMEANS},
        {"g_img2img": 8},
        {"d_transformer": True, "d_ltnt2img": False, "num_heads": 2},
    ],
    [{"objective": "relativistic"}],
    [{"objective": "relativistic", "labels": True, **IN_TWO}],
    [{"pl_weight": 2.0, **IN_TWO}, {"locality_weight": 2.0, "pl_weight": 2.0, **IN_TWO}],
    [BASELINES["StyleGAN2"], {"pl_weight": 2.0, "attention": "none"}],
    [{"labels": True, **BASELINES["StyleGAN2"]}],
    [BASELINES["GAN"]],
    [{"labels": True, **BASELINES["GAN"]}],
    [SMALL_SAGAN, {"pl_weight": 2.0, **SMALL_SAGAN}],
    [{**BASELINES["VQGAN"], **SMALL_VQGAN}],
    [BASELINES["kGAN"], {"locality_weight": 2.0, **BASELINES["kGAN"]}],
    [{"merge_layer": 2, **BASELINES["kGAN"]}, {"labels": True, **BASELINES["kGAN"]}],
    *([{"merge_type": kind, **BASELINES["kGAN"]}] for kind in ("sum", "max", "leaves")),
    [{"merge_layer": 3, "merge_type": "leaves", "g_arch": "skip", "resolution": 16, **BASELINES["kGAN"]}],
]


class Labelled(ImageDataset):
    """Random pictures of three classes, in turn."""

    label_dim = 3

    def __init__(self, side: int) -> None:
        super().__init__("labelled", side, side, 1.0, 16, "0" * 64)

    def _load(self, index: int) -> ImageArray:
        return np.random.default_rng(index).integers(0, 256, (3, self.height, self.width), np.uint8)

    def label(self, index: int) -> npt.NDArray[np.float32]:
        return np.eye(3, dtype=np.float32)[index % 3]


def trainer_of(options: dict[str, Any]) -> Trainer:
    """Tiny networks before their first step."""
    given = {**TINY, **options}
    if given.get("attention") == "none" and not given.get("kgan"):
        del given["components_num"]
    if given.get("vqgan"):  # the discriminator joins in the second step, the transformer is trained in the third
        given.update(vq_kimg=0.008, vq_warmup_kimg=0.004)
    if given.get("labels"):
        given["c_dim"] = 3
    config = resolve_run(given, dataset_preset={}, on_cpu=True)
    return Trainer(config, Labelled(given["resolution"]), Path("unused"), torch.device("cpu"), Callbacks())


def name_of(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())


def together(group: list[dict[str, Any]]) -> dict[str, Any]:
    """The options of a group, of which no two may give one setting different values."""
    options: dict[str, Any] = {}
    for each in group:
        assert all(options.get(name, value) == value for name, value in each.items()), f"{name_of(each)} contradicts"
        options |= each
    return options


def names_of(group: list[dict[str, Any]]) -> str:
    return "; ".join(map(name_of, group))


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=names_of)
def test_every_option_trains(group: list[dict[str, Any]]) -> None:
    """On failure, each option of the group is trained by itself, and those that fail are named."""
    try:
        check_training(together(group))
    except Exception as error:
        guilty = []
        for options in group if len(group) > 1 else ():
            try:
                check_training(options)
            except Exception as its_own:
                guilty.append(f"{name_of(options)}: {its_own}")
        raise AssertionError("\n".join(guilty) or f"all of it together: {error}") from error


def check_training(options: dict[str, Any]) -> None:
    """Losses are finite, no parameter is dead, two latents give two pictures, and the average moves.

    A parameter without a gradient is what breaks the original under distributed training.
    """
    with pytest.MonkeyPatch.context() as patch:
        check_training_with(patch, {"resolution": 8, **options})


def check_training_with(patch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    """``check_training``; ``patch`` watches the gradients of prepared weights."""
    trainer = trainer_of(options)
    largest: dict[torch.Tensor, float] = {}

    def remember(parameter: torch.Tensor, gradient: torch.Tensor | None) -> None:
        assert gradient is not None, "a parameter is left out"
        largest[parameter] = max(largest.get(parameter, 0.0), gradient.abs().max().item())

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            remember(parameter, parameter.grad)

    def remembered_step(weights: PreparedWeights, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        gradients = gradients_of(weights)
        for parameter in optimizer.param_groups[0]["params"]:
            remember(parameter, gradients.get(parameter))
        return prepared_step(weights, optimizer)

    prepared_step = PreparedWeights.step
    patch.setattr(PreparedWeights, "step", remembered_step)
    for optimizer, _ in trainer.gan.optimizers.values():
        optimizer.register_step_pre_hook(before_step)
    before = copy.deepcopy(trainer.gan.ema)
    means = RunningMeans()
    with trainer.open_stream() as stream:
        for _ in range(STEPS):
            trainer.train_step(next(stream), means)
    for name, value in means.read().items():
        assert np.isfinite(value), name
    for network in (trainer.gan.generator, trainer.gan.discriminator):
        for name, parameter in network.named_parameters():
            assert np.isfinite(largest[parameter]), name
            # Losses of the difference of real and fake scores do not see a number added to both.
            differences = options.get("d_loss") in ("hinge", "wgan") or "objective" in options or "vqgan" in options
            cancels = name in ("b4.out.bias", "layers.5.bias") and differences
            assert largest[parameter] > 0 or cancels, f"{name} is dead"
    for (name, old), new in zip(before.named_parameters(), trainer.gan.ema.parameters(), strict=True):
        assert not torch.equal(old, new), name
    z = torch.randn(2, *trainer.gan.ema.z_shape)
    c = torch.eye(3)[:1].expand(2, -1) if options.get("labels") else None
    first, second = trainer.gan.ema(z, c, noise_mode="const")
    assert first.isfinite().all()
    assert (first - second).abs().max() > 1e-4


def test_labels_reach_the_picture_and_its_score() -> None:
    trainer = trainer_of({"labels": True})
    z = torch.randn(1, *trainer.gan.ema.z_shape).expand(3, -1, -1)
    pictures = trainer.gan.ema(z, torch.eye(3), noise_mode="const")
    assert (pictures[0] - pictures[1]).abs().max() > 1e-4
    scores = trainer.gan.discriminator(pictures[:1].expand(3, -1, -1, -1), torch.eye(3))
    assert len(set(scores.flatten().tolist())) == 3


@pytest.mark.parametrize("attention", ["none", "simplex"])
def test_path_length_is_the_length_of_a_push(attention: str) -> None:
    """Against Jᵀy computed picture by picture, number by number."""
    torch.manual_seed(0)
    generator = trainer_of({"attention": attention}).gan.ema.double()
    ws = generator.mapping(torch.randn(2, *generator.z_shape, dtype=torch.float64)).detach().clone().requires_grad_()
    torch.manual_seed(1)
    lengths = losses.path_lengths(generator.synthesis(ws, "const"), ws)
    torch.manual_seed(1)
    push = torch.randn(2, 3, 16, 16, dtype=torch.float64) / 16
    for i in range(2):
        one = ws[i : i + 1].detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad((generator.synthesis(one, "const") * push[i]).sum(), one)
        squared = [vector.norm() ** 2 for vector in gradient.reshape(-1, gradient.shape[-1])]
        torch.testing.assert_close(lengths[i], (sum(squared) / len(squared)) ** 0.5)


def test_path_length_does_not_depend_on_how_many_components_push() -> None:
    """A linear "generator" whose every latent adds the same picture: m latents, one length."""
    lengths = []
    for latents in (1, 5):
        torch.manual_seed(0)
        ws = torch.randn(3, latents, 2, 4, requires_grad=True)
        images = ws.sum((1, 2)) @ torch.ones(4, 48)
        torch.manual_seed(1)
        lengths.append(losses.path_lengths(images.reshape(3, 3, 4, 4), ws))
    torch.testing.assert_close(lengths[0], lengths[1])


def test_path_length_penalty_follows_its_running_mean() -> None:
    trainer = trainer_of({"pl_weight": 2.0})
    assert isinstance(trainer.gan, GANTrainer)
    ws = trainer.gan.draw_latents(None, slice(0, 2), StepResult())
    penalty, mean = losses.path_length_penalty(trainer.gan.generator, ws, torch.zeros([]))
    # From 0 the mean has gone a hundredth of the way: the lengths are about a hundred times as large.
    lengths = penalty.sqrt() + mean
    assert mean.item() == pytest.approx(0.01 * lengths.mean().item(), rel=1e-4)


def test_component_mixing_takes_the_last_components_from_another_latent() -> None:
    torch.manual_seed(0)
    generator = trainer_of({"attention": "simplex"}).gan.ema
    z = torch.randn(2, *generator.z_shape)
    plain = generator.mapping(z)
    mixed, _ = losses.mixed_latents(generator, z, None, 0.0, component_mixing=1.0)
    # Mixing maps twice as many latents at once, which may round otherwise.
    same = [torch.allclose(mixed[:, k], plain[:, k], atol=1e-5) for k in range(5)]
    cut = same.index(False)
    assert 1 <= cut <= 3
    assert same == [k < cut or k == 4 for k in range(5)]  # the global latent stays


@pytest.mark.parametrize(
    ("kind", "fakes", "reals", "generator"),
    [("logistic", 1.22009, 0.72009, -1.22009), ("hinge", 1.5, 1.0, -0.5), ("wgan", 0.5, -0.5, -0.5)],
)
def test_losses_are_their_formulas(kind: str, fakes: float, reals: float, generator: float) -> None:
    """Of the scores -1 and 2: softplus(D) is 0.31326 and 2.12693, softplus(-D) 1.31326 and 0.12693."""
    scores = torch.tensor([[-1.0], [2.0]])
    assert losses.fake_loss(scores, kind).item() == pytest.approx(fakes, abs=1e-4)
    assert losses.real_loss(scores, kind).item() == pytest.approx(reals, abs=1e-4)
    assert losses.generator_loss(scores, kind).item() == pytest.approx(generator, abs=1e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_the_relativistic_objective_is_its_formula(number: int) -> None:
    """Gradients of both networks against a transcription in float64 (Huang et al. 2024), with R1 and R2 and without."""
    gan = trainer_of({"objective": "relativistic", "gamma": 3.0, "attention_dropout": 0.0, "style_mixing": 0.0}).gan
    assert isinstance(gan, GANTrainer)
    options = gan.config.train
    side = gan.config.model.resolution
    real = torch.rand(gan.local_batch_size, 3, side, side) * 2 - 1
    seen: list[torch.Tensor] = []
    gan.discriminator.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().double()))
    exact = copy.deepcopy(gan.discriminator).double()

    with gan.training_discriminator():
        gan.discriminator_gradients(real, None, number, StepResult(), "seed")
    gradients = gradients_of(gan.d_weights)
    if number == 0:
        fake = seen[0]
    else:
        fake = seen[0].unflatten(0, (gan.config.model.mbstd_group_size, 2, -1))[:, 0].flatten(0, 1)
    better, worse = real.double().requires_grad_(), fake.clone().requires_grad_()
    real_logits, fake_logits = exact(better, None), exact(worse, None)
    loss = torch.log1p(torch.exp(fake_logits - real_logits)).mean()
    if number == 0:
        for logits, images in ((real_logits, better), (fake_logits, worse)):
            (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            loss = loss + slope.pow(2).sum() / len(images) * options.gamma / 2 * options.d_reg_interval
    loss.backward()
    for (name, parameter), reference in zip(gan.discriminator.named_parameters(), exact.parameters(), strict=True):
        assert reference.grad is not None, name
        torch.testing.assert_close(gradients[parameter].double(), reference.grad, rtol=1e-3, atol=1e-5, msg=name)

    result = StepResult()
    seen.clear()
    with gan.training_generator():
        gan.generator_gradients(None, number, result, "seed", real)
    exact.zero_grad()
    fake, shown = seen
    difference = exact(shown, None) - exact(fake, None)
    (value,) = [values for name, values in result.values if name == "loss_g"]
    assert value.item() == pytest.approx(torch.log1p(torch.exp(difference)).mean().item(), rel=1e-5)


def test_fakes_and_reals_apart_have_the_gradients_of_both_together(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = trainer_of({"style_mixing": 0.0}).gan
    assert isinstance(gan, GANTrainer)
    real = torch.rand(gan.local_batch_size, 3, 16, 16) * 2 - 1
    found = []
    for most in (2**17, 0):
        monkeypatch.setattr("ganformer_cli.training.gan.MAX_POSITIONS_TOGETHER", most)
        gan.recordings.clear()
        result = StepResult()
        with gan.training_discriminator():
            gan.discriminator_gradients(real, None, 1, result, "seed")
        values = {name: value for name, value in result.values if name != "sign_real"}
        found.append([*values.values(), *gradients_of(gan.d_weights).values()])
        gan.d_weights.clear_gradients()
    together, apart = found
    assert len(apart) == len(together) > 10
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class Painter:
    """Stands for a generator of two components; each has the left or the right half of the image."""

    def __init__(self, leak: float, follows: float = 0.0) -> None:
        self.config = ModelConfig(resolution=8, components_num=2, latent_size=8)
        self.output_size = (8, 8)
        self.training = True
        self.leak = leak  # how much of a component's change goes into the other half
        self.follows = follows  # how far the two components change places in every other image

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def eval(self) -> None:
        self.training = False

    def synthesis(self, ws: torch.Tensor, noise_mode: str, on_attention: Any) -> torch.Tensor:
        assert not self.training
        assert noise_mode == "const"
        left = torch.tensor([1.0] * 4 + [0.0] * 4).expand(len(ws), 1, 8, 8)
        maps = torch.cat([left, 1 - left], 1)
        maps[1::2] = maps[1::2].lerp(maps[1::2].flip(1), self.follows)
        on_attention(AttentionMap("b8.conv1", maps[:, None]))
        shown = maps + self.leak * (1 - maps)
        return (shown * ws[:, :2, 0, :1, None]).sum(1, keepdim=True).expand(-1, 3, -1, -1)


@pytest.mark.parametrize(("leak", "locality"), [(0.0, 1.0), (1.0, 0.0), (0.5, 1 / 3)])
def test_locality_is_the_share_of_the_change_within_the_region(leak: float, locality: float) -> None:
    """Half of the image is the region. With a leak of 0.5 two thirds of the change lie in it: (2/3 - 1/2) / (1/2)."""
    ws, other = torch.zeros(4, 3, 1, 1), torch.ones(4, 3, 1, 1)
    painter = Painter(leak)
    found, _ = losses.region_terms(cast(Generator, painter), ws, other)
    torch.testing.assert_close(found, torch.full((4,), locality), atol=5e-3, rtol=0)
    assert painter.training


@pytest.mark.parametrize(("follows", "bits"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.311)])
def test_the_divergence_of_maps_is_that_of_jensen_and_shannon(follows: float, bits: float) -> None:
    """Regions that stay where they are have none, those that change places in every other image one bit.

    In between, (1, 0) and (1/2, 1/2) have (H(3/4, 1/4) - H(1/2, 1/2) / 2) = 0.811 - 0.5.
    """
    painter = Painter(0.0, follows)
    _, found = losses.region_terms(cast(Generator, painter), torch.zeros(4, 3, 1, 1), torch.ones(4, 3, 1, 1))
    torch.testing.assert_close(found, torch.full((4,), bits), atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("term", [0, 1])
def test_terms_of_regions_can_be_trained(term: int) -> None:
    """They have a gradient by what attends and what draws: descent on one alone, for the same latents, brings it up."""
    generator = trainer_of({"attention": "simplex"}).gan.generator
    parameters = [p.requires_grad_() for p in generator.synthesis_network.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    with torch.no_grad():
        ws, other = generator.mapping(torch.randn(8, *generator.z_shape)).chunk(2)
    seen = []
    for _ in range(12):
        torch.manual_seed(0)
        value = losses.region_terms(generator, ws, other)[term].mean()
        seen.append(value.item())
        optimizer.zero_grad()
        (-value).backward()
        optimizer.step()
    assert seen[-1] > seen[0] + 0.1, seen
