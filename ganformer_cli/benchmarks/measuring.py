"""How long calls take beside one another, how much memory they need, and what they keep for the backward pass.

Calls that are compared are timed in turn, in one process, so that whatever else the machine does meets them all. The
least of their times is what is compared: everything that disturbs a measurement only adds to it.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.memory import proc_mib, reset_high_water, return_free_memory
from ganformer_cli.operators import native
from ganformer_cli.operators.native import Backend
from ganformer_cli.stop_signals import leave_to_parent

#: Seconds of measuring a case, after which half of the repeats will do.
LONG = 30.0
#: Seconds of a call that is not made only to warm it up: its first time counts, too.
LONG_CALL = 5.0

Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")

MIB = 2**20

Result = TypeVar("Result")


# ----- What is measured, and how -----


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under which everything of a run is measured."""

    device: str = "cpu"
    precision: Precision = "fp32"
    repeats: int = 5  # samples of each call, at least
    seconds: float = 1.0  # quick calls are sampled until all samples of a case have taken so long
    sample: float = 0.02  # seconds: a sample repeats its call until then, so that the clock's own cost vanishes
    threads: int | None = None  # of torch on the CPU; None: as many as it takes

    @property
    def dtype(self) -> torch.dtype:
        """Of images and features."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def on_cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return torch.device(self.device).type == "cuda"

    def check(self) -> None:
        """Whether this machine can do it.

        Raises:
            ConfigError: it has no such device, or the precision is none of its.
        """
        if not self.on_cuda:
            if self.precision == "tf32":
                raise ConfigError("--precision tf32: only CUDA devices have it; choose fp32, bf16 or --device cuda")
            return
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not found:
            built = "is built without CUDA" if torch.version.cuda is None else "finds no CUDA GPU"
            raise ConfigError(f"--device {self.device}: torch {torch.__version__} {built} here; choose --device cpu")
        number = torch.device(self.device).index or 0
        if number >= found:
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
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16")


class Work(NamedTuple):
    """A call and the side of the operators that it is made with."""

    call: Callable[[], object]
    side: Backend | None = None  # None: the one that is compared, the first of ``measure``
    most: int | None = None  # samples, for calls that take long and are far off anyway


class Timing(NamedTuple):
    """Seconds of one call."""

    least: float
    median: float
    samples: int


class Bound(Protocol):
    """Something to compare with that is no single call."""

    def sample(self) -> None:
        """Measure it once more."""

    def timing(self) -> Timing:
        """What the samples say."""


class Memory(NamedTuple):
    """Memory at the worst moment, in MiB."""

    peak: float  # CPU: of the whole process; CUDA: of all tensors
    added: float  # of it, what was not there before the call


@dataclass(kw_only=True)
class Workload:
    """What a case does once it is set up."""

    run: Callable[[], object]
    #: Sets up what it is compared with, in the same loop.
    rivals: Callable[[], Mapping[str, Work]] = dict
    #: Sets up what else it is compared with, sampled as often.
    bounds: Callable[[], Mapping[str, Bound]] = dict
    #: Bytes kept for the backward pass, as a share of the features' bytes.
    kept: Callable[[], float] | None = None
    #: Calls before memory is measured: the first one may set up what stays.
    warm_calls: int = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table. ``build`` takes the memory; until then a case is only a name."""

    group: str
    what: str
    images: int  # pictures that a call takes
    build: Callable[[], Workload]
    weight: float = 1.0  # rough seconds that measuring takes, for the progress bar


Cases = Callable[[], Sequence[Case]]


@dataclass(kw_only=True)
class SideResult:
    """What one side of the operators was measured to do."""

    timing: Timing
    kept: float | None
    memory: Memory | None = None


@dataclass(kw_only=True)
class Row:
    """A case, measured."""

    group: str
    what: str
    images: int
    sides: dict[str, SideResult]  # "native" is missing where there are no native operators
    against: dict[str, Timing]


def native_missing(conditions: Conditions) -> str | None:
    """Why the native operators cannot be measured on this device, or None where they can.

    Raises:
        GanformerError: ``GANFORMER_OPS=native``, and they cannot be had.
    """
    native.serves(torch.zeros(1, device=conditions.device))
    found = native.status(torch.device(conditions.device).type)
    return None if found.native else found.reason or "they are not there"


def measure(case: Case, conditions: Conditions, sides: Sequence[Backend]) -> Row:
    """Time a case on the given sides and what it is compared with.

    The memory of a process is not to be had beside the other side's: see ``process_memories``.
    """
    work = case.build()
    kept: dict[Backend, float] = {}
    memory: dict[Backend, Memory] = {}
    for side in sides:
        with native.use(side):
            if work.kept is not None:
                kept[side] = work.kept()
            if conditions.on_cuda:
                memory[side] = cuda_memory_of(work, conditions)
    rivals = {name: rival._replace(side=rival.side or sides[0]) for name, rival in work.rivals().items()}
    with native.use(sides[0]):
        bounds = work.bounds()
    timings = interleaved({**{side: Work(work.run, side) for side in sides}, **rivals}, conditions, bounds.values())
    against = {name: timings[name] for name in rivals}
    against.update({name: bound.timing() for name, bound in bounds.items()})
    results = {
        str(side): SideResult(timing=timings[side], kept=kept.get(side), memory=memory.get(side)) for side in sides
    }
    return Row(group=case.group, what=case.what, images=case.images, sides=results, against=against)


