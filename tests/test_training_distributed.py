"""Several processes train as one does."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from click.testing import CliRunner, Result

from ganformer_cli.checkpoints import training_state
from ganformer_cli.checkpoints.run_lock import OWNER_FILE, read_owner
from ganformer_cli.cli import main as main_module
from ganformer_cli.config import RunConfig, resolve_run
from ganformer_cli.errors import ConfigError, SnapshotError, TrainingError
from ganformer_cli.training import distributed
from ganformer_cli.training.distributed import ONE_PROCESS, Group, launched_world_size
from ganformer_cli.training.opening import check_batch
from ganformer_cli.training.run_writers import TENSORBOARD_FOLDER
from tests.small_pictures import small_pictures_file

#: A run of six steps with both regularisations.
WORDS = (
    "train",
    *("--dataset", str(small_pictures_file()), "--resolution", "8"),
    *("--components-num", "2", "--latent-size", "16", "--channel-base", "64", "--channel-max", "8"),
    *("--mapping-num-layers", "2", "--batch-size", "8", "--batch-gpu", "2", "--total-kimg", "0.048"),
    *("--tick-kimg", "0.016", "--snapshot-kimg", "0.024", "--vis-num", "2", "--metrics", "none"),
    *("--pl-weight", "2", "--g-reg-interval", "2", "--d-reg-interval", "3", "--component-dropout", "0.2"),
    *("--precision", "fp32", "--expname", "run"),
)
#: Where weights are not compared. For path lengths each process would load sympy, which takes a second.
ENDLESS = (*WORDS, "--pl-weight", "0", "--total-kimg", "1000")
#: Three steps of each stage; the discriminator joins in the second.
VQGAN_WORDS = (
    *("train", "--baseline", "VQGAN", "--dataset", str(small_pictures_file(16)), "--resolution", "16"),
    *("--channel-base", "128", "--channel-max", "8", "--codebook-size", "8", "--code-dim", "4", "--code-stride", "4"),
    *("--transformer-layers", "1", "--transformer-width", "8", "--transformer-heads", "2"),
    *("--batch-size", "8", "--batch-gpu", "2", "--total-kimg", "0.048", "--vq-kimg", "0.024"),
    *("--vq-warmup-kimg", "0.008", "--tick-kimg", "0.016", "--snapshot-kimg", "0.024", "--vis-num", "2"),
    *("--metrics", "none", "--expname", "run"),
)


#: The command, in a process that takes itself to be alone on its machine.
APART = """
from os import environ
from ganformer_cli.training import intra_node
intra_node._machine = lambda: (environ["RANK"],)
from ganformer_cli.cli.main import main
main()
"""


def launch(
    folder: Path,
    processes: int,
    *more: str,
    places: list[Path] | None = None,
    words: tuple[str, ...] = WORDS,
    program: tuple[str, ...] = ("-m", "ganformer_cli"),
) -> list[subprocess.Popen[str]]:
    """Start ``ganformer train`` in several processes, as torchrun does; each in one of ``places``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, *program, *words, "--result-dir", str(folder), *more],
            env={**os.environ, **shared,
                 "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=None if places is None else places[rank],
        )
        for rank in range(processes)
    ]  # fmt: skip


