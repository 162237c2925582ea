"""What processes of one machine exchange without the network's detours: memory that all see, and a quick barrier.

Gloo passes even a single number through several threads, 0.5 to 0.9 ms each time, which is much where a step of
training takes 60 ms; and all that it sends is computed on the cores that train.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

#: Seconds that the processes may take to find one another.
CONNECT_SECONDS = 20.0

#: Numbers of the largest tensor that ``all_reduce`` takes.
MAX_SMALL = 4096

#: Bytes before the numbers of shared memory: they tell it from other memory of the same name.
_HEADER = 64

#: What a system raises that has no such memory or sockets, or too little of it.
_REFUSALS = OSError, ValueError, OverflowError, AttributeError

_Value = TypeVar("_Value")


class IntraNodeGroup:
    """All processes of a run, if they are on one machine. Every method is called in all of them, in the same order.

    Args:
        rank: of this process.
        world_size: how many there are.
        peers: sockets; of rank 0 one to each other process by rank, of the others one to rank 0.
        timeout: seconds that a process waits for the others.
    """

    def __init__(self, rank: int, world_size: int, peers: list[socket.socket], timeout: float) -> None:
        self.rank, self.world_size, self.peers = rank, world_size, peers
        for peer in peers:
            peer.settimeout(timeout)
        self.small: Tensor | None = None  # [2, world_size, MAX_SMALL]: two, so that one barrier is enough
        self.turn = 0

    def barrier(self) -> None:
        """Wait until all processes are here.

        Raises:
            RuntimeError: the connection to one of them is lost.
        """
        try:
            if self.rank > 0:
                self.peers[0].sendall(b"\0")
                self._receive(self.peers[0])
                return
            for peer in self.peers:
                self._receive(peer)
            for peer in self.peers:
                peer.sendall(b"\0")
        except OSError as error:
            raise RuntimeError(f"connection to another process lost: {error}") from error

    @staticmethod
    def _receive(peer: socket.socket) -> None:
        if not peer.recv(1):
            raise ConnectionError("it was closed by the other side")

    def zeros(self, *shape: int) -> Tensor | None:
        """Zeros that all processes read and write; None in all of them if the system refuses.

        The memory has no file, and is freed when the last process that holds it ends, however that ends.

        Returns:
            float32 ``shape`` on the CPU.
        """
        count = torch.Size(shape).numel()
        size = _HEADER + 4 * count
        memory: mmap.mmap | None = None
        name, token = "", secrets.token_bytes(16)
        if self.rank == 0:
            with contextlib.suppress(*_REFUSALS):
                memory, name = _create(size)
                memory[: len(token)] = token
        name, token = broadcast_object((name, token))
        if self.rank > 0 and name:
            with contextlib.suppress(*_REFUSALS):
                opened = _open(name, size)
                memory = opened if opened[: len(token)] == token else None
        if not all(all_gather_object(memory is not None)):
            return None
        assert memory is not None
        return torch.frombuffer(memory, dtype=torch.float32, count=count, offset=_HEADER).view(shape)

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a float32 tensor of at most ``MAX_SMALL`` numbers over all processes, in place, in the order of ranks."""
        assert self.small is not None
        rows = self.small[self.turn, :, : tensor.numel()]
        self.turn = 1 - self.turn
        rows[self.rank] = tensor.detach().reshape(-1)
        self.barrier()
        total = rows[0].clone()
        for row in rows[1:]:
            total += row
        tensor.detach().copy_(total.view(tensor.shape))


def connect(rank: int, world_size: int, timeout: float) -> IntraNodeGroup | None:
    """The processes of ``torch.distributed``'s default group; None in all of them unless they are on one machine.

    Args:
        rank: of this process.
        world_size: how many there are.
        timeout: seconds that a process waits for the others.
    """
    if len(set(all_gather_object(_machine()))) > 1:
        return None
    peers = _meet(rank, world_size)
    if not all(all_gather_object(len(peers) == (world_size - 1 if rank == 0 else 1))):
        return None
    group = IntraNodeGroup(rank, world_size, peers, timeout)
    group.small = group.zeros(2, world_size, MAX_SMALL)
    return None if group.small is None else group


def broadcast_object(value: _Value) -> _Value:
    """Rank 0's value."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def all_gather_object(value: _Value) -> list[_Value]:
    """The values of all processes, by rank."""
    everybody: list[_Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, value)
    return everybody  # type: ignore[return-value]


def _machine() -> tuple[str, ...]:
    """What is the same in two processes that can see each other's memory."""
    known = [platform.node()]
    # Containers of one machine have the same boot, and may have process numbers of their own.
    with contextlib.suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"), os.readlink("/proc/self/ns/pid")]
    return tuple(known)


def _meet(rank: int, world_size: int) -> list[socket.socket]:
    """Sockets between rank 0 and each other process; fewer if some do not come."""
    token, port = secrets.token_bytes(16), 0
    with contextlib.ExitStack() as stack:
        listener: socket.socket | None = None
        if rank == 0:
            with contextlib.suppress(*_REFUSALS):
                listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=world_size))
                port = listener.getsockname()[1]
        token, port = broadcast_object((token, port))
        if port == 0:
            return []
        if listener is not None:
            return _accept(listener, token, world_size)
        with contextlib.suppress(*_REFUSALS):
            peer = _prompt(socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS))
            peer.sendall(token + rank.to_bytes(4, "big"))
            return [peer]
    return []


def _accept(listener: socket.socket, token: bytes, world_size: int) -> list[socket.socket]:
    """Connections of those who know the token, by rank."""
    found: dict[int, socket.socket] = {}
    deadline = time.monotonic() + CONNECT_SECONDS
    while len(found) < world_size - 1 and time.monotonic() < deadline:
        with contextlib.suppress(*_REFUSALS):
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            peer = _prompt(listener.accept()[0])
            peer.settimeout(CONNECT_SECONDS)
            said = b""
            while len(said) < len(token) + 4 and (more := peer.recv(len(token) + 4 - len(said))):
                said += more
            if secrets.compare_digest(said[: len(token)], token):
                found[int.from_bytes(said[len(token) :], "big")] = peer
    return [found[rank] for rank in sorted(found)]


def _prompt(peer: socket.socket) -> socket.socket:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def _create(size: int) -> tuple[mmap.mmap, str]:
    """New memory, and the name by which others open it."""
    if sys.platform == "win32":
        name = f"ganformer-{secrets.token_hex(16)}"
        return _open(name, size), name
    descriptor = os.memfd_create("ganformer")
    try:
        os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    # The descriptor stays open, since its number is the name.
    return memory, f"/proc/{os.getpid()}/fd/{descriptor}"


def _open(name: str, size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size, tagname=name)
    descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
