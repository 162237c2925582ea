"""How processes that train together average their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ganformer_cli.training.distributed import Group
from ganformer_cli.training.intra_node import IntraNodeGroup

#: Bytes of gradients that are reduced together: large enough to use the network well, small enough to start early.
BUCKET_BYTES = 25 << 20


class GradientReducer:
    """Averages gradients over all processes in buckets, while the backward pass is still running.

    After ``begin``, the reduction of a bucket starts as soon as all its gradients are there; ``finish`` starts the rest
    and waits. The order of buckets is the same in all processes.

    Args:
        parameters: in the order of the forward pass; their gradients arrive in reverse.
        group: the processes.
    """

    def __init__(self, parameters: Iterable[Tensor], group: Group) -> None:
        self.group = group
        self.buckets: list[list[Tensor]] = []
        self.home: dict[Tensor, int] = {}
        self.active = False
        if group.world_size == 1:
            return
        size = BUCKET_BYTES
        for parameter in reversed(list(parameters)):
            if size >= BUCKET_BYTES:
                self.buckets.append([])
                size = 0
            self.buckets[-1].append(parameter)
            self.home[parameter] = len(self.buckets) - 1
            size += parameter.numel() * parameter.element_size()
            parameter.register_post_accumulate_grad_hook(self._arrived)
        self._reset()

    def _reset(self) -> None:
        self.missing = [set(bucket) for bucket in self.buckets]
        self.sent: list[tuple[Tensor, dist.Work]] = []
        self.active = False

    def begin(self) -> None:
        """Call this before the backward pass that completes the gradients."""
        self._reset()
        self.active = self.group.world_size > 1

    def _arrived(self, parameter: Tensor) -> None:
        if not self.active:
            return
        self.missing[self.home[parameter]].discard(parameter)
        while len(self.sent) < len(self.buckets) and not self.missing[len(self.sent)]:
            self._send()

    def _send(self) -> None:
        """Start the next bucket. A parameter without a gradient here may have one elsewhere: it counts as zero."""
        bucket = self.buckets[len(self.sent)]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self.sent.append((flat, work))

    def finish(self) -> None:
        """Start the remaining buckets, wait for all, and write the means into the gradients."""
        if self.group.world_size == 1:
            return
        while len(self.sent) < len(self.buckets):
            self._send()
        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            flat /= self.group.world_size
            for p, mean in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                if p.grad is None:
                    p.grad = torch.empty_like(p)
                p.grad.copy_(mean.reshape(p.shape))
        self._reset()


class SharedMemoryReducer(GradientReducer):
    """Averages gradients over processes on the CPU of one machine, by way of memory that all of them see.

    Each process copies its gradients into a row of its own, adds up its part of all rows, and reads the whole mean.

    Args:
        parameters: dense float32 leaves on the CPU.
        group: the processes.
        node: the same.
        rows: ``IntraNodeGroup.zeros`` of ``shape(parameters, group)``.
    """

    def __init__(self, parameters: Sequence[Tensor], group: Group, node: IntraNodeGroup, rows: Tensor) -> None:
        super().__init__([], group)
        self.parameters, self.node = list(parameters), node
        sizes = [parameter.numel() for parameter in self.parameters]
        self.own = rows[group.rank, : sum(sizes)]
        self.means = [
            flat.as_strided(parameter.shape, parameter.stride())
            for flat, parameter in zip(rows[-1, : sum(sizes)].split(sizes), self.parameters, strict=True)
        ]
        self.zeros = torch.zeros(max(sizes, default=0))
        # What this process adds up, and where the mean of it goes.
        *self.rows, self.mean = (row.chunk(group.world_size)[group.rank] for row in rows)

    @staticmethod
    def shape(parameters: Sequence[Tensor], group: Group) -> tuple[int, int]:
        """Shape of what is shared: a row for each process and one for the mean, whose parts are whole cache lines."""
        part = 16 * group.world_size
        row = -(-sum(parameter.numel() for parameter in parameters) // part) * part
        return group.world_size + 1, max(row, part)

    def finish(self) -> None:
        """Write the means into the gradients; they hold until the next call."""
        torch.cat(list(map(self._flat, self.parameters)), out=self.own)
        # Once all are here, all rows are written, and nobody reads the last means any more.
        self.node.barrier()
        torch.add(self.rows[0], self.rows[1], out=self.mean)
        for row in self.rows[2:]:
            self.mean += row
        self.mean /= self.group.world_size
        self.node.barrier()
        for parameter, mean in zip(self.parameters, self.means, strict=True):
            parameter.grad = mean

    def _flat(self, parameter: Tensor) -> Tensor:
        """A gradient in the order of its memory. One that is missing here may exist elsewhere: it counts as zero."""
        gradient = parameter.grad
        if gradient is None:
            return self.zeros[: parameter.numel()]
        if gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        return gradient.as_strided((gradient.numel(),), (1,))


def gradient_reducer(parameters: Iterable[Tensor], group: Group) -> GradientReducer:
    """What averages the gradients of ``parameters``, in the order of the forward pass; to be called in all processes.

    Through shared memory where all processes compute on the CPU of one machine, else by NCCL or Gloo.
    """
    parameters = list(parameters)
    if group.intra_node is not None:
        rows = group.intra_node.zeros(*SharedMemoryReducer.shape(parameters, group))
        if rows is not None:
            return SharedMemoryReducer(parameters, group, group.intra_node, rows)
    return GradientReducer(parameters, group)
