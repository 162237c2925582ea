"""How long calls take beside one another, how much memory they need, and what they keep for the backward pass.

Calls that are compared are timed in turn, round by round in one process, so that whatever else the machine does meets
all of them. A ratio is the median over the rounds, and its spread the quartiles; one round gives no ratio.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.memory import Peak
from ganformer_cli.operators import native
from ganformer_cli.operators.native import Backend
from ganformer_cli.stop_signals import leave_to_parent

#: Seconds of measuring a case, after which half of the repeats are enough.
LONG_CASE = 30.0
#: Seconds of a call whose first time counts, too: it is not made only to warm up.
LONG_CALL = 5.0
#: The plain-torch operators, among what a case is measured against.
PLAIN = "plain torch"

_Answer = TypeVar("_Answer")


# ----- What is measured, and how -----


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under which everything of a run is measured."""

    device: str = "cpu"
    precision: str = "fp32"  # fp32, tf32 or bf16
    repeats: int = 5  # rounds, at least
    seconds: float = 1.0  # quick calls are sampled until all samples of a case have taken so long
    sample: float = 0.02  # seconds: a sample repeats its call until then, so that the clock's own cost vanishes
    threads: int | None = None  # of torch on the CPU; None: as many as it takes
    memory: bool = True  # is measured, too

    @property
    def dtype(self) -> torch.dtype:
        """Of images and features."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def on_cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return torch.device(self.device).type == "cuda"

    def check(self) -> None:
        """Raise ``ConfigError`` unless this machine has the device, and the device the precision."""
        if not self.on_cuda:
            if self.precision == "tf32":
                raise ConfigError("--precision tf32: only CUDA devices have it; choose fp32, bf16 or --device cuda")
            return
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not found:
            built = "is built without CUDA" if torch.version.cuda is None else "finds no CUDA GPU"
            raise ConfigError(f"--device {self.device}: torch {torch.__version__} {built} here; choose --device cpu")
        if (torch.device(self.device).index or 0) >= found:
            raise ConfigError(f"--device {self.device}: there is no such GPU here; choose cuda:0 to cuda:{found - 1}")

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """Inside, torch has these threads and this precision of float32; afterwards its own again."""
        threads = torch.get_num_threads()
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        tf32 = matmul.allow_tf32, cudnn.allow_tf32
        try:
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            matmul.allow_tf32 = cudnn.allow_tf32 = self.precision != "fp32"
            yield
        finally:
            torch.set_num_threads(threads)
            matmul.allow_tf32, cudnn.allow_tf32 = tf32

    def autocast(self) -> torch.autocast:
        """The networks' bfloat16: torch chooses what is safe in it. Does nothing in the other precisions."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16")


class Memory(NamedTuple):
    """Memory at the worst moment, in MiB."""

    peak: float  # CPU: of the whole process; CUDA: of all tensors
    added: float | None = None  # of it, what was not there before the call


@dataclass(kw_only=True)
class Contender:
    """Something that is timed."""

    call: Callable[[], object] = lambda: None
    backend: Backend | None = None  # of the operators; None: that of the case
    max_rounds: int | None = None  # for calls that take long and are far off anyway
    with_memory: bool = False  # is measured, too
    #: Measures itself, in place of timing ``call``, for instance in another process: seconds, and the memory if known.
    measure: Callable[[], tuple[float, Memory | None]] | None = None
    memory: Memory | None = None
    loops: int = 1  # calls in a sample

    def warm_up(self, conditions: Conditions) -> float:
        """Seconds of one of the first calls, which decides how many calls make a sample."""
        if self.measure is not None:
            return 0.0
        taken = seconds_of(self.call, 1, conditions)
        if taken < 50 * conditions.sample:
            taken = seconds_of(self.call, 1, conditions)  # the first call may have built something
        self.loops = max(1, min(1000, round(conditions.sample / max(taken, 1e-9))))
        return taken

    def sample(self, conditions: Conditions) -> float:
        """Seconds of one call."""
        if self.measure is None:
            return seconds_of(self.call, self.loops, conditions)
        seconds, self.memory = self.measure()
        return seconds


