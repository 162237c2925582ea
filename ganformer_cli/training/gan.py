"""Generator and discriminator, their optimisers, and one training step of both.

A step that runs out of memory is repeated with smaller micro-batches and the same random numbers.
"""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ganformer_cli.config import RunConfig
from ganformer_cli.errors import TrainingError, first_line
from ganformer_cli.memory import RETURN_ABOVE_MIB, is_out_of_memory, return_free_memory
from ganformer_cli.models import Discriminator, Generator
from ganformer_cli.models.precision import HALF, blocks_of, full_precision, half_layers, use_half, use_precision
from ganformer_cli.models.prepared import PreparedWeights, lay_out_weights
from ganformer_cli.models.uncompiled import uncompiled
from ganformer_cli.sampling import from_uint8
from ganformer_cli.training import losses
from ganformer_cli.training.augment import Augmentation
from ganformer_cli.training.distributed import ONE_PROCESS, Group
from ganformer_cli.training.ema import MovingAverage, ema_decay
from ganformer_cli.training.gradients import GradientReducer, gradient_reducer
from ganformer_cli.training.network_trainer import NetworkTrainer, RunningMeans, labels_of, upload
from ganformer_cli.training.recorded import Backward, Pass, RecordedPass

#: Images with more positions in all pass through the discriminator fakes first, then reals. Together, small ones save
#: half of the calls; large ones only take twice the memory.
MAX_POSITIONS_TOGETHER = 2**17


@dataclass
class StepResult:
    """What an update of one network produces beside gradients; applied once all of its micro-batches have succeeded."""

    before_last_backward: Callable[[], None] = lambda: None  # the gradients are complete after that pass
    values: list[tuple[str, Tensor]] = field(default_factory=list)
    w_means: list[Tensor] = field(default_factory=list)  # mean of w of each batch of latents
    pl_means: list[Tensor] = field(default_factory=list)  # running mean of path lengths after each micro-batch

    def add(self, name: str, values: Tensor) -> None:
        """Values for the log."""
        self.values.append((name, values.detach()))

    def signs(self) -> Tensor:
        """Sum and number of the signs of the discriminator's logits of real images."""
        signs = torch.cat([values.flatten() for name, values in self.values if name == "sign_real"])
        return torch.stack([signs.sum(), signs.new_tensor(len(signs))])


