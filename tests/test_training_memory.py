"""Runs that run out of memory go on in smaller parts, and nothing else about them changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ganformer_cli.checkpoints import training_state
from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.errors import TrainingError
from ganformer_cli.memory import Peak, free_memory_mib, is_out_of_memory
from ganformer_cli.models import Discriminator, Generator
from ganformer_cli.training import Callbacks, fitting, open_run, opening, recorded
from ganformer_cli.training.fitting import Trial, fit_micro_batch
from ganformer_cli.training.gan import GANTrainer, StepResult
from ganformer_cli.training.network_trainer import micro_batches
from tests.small_pictures import small_pictures

TINY: dict[str, Any] = {
    "resolution": 8,
    "components_num": 2,
    "latent_size": 16,
    "channel_base": 128,
    "channel_max": 8,
    "mapping_num_layers": 2,
    "precision": "fp32",
    "batch_size": 8,
    "batch_gpu": 8,
    "mbstd_group_size": 2,
    "total_kimg": 0.064,
    "tick_kimg": 0.032,
    "snapshot_kimg": 0.032,
    "vis_num": 2,
    "metrics": "none",
    "pl_weight": 2.0,
    "g_reg_interval": 2,
    "d_reg_interval": 3,
}


def settings(**options: Any) -> RunConfig:
    """A run of eight steps."""
    return resolve_run({**TINY, **options}, dataset_preset={}, on_cpu=True)


def train(folder: Path, messages: list[str] | None = None, **options: Any) -> dict[str, torch.Tensor]:
    """What the last state holds."""
    data = small_pictures()
    callbacks = Callbacks(message=(messages if messages is not None else []).append)
    open_run(settings(**options), data, folder, device=torch.device("cpu"), resume=False, callbacks=callbacks).run()
    return training_state.read_state(training_state.states_of(folder)[-1]).tensors


ERRORS: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError,
]


def fail_once(
    monkeypatch: pytest.MonkeyPatch, kind: type[torch.nn.Module], method: str, at: int, error: Callable[[], Exception]
) -> None:
    """Let memory run out in call ``at`` of a network that is trained."""
    whole, calls = getattr(kind, method), iter(range(10**9))

    def call(self: torch.nn.Module, *given: Any, **named: Any) -> Any:
        if self.training and next(calls) == at:
            raise error()
        return whole(self, *given, **named)

    monkeypatch.setattr(kind, method, call)


def cut_smaller(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Halve the parts before update ``update`` of a player, without any error."""
    whole, calls = GANTrainer.update, iter(range(10**9))

    def call(self: GANTrainer, *given: Any) -> StepResult:
        if next(calls) == update:
            self.micro_batch //= 2
        return whole(self, *given)

    monkeypatch.setattr(GANTrainer, "update", call)


# Calls of the synthesis network: one in the generator's step, another where path lengths are regularised (every second
# step), one in the discriminator's. Of the discriminator: one in the generator's step and one in its own, of fakes and
# reals together; two in its own where R1 is taken (every third step).
PLACES = [
    pytest.param(Generator, "synthesis", 0, 0, ERRORS[0], id="first-of-all"),
    pytest.param(Generator, "synthesis", 1, 0, ERRORS[1], id="path-lengths"),
    pytest.param(Generator, "synthesis", 2, 1, ERRORS[0], id="fakes-of-the-discriminator"),
    pytest.param(Discriminator, "forward", 4, 3, ERRORS[1], id="fakes-and-reals"),
    pytest.param(Discriminator, "forward", 7, 6, ERRORS[0], id="later"),
    pytest.param(Discriminator, "forward", 9, 7, ERRORS[1], id="reals"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method", "at", "update", "error"), PLACES)
def test_the_weights_are_those_of_a_run_that_was_cut_smaller_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[torch.nn.Module],
    method: str,
    at: int,
    update: int,
    error: Callable[[], Exception],
) -> None:
    # From the third step on, recorded passes would call no function of the networks.
    monkeypatch.setattr(GANTrainer, "can_record", False)
    messages: list[str] = []
    with monkeypatch.context() as patch:
        fail_once(patch, kind, method, at, error)
        found = train(tmp_path / "failing", messages, total_kimg=0.04)
    assert sum("out of memory; continuing with 4 images at a time" in line for line in messages) == 1
    with monkeypatch.context() as patch:
        cut_smaller(patch, update)
        expected = train(tmp_path / "cut", total_kimg=0.04)
    assert training_state.digest(found) == training_state.digest(expected)
    events = [json.loads(line) for line in (tmp_path / "failing/events.jsonl").read_text("utf-8").splitlines()]
    assert [event["event"] for event in events] == ["out of memory"]


@pytest.mark.slow
@pytest.mark.parametrize(("at", "update"), [(0, 2), (1, 4)], ids=["rehearsal", "repetition"])
def test_memory_may_run_out_in_a_recorded_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, update: int
) -> None:
    whole, calls = recorded._Program.run, iter(range(10**9))

    def run(self: recorded._Program, *given: Any) -> recorded.PassResults:
        if next(calls) == at:
            raise ERRORS[1]()
        return whole(self, *given)

    messages: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(recorded._Program, "run", run)
        found = train(tmp_path / "failing", messages)
    assert sum("out of memory; continuing with 4 images at a time" in line for line in messages) == 1
    with monkeypatch.context() as patch:
        cut_smaller(patch, update)
        expected = train(tmp_path / "cut")
    assert training_state.digest(found) == training_state.digest(expected)


