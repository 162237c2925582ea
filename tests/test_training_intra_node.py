"""Processes of one machine exchange through shared memory, and otherwise as before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.not_wine("Gloo's first sum between processes hangs")]

START = """
import os, sys
import torch
import torch.distributed as dist
from ganformer_cli.training import intra_node
from ganformer_cli.training.distributed import Group
from ganformer_cli.training.gradients import GradientReducer, SharedMemoryReducer, gradient_reducer
torch.set_num_threads(1)
rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
intra_node.CONNECT_SECONDS = 3.0
dist.init_process_group("gloo", store=dist.FileStore(folder + "/store", world_size), rank=rank, world_size=world_size)
"""
END = """
dist.barrier()  # a process that leaves before the others makes Gloo abort
dist.destroy_process_group()
"""
#: torch.testing would load sympy, a second in each process.
CONNECT = """
def check_close(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=1.3e-6, atol=1e-5), (a, b)

node = intra_node.connect(rank, world_size, 60.0)
assert node is not None
group = Group(rank, world_size, node)
"""


def run(body: str, world_size: int, folder: Path) -> list[tuple[int, str]]:
    """Status and output of processes that run ``body``, by rank."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", START + body + END, str(rank), str(world_size), str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        for rank in range(world_size)
    ]
    return [(process.wait(100), process.communicate()[0]) for process in started]


def test_sums_are_those_of_gloo_and_equal_in_all_processes_until_one_is_lost(tmp_path: Path) -> None:
    """Gradients in any layout, missing ones, and small tensors; again and again in the same memory. Then one dies."""
    body = (
        CONNECT
        + """
shapes = [(5,), (3, 4, 3, 3), (), (7, 2)]
leaves = [torch.zeros(shape, requires_grad=True) for shape in shapes]
turned = torch.zeros(3, 4, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
leaves.append(turned)
quick, plain = gradient_reducer(leaves, group), GradientReducer(leaves, Group(rank, world_size))
assert type(quick) is SharedMemoryReducer and type(plain) is GradientReducer
for step in range(4):
    torch.manual_seed(10 * step + rank)
    gradients = [torch.randn(leaf.shape) for leaf in leaves]
    missing = {rank} if step else {0}  # another one in each process; the first nowhere
    def assign():
        for i, (leaf, gradient) in enumerate(zip(leaves, gradients)):
            leaf.grad = None if i in missing else gradient.clone(memory_format=torch.preserve_format)
    assign(); plain.begin(); plain.finish(); expected = [leaf.grad.clone() for leaf in leaves]
    assign(); quick.begin(); quick.finish(); found = [leaf.grad for leaf in leaves]
    for leaf, a, b in zip(leaves, found, expected):
        check_close(a, b)
        assert a.stride() == leaf.stride()
    everywhere = intra_node.all_gather_object([a.clone() for a in found])
    assert all(torch.equal(a, b) for other in everywhere for a, b in zip(other, found))
    small = torch.randn(3, 2)
    total = small.clone(); dist.all_reduce(total)
    back = group.all_reduce(small)
    assert back is small
    check_close(small, total)
number = torch.tensor(float(rank))  # no dimensions
assert group.all_reduce_mean(number).item() == (world_size - 1) / 2
counts = torch.tensor([rank])  # not float32
assert group.all_reduce(counts).item() == sum(range(world_size))
large = torch.ones(intra_node.MAX_SMALL + 1)
assert group.all_reduce(large).eq(world_size).all()
print('summed', end=' ', flush=True)
node.barrier()
if rank == 2:
    os._exit(3)
try:
    node.barrier()
    node.barrier()  # rank 1 learns of it when rank 0 has ended
except RuntimeError as error:
    print(error, end="")
    os._exit(4)
"""
    )
    begun = time.monotonic()
    ended = run(body, 3, tmp_path)
    assert [status for status, _ in ended] == [4, 4, 3]
    assert all(said.startswith("summed ") for _, said in ended), ended
    assert all("connection to another process lost" in said for _, said in ended[:2])
    assert time.monotonic() - begun < 50  # and not the minute that was the limit


def test_where_it_cannot_be_all_processes_do_without(tmp_path: Path) -> None:
    """Two machines, no memory, no connection, and a stranger who connects."""
    body = """
def refuse(*_, **__):
    raise OSError("not here")

def is_refused(name, value, ranks=(0, 1), module=intra_node):
    before = getattr(module, name)
    if rank in ranks:
        setattr(module, name, value)
    node = intra_node.connect(rank, world_size, 60.0)
    setattr(module, name, before)
    return node is None

assert is_refused("_machine", lambda: (str(rank),))
assert is_refused("_create", refuse, ranks=[0])
assert is_refused("_open", refuse, ranks=[1])
assert is_refused("create_connection", refuse, ranks=[1], module=intra_node.socket)
assert is_refused("create_server", refuse, ranks=[0], module=intra_node.socket)
own = intra_node.broadcast_object
assert is_refused("broadcast_object", lambda value: (b"another's token!", own(value)[1]), ranks=[1])
assert intra_node.connect(rank, world_size, 60.0) is not None  # without obstacles
leaf = torch.zeros(3, requires_grad=True)
reducer = gradient_reducer([leaf], Group(rank, world_size))
leaf.grad = torch.full([3], float(rank))
reducer.begin()
reducer.finish()
assert leaf.grad.tolist() == [0.5] * 3
"""
    assert run(body, 2, tmp_path) == [(0, "")] * 2