class GANTrainer(NetworkTrainer):
    """Generator, discriminator and averaged generator, and the training steps that change them.

    Args:
        config: settings of networks and training.
        device: where to compute.
        shrunk: called with the new micro-batch size after a step ran out of memory.
        group: the processes that train together.
    """

    discriminator: Discriminator

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        shrunk: Callable[[int], None] = lambda micro_batch: None,
        group: Group = ONE_PROCESS,
    ) -> None:
        super().__init__(config, device, shrunk, group)
        options = config.train
        self.generator = Generator(config.model).to(device)
        self.discriminator = Discriminator(config.model).to(device)
        self.discriminator.freeze(options.freeze_d)
        for network in (self.generator, self.discriminator):
            lay_out_weights(network)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # The averaged generator computes in float32: images and scores do not depend on the precision of training.
        for network in (self.generator, self.discriminator):
            if options.precision in HALF:
                use_half(network, HALF[options.precision])
        self.generator.synthesis_network.checkpointing = options.checkpoint_activations
        self.discriminator.checkpointing = options.checkpoint_activations
        self.moving_reducer = MovingAverage(self.ema, self.generator)
        self.g_optimizer = adam(self.generator, options.g_lr, options.g_reg_interval)
        self.d_optimizer = adam(self.discriminator, options.d_lr, options.d_reg_interval)
        self.g_weights, self.d_weights = PreparedWeights(self.generator), PreparedWeights(self.discriminator)
        self._cast_weights()
        self.g_reducer = gradient_reducer(self.g_weights.trained, group)
        self.d_reducer = gradient_reducer(self.d_weights.trained, group)
        self.pl_mean = torch.zeros([], device=device)  # running mean of path lengths
        self.augmentation = Augmentation(options, device)
        self.unproven_steps = self.proving_steps

    def use_precision(self, blocks: Mapping[str, str]) -> None:
        """Compute the named blocks (``{"generator.b32": "bf16"}``) in bf16 or fp16, and all others in float32."""
        for kind, network in (("generator", self.generator), ("discriminator", self.discriminator)):
            prefix = f"{kind}."
            named = {name[len(prefix) :]: HALF[form] for name, form in blocks.items() if name.startswith(prefix)}
            use_precision(network, named)
        self._cast_weights()

    @property
    def precision(self) -> dict[str, str]:
        """The blocks in half precision, as ``use_precision`` takes them."""
        names = {dtype: name for name, dtype in HALF.items()}
        return {
            f"{kind}.{name}": names[block.dtype]
            for kind, network in (("generator", self.generator), ("discriminator", self.discriminator))
            for name, block in blocks_of(network).items()
            if block.dtype is not None
        }

    def _cast_weights(self) -> None:
        """Prepare the weights of half-precision blocks in that precision, too."""
        self.recordings: dict[tuple[str, int, int], RecordedPass] = {}
        self.g_weights.cast_to(half_layers(self.generator))
        self.d_weights.cast_to(half_layers(self.discriminator))

    @property
    def proving_steps(self) -> int:
        """Steps until every kind of step, with and without regularisation, has fit into memory once.

        Until then gradients are not exchanged during the backward pass, so that all processes can repeat a step when
        one of them runs out of memory.
        """
        return max(self.config.train.g_reg_interval, self.config.train.d_reg_interval)

    @property
    def optimizers(self) -> dict[str, tuple[torch.optim.Optimizer, nn.Module]]:
        """The optimisers and what they train, by name."""
        return {
            "g_optimizer": (self.g_optimizer, self.generator),
            "d_optimizer": (self.d_optimizer, self.discriminator),
        }

    @property
    def scalars(self) -> dict[str, Tensor]:
        """Further state that changes from step to step, by name."""
        return {
            "pl_mean": self.pl_mean,
            "augment_p": self.augmentation.p,
            "augment_signs": self.augmentation.signs,
        }

    @scalars.setter
    def scalars(self, values: Mapping[str, Tensor]) -> None:
        found = {name: value.to(self.device) for name, value in {**self.scalars, **values}.items()}
        self.pl_mean = found["pl_mean"]
        self.augmentation.p, self.augmentation.signs = found["augment_p"], found["augment_signs"]

    @property
    def figures(self) -> dict[str, float]:
        """See ``NetworkTrainer``."""
        return {"augment_p": float(self.augmentation.p)} if self.config.train.augment == "ada" else {}

    # ----- A step -----

    def step(self, batch: tuple[Tensor, Tensor], number: int, means: RunningMeans, *, attempt: int = 0) -> None:
        """One update of the generator, then one of the discriminator.

        All random numbers are derived from the run's seed, ``number``, ``attempt`` and the index of a micro-batch in
        the global batch.

        Args:
            batch: the local batch: uint8 ``[b, 3, H, W]`` and labels ``[b, c_dim]``.
            number: of the step, from 0; it also decides whether a network is regularised.
            means: receives what is logged.
            attempt: another value gives other random numbers.

        Raises:
            TrainingError: the smallest micro-batch does not fit into memory.
        """
        images, labels = batch
        real = from_uint8(upload(images, self.device))
        c = upload(labels, self.device) if self.config.model.c_dim > 0 else None
        seed = f"{self.config.train.seed} {number} {attempt}"

        def generator_gradients(result: StepResult) -> None:
            compared = real if self.is_relativistic else None
            self.generator_gradients(c, number, result, f"{seed} generator", compared)

        def discriminator_gradients(result: StepResult) -> None:
            self.discriminator_gradients(real, c, number, result, f"{seed} discriminator")

        if self.device.type == "cpu":
            return_free_memory(RETURN_ABOVE_MIB)
        with self.training_generator():
            self.update(self.g_optimizer, self.g_weights, self.g_reducer, generator_gradients, means)
        with self.training_discriminator():
            result = self.update(self.d_optimizer, self.d_weights, self.d_reducer, discriminator_gradients, means)
        signs = result.signs()
        self.augmentation.observe(self.group.all_reduce(signs), number)
        if self.config.train.augment == "ada":
            means.add("augment_p", self.augmentation.p)
        means.steps += 1
        self.unproven_steps = max(0, self.unproven_steps - 1)

    def average(self, images_seen: int) -> None:
        """Move the averaged generator towards the trained one, after ``images_seen`` real images."""
        options = self.config.train
        decay = ema_decay(options.batch_size, options.ema_kimg, images_seen, options.ema_rampup)
        self.moving_reducer.update(decay)

    @contextlib.contextmanager
    def training_generator(self) -> Iterator[None]:
        """Use prepared weights; only those of the generator require gradients."""
        with self.g_weights.use(trained=True), self.d_weights.use(trained=False):
            yield

    @contextlib.contextmanager
    def training_discriminator(self) -> Iterator[None]:
        """Use prepared weights; only those of the discriminator require gradients."""
        with self.g_weights.use(trained=False), self.d_weights.use(trained=True):
            yield

    def trial(self, images: Tensor, labels: Tensor | None, *, regularised: bool) -> None:
        """See ``NetworkTrainer``."""
        number = 0 if regularised else 1
        with self.training_generator():
            real = images if self.is_relativistic else None
            self.generator_gradients(labels, number, StepResult(), "trial", real)
        self.g_weights.clear_gradients()
        with self.training_discriminator():
            self.discriminator_gradients(images, labels, number, StepResult(), "trial")

    def clear_gradients(self) -> None:
        """See ``NetworkTrainer``."""
        self.g_weights.clear_gradients()
        self.d_weights.clear_gradients()

    def update(
        self,
        optimizer: torch.optim.Optimizer,
        weights: PreparedWeights,
        reducer: GradientReducer,
        gradients: Callable[[StepResult], None],
        means: RunningMeans,
    ) -> StepResult:
        """One step of ``optimizer``, repeated with smaller micro-batches if memory runs out."""
        several = self.group.world_size > 1
        while True:
            unproven = several and self.unproven_steps > 0
            result = StepResult() if unproven else StepResult(reducer.begin)
            failure = ""
            try:
                gradients(result)
                if not several:
                    gradient_norm = self.move(optimizer, weights)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = first_line(error)
            if failure and several and not unproven:
                raise TrainingError(
                    f"out of memory in process {self.group.rank} ({failure}); start again with a smaller --batch-gpu "
                    f"than {self.micro_batch}: the run resumes from its last state"
                )
            failed = bool(failure)
            if unproven:
                failed = self.group.all_reduce_any([failed], self.device)[0]
            if not failed:
                break
            # Outside of the handler, because the error's traceback keeps the activations alive.
            weights.clear_gradients()
            result.values.clear()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.shrink(failure or "in another process")
        if several:
            reducer.finish()
            gradient_norm = self.move(optimizer, weights)
        means.add("grad_norm_g" if optimizer is self.g_optimizer else "grad_norm_d", gradient_norm)
        weights.clear_gradients()
        for name, values in result.values:
            means.add(name, values)
        self.generator.mapping_network.update_mean(self.group.all_reduce_mean(torch.stack(result.w_means).mean(0)))
        if result.pl_means:
            self.pl_mean = self.group.all_reduce_mean(torch.stack(result.pl_means).mean(0))
        return result

    def move(self, optimizer: torch.optim.Optimizer, weights: PreparedWeights) -> Tensor:
        """Step the optimiser; gradients that overflowed in float16 count as zero. Returns their norm, []."""
        if self.config.train.precision == "fp16":
            for tensor in weights.trained:
                if tensor.grad is not None:
                    tensor.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        return weights.step(optimizer)

    def shrink(self, failure: str) -> None:
        """Use a smaller micro-batch from now on.

        Raises:
            TrainingError: there is none.
        """
        smaller = [size for size in self.sizes() if size < self.micro_batch]
        if not smaller:
            raise TrainingError(
                f"out of memory with {self.micro_batch} images at a time, which is the least ({failure}); choose a "
                "lower --resolution, --channel-max or --channel-base, or free memory on the device"
            )
        self.micro_batch = max(size for size in smaller if size <= max(self.micro_batch // 2, min(smaller)))
        self.recordings.clear()
        self.unproven_steps = self.proving_steps
        self.shrunk(self.micro_batch)

    @property
    def is_relativistic(self) -> bool:
        """Whether each fake is compared with a real image."""
        return self.config.train.objective == "relativistic"

    def generator_gradients(
        self, c: Tensor | None, number: int, result: StepResult, seed: str, real: Tensor | None = None
    ) -> None:
        """Accumulate the generator's gradients, every ``g_reg_interval`` steps with path length regularisation.

        Args:
            c: labels ``[b, c_dim]`` or None.
            number: of the step.
            result: receives what else the update produces.
            seed: of the random numbers.
            real: what the fakes are compared with in the relativistic objective, ``[b, 3, H, W]``, else None.
        """
        options = self.config.train
        due = number % options.g_reg_interval == 0
        regularise, localise = due and options.pl_weight > 0, due and options.shapes_regions
        for part in self.seeded_parts(seed):
            last = part.stop == self.local_batch_size
            completes = last and not regularise and not localise
            ws, mask = self.draw_latents(c, part, result), self.draw_mask(part)
            rest = mask, labels_of(c, part), None if real is None else real[part]
            self.pass_through("generator", self.generator_pass, (ws, *rest), result, completes=completes)
            half = (part.stop - part.start) // losses.PL_BATCH_SHRINK
            if localise:
                some = slice(part.start, part.start + max(2, half))
                both = torch.cat([self.draw_latents(c, some, result), self.draw_latents(c, some, result)])
                last_one = last and not regularise
                self.pass_through("regions", self.region_pass, (both,), result, completes=last_one)
            if regularise:
                ws = self.draw_latents(c, slice(part.start, part.start + max(1, half)), result)
                weight = options.pl_weight * options.g_reg_interval / len(self.parts)
                with full_precision(self.generator):
                    penalty, pl_mean = losses.path_length_penalty(self.generator, ws, self.pl_mean)
                    self.backward(result, last=last)(penalty.mean() * weight, True)
                result.pl_means.append(pl_mean)
                result.add("path_length", pl_mean)

    def pass_through(
        self, name: str, compute: Pass, arguments: tuple[Tensor | None, ...], result: StepResult, *, completes: bool
    ) -> None:
        """Compute a pass by latents, which come first, and continue backward through what they were made by."""
        ws, *rest = arguments
        assert ws is not None
        if self.can_record:
            values, gradient = self.recorded(name, compute, self.g_weights, by_first=True)(*arguments)
            if completes:
                result.before_last_backward()
        else:
            leaf = ws.detach().requires_grad_()
            values = compute((leaf, *rest), self.backward(result, last=completes))
            gradient = leaf.grad
        if gradient is not None:
            # Contiguous: with several threads the order of sums depends on the layout. Not ws.backward(gradient), for
            # which torch loads sympy.
            (ws * gradient.contiguous()).sum().backward()
        for key, value in values.items():
            result.add(key, value)

    def discriminator_gradients(
        self, real: Tensor, c: Tensor | None, number: int, result: StepResult, seed: str
    ) -> None:
        """Accumulate the discriminator's gradients on ``real [b, 3, H, W]`` and new fakes.

        At intervals with R1, and R2 in the relativistic objective.
        """
        options = self.config.train
        regularise = options.gamma > 0 and number % options.d_reg_interval == 0
        name, compute = "discriminator", self.discriminator_pass
        if regularise:
            name, compute = "regularised", self.regularised_pass
        for part in self.seeded_parts(seed):
            with torch.no_grad():
                ws, mask = self.draw_latents(c, part, result), self.draw_mask(part)
            arguments = ws, mask, labels_of(c, part), real[part]
            if self.can_record:
                values, _ = self.recorded(name, compute, self.d_weights)(*arguments)
            else:
                last = part.stop == self.local_batch_size
                values = compute(arguments, self.backward(result, last=last))
            for key, value in values.items():
                result.add(key, value)

    def backward(self, result: StepResult, *, last: bool) -> Backward:
        """Backward passes into ``.grad``; ``last``: of the update's last micro-batch."""

        def backward(total: Tensor, completes: bool) -> None:
            if last and completes:
                result.before_last_backward()
            total.backward()

        return backward

    @property
    def can_record(self) -> bool:
        """Whether passes may be recorded: where nothing but their arguments and weights changes from step to step."""
        options = self.config.train
        prepared = self.g_weights.in_use and self.d_weights.in_use  # which is what gradients are taken by
        plain = options.augment == "none" and not options.checkpoint_activations
        return self.device.type == "cpu" and prepared and plain

    def recorded(self, name: str, compute: Pass, weights: PreparedWeights, *, by_first: bool = False) -> RecordedPass:
        """The recorded form of a pass that trains ``weights``; the first call records."""
        key = name, self.micro_batch, len(self.parts)
        if key not in self.recordings:
            networks = self.generator, self.discriminator
            constants = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
            constants += [*self.g_weights.prepared, *self.d_weights.prepared]
            self.recordings[key] = RecordedPass(compute, weights.trained, constants, by_first=by_first)
        return self.recordings[key]

    # ----- Passes: of latents [b, m+1, L, w], mask [b, m], labels [b, c_dim], real images [b, 3, H, W] -----

    def generator_pass(self, arguments: Sequence[Tensor | None], backward: Backward) -> dict[str, Tensor]:
        """Forward and backward pass of the generator's loss; what is logged."""
        ws, mask, labels, real = arguments
        assert ws is not None
        logits = self.discriminator(self.augmentation(self.generator.synthesis(ws, component_mask=mask)), labels)
        if real is None:
            loss = losses.generator_loss(logits, self.config.train.g_loss)
        else:
            with torch.no_grad():
                real_logits = self.discriminator(self.augmentation(real), labels)
            loss = losses.relativistic_loss(logits, real_logits)
        backward(loss / len(self.parts), True)
        return {"loss_g": loss}

    def region_pass(self, arguments: Sequence[Tensor | None], backward: Backward) -> dict[str, Tensor]:
        """Forward and backward pass of what rewards regions, by the latents of some images and then of others."""
        (both,) = arguments
        assert both is not None
        options = self.config.train
        locality, divergence = losses.region_terms(self.generator, *both.chunk(2))
        # Without a weight a term is logged alone: no backward pass goes through it.
        terms = (locality, options.locality_weight), (divergence, options.map_divergence_weight)
        reward = torch.stack([values.mean() * weight for values, weight in terms if weight > 0]).sum()
        backward(reward * (-options.g_reg_interval / len(self.parts)), True)
        return {"locality": locality, "map_divergence": divergence}

    def images_to_judge(self, arguments: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Fakes, real images and labels as the discriminator sees them."""
        ws, mask, labels, real = arguments
        assert ws is not None
        assert real is not None
        # New fakes: with those of the generator's update, which are one step old, training was visibly slower.
        with torch.no_grad():
            fake = self.augmentation(self.generator.synthesis(ws, component_mask=mask))
        return fake, self.augmentation(real), labels

    def discriminator_pass(self, arguments: Sequence[Tensor | None], backward: Backward) -> dict[str, Tensor]:
        """Forward and backward pass of the discriminator's loss; what is logged."""
        options = self.config.train
        fake, real, labels = self.images_to_judge(arguments)
        if not self.is_relativistic and 2 * len(real) * real[0, 0].numel() > MAX_POSITIONS_TOGETHER:
            fake_logits = self.discriminator(fake, labels)
            fake_loss = losses.fake_loss(fake_logits, options.d_loss)
            backward(fake_loss / len(self.parts), False)
            real_logits = self.discriminator(real, labels)
            real_loss = losses.real_loss(real_logits, options.d_loss)
            backward(real_loss / len(self.parts), True)
            return logged(fake_loss + real_loss, real_logits, fake_logits)
        fake_logits, real_logits = self.judge_together(fake, real, labels)
        if self.is_relativistic:
            loss = losses.relativistic_loss(real_logits, fake_logits)
        else:
            loss = losses.fake_loss(fake_logits, options.d_loss) + losses.real_loss(real_logits, options.d_loss)
        backward(loss / len(self.parts), True)
        return logged(loss, real_logits, fake_logits)

    def regularised_pass(self, arguments: Sequence[Tensor | None], backward: Backward) -> dict[str, Tensor]:
        """``discriminator_pass`` with R1, and R2 in the relativistic objective."""
        options = self.config.train
        fake, real, labels = self.images_to_judge(arguments)
        strength = options.gamma / 2 * options.d_reg_interval
        real = real.detach().requires_grad_()
        if self.is_relativistic:
            fake = fake.detach().requires_grad_()
            with full_precision(self.discriminator):
                fake_logits, real_logits = self.discriminator(fake, labels), self.discriminator(real, labels)
                loss = losses.relativistic_loss(real_logits, fake_logits)
                r1 = losses.gradient_penalty(real_logits, real)
                r2 = losses.gradient_penalty(fake_logits, fake)
                total = loss + (r1.mean() + r2.mean()) * strength
                backward(total / len(self.parts), True)
            return {"r1": r1, "r2": r2, **logged(loss, real_logits, fake_logits)}
        # Two passes, because the penalty is of the real images alone.
        fake_logits = self.discriminator(fake, labels)
        fake_loss = losses.fake_loss(fake_logits, options.d_loss)
        backward(fake_loss / len(self.parts), False)
        with full_precision(self.discriminator):
            real_logits = self.discriminator(real, labels)
            real_loss = losses.real_loss(real_logits, options.d_loss)
            penalty = losses.gradient_penalty(real_logits, real)
            total = real_loss + penalty.mean() * strength
            backward(total / len(self.parts), True)
        return {"r1": penalty, **logged(fake_loss + real_loss, real_logits, fake_logits)}

    def judge_together(self, fake: Tensor, real: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of fakes and reals, each ``[b, 1]``, in one pass where minibatch-std allows it.

        Image i of a batch of B is in group ``i mod (B/G)`` of minibatch-std. The images are interleaved so that its
        groups are those of two passes.
        """
        group = self.config.model.mbstd_group_size
        if len(fake) % group:
            return self.discriminator(fake, labels), self.discriminator(real, labels)

        def interleaved(first: Tensor, second: Tensor) -> Tensor:
            pair = [tensor.unflatten(0, (group, -1)) for tensor in (first, second)]
            return torch.stack(pair, 1).flatten(0, 2)

        both = interleaved(fake, real)
        logits = self.discriminator(both, None if labels is None else interleaved(labels, labels))
        fake_logits, real_logits = logits.unflatten(0, (group, 2, -1)).unbind(1)
        return fake_logits.flatten(0, 1), real_logits.flatten(0, 1)

    def draw_latents(self, c: Tensor | None, part: slice, result: StepResult) -> Tensor:
        """Latents of a micro-batch for each layer, ``[b, m+1, L, w]``, with the labels of the real images."""
        options = self.config.train
        z = torch.randn(part.stop - part.start, *self.config.model.z_shape, device=self.device)
        ws, mean = losses.mixed_latents(
            self.generator, z, labels_of(c, part), options.style_mixing, options.component_mixing
        )
        result.w_means.append(mean)
        return ws

    def draw_mask(self, part: slice) -> Tensor | None:
        """Which components of a micro-batch are dropped, bool ``[b, m]``; None where none ever is."""
        components, rate = self.config.model.components_num, self.config.train.component_dropout
        return losses.random_component_mask(part.stop - part.start, components, rate, self.device)


def logged(loss: Tensor, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """What the log says of a pass of the discriminator."""
    return {"loss_d": loss, "score_real": real_logits, "score_fake": fake_logits, "sign_real": real_logits.sign()}


def adam(module: nn.Module, lr: float, interval: int) -> torch.optim.Adam:
    """Adam with β = (0, 0.99) on the time scale of lazy regularisation (StyleGAN2, appendix B).

    With ``c = interval / (interval + 1)``, the learning rate is ``lr·c`` and the decays are ``β^c``.
    """
    scale = interval / (interval + 1)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return uncompiled(torch.optim.Adam)(trained, lr=lr * scale, betas=(0.0, 0.99**scale), eps=1e-8, fused=True)