@pytest.mark.slow
def test_out_of_memory_at_the_start_is_as_if_batch_gpu_had_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_once(patch, Generator, "synthesis", 0, ERRORS[0])
        found = train(tmp_path / "failing")
    assert training_state.digest(found) == training_state.digest(train(tmp_path / "told", batch_gpu=4))


@pytest.mark.slow
def test_the_smaller_parts_stay_when_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fail_once(patch, Generator, "synthesis", 0, ERRORS[0])
        train(tmp_path / "run")
    data = small_pictures()
    again = open_run(settings(), data, tmp_path / "run", device=torch.device("cpu"), resume=True)
    assert again.gan.micro_batch == 4


@pytest.mark.slow
def test_without_memory_for_the_least_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: torch.nn.Module, *given: Any, **named: Any) -> Any:
        raise ERRORS[0]()

    messages: list[str] = []
    monkeypatch.setattr(Discriminator, "forward", never)
    with pytest.raises(TrainingError, match=r"2 images at a time, which is the least .*--resolution"):
        train(tmp_path / "run", messages)
    assert sum("continuing with" in line for line in messages) == 2


def test_other_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_once(monkeypatch, Generator, "synthesis", 0, lambda: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(tmp_path / "run")


@pytest.mark.parametrize("error", ERRORS)
def test_memory_errors_are_known_as_such(error: Callable[[], Exception]) -> None:
    assert is_out_of_memory(error())


def test_torchs_own_error_is_known() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)


def test_other_errors_are_none() -> None:
    for error in (RuntimeError("shape '[2]' is invalid"), ValueError("out of memory"), KeyError("memory")):
        assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("batch", "group", "sizes"),
    [(8, 4, [2, 4, 8]), (32, 4, [2, 4, 8, 16, 32]), (12, 4, [2, 3, 4, 12]), (6, 3, [2, 3, 6])],
)
def test_micro_batches(batch: int, group: int, sizes: list[int]) -> None:
    assert micro_batches(batch, group) == sizes


# ----- What fits -----


CPU = torch.device("cpu")


def pretend(monkeypatch: pytest.MonkeyPatch, *, free: float | None, each: float, fails_above: int = 10**9) -> list[int]:
    """A machine with ``free`` MiB where a picture needs ``each`` MiB; lists what is tried."""
    tried: list[int] = []

    def trial(gan: GANTrainer, micro_batch: int, *, regularised: bool) -> Trial:
        assert regularised
        tried.append(micro_batch)
        if micro_batch > fails_above:
            raise ERRORS[0]()
        return Trial(micro_batch, regularised, 1.0, 1.0, each * micro_batch)

    monkeypatch.setattr(fitting, "run_trial", trial)
    monkeypatch.setattr(fitting, "free_memory_mib", lambda device: free)
    monkeypatch.setattr(fitting, "optimizer_mib", lambda gan: 0.0)
    return tried


@pytest.mark.parametrize(
    ("free", "each", "found", "tried"),
    [
        (10_000.0, 10.0, 32, [4]),  # so much room that the whole batch needs no trial
        (1000.0, 50.0, 16, [4, 8, 16]),
        (1000.0, 26.0, 32, [4, 8, 16, 32]),
        (1000.0, 110.0, 4, [4]),  # eight would need more than there is: not tried, as a CPU has no error to catch
        (10.0, 110.0, 4, [4]),  # nothing fits; the run will say so
        (None, 110.0, 32, []),  # nobody knows
    ],
)
def test_the_largest_part_that_fits_is_found_without_trying_what_cannot(
    monkeypatch: pytest.MonkeyPatch, free: float | None, each: float, found: int, tried: list[int]
) -> None:
    gan = GANTrainer(settings(batch_size=32, batch_gpu=None, mbstd_group_size=4, total_kimg=1.0), CPU)
    monkeypatch.setattr(gan, "sizes", lambda: [4, 8, 16, 32])
    made = pretend(monkeypatch, free=free, each=each)
    messages: list[str] = []
    assert fit_micro_batch(gan, messages.append) == found
    assert made == tried
    assert len(messages) == (found < 32)


