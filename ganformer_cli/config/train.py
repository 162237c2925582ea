"""``TrainConfig``: how the networks are trained; ``RunConfig``: a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ganformer_cli.config.base import MAX_NUMBER, Bounds, JsonConfig, Section, option_name, require
from ganformer_cli.config.model import ModelConfig
from ganformer_cli.errors import ConfigError

GeneratorLoss = Literal["logistic_ns", "logistic", "hinge", "wgan"]
Objective = Literal["separate", "relativistic"]
DiscriminatorLoss = Literal["logistic", "hinge", "wgan"]
AugmentMode = Literal["none", "ada", "fixed"]
VQStage = Literal["both", "1", "2"]
PerceptualLoss = Literal["lpips", "gradients"]
#: Perceptual losses in words.
PERCEPTUAL_LOSSES: dict[PerceptualLoss, str] = {
    "lpips": "LPIPS",
    "gradients": "differences of image gradients at three scales, in place of LPIPS",
}
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

_MANY = Bounds(1, 10**6)
_SHARE = Bounds(0, 1)
_WEIGHT = Bounds(0, 10**6)
_TIME = Bounds(0, 10**9, above=True)

_DATA = Section("Data")
_DEVICE = Section("Device")
_LOGGING = Section("Logging")
_RUN = Section("Run")
_TRAINING = Section("Training")
_VQGAN = Section("VQGAN")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(JsonConfig):
    """How the networks are trained. Every field is an option of ``ganformer train`` with the same name."""

    dataset: str = _DATA("scenes", "The built-in scenes, or a prepared data set by name or path.", usual=True)
    train_images_num: int | None = _DATA(
        None, "Use only the first N images.", bounds=Bounds(1, MAX_NUMBER), default_text="all"
    )
    pretrained_pkl: str | None = _RUN(
        None,
        "Continue training the networks of a snapshot: a run folder, a file of ours or of the authors', or a "
        "published one such as gdrive:clevr-snapshot.pkl or hf:USER/REPO.",
        usual=True,
        metavar="RUN|FILE",
    )
    init_from: str | None = _RUN(
        None,
        "Start a run from those weights of a snapshot that fit, whatever its resolution, classes or "
        "attention, and list the others.",
        metavar="RUN|FILE",
    )
    labels: bool = _DATA(False, "Class-conditional training with the labels of the data set.", usual=True)
    mirror_augment: bool = _DATA(False, "Also train on mirrored images.", usual=True)
    augment: AugmentMode = _DATA(
        "none",
        "Augment what the discriminator sees, for small data sets: with the probability --augment-p (fixed), "
        "or with one that adapts to overfitting (ada).",
        usual=True,
    )
    augment_p: float = _DATA(0.0, "Probability of each augmentation; with ada at the start.", bounds=_SHARE)
    augment_target: float = _DATA(
        0.6,
        "With ada: target of the mean sign of the discriminator's output on real images.",
        bounds=Bounds(0, 1, above=True, below=True),
    )
    augment_kimg: float = _DATA(
        500.0, "With ada: kimg that the probability needs to go from 0 to 1.", bounds=Bounds(0, 10**6, above=True)
    )
    num_threads: int = _DATA(0, "Processes that decode images; 0: the main process does.", bounds=Bounds(0, 256))
    seed: int = _RUN(
        0,
        "Seed of the initial weights, the order of the images and the latents.",
        usual=True,
        bounds=Bounds(0, MAX_NUMBER),
    )
    total_kimg: float = _RUN(
        25000.0, "Length of the training in thousands of real images.", usual=True, bounds=Bounds(0, 10**9)
    )
    batch_size: int = _TRAINING(32, "Images per step.", usual=True, bounds=Bounds(1, 65536))
    batch_gpu: int | None = _TRAINING(
        None,
        "Images per forward pass; gradients are accumulated over the batch.",
        default_text="as many as fit into memory",
    )
    g_lr: float = _TRAINING(0.002, "Learning rate of the generator.", bounds=_SHARE)
    d_lr: float = _TRAINING(0.002, "Learning rate of the discriminator.", bounds=_SHARE)
    gamma: float = _TRAINING(10.0, "Weight of the R1 penalty.", usual=True, bounds=_WEIGHT)
    objective: Objective = _TRAINING(
        "separate",
        "separate: --g-loss and --d-loss judge each image by itself; relativistic: each fake is compared with a real "
        "image, and the gradient penalty is of both (R3GAN).",
    )
    g_loss: GeneratorLoss = _TRAINING("logistic_ns", "Loss of the generator.")
    d_loss: DiscriminatorLoss = _TRAINING("logistic", "Loss of the discriminator.")
    pl_weight: float = _TRAINING(0.0, "Weight of the path length penalty.", bounds=_WEIGHT)
    locality_weight: float = _TRAINING(
        0.0,
        "Weight of locality: of a component's change, the share within the region that attends to it.",
        bounds=_WEIGHT,
    )
    map_divergence_weight: float = _TRAINING(
        0.0,
        "Weight of how far the attention maps of two images differ, so that regions follow the image.",
        bounds=_WEIGHT,
    )
    # These also set the time scales of the two optimisers (lazy regularisation).
    g_reg_interval: int = _TRAINING(4, "Steps between two path length penalties.", bounds=_MANY)
    d_reg_interval: int = _TRAINING(16, "Steps between two R1 penalties.", bounds=_MANY)
    style_mixing: float = _TRAINING(0.9, "Probability of mixing two latents across layers.", bounds=_SHARE)
    component_mixing: float = _TRAINING(0.0, "Probability of mixing two latents across components.", bounds=_SHARE)
    component_dropout: float = _TRAINING(0.0, "Dropout rate of whole components.", bounds=Bounds(0, 1, below=True))
    ema_kimg: float = _TRAINING(10.0, "Half-life of the averaged generator in kimg.", bounds=_WEIGHT)
    ema_rampup: float | None = _TRAINING(
        0.05, "Limit the half-life to this share of the images shown so far.", bounds=Bounds(0, 10, above=True)
    )
    freeze_d: int = _TRAINING(
        0,
        "Freeze the first N resolution blocks of the discriminator, for fine-tuning on few images (Mo et al., 2020); "
        "with --pretrained-pkl or --init-from.",
        bounds=Bounds(0, 16),
    )
    vq_stage: VQStage = _VQGAN(
        "both",
        "Train the codes of images (1), the transformer that draws them (2, of the codes of --pretrained-pkl), or one "
        "after the other.",
    )
    vq_kimg: float | None = _VQGAN(
        None, "Kimg of stage 1, of --total-kimg.", bounds=Bounds(0, 10**9, above=True), default_text="half of them"
    )
    vq_warmup_kimg: float = _VQGAN(
        0.0, "Kimg of stage 1 before the discriminator joins.", bounds=_WEIGHT, default_text="a fifth of --vq-kimg"
    )
    vq_perceptual: PerceptualLoss = _VQGAN(
        "gradients",
        "Perceptual loss of stage 1: LPIPS, as in the paper (ganformer eval --metrics ppl --fetch gets its weights), "
        "or the difference of image gradients at three scales.",
        default_text="lpips if its weights are in the cache, otherwise gradients",
    )
    vq_gan_weight: float = _VQGAN(
        0.8,
        "Weight of the discriminator's part of stage 1, beside its adaptive weight; lower it if loss_d stays near 1.",
        bounds=_WEIGHT,
        default_text="0.8; on a CPU 0.1",
    )
    commitment: float = _VQGAN(0.25, "Weight of the encoder's commitment to the codebook.", bounds=_WEIGHT)
    transformer_lr: float = _VQGAN(
        0.0005, "Learning rate of the transformer.", bounds=_SHARE, default_text="0.0005; on a GPU 0.00015"
    )
    precision: Precision = _DEVICE(
        "auto",
        "fp32, or tf32 for a GPU's matrix products and convolutions (on a CPU the same as fp32); bf16 and fp16 (GPU "
        "only) keep the image features of the four highest resolutions in 16 bits, in half the memory. auto is tf32 on "
        "a GPU; on a CPU bf16 in the blocks that a short trial finds faster so, fp32 in the others.",
        usual=True,
    )
    checkpoint_activations: bool = _DEVICE(
        False,
        "Recompute features in the backward pass instead of keeping them: less memory, more time, the same weights.",
        usual=True,
    )
    cuda_bench: bool = _DEVICE(True, "Let cuDNN choose its algorithms by trial.")
    tick_kimg: float = _LOGGING(4.0, "Kimg between two lines of log.jsonl.", bounds=_TIME)
    snapshot_kimg: float = _LOGGING(200.0, "Kimg between two snapshots, each with image grids.", bounds=_TIME)
    first_snapshot_kimg: float | None = _LOGGING(
        None,
        "Kimg to the first snapshot; the distance doubles up to --snapshot-kimg, for images early in a run.",
        bounds=_TIME,
        default_text="about a minute of training; none with --snapshot-kimg",
    )
    last_snapshots: int = _LOGGING(10, "Number of snapshots to keep.", bounds=_MANY)
    last_states: int = _LOGGING(2, "Number of training states to keep, for --resume-from.", bounds=Bounds(2, 10**6))
    save_minutes: float = _LOGGING(
        15.0, "Minutes between two saved training states: what a crash can lose.", bounds=_TIME
    )
    keep_samples: bool = _LOGGING(True, "Keep the image grids of all snapshots, not only the newest.")
    vis_num: int = _LOGGING(32, "Images in a grid.", bounds=Bounds(1, 1024))
    truncation_psi: float = _LOGGING(0.75, "Truncation psi of the image grids.", bounds=Bounds(-10, 10))
    metrics: str = _LOGGING(
        "swd,diversity", "Metrics computed at each snapshot, separated by commas (see ganformer eval), or none."
    )
    metrics_every: int = _LOGGING(
        1, "Snapshots between two computations of the metrics; the last snapshot always has them.", bounds=_MANY
    )
    eval_images_num: int = _LOGGING(1024, "Images for the metrics.", bounds=Bounds(2, 10**7))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.d_loss != "wgan" or self.gamma > 0,
            "--d-loss wgan with --gamma 0: nothing bounds the critic; choose a --gamma above 0",
        )
        self._check_objective()
        self._check_augmentation()
        require(
            self.init_from is None or self.pretrained_pkl is None,
            "--init-from and --pretrained-pkl both say what to start from; give one of them",
        )
        require(
            self.first_snapshot_kimg is None or self.first_snapshot_kimg <= self.snapshot_kimg,
            f"--first-snapshot-kimg {self.first_snapshot_kimg} is later than --snapshot-kimg {self.snapshot_kimg}; "
            "choose an earlier one, or leave it out",
        )
        micro = self.micro_batch
        require(
            1 <= micro <= self.batch_size and self.batch_size % micro == 0,
            f"--batch-gpu {micro} does not divide --batch-size {self.batch_size}; choose a divisor",
        )

    def _check_objective(self) -> None:
        if self.objective == "separate":
            return
        for name in ("g_loss", "d_loss"):
            value = getattr(self, name)
            require(
                value == getattr(TrainConfig, name),
                f"{option_name(name)} {value} does nothing with --objective {self.objective}; leave one of them out",
            )

    def _check_augmentation(self) -> None:
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
            "--augment fixed needs --augment-p, the probability of each augmentation, above 0",
        )
        require(
            self.augment != "ada" or self.has_signs,
            "--augment ada reads the sign of the discriminator's output, which has no meaning with "
            f"{'--d-loss wgan' if self.d_loss == 'wgan' else f'--objective {self.objective}'}; choose --augment fixed "
            "or another loss",
        )

    @property
    def has_signs(self) -> bool:
        """Whether the sign of a logit says what the discriminator takes an image for."""
        return self.d_loss != "wgan" and self.objective == "separate"

    @property
    def shapes_regions(self) -> bool:
        """Whether the generator is rewarded for where its components act."""
        return self.locality_weight > 0 or self.map_divergence_weight > 0

    @property
    def micro_batch(self) -> int:
        """Images per forward pass, if they fit into memory."""
        return self.batch_size if self.batch_gpu is None else self.batch_gpu


#: Weights of what is asked of components and their regions.
REGION_WEIGHTS = ("locality_weight", "map_divergence_weight")

_VQGAN_ONLY = (
    "vq_stage",
    "vq_kimg",
    "vq_warmup_kimg",
    "vq_perceptual",
    "vq_gan_weight",
    "commitment",
    "transformer_lr",
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run: the networks and how they are trained."""

    model: ModelConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        self._check_vqgan()
        micro, group = self.train.micro_batch, self.model.mbstd_group_size
        option = "--batch-size" if self.train.batch_gpu is None else "--batch-gpu"
        require(
            micro >= 2,
            f"{option} {micro}: the minibatch standard deviation compares images of a batch, and without it runs "
            "collapse; choose at least 2",
        )
        require(
            micro % min(group, micro) == 0,
            f"{option} {micro}: the minibatch standard deviation has groups of {group}; choose a multiple of {group}",
        )
        self._check_freeze_d()
        require(
            self.model.has_attention or self.train.component_dropout == 0,
            f"--component-dropout {self.train.component_dropout} with --attention {self.model.attention}: there are no "
            "components to drop; leave it out or choose another --attention",
        )
        for name in REGION_WEIGHTS:
            weight = getattr(self.train, name)
            require(
                weight == 0 or self.model.can_be_local,
                f"{option_name(name)} {weight} looks at the attention maps of at least 2 components, which this model "
                "does not have; leave it out or choose another --attention or --components-num",
            )
        require(
            self.model.components_num >= 2 or self.train.component_mixing == 0,
            f"--component-mixing {self.train.component_mixing} with --components-num {self.model.components_num}: "
            "mixing needs at least 2 components; leave it out or raise --components-num",
        )
        require(
            self.model.style or self.model.has_components or self.train.style_mixing == 0,
            f"--style-mixing {self.train.style_mixing} with --style False and --attention none: only the first layer "
            "reads a latent, so there is nothing to mix; leave it out",
        )
        require(
            self.train.labels == (self.model.c_dim > 0),
            "--labels: the networks and the training disagree on whether there are labels",
        )

    def _check_freeze_d(self) -> None:
        frozen, blocks = self.train.freeze_d, len(self.model.block_resolutions)
        require(
            frozen < blocks,
            f"--freeze-d {frozen}: the discriminator of {self.model.resolution} pixels has {blocks} blocks, of which "
            f"the last is always trained; choose at most {blocks - 1}",
        )
        require(
            frozen == 0 or self.train.pretrained_pkl is not None or self.train.init_from is not None,
            f"--freeze-d {frozen}: a network that was not trained has nothing to keep; give --pretrained-pkl or "
            "--init-from, or leave it out",
        )

    def _check_vqgan(self) -> None:
        for name in () if self.model.vqgan else _VQGAN_ONLY:
            value = getattr(self.train, name)
            require(
                value == getattr(TrainConfig, name),
                f"{option_name(name)} {value} does nothing without --baseline VQGAN; leave it out",
            )
        if not self.model.vqgan:
            return
        require(
            self.train.precision in ("fp32", "tf32"),
            f"--precision {self.train.precision} with --baseline VQGAN: its networks compute in fp32 or tf32; choose "
            "one of them",
        )
        require(
            self.train.vq_stage != "both" or self.train.vq_kimg is not None,
            "--vq-kimg is needed with --vq-stage both: it says where stage 1 ends",
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
