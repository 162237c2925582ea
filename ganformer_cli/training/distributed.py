"""Data-parallel training: the processes of a run, and what they agree on.

Every process holds all networks and takes an equal part of each batch. Whatever decides the course of the run is the
same in all of them: random numbers follow from the place of a micro-batch in the whole batch, and averages are taken
over all processes.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ganformer_cli.errors import ConfigError, TrainingError, first_line
from ganformer_cli.text import printable
from ganformer_cli.training.intra_node import MAX_SMALL, IntraNodeGroup, all_gather_object, broadcast_object, connect

#: How long a process waits for the others. Files, grids and comparisons of features are the work of rank 0, for which
#: the rest wait.
COLLECTIVE_TIMEOUT = datetime.timedelta(hours=2)
#: How long the processes of a run may take to start.
START_TIMEOUT = datetime.timedelta(minutes=10)

#: Words in the errors of Gloo, NCCL and their store when a process is lost.
_LOST = (
    "onnection",
    "roken pipe",
    "imed out",
    "imeout",
    "gloo",
    "NCCL",
    "Socket",
    "socket",
    "closed by peer",
)

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Group:
    """The processes of a run, as this one sees them."""

    rank: int = 0
    world_size: int = 1
    intra_node: IntraNodeGroup | None = None  # a quicker way, where all compute on the CPU of one machine

    @property
    def exchange(self) -> str:
        """What gradients go through, for people."""
        return str(dist.get_backend()) if self.intra_node is None else "shared memory"

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes."""
        return self.rank == 0

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """Average a tensor over all processes, in place."""
        return self.all_reduce(tensor).div_(self.world_size) if self.world_size > 1 else tensor

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.intra_node is not None and tensor.dtype == torch.float32 and tensor.numel() <= MAX_SMALL:
            self.intra_node.all_reduce(tensor)
        elif self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor) -> None:
        """Copy rank 0's tensor to all processes, in place."""
        if self.world_size > 1:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, 0)
            tensor.detach().copy_(whole)

    def all_reduce_any(self, flags: Sequence[bool], device: torch.device) -> list[bool]:
        """Which of ``flags`` is true in at least one process."""
        if self.world_size == 1:
            return list(flags)
        votes = self.all_reduce(torch.tensor([float(flag) for flag in flags], device=device))
        return [vote > 0 for vote in votes.tolist()]

    def all_reduce_min(self, number: int, device: torch.device) -> int:
        """The smallest ``number`` of all processes."""
        if self.world_size == 1:
            return number
        found = torch.tensor([number], device=device)
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)

    def run_on_rank0(self, value: Callable[[], _Value]) -> _Value:
        """Call ``value`` in rank 0 and return its result in all processes; an error there is raised in all of them."""
        if self.world_size == 1:
            return value()
        found: _Value | None = None
        error: Exception | None = None
        if self.is_main:
            try:
                found = value()
            except Exception as raised:  # the others must learn of it, or they would wait for ever
                error = raised
        reason = broadcast_object(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        if reason is not None:
            raise TrainingError(f"the first process of the run failed: {reason}")
        return broadcast_object(found)  # type: ignore[return-value]

    def all_gather_object(self, value: _Value) -> list[_Value]:
        """The values of all processes, by rank."""
        return [value] if self.world_size == 1 else all_gather_object(value)

    def check_same(self, value: str, what: str) -> None:
        """Raise ConfigError unless ``value`` is the same in all processes."""
        everybody = self.all_gather_object(value)
        for rank, other in enumerate(everybody):
            if other != everybody[0]:
                raise ConfigError(
                    f"{what} differ between the processes 0 and {rank} of this run; start all of them alike"
                )


ONE_PROCESS = Group()


def describe_sharing(group: Group, batch: int, micro_batch: int) -> str:
    """A sentence on how processes share a batch, and which other runs agree with this one.

    Noise, latents and minibatch-std depend on the micro-batch, so that is what must be equal.
    """
    return (
        f"{group.world_size} processes take {batch // group.world_size} of the {batch} images of a batch each, "
        f"{micro_batch} at a time, and average gradients through {group.exchange}; with --batch-gpu {micro_batch} "
        "fewer processes, or one, come to the same up to rounding"
    )


def launched_world_size() -> int:
    """``WORLD_SIZE``, if a launcher such as torchrun started this process together with others; else 0.

    Raises:
        ConfigError: the launcher's environment variables are missing or wrong.
    """
    world_size = _number("WORLD_SIZE", 1, 2**20, "how many processes train together", default=1)
    if world_size == 1:
        return 0
    _number("RANK", 0, world_size - 1, f"which of the {world_size} processes of WORLD_SIZE this is")
    _number("LOCAL_RANK", 0, world_size - 1, "which process of this machine this is", default=0)
    _number("MASTER_PORT", 1, 2**16 - 1, "the port at which the processes meet")
    will_be_restarted()
    if not os.environ.get("MASTER_ADDR"):
        raise ConfigError(
            f"MASTER_ADDR is not set, and WORLD_SIZE={world_size} says that several processes train together; start "
            "them with torchrun, or set the address of the first one's machine. For a single process unset WORLD_SIZE"
        )
    return world_size


def _number(name: str, least: int, most: int, meaning: str, default: int | None = None) -> int:
    """The whole number in the environment variable ``name``."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    digits = (text or "").strip()
    if digits.isascii() and digits.isdecimal() and len(digits) < 16 and least <= int(digits) <= most:
        return int(digits)
    found = f"{name} is not set" if text is None else f"{name}={printable(text, limit=40)}"
    raise ConfigError(
        f"{found}: it should say {meaning}, a number from {least} to {most}; start the processes with torchrun, or set "
        "it in all of them. For a single process unset WORLD_SIZE"
    )


def init_process_group(device: torch.device) -> Group:
    """Connect to the other processes that the launcher started, if any: GPUs by NCCL on Linux, all else by Gloo.

    Args:
        device: of this process.

    Raises:
        TrainingError: they cannot be reached, or their sums are wrong.
    """
    if not launched_world_size():
        return ONE_PROCESS
    backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        # Builds of torch for Windows may lack libuv (pytorch issue 139990), whatever USE_LIBUV asks for.
        url = "env://?use_libuv=0" if sys.platform == "win32" else "env://"
        store, rank, world_size = next(rendezvous(url, timeout=START_TIMEOUT))
        store = dist.PrefixStore(f"ganformer/{_session_name(store, rank, world_size)}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise TrainingError(
            f"the processes of this run cannot meet ({first_line(error)}); start them with torchrun, or set "
            "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in all of them"
        ) from error
    rank, world_size = dist.get_rank(), dist.get_world_size()
    intra_node = connect(rank, world_size, COLLECTIVE_TIMEOUT.total_seconds()) if device.type == "cpu" else None
    group = Group(rank, world_size, intra_node)
    # A broken network shows here, and not as wrong gradients.
    right = [world_size * (world_size + 1) / 2] * 4
    for way, all_reduce in {backend: dist.all_reduce, group.exchange: group.all_reduce}.items():
        probe = torch.full([4], float(rank + 1), device=device)
        all_reduce(probe)
        if probe.tolist() != right:
            raise TrainingError(f"{way} adds up wrong numbers between {world_size} processes; check network and driver")
    return group


def _session_name(store: dist.Store, rank: int, world_size: int) -> str:
    """A name that all processes of this start of the run agree on, and that no other start has.

    Under torchrun the store outlives the processes, and what they left in it would mislead those that are started in
    their place (pytorch issue 135712); how often a process was started differs between machines. So rank 0 answers each
    of the others with a number that only that one knows, until all have confirmed.
    """
    deadline = time.monotonic() + START_TIMEOUT.total_seconds()
    own = uuid.uuid4().hex
    others = range(1, world_size)
    if rank > 0:
        store.set(f"hello {rank}", own)
    while time.monotonic() < deadline:
        if rank > 0:
            life, *known = store.get("answer").decode().split() if store.check(["answer"]) else [""]
            if own in known:
                store.set(f"yes {life} {rank}", "yes")
                return life
        else:
            said = [store.get(f"hello {k}").decode() for k in others if store.check([f"hello {k}"])]
            store.set("answer", " ".join([own, *said]))
            if all(store.check([f"yes {own} {k}"]) for k in others):
                return own
        time.sleep(0.05)
    raise RuntimeError(f"not all of {world_size} processes came within {START_TIMEOUT}")


def is_restart() -> bool:
    """Whether torchrun started this process in place of one that failed."""
    return _restarts() > 0


def will_be_restarted() -> bool:
    """Whether torchrun would start this process again if it ended with a status other than 0."""
    most = _number("TORCHELASTIC_MAX_RESTARTS", 0, 2**31, "how often torchrun starts a process again", default=0)
    return _restarts() < most


def _restarts() -> int:
    return _number(
        "TORCHELASTIC_RESTART_COUNT", 0, 2**31, "how often torchrun has started this process again", default=0
    )


def local_device(devices: Sequence[torch.device], *, chosen: bool) -> torch.device:
    """The device of this process: one GPU for each process of a machine, or the CPU for all.

    Args:
        devices: those to use.
        chosen: whether the user named them; otherwise all GPUs serve.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """
    if not launched_world_size() or devices[0].type == "cpu":
        return devices[0]
    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    if not chosen:  # torchrun says how many processes there are
        devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if local >= len(devices):
        raise ConfigError(
            f"process {local} of this machine has no GPU: there are {len(devices)}; start as many processes, or use "
            "--gpus none"
        )
    return devices[local]


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """Connect the processes within the block; see ``init_process_group``.

    Raises:
        TrainingError: another process was lost; started again, the run resumes from its last training state.
    """
    group = init_process_group(device)
    try:
        yield group
    except (RuntimeError, dist.DistError) as error:
        if group.world_size == 1 or not any(word in str(error) for word in _LOST):
            raise
        raise TrainingError(
            f"process {group.rank} of {group.world_size} lost another one ({first_line(error)[:200]}); what "
            "that one said tells why. The same command resumes from the last state"
        ) from error
    else:
        if group.world_size > 1:
            # A process that leaves while another is still in an exchange looks to that one as if it had died.
            dist.barrier()
