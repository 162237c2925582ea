"""What every test may rely on: a folder of its own, one thread, a terminal of known width."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

# Before torch is imported: one thread gives the same sums everywhere, and several test runs share a machine well.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` where torch finds none; torch is asked only if there is such a test."""
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def native_operators(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the native operators for all tests and the processes that they start; kept between runs.

    They are built here, before the first test, if a source has changed since: no test then waits for the compiler, and
    none finds a line about it on its stderr.
    """
    cache = pytestconfig.cache if hasattr(pytestconfig, "cache") else None
    folder = cache.mkdir("operators") if cache else tmp_path_factory.mktemp("operators")
    os.environ["GANFORMER_OPS_FOLDER"] = str(folder)
    root = Path(__file__).resolve().parent.parent
    sources = [*(root / "ops").iterdir(), *(root / "ganformer_cli" / "operators").glob("*.py")]
    builds = [path.stat().st_mtime for path in folder.glob("*.json")]
    if max(builds, default=0.0) <= max(path.stat().st_mtime for path in sources):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GANFORMER_CACHE", str(folder))  # what the user has built for themselves is not tested
            from ganformer_cli.operators import native

            native.status("cpu")
    return folder


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test starts in an empty folder, so that nothing that it writes by default lands in the checkout."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GANFORMER_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    return folder


@pytest.fixture
def checkout() -> Path:
    """The root of the checkout that the tests lie in."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def ganformer() -> Callable[..., Result]:
    """``ganformer("train", "--dry-run")`` runs a command line in this process; see ``.exit_code``, ``.stderr``."""
    from ganformer_cli.cli.main import program

    def run(*words: str) -> Result:
        return CliRunner().invoke(program, [str(word) for word in words], prog_name="ganformer")

    return run


@pytest.fixture(scope="session")
def tiny_run_kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``tiny_run`` copies."""
    import torch

    from ganformer_cli.checkpoints import SNAPSHOT_FOLDER, save_snapshot, snapshot_name
    from ganformer_cli.config import ModelConfig
    from ganformer_cli.data import open_dataset
    from ganformer_cli.models import Discriminator, Generator

    torch.manual_seed(0)
    config = ModelConfig(resolution=32, components_num=2, latent_size=16, channel_base=256, channel_max=16)
    dataset = open_dataset("scenes", resolution=32, max_images=64)
    run = tmp_path_factory.mktemp("kept") / "exp-000"
    provenance = {"dataset": {"name": "scenes", "fingerprint": dataset.fingerprint, "images": len(dataset)}}
    for kimg in (1, 2):
        networks = {"ema": Generator(config), "generator": Generator(config)}
        path = run / SNAPSHOT_FOLDER / snapshot_name(kimg)
        save_snapshot(
            path, config=config, discriminator=Discriminator(config), kimg=kimg, provenance=provenance, **networks
        )
    (run / "config.json").write_text("{}", encoding="utf-8")
    return run


@pytest.fixture
def tiny_run(tiny_run_kept: Path, own_folder: Path) -> Path:
    """``results/exp-000``: a run of an untrained model with two snapshots, for 64 scenes of 32x32."""
    run = own_folder / "results" / "exp-000"
    shutil.copytree(tiny_run_kept, run)
    return run