def finish(started: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each."""
    ended = []
    for process in started:
        out, err = process.communicate(timeout=120)
        ended.append((process.returncode, out, err))
    return ended


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the newest state."""
    return training_state.read_state(training_state.states_of(folder / "run-000")[-1]).tensors


no_gloo_under_wine = pytest.mark.not_wine("Gloo's first sum between processes hangs")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process comes to: this one."""
    folder = tmp_path_factory.mktemp("alone")
    train_here(WORDS, folder)
    return folder


def train_here(words: tuple[str, ...], folder: Path) -> None:
    """A training in this process."""
    done = CliRunner().invoke(main_module.program, [*words, "--processes", "1", "--result-dir", str(folder)])
    assert done.exit_code == 0, done.output


class TwoStarts(NamedTuple):
    """A run of two processes that share no folder, and was started twice: with shared memory, and without."""

    places: list[Path]
    ended: list[list[tuple[int, str, str]]]

    @property
    def results(self) -> Path:
        return self.places[0] / "results"


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> TwoStarts:
    places = [tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")]
    ended = [
        finish(launch(Path("results"), 2, "--total-kimg", kimg, "--tensorboard", places=places, program=program))
        for kimg, program in (("0.024", ("-m", "ganformer_cli")), ("0.048", ("-c", APART)))
    ]
    return TwoStarts(places, ended)


def check_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal up to rounding. Adam divides small gradients by their own size, and so makes much of their rounding."""
    assert found.keys() == expected.keys()
    parts = {"generator": 1e-4, "discriminator": 1e-4, "ema": 1e-4, "g_opt": 0.02, "d_opt": 0.02, "t_opt": 0.02}
    for part, most in parts.items():
        names = [name for name in expected if name.startswith(part)]
        if not names:  # only a VQGAN has a transformer
            continue
        apart = sum((found[name] - expected[name]).double().square().sum() for name in names) ** 0.5
        whole = sum(expected[name].double().square().sum() for name in names) ** 0.5
        assert apart / whole < most, part


@pytest.mark.parametrize(("platform", "url"), [("win32", "env://?use_libuv=0"), ("linux", "env://")])
def test_libuv_is_not_asked_for_on_windows(platform: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds of torch for Windows may lack it; ``USE_LIBUV=1``, set for another program, changes nothing."""
    asked: list[str] = []

    def rendezvous(given: str, **_: Any) -> Any:
        asked.append(given)
        raise RuntimeError("nobody is there")

    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("USE_LIBUV", "1")
    monkeypatch.setattr(distributed, "rendezvous", rendezvous)
    monkeypatch.setattr(distributed.sys, "platform", platform)
    with pytest.raises(TrainingError, match="nobody is there"):
        distributed.init_process_group(torch.device("cpu"))
    assert asked == [url]


@pytest.mark.slow
@no_gloo_under_wine
def test_processes_come_to_the_weights_of_one_and_need_not_see_the_same_folder(
    together: TwoStarts, alone: Path
) -> None:
    """The second process goes on from what the first one has."""
    for ended in together.ended:
        assert [status for status, _, _ in ended] == [0, 0], ended
        # One wrote, and the other was silent.
        assert [bool(out) for _, out, _ in ended] == [True, False]
        assert "2 processes take 4 of the 8 images of a batch each, 2 at a time" in ended[0][2]
    for ended, way in zip(together.ended, ("shared memory", "gloo"), strict=True):
        assert f"average gradients through {way}" in ended[0][2]
    assert list(together.places[1].iterdir()) == []
    assert [path.name for path in together.results.iterdir()] == ["run-000"]
    run = together.results / "run-000"
    if importlib.util.find_spec("tensorboard") is not None:  # one file for each start
        assert len(list((run / TENSORBOARD_FOLDER).iterdir())) == 2
    log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    assert [record["kimg"] for record in log] == [0.016, 0.024, 0.032, 0.048]
    check_close(weights(run.parent), weights(alone))


@pytest.mark.slow
@no_gloo_under_wine
def test_processes_train_both_stages_of_a_vqgan_as_one_does(tmp_path: Path) -> None:
    train_here(VQGAN_WORDS, tmp_path / "1")
    ended = finish(launch(tmp_path / "2", 2, words=VQGAN_WORDS))
    assert [status for status, _, _ in ended] == [0, 0], ended
    check_close(weights(tmp_path / "2"), weights(tmp_path / "1"))


@pytest.mark.slow
@no_gloo_under_wine
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, alone: Path) -> None:
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    ended = finish(launch(tmp_path, 2, "--resume-from", "0.024"))
    assert [status for status, _, _ in ended] == [0] * 2, ended
    assert "2 processes take 4 of the 8 images of a batch each, 2 at a time" in ended[0][2]
    assert "resuming " in ended[0][2]
    assert "at a time so far" not in ended[0][2]
    check_close(weights(tmp_path), weights(alone))


def wait_for_states(run: Path, started: list[subprocess.Popen[str]], beyond: int = 0) -> None:
    """Until a run has saved twice, ``beyond`` so many images."""

    def saved() -> bool:
        states = training_state.states_of(run)
        try:
            return len(states) > 1 and training_state.read_state(states[0]).counters.images_seen > beyond
        except SnapshotError:
            return False  # the run has removed it meanwhile

    deadline = time.monotonic() + 100
    while not saved() and time.monotonic() < deadline:
        assert all(process.poll() is None for process in started), finish(started)
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_when_one_dies_the_others_end_with_an_error_and_when_one_is_asked_to_stop_all_do(tmp_path: Path) -> None:
    save_often = ("--save-minutes", "0.0001")
    started = launch(tmp_path, 2, *save_often, words=ENDLESS)
    wait_for_states(tmp_path / "run-000", started)
    started[1].send_signal(signal.SIGKILL)
    status, _, err = finish(started)[0]
    assert status not in (0, 130)
    assert "Traceback" not in err
    assert "process" in err
    at = training_state.read_state(training_state.states_of(tmp_path / "run-000")[-1]).counters.images_seen
    started = launch(tmp_path, 2, *save_often, words=ENDLESS)
    wait_for_states(tmp_path / "run-000", started, beyond=at)
    started[1].send_signal(signal.SIGTERM)
    assert [status for status, _, _ in finish(started)] == [130, 130]


@pytest.mark.slow
@no_gloo_under_wine
def test_torchrun_starts_it_again_and_it_goes_on(tmp_path: Path) -> None:
    """The first life of process 1 ends in the middle of the run; torchrun begins a second one."""
    program = (
        "import os\n"
        "from ganformer_cli.training.loop import Trainer\n"
        "whole = Trainer.train_step\n"
        "def step(self, *given):\n"
        "    whole(self, *given)\n"
        "    first_life = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'\n"
        "    if self.counters.step == 4 and os.environ['RANK'] == '1' and first_life:\n"
        "        os._exit(7)\n"
        "Trainer.train_step = step\n"
        "from ganformer_cli.cli.main import main\n"
        "main()\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1",
         "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
         str(script), *WORDS, "--pl-weight", "0", "--restart", "--result-dir", str(tmp_path / "results")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, encoding="utf-8", timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # --restart is meant for the whole job, not for its second life.
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["run-000"]
    assert "resuming " in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGUSR1 is POSIX")
def test_a_signal_under_torchrun_stops_all_and_nothing_is_started_again(tmp_path: Path) -> None:
    """Real processes. The lock of the run says which one trains."""
    torchrun = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3",
         "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
         "-m", "ganformer_cli", *ENDLESS, "--result-dir", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    owner = wait_for_log(tmp_path / "run-000", torchrun)
    os.kill(owner, signal.SIGUSR1)
    out, err = torchrun.communicate(timeout=120)
    assert torchrun.returncode == 0, err
    assert out.count("stopped at ") == 1
    assert "resuming " not in out + err
    assert not (tmp_path / "run-000" / OWNER_FILE).exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_processes_save_and_end_when_what_started_them_is_killed_and_the_next_start_waits(tmp_path: Path) -> None:
    """Real processes."""
    line = [sys.executable, "-m", "ganformer_cli", *ENDLESS, "--result-dir", str(tmp_path)]
    with (tmp_path / "output").open("wb") as output:
        launcher = subprocess.Popen([*line, "--processes", "2"], stdout=output, stderr=output)
    wait_for_log(tmp_path / "run-000", launcher)
    launcher.kill()
    launcher.wait()
    again = subprocess.run(
        [*line, "--total-kimg", "0.008", "--json"],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    # Whoever still trained would have changed it.
    found = json.loads(again.stdout)["kimg"]
    assert training_state.read_state(training_state.states_of(tmp_path / "run-000")[-1]).counters.images_seen == round(
        found * 1000
    )
    assert "stopped at " in (tmp_path / "output").read_text(encoding="utf-8")


def wait_for_log(run: Path, process: subprocess.Popen[Any]) -> int:
    """Until a run has a line in its log; the number of the process that writes."""
    deadline = time.monotonic() + 100
    while not (run / "log.jsonl").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    owner = read_owner(run)
    assert owner is not None
    return owner.pid


def settings(**options: Any) -> RunConfig:
    return resolve_run({"resolution": 32, **options}, dataset_preset={}, on_cpu=True)


@pytest.mark.parametrize(
    ("options", "world_size", "said"),
    [
        ({"batch_size": 8}, 3, "--batch-size 8 cannot be shared by 3 processes"),
        ({"batch_size": 4}, 4, "minibatch-std needs two"),
        (
            {"batch_size": 16, "batch_gpu": 16},
            2,
            r"--batch-gpu 16 .* the 8 images .*one of 2, 4, 8",
        ),
    ],
)
def test_batches_that_cannot_be_shared(options: dict[str, Any], world_size: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_batch(settings(**options), world_size)


GOOD = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str | None]], None]:
    """Sets what a launcher says; None: nothing."""

    def say(values: dict[str, str | None]) -> None:
        for name, value in {**GOOD, **values}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return say


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("WORLD_SIZE", value) for value in ("abc", "", "0", "-1", "2.5", "1e3", "9" * 400, "99999999999", "²")],
        *[("RANK", value) for value in ("x", None, "2", "-1", " ")],
        *[("LOCAL_RANK", value) for value in ("x", "2")],
        *[("MASTER_PORT", value) for value in ("http", None, "0", "65536")],
        *[("MASTER_ADDR", value) for value in (None, "")],
        ("TORCHELASTIC_RESTART_COUNT", "often"),
        ("TORCHELASTIC_MAX_RESTARTS", "-1"),
    ],
)
def test_what_a_launcher_cannot_have_said_is_one_line(
    ganformer: Callable[..., Result],
    own_folder: Path,
    environment: Callable[[dict[str, str | None]], None],
    name: str,
    value: str | None,
) -> None:
    environment({name: value})
    result = ganformer("train")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert f"error: {name}" in result.stderr
    assert "torchrun" in result.stderr
    assert list(own_folder.iterdir()) == []


def test_what_a_launcher_says(environment: Callable[[dict[str, str | None]], None]) -> None:
    environment({})
    assert launched_world_size() == 2
    # One process alone need not know more.
    environment({"WORLD_SIZE": "1", "RANK": None, "MASTER_PORT": None, "MASTER_ADDR": None})
    assert launched_world_size() == 0


def test_alone_everything_is_ones_own() -> None:
    cpu = torch.device("cpu")
    tensor = torch.arange(3.0)
    assert ONE_PROCESS.all_reduce_mean(tensor) is tensor
    assert ONE_PROCESS.all_reduce(tensor) is tensor
    assert ONE_PROCESS.all_reduce_any([True, False], cpu) == [True, False]
    assert ONE_PROCESS.all_reduce_min(3, cpu) == 3
    assert ONE_PROCESS.run_on_rank0(lambda: "value") == "value"
    ONE_PROCESS.check_same("a", "what")
    ONE_PROCESS.broadcast(tensor)
    assert ONE_PROCESS.is_main
    assert not Group(1, 2).is_main


@pytest.mark.slow
@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda pid: [0])(0)) < 2, reason="needs two cores")
def test_a_run_goes_on_with_the_processes_that_it_began_with_and_the_same_bits(
    tmp_path: Path, together: TwoStarts
) -> None:
    """Real processes: ended by its time limit and started again without a word about processes."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}

    def train(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "ganformer_cli", *WORDS, "--result-dir", str(tmp_path), "--json", *words],
            capture_output=True, text=True, encoding="utf-8", timeout=240, check=True, env=environment,
        ).stdout  # fmt: skip

    stopped = json.loads(train("--processes", "2", "--max-minutes", "0.0001"))
    assert stopped["time_is_up"]
    assert not stopped["finished"]
    assert json.loads(train())["finished"]
    assert json.loads((tmp_path / "run-000/parallelism.json").read_text()) == {"processes": 2, "threads": 1}
    assert training_state.digest(weights(tmp_path)) == training_state.digest(weights(together.results))
