"""``TrainConfig``: how the networks are trained; ``RunConfig``: a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganformer_cli.config.base import JsonConfig, option_name, require
from ganformer_cli.config.model import ModelConfig
from ganformer_cli.errors import ConfigError

G_LOSSES = ("logistic_ns", "logistic", "hinge", "wgan")
D_LOSSES = ("logistic", "hinge", "wgan")
AUGMENTATIONS = ("none", "ada", "fixed")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(JsonConfig):
    """How the networks are trained. Every field is an option of ``ganformer train`` with the same name."""

    dataset: str = "scenes"
    train_images_num: int | None = None  # use the first so many pictures; None: all
    pretrained_pkl: str | None = None  # the snapshot whose networks are trained on
    init_from: str | None = None  # the snapshot from which weights are taken as far as they fit
    labels: bool = False  # class-conditional: train with the data set's labels
    mirror_augment: bool = False
    augment: str = "none"  # of what the discriminator sees: "ada", adaptively, or "fixed"
    augment_p: float = 0.0  # probability of each transformation; with "ada" at the start
    augment_target: float = 0.6  # with "ada": the mean sign of the discriminator's output for real pictures
    augment_kimg: float = 500.0  # with "ada": p takes so long from 0 to 1
    num_threads: int = 0  # processes that decode pictures; 0: none beside the main one
    seed: int = 0
    total_kimg: float = 25000.0  # thousands of real pictures to show
    batch_size: int = 32
    batch_gpu: int | None = None  # pictures at a time, the rest is accumulated; None: as many as fit into memory
    g_lr: float = 0.002
    d_lr: float = 0.002
    gamma: float = 10.0  # weight of R1
    g_loss: str = "logistic_ns"
    d_loss: str = "logistic"
    pl_weight: float = 0.0  # weight of path length regularisation
    g_reg_interval: int = 4  # path length every so many steps; sets the time scale of the generator's optimiser
    d_reg_interval: int = 16  # R1 every so many steps; sets that of the discriminator's
    style_mixing: float = 0.9
    component_mixing: float = 0.0
    component_dropout: float = 0.0
    ema_kimg: float = 10.0  # half-life of the averaged generator
    ema_rampup: float | None = 0.05  # the half-life is at most this share of the pictures shown; None: no ramp
    precision: str = "tf32"  # of a GPU's multiplications; on a CPU tf32 is fp32. bf16, fp16: image features in half
    checkpoint_activations: bool = False  # compute features again in the backward pass, and do not keep them
    cuda_bench: bool = True
    tick_kimg: float = 4.0  # a line in log.jsonl every so many kimg
    snapshot_kimg: float = 200.0
    last_snapshots: int = 10  # how many are kept
    save_minutes: float = 15.0  # a kill at any moment loses at most so much work
    keep_samples: bool = True  # False: only the newest grids
    vis_num: int = 32  # pictures in a grid
    truncation_psi: float = 0.75  # of the grids
    metrics: str = "swd,diversity"  # at each snapshot, comma-separated; "none" for none
    metrics_every: int = 1  # snapshots between scores; the last one of a run always has them
    eval_images_num: int = 1024

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_threads", 0, 256),
            ("seed", 0, 2**63 - 1),
            ("batch_size", 1, 65536),
            ("g_reg_interval", 1, 10**6),
            ("d_reg_interval", 1, 10**6),
            ("last_snapshots", 1, 10**6),
            ("vis_num", 1, 1024),
            ("metrics_every", 1, 10**6),
            ("eval_images_num", 2, 10**7),
            ("total_kimg", 0, 1e9),
            ("g_lr", 0, 1),
            ("d_lr", 0, 1),
            ("gamma", 0, 1e6),
            ("pl_weight", 0, 1e6),
            ("style_mixing", 0, 1),
            ("component_mixing", 0, 1),
            ("ema_kimg", 0, 1e6),
            ("truncation_psi", -10, 10),
        ):
            value = getattr(self, name)
            require(low <= value <= high, f"{option_name(name)} {value}: choose a number from {low} to {high}")
        require(
            0 <= self.component_dropout < 1,
            f"--component-dropout {self.component_dropout}: choose a rate from 0 to below 1",
        )
        for name in ("tick_kimg", "snapshot_kimg", "save_minutes"):
            value = getattr(self, name)
            require(0 < value <= 1e9, f"{option_name(name)} {value}: choose a number above 0")
        require(self.ema_rampup is None or 0 < self.ema_rampup <= 10, "--ema-rampup: choose a number above 0, to 10")
        require(
            self.train_images_num is None or self.train_images_num >= 1,
            f"--train-images-num {self.train_images_num}: choose at least 1",
        )
        for name, choices in (
            ("g_loss", G_LOSSES),
            ("d_loss", D_LOSSES),
            ("precision", PRECISIONS),
            ("augment", AUGMENTATIONS),
        ):
            value = getattr(self, name)
            require(value in choices, f"{option_name(name)} {value}: choose one of {', '.join(choices)}")
        require(
            self.d_loss != "wgan" or self.gamma > 0,
            "--d-loss wgan with --gamma 0: nothing would bound the critic; give --gamma a value above 0",
        )
        self._check_augmentation()
        require(
            self.init_from is None or self.pretrained_pkl is None,
            "--init-from and --pretrained-pkl each say what to start from; give one of them",
        )
        micro = self.micro_batch
        require(
            1 <= micro <= self.batch_size and self.batch_size % micro == 0,
            f"--batch-gpu {micro} does not divide --batch-size {self.batch_size}; choose a divisor",
        )

    def _check_augmentation(self) -> None:
        require(0 <= self.augment_p <= 1, f"--augment-p {self.augment_p}: choose a probability from 0 to 1")
        require(0 < self.augment_target < 1, f"--augment-target {self.augment_target}: choose between 0 and 1")
        require(0 < self.augment_kimg <= 1e6, f"--augment-kimg {self.augment_kimg}: choose a number above 0")
        for name, readers in (
            ("augment_p", ("ada", "fixed")),
            ("augment_target", ("ada",)),
            ("augment_kimg", ("ada",)),
        ):
            value = getattr(self, name)
            require(
                self.augment in readers or value == getattr(TrainConfig, name),
                f"{option_name(name)} {value} does nothing with --augment {self.augment}; leave it out or choose "
                f"--augment {' or '.join(readers)}",
            )
        require(
            self.augment != "fixed" or self.augment_p > 0,
            "--augment fixed needs --augment-p, the probability of each transformation, above 0",
        )
        require(
            self.augment != "ada" or self.d_loss != "wgan",
            "--augment ada follows the sign of the discriminator's output, which says nothing with --d-loss wgan; "
            "choose --augment fixed or another loss",
        )

    @property
    def micro_batch(self) -> int:
        """Pictures that pass through the networks at a time, if they fit into memory."""
        return self.batch_size if self.batch_gpu is None else self.batch_gpu


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run: the networks and how they are trained."""

    model: ModelConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        micro, group = self.train.micro_batch, self.model.mbstd_group_size
        option = "--batch-size" if self.train.batch_gpu is None else "--batch-gpu"
        require(
            micro >= 2,
            f"{option} {micro}: minibatch-std compares pictures within the batch, and one alone tells the "
            "discriminator nothing (such runs collapse); choose at least 2",
        )
        require(
            micro % min(group, micro) == 0,
            f"{option} {micro}: minibatch-std works in groups of {group}; choose a multiple of {group}",
        )
        require(
            self.model.has_attention or self.train.component_dropout == 0,
            f"--component-dropout {self.train.component_dropout} with --attention {self.model.attention}: there is "
            "nothing to drop; leave it out or choose another --attention",
        )
        require(
            self.model.components_num >= 2 or self.train.component_mixing == 0,
            f"--component-mixing {self.train.component_mixing} with --components-num {self.model.components_num}: it "
            "takes two components to mix; leave it out or have more of them",
        )
        require(
            self.model.style or self.model.has_components or self.train.style_mixing == 0,
            f"--style-mixing {self.train.style_mixing} with --style False and --attention none: only the first layer "
            "reads a latent, so there is nothing to mix; leave it out",
        )
        require(
            self.train.labels == (self.model.c_dim > 0),
            "--labels: the networks and the training do not agree on whether there are labels",
        )

    def to_dict(self) -> dict[str, Any]:
        """Both parts as plain JSON values."""
        return {"model": self.model.to_dict(), "train": self.train.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "configuration") -> RunConfig:
        """The inverse of ``to_dict``, strictly."""
        parts = {name: values.get(name) for name in ("model", "train")}
        if set(values) != set(parts) or not all(isinstance(part, dict) for part in parts.values()):
            raise ConfigError(f"{where}: must hold the objects 'model' and 'train'; it is damaged")
        model = ModelConfig.from_dict(parts["model"] or {}, where)
        train = TrainConfig.from_dict(parts["train"] or {}, where)
        try:
            return cls(model=model, train=train)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
