"""How long calls take beside one another, how much memory they need, and what they keep for the backward pass.

Calls that are compared are timed in turn, round by round in one process, so that whatever else the machine does meets
all of them. A ratio is the median over the rounds, and its spread the quartiles; one round gives no ratio.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.utils.benchmark import timer  # waits for the GPU

from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import TRAINING_MIB, Peak, keep_large_blocks
from ganformer_cli.operators import native
from ganformer_cli.operators.native import Backend
from ganformer_cli.stop_signals import leave_to_parent

#: Seconds of measuring a case, after which half of the repeats are enough.
LONG_CASE = 30.0
#: The plain-torch operators, among what a case is measured against.
PLAIN = "plain torch"
_Answer = TypeVar("_Answer")


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
    backend: Backend = "auto"  # of the operators
    keep_mib: int = TRAINING_MIB  # largest blocks that are kept when they are freed

    @property
    def on_cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return torch.device(self.device).type == "cuda"

    @contextmanager
    def apply(self) -> Iterator[None]:
        """Inside, torch has these threads, this GPU, precision of float32 and operators; afterwards its own again."""
        keep_large_blocks(self.keep_mib)
        with ExitStack() as before:
            before.callback(torch.set_num_threads, torch.get_num_threads())
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            float32: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
            for backend in float32:
                before.callback(setattr, backend, "allow_tf32", backend.allow_tf32)
                backend.allow_tf32 = self.precision != "fp32"
            if self.on_cuda:
                before.enter_context(torch.cuda.device(self.device))
            before.enter_context(native.use(self.backend))
            yield


@dataclass(kw_only=True)
class Contender:
    """Something that is timed: what a case is about, or what that is measured against."""

    call: Callable[[], Any]
    name: str = ""  # of what a case is measured against
    clocks_itself: bool = False  # the call returns its seconds, for instance those of another process
    takes_memory: bool = False  # which is measured, too
    memory: Peak | None = None  # on a CPU of the whole process, on CUDA of all tensors
    kept: float | None = None  # bytes that are kept for the backward pass, as a share of the features' bytes
    samples: list[float] = field(default_factory=list)  # seconds of a call, by round
    loops: int = 1  # calls in a sample

    def warm_up(self, sample: float) -> None:
        """Decide how many calls make a sample of so many seconds."""
        if not self.clocks_itself:
            taken = seconds_of(self.call)
            if taken < 50 * sample:
                taken = seconds_of(self.call)  # the first call may have built something
            self.loops = max(1, min(1000, round(sample / max(taken, 1e-9))))

    def sample(self) -> float:
        """Seconds of one call."""
        return self.call() if self.clocks_itself else seconds_of(self.call, self.loops)


#: What a generator yields, once: first what a case is about. It takes the memory, and tidies up when it is closed.
Contenders = Iterator[list[Contender]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table; until ``build`` is called it is only a name."""

    what: str
    images: int  # that a call takes
    build: Callable[[], Contenders]
    positions: int = 0  # its place on a curve


Cases = Callable[[], Sequence[Case]]


def own_and_plain(call: Callable[[], Any], *, kept: float | None = None) -> list[Contender]:
    """A call of the operators as it is, and with the plain-torch ones."""
    own = Contender(call=call, takes_memory=True, kept=kept)
    return [own, Contender(name=PLAIN, call=native.use("reference")(call), takes_memory=True)]


@contextmanager
def contenders_of(case: Case, conditions: Conditions) -> Contenders:
    """The contenders of a case, with the conditions applied; plain torch is one only of native operators."""
    with conditions.apply():
        torch.manual_seed(0)
        with contextmanager(case.build)() as built:
            yield [each for each in built if each.name != PLAIN or conditions.backend == "native"]


