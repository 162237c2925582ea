"""Memory of freed tensors that is given again, and what is kept for the backward pass."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ganformer_cli.memory import keep_large_blocks, kept_bytes

FAULTS = """
import resource
from ganformer_cli.memory import keep_large_blocks
kept = {call}
import torch

def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.ones(32 << 18)  # 32 MiB
before = faults()
for _ in range(10):
    torch.ones(32 << 18)
print(faults() - before, kept)
"""


RETURNED = """
import sys
from ganformer_cli.memory import keep_large_blocks, process_memory_mib, return_free_memory, RETURN_ABOVE_MIB
keep_large_blocks()
import torch

blocks = [torch.ones(32 << 18) for _ in range(int(sys.argv[1]))]  # 32 MiB each
last = torch.ones(1 << 18)  # what lies behind them stays
del blocks
before = process_memory_mib()
return_free_memory(RETURN_ABOVE_MIB)
print(before - process_memory_mib())
"""


def new_pages(call: str) -> tuple[int, bool]:
    """Pages that the kernel had to provide for ten tensors of 32 MiB after the first, one after the other."""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    pages, kept = done.stdout.split()
    return int(pages), kept == "True"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_freed_tensor_s_memory_is_given_to_the_next() -> None:
    pages, kept = new_pages("keep_large_blocks()")
    if not kept:
        pytest.skip("another C library than glibc")
    assert pages < new_pages("False")[0] // 4


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize(("blocks", "returned"), [(4, False), (40, True)])
def test_a_process_that_holds_much_gives_back_what_is_free(blocks: int, returned: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RETURNED, str(blocks)], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert (float(done.stdout) > 1000) is returned


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert keep_large_blocks() is False


def test_kept_bytes_count_each_memory_once_and_nothing_that_was_there() -> None:
    x = torch.randn(1000, requires_grad=True)
    w = torch.randn(1000, requires_grad=True)
    assert kept_bytes(lambda: x * w, [x, w]) == 0
    assert kept_bytes(lambda: x * w, [x]) == 4000
    # exp keeps its result; the square's two views of it, and its reshaped halves, are the same memory.
    assert kept_bytes(lambda: x.exp().view(10, 100).square()[:5].square(), [x]) == 4000 + 4000
    assert kept_bytes(lambda: x + w, []) == 0