def copies_of(x: Tensor) -> dict[str, Work]:
    """The least that reading and writing ``x`` once takes: into memory that is there, and into new memory."""
    x = x.detach()
    target = torch.empty_like(x)
    return {"copy": Work(lambda: target.copy_(x), "reference"), "clone": Work(x.clone, "reference")}


def on_side(side: Backend | None) -> contextlib.AbstractContextManager[None]:
    """The operators on a side; None leaves them as they are."""
    return contextlib.nullcontext() if side is None else native.use(side)


# ----- Time -----


def interleaved(works: Mapping[str, Work], conditions: Conditions, bounds: Iterable[Bound] = ()) -> dict[str, Timing]:
    """Time calls in turn, and ``bounds`` with them: ``conditions.repeats`` rounds, more where they are quick.

    Where a round takes long there are only half as many. Each round starts torch's random stream anew, so that all
    calls of a round draw the same numbers.
    """
    first_calls = {name: _warm_up(work, conditions) for name, work in works.items()}
    loops = {name: max(1, min(1000, round(conditions.sample / max(s, 1e-9)))) for name, s in first_calls.items()}
    samples = {name: [seconds] if seconds >= LONG_CALL else [] for name, seconds in first_calls.items()}
    start, rounds = time.perf_counter(), 0
    while not _enough(rounds, time.perf_counter() - start, conditions):
        order = list(works)
        # Nobody always goes first, or always behind the one that leaves the caches in the worst state.
        first = rounds % len(order)
        for name in order[first:] + order[:first]:
            work = works[name]
            if work.most is None or len(samples[name]) < work.most:
                torch.manual_seed(rounds)
                with on_side(work.side):
                    samples[name].append(sample_of(work.call, loops[name], conditions))
        for bound in bounds:
            bound.sample()
        rounds += 1
    return {name: Timing(min(taken), statistics.median(taken), len(taken)) for name, taken in samples.items()}


def _enough(rounds: int, seconds: float, conditions: Conditions) -> bool:
    if seconds >= LONG:
        return rounds >= (conditions.repeats + 1) // 2
    return rounds >= conditions.repeats and seconds >= conditions.seconds


def _warm_up(work: Work, conditions: Conditions) -> float:
    """Seconds of one of the first calls."""
    torch.manual_seed(0)
    with on_side(work.side):
        taken = sample_of(work.call, 1, conditions)
        if taken < 50 * conditions.sample:
            taken = sample_of(work.call, 1, conditions)  # the first call may have built something
    return taken


def sample_of(call: Callable[[], object], loops: int, conditions: Conditions) -> float:
    """Seconds of one call, the mean of ``loops``."""
    if not conditions.on_cuda:
        start = time.perf_counter()
        for _ in range(loops):
            call()
        return (time.perf_counter() - start) / loops
    with torch.cuda.device(conditions.device):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        for _ in range(loops):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / loops


# ----- Memory -----


def kept_bytes(call: Callable[[], object], given: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of ``call``, apart from those of the tensors in ``given``.

    Counts the memory of each tensor once, however many views of it are kept.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = call()
    del result  # until here: a freed block might be given to the next tensor, which would not be counted
    return sum(found.values())


def cuda_memory_of(work: Workload, conditions: Conditions) -> Memory:
    """Memory of all tensors on the GPU at the worst moment of a call that is not the first."""
    for _ in range(max(1, work.warm_calls)):
        work.run()
    gc.collect()
    torch.cuda.reset_peak_memory_stats(conditions.device)
    before = torch.cuda.memory_allocated(conditions.device)
    work.run()
    torch.cuda.synchronize(conditions.device)
    peak = torch.cuda.max_memory_allocated(conditions.device)
    return Memory(peak / MIB, (peak - before) / MIB)


def process_memories(
    cases: Cases, side: Backend, conditions: Conditions, prepare: Callable[[], object] | None = None
) -> list[Memory | None]:
    """Memory of this process at the worst moment of each case. Meant for ``in_fresh_process``.

    Every case is called as often as it says to warm up; then what is free goes back to the system, and the worst moment
    of one more call is taken. None where the system does not tell (it is Linux that does).

    Args:
        cases: lists them.
        side: of the operators.
        conditions: under which.
        prepare: called first, for instance to choose how memory is allocated.
    """
    if prepare is not None:
        prepare()
    with conditions.apply():
        return [_process_memory(case, side) for case in cases()]


def _process_memory(case: Case, side: Backend) -> Memory | None:
    work = case.build()
    with native.use(side):
        for _ in range(work.warm_calls):
            work.run()
        gc.collect()
        return_free_memory()
        if not reset_high_water():
            return None
        before = proc_mib("VmRSS")
        work.run()
        peak = proc_mib("VmHWM")
    return None if before is None or peak is None else Memory(peak, peak - before)


def in_fresh_process(function: Callable[[], Result], *, daemon: bool = True) -> Result:
    """What ``function`` returns in a new process of this program; both must be picklable.

    Args:
        function: what to call.
        daemon: end it with this process, whatever happens; such a process cannot start others itself.

    Raises:
        GanformerError: it raised one, or the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function), daemon=daemon)
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
        if process.is_alive():
            process.join(5)
            process.terminate()
        process.join()
    if not good:
        raise GanformerError(str(value))
    result: Result = value
    return result


def first_line(error: Exception) -> str:
    """What an error says, without the rest that torch's have."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _answer(sender: Connection, function: Callable[[], Any]) -> None:
    leave_to_parent()
    try:
        sender.send((True, function()))
    except (GanformerError, RuntimeError) as error:  # the latter are torch's: not enough memory, for one
        sender.send((False, first_line(error)))