def measure(case: Case, conditions: Conditions, memory: Mapping[str, Peak]) -> dict[str, Any]:
    """A line of the table: times in milliseconds, ratios with their quartiles, and memory in MiB.

    ``memory`` is that of contenders by name, as ``memories`` has found it.
    """
    with contenders_of(case, conditions) as found:
        for each in found:
            each.memory = memory.get(each.name)
        time_in_turns(found, conditions)
        own, *others = found
        return {
            "what": case.what,
            "images": case.images,
            **({"positions": case.positions} if case.positions else {}),
            **_record(own),
            "images_per_second": _rounded(case.images / min(own.samples)),
            "kept_percent": None if own.kept is None else round(100 * own.kept, 2),
            "against": {each.name: {**_record(each), **ratio_of(own.samples, each.samples)} for each in others},
        }


def _record(found: Contender) -> dict[str, Any]:
    return {
        "ms": _rounded(min(found.samples) * 1e3),
        "ms_median": _rounded(statistics.median(found.samples) * 1e3),
        "samples": len(found.samples),
        "peak_mib": found.memory and _rounded(found.memory.mib),
        "added_mib": found.memory and _rounded(found.memory.added_mib),
    }


def ratio_of(own: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """How many times as long one takes as the other, by rounds: the median and its quartiles; None of one round."""
    if len(own) < 2:
        return {"ratio": None, "spread": None}
    ratios = [one / another for one, another in zip(own, other, strict=True)]
    low, middle, high = map(_rounded, statistics.quantiles(ratios, n=4, method="inclusive"))
    return {"ratio": middle, "spread": [low, high]}


def _rounded(value: float | None) -> float | None:
    """Four digits that say something."""
    return None if value is None else float(f"{value:.4g}")


# ----- Time -----


def time_in_turns(contenders: Sequence[Contender], conditions: Conditions) -> None:
    """Sample calls in turn: ``conditions.repeats`` rounds, more where they are quick, half as many where they are long.

    Each round starts torch's random stream anew, so that all calls of a round draw the same numbers.
    """
    for each in contenders:
        torch.manual_seed(0)
        each.warm_up(conditions.sample)
    start, rounds = timer(), 0
    while rounds < conditions.repeats or timer() - start < conditions.seconds:
        if timer() - start >= LONG_CASE and 2 * rounds >= conditions.repeats:
            break
        # Nobody always goes first, or always behind the one that leaves the caches in the worst state.
        first = rounds % len(contenders)
        rounds += 1
        for each in [*contenders[first:], *contenders[:first]]:
            torch.manual_seed(rounds)
            each.samples.append(each.sample())


def seconds_of(call: Callable[[], object], loops: int = 1) -> float:
    """Seconds of one call, the mean of ``loops``."""
    start = timer()
    for _ in range(loops):
        call()
    return (timer() - start) / loops


# ----- Memory -----


def memories(cases: Cases, conditions: Conditions) -> list[dict[str, Peak]]:
    """Memory of contenders of each case by name; on a CPU that of this process, which is meant to be a new one.

    It is that of the worst moment of the second call: the first may set up what stays, as optimisers do.
    """
    found: list[dict[str, Peak]] = []
    for case in cases():
        found.append({})
        with contenders_of(case, conditions) as contenders:
            for each in (each for each in contenders if each.takes_memory):
                each.call()
                gc.collect()
                with Peak(torch.device(conditions.device)) as found[-1][each.name]:
                    each.call()
    return found


def in_fresh_process(function: Callable[[], _Answer]) -> _Answer:
    """What ``function`` returns in a new process of this program; both must be picklable.

    Raises:
        GanformerError: it raised one, or the process ended without an answer. Other errors that it raised, as they are.
    """
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=leave_to_parent) as pool:
        try:
            return pool.submit(function).result()
        except BrokenProcessPool:
            raise GanformerError("a process that measured ended without an answer; is there enough memory?") from None
        except KeyboardInterrupt:  # what it still measures is of no use
            for process in set(multiprocessing.active_children()).difference(others):
                process.kill()
            raise