def test_a_trial_that_fails_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = GANTrainer(settings(batch_size=32, batch_gpu=None), CPU)
    monkeypatch.setattr(gan, "sizes", lambda: [4, 8, 16, 32])
    assert pretend(monkeypatch, free=1000.0, each=24.0, fails_above=8) == []
    assert fit_micro_batch(gan, lambda text: None) == 8


@pytest.mark.slow
@pytest.mark.parametrize("regularised", [False, True])
def test_a_trial_changes_nothing(regularised: bool) -> None:
    torch.manual_seed(3)
    gan = GANTrainer(settings(), CPU)
    before = {name: training_state.digest(network.state_dict()) for name, network in gan.networks.items()}
    found = fitting.run_trial(gan, 4, regularised=regularised)
    assert (found.micro_batch, found.regularised) == (4, regularised)
    assert found.seconds > 0
    assert before == {name: training_state.digest(network.state_dict()) for name, network in gan.networks.items()}
    assert all(p.grad is None for network in gan.networks.values() for p in network.parameters())
    assert gan.micro_batch == 8
    assert not gan.g_optimizer.state


def test_what_fits_is_asked_only_where_nobody_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "fit_micro_batch", lambda gan, message: 2)
    data = small_pictures()
    sizes = [
        open_run(settings(batch_gpu=said), data, tmp_path / str(said), device=CPU, resume=False).gan.micro_batch
        for said in (None, 4)
    ]
    assert sizes == [2, 4]


@pytest.mark.slow
def test_cost() -> None:
    gan = GANTrainer(settings(), CPU)
    found = fitting.estimate_cost(gan)
    weights = sum(p.numel() * 4 / 2**20 for network in gan.networks.values() for p in network.parameters())
    assert found.micro_batch == 8
    assert found.seconds_per_kimg > 0
    assert found.memory_mib is None or found.memory_mib > weights
    assert found.disk_mib > 10 * weights


@pytest.mark.parametrize(("step", "picture"), [(0.1, 0.01), (0.0, 2.0)])
def test_the_time_is_that_of_whole_steps(monkeypatch: pytest.MonkeyPatch, step: float, picture: float) -> None:
    """What a step costs whatever its pictures is not counted for each few of them; regularised every third step."""

    def trial(gan: GANTrainer, micro_batch: int, *, regularised: bool) -> Trial:
        return Trial(micro_batch, regularised, (1 + regularised) * (step + picture * micro_batch), 1.0, 1.0)

    monkeypatch.setattr(fitting, "run_trial", trial)
    gan = GANTrainer(settings(pl_weight=0.0), CPU)
    assert fitting.estimate_cost(gan).seconds_per_kimg == pytest.approx(1000 / 8 * (step + 8 * picture) * (1 + 1 / 3))


def test_free_memory_and_its_peak() -> None:
    free = free_memory_mib(CPU)
    assert free is None or 1 < free < 1e9
    with Peak(CPU) as peak:
        torch.ones(64 << 18)  # 64 MiB
    assert peak.added_mib is None or 60 < peak.added_mib < 200


IN_PIECES = """
import json, sys
from pathlib import Path
from ganformer_cli.memory import keep_large_blocks
assert keep_large_blocks() or sys.exit("another C library than glibc")
import torch
from ganformer_cli.config import resolve_run
from ganformer_cli.data import open_dataset
from ganformer_cli.training import Callbacks, open_run

stay = []

def after_a_step(kimg, means):
    if not stay:
        large = []
        for _ in range(100):  # 400 MiB, and what stays between them
            large.append(torch.ones(4 << 18))
            stay.append(torch.ones(256))

config = resolve_run(json.loads(sys.argv[1]), dataset_preset={}, on_cpu=True)
data = open_dataset("scenes", resolution=32, max_images=16)
folder = Path(sys.argv[2])
run = open_run(
    config, data, folder, device=torch.device("cpu"), resume=False, callbacks=Callbacks(progress=after_a_step)
)
run.run()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_that_steps_leave_in_pieces_is_given_back_at_each_tick(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_PIECES, json.dumps({**TINY, "resolution": 32}), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if "another C library" in done.stderr:
        pytest.skip("another C library than glibc")
    assert done.returncode == 0, done.stderr
    ticks = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    first, second = (tick["memory_mib"] for tick in ticks[:2])
    assert second < first - 300