@dataclass(kw_only=True)
class Workload:
    """What a case does once it is set up."""

    run: Contender
    #: What it is measured against, by name; a generator sets it up after ``run`` and only if it is measured.
    baselines: Iterable[tuple[str, Contender]] = ()
    #: Whether ``run`` calls our operators, so that the plain ones are a baseline, too.
    has_operators: bool = True
    #: Bytes kept for the backward pass, as a share of the features' bytes.
    kept: Callable[[], float] | None = None
    #: Calls before memory is measured: the first one may set up what stays.
    warm_calls: int = 1
    #: Closed behind the last sample.
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def contenders(self, backend: Backend) -> dict[str, Contender]:
        """``run``, named "", and its baselines; ``backend`` is that of the case."""
        found = {"": self.run}
        if self.has_operators and backend == "native":
            found[PLAIN] = Contender(call=self.run.call, backend="reference", with_memory=self.run.with_memory)
        with native.use(backend):
            found |= self.baselines
        for contender in found.values():
            contender.backend = contender.backend or backend
        return found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table. ``build`` takes the memory; until then a case is only a name."""

    group: str
    what: str
    images: int  # that a call takes
    build: Callable[[], Workload]
    positions: int = 0  # its place on a curve
    weight: float = 1.0  # rough seconds that measuring takes, for the progress bar


Cases = Callable[[], Sequence[Case]]


@dataclass(kw_only=True)
class Measurement:
    """What was found out about a contender."""

    samples: Mapping[int, float]  # seconds of a call, by round
    memory: Memory | None
    kept: float | None = None


class Ratio(NamedTuple):
    """How many times as long one call takes as another: the median over rounds, and its quartiles."""

    value: float
    low: float
    high: float


def ratio_of(one: Measurement, other: Measurement) -> Ratio | None:
    """Times of ``one`` over those of ``other`` in the same round; None where they share fewer than two rounds."""
    shared = [one.samples[number] / other.samples[number] for number in one.samples if number in other.samples]
    if len(shared) < 2:
        return None
    low, middle, high = statistics.quantiles(shared, n=4, method="inclusive")
    return Ratio(middle, low, high)


def native_missing(conditions: Conditions) -> str | None:
    """Why the native operators cannot be measured on this device, or None where they can.

    Raises:
        GanformerError: ``GANFORMER_OPS=native``, and they cannot be had.
    """
    native.serves(torch.zeros(1, device=conditions.device))
    found = native.status(torch.device(conditions.device).type)
    return None if found.native else found.reason or "they are not there"


def measure(case: Case, conditions: Conditions, backend: Backend) -> dict[str, Measurement]:
    """Time a case, named "", and its baselines; on a CPU, ``memories`` measures memory in another process."""
    work = case.build()
    with work.resources:
        contenders = work.contenders(backend)
        with native.use(backend):
            kept = None if work.kept is None else work.kept()
        if conditions.on_cuda and conditions.memory:
            for contender in contenders.values():
                contender.memory = memory_of(contender, work.warm_calls, conditions)
        samples = interleaved(contenders, conditions)
    found = {name: Measurement(samples=samples[name], memory=each.memory) for name, each in contenders.items()}
    found[""].kept = kept
    return found


def copies_of(x: Tensor) -> Iterator[tuple[str, Contender]]:
    """The least that reading and writing ``x`` once takes: into memory that is there, and into new memory."""
    x = x.detach()
    target = torch.empty_like(x)
    yield "copy", Contender(call=lambda: target.copy_(x))
    yield "clone", Contender(call=x.clone)


def temporary_folder() -> tuple[contextlib.ExitStack, Path]:
    """A folder, and what removes it."""
    resources = contextlib.ExitStack()
    return resources, Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="ganformer-bench-")))


# ----- Time -----


def interleaved(contenders: Mapping[str, Contender], conditions: Conditions) -> dict[str, dict[int, float]]:
    """Time calls in turn: ``conditions.repeats`` rounds, more where they are quick, half as many where they are long.

    Each round starts torch's random stream anew, so that all calls of a round draw the same numbers.

    Returns:
        Seconds of a call by name and round; round 0 has the first calls that were long enough to count.
    """
    samples: dict[str, dict[int, float]] = {}
    for name, contender in contenders.items():
        torch.manual_seed(0)
        with native.use(contender.backend or "auto"):
            first = contender.warm_up(conditions)
        samples[name] = {0: first} if first >= LONG_CALL else {}
    start, done = time.perf_counter(), 0
    while not _enough(done, time.perf_counter() - start, conditions):
        order = list(contenders)
        # Nobody always goes first, or always behind the one that leaves the caches in the worst state.
        first_place = done % len(order)
        done += 1
        for name in order[first_place:] + order[:first_place]:
            contender = contenders[name]
            if contender.max_rounds is None or len(samples[name]) < contender.max_rounds:
                torch.manual_seed(done)
                with native.use(contender.backend or "auto"):
                    samples[name][done] = contender.sample(conditions)
    return samples


def _enough(rounds: int, seconds: float, conditions: Conditions) -> bool:
    if seconds >= LONG_CASE:
        return rounds >= (conditions.repeats + 1) // 2
    return rounds >= conditions.repeats and seconds >= conditions.seconds


def seconds_of(call: Callable[[], object], loops: int, conditions: Conditions) -> float:
    """Seconds of one call, the mean of ``loops``."""
    wait = torch.cuda.synchronize if conditions.on_cuda else lambda device: None
    wait(conditions.device)
    start = time.perf_counter()
    for _ in range(loops):
        call()
    wait(conditions.device)
    return (time.perf_counter() - start) / loops


# ----- Memory -----


def kept_bytes(call: Callable[[], object], given: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of ``call``, apart from those of the tensors in ``given``.

    Counts the memory of each tensor once, however many views of it are kept.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    del result  # until here: a freed block might be given to the next tensor, which would not be counted
    return sum(found.values())


def memory_of(contender: Contender, warm_calls: int, conditions: Conditions) -> Memory | None:
    """Memory at the worst moment of a call after ``warm_calls``; None where the system does not tell (Linux does)."""
    if not contender.with_memory:
        return None
    with native.use(contender.backend or "auto"):
        for _ in range(max(conditions.on_cuda, warm_calls)):
            contender.call()
        gc.collect()
        with Peak(torch.device(conditions.device)) as peak:
            contender.call()
    return None if peak.mib is None or peak.added_mib is None else Memory(peak.mib, peak.added_mib)


def memories(
    cases: Cases, name: str, backend: Backend, conditions: Conditions, prepare: Callable[[], object]
) -> list[Memory | None]:
    """Memory of the contender ``name`` of each case in this process, which is meant to be a new one.

    Args:
        cases: lists them.
        name: of the contender; None is the answer for cases that have none of this name.
        backend: of the operators.
        conditions: under which.
        prepare: called first, to choose how memory is allocated.
    """
    prepare()
    found: list[Memory | None] = []
    with conditions.apply():
        for case in cases():
            work = case.build()
            contender = work.run if not name else work.contenders(backend).get(name)
            if contender is not None:
                contender.backend = contender.backend or backend
            found.append(None if contender is None else memory_of(contender, work.warm_calls, conditions))
    return found


def in_fresh_process(function: Callable[[], _Answer]) -> _Answer:
    """What ``function`` returns in a new process of this program; both must be picklable.

    Raises:
        GanformerError: it raised one, or the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function))
    process.start()
    sender.close()
    try:
        good, value = receiver.recv()
    except EOFError:
        process.join()
        raise GanformerError(
            f"a process that measured ended with status {process.exitcode}; is there enough memory?"
        ) from None
    finally:
        receiver.close()
        process.join(5)
        process.terminate()
        process.join()
    if not good:
        raise GanformerError(value)
    answer: _Answer = value
    return answer


def _answer(sender: Connection, function: Callable[[], Any]) -> None:
    leave_to_parent()
    try:
        sender.send((True, function()))
    except (GanformerError, RuntimeError) as error:  # the latter are torch's: not enough memory, for one
        sender.send((False, first_line(error)))


def first_line(error: Exception) -> str:
    """What an error says, without the rest that torch's have."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
