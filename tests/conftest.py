"""What every test may rely on: a folder of its own, one thread, a terminal of known width; a server on the loopback."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from tests.chromium import Page, chromium
from tests.serving import serve_in_thread

# Before torch is imported: one thread gives the same sums everywhere, and several test runs share a machine well.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Tests of several threads: one that waits for another does not spin on a core that another test needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def under_wine() -> bool:
    """Whether this Windows Python runs under Wine."""
    return sys.platform == "win32" and hasattr(ctypes.windll.ntdll, "wine_get_version")


def pytest_configure(config: pytest.Config) -> None:
    """Processes of pytest-xdist take files in the order below, and not by their number of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first the files with most slow tests, so that no process is left alone with one at the end.

    Skip the tests marked ``not_wine`` under Wine, and those marked ``gpu`` where torch finds no GPU. torch is asked
    only if there is such a test.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # files with as many keep their order, and stay whole
    for item in items:
        if (marker := item.get_closest_marker("not_wine")) and under_wine():
            item.add_marker(pytest.mark.skip(reason=f"Wine, not Windows: {marker.args[0]}"))
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module", autouse=True)
def _modules_are_no_garbage() -> None:
    """What lives as long as the process is not searched for garbage again and again: a fifth of the time of all tests.

    Hundreds of thousands of objects are torch's modules and pytest's tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def native_operators(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the native operators for all tests and the processes that they start; kept between runs.

    They are built here, before the first test, if a source has changed since: no test then waits for the compiler, and
    none finds a line about it on its stderr.
    """
    # Built elsewhere, as for Windows: of these sources, or it is not taken.
    if given := os.environ.get("GANFORMER_OPS_FOLDER"):
        return Path(given)
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


@pytest.fixture
def need_native() -> None:
    """Skip where there is no compiler; where anything else is missing, forcing the native backend fails."""
    from ganformer_cli.operators import native

    found = native.status("cpu")
    if found.no_compiler:
        pytest.skip(found.reason)


@pytest.fixture(params=["native", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test with native operators and with plain torch."""
    from ganformer_cli.operators import native

    if request.param == "native":
        request.getfixturevalue("need_native")
    with native.use(request.param):
        yield request.param


@pytest.fixture
def native_backend(need_native: None) -> Iterator[None]:
    """A test with native operators."""
    from ganformer_cli.operators import native

    with native.use("native"):
        yield


@pytest.fixture(scope="session")
def numbered_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new folder at each ``next``.

    ``mktemp`` finds its number by listing all folders there are: 8 ms after some thousand tests, several times a test.
    """
    parent = tmp_path_factory.mktemp("own")

    def folders() -> Iterator[Path]:
        for number in itertools.count():
            (folder := parent / str(number)).mkdir()
            yield folder

    return folders()


@pytest.fixture(autouse=True)
def own_folder(numbered_folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Each test starts in an empty folder, so that nothing that it writes by default lands in the checkout."""
    folder = next(numbered_folders)
    cache = folder.with_name(f"{folder.name}-cache")  # made by whoever keeps something, as a user's is
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GANFORMER_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    yield folder
    shutil.rmtree(cache / "scenes", ignore_errors=True)  # up to 30 MiB, where a file has no holes


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

    from ganformer_cli.checkpoints.run_folder import SNAPSHOT_FOLDER, snapshot_name
    from ganformer_cli.checkpoints.snapshots import save_snapshot
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


@pytest.fixture
def tiny_features(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Feature networks that are small and need no file: random projections of 8x8 pixels.

    How many pictures each has seen is counted under its name.
    """
    import torch

    from ganformer_cli.metrics import features

    widths = {"pool": 12, "logits": 10, "fc2": 6, "cls": 5}
    seen: dict[str, int] = {}

    class Tiny(torch.nn.Module):
        side = 8

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.outputs = name, widths
            random = torch.Generator().manual_seed(0)
            self.weights = {key: torch.randn(192, width, generator=random) / 14 for key, width in widths.items()}

        def scaled(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels / 255

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {key: (x.flatten(1) @ weight.to(x.device)).relu() for key, weight in self.weights.items()}

    class Counting(features.FeatureNetwork):
        def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            seen[self.name] = seen.get(self.name, 0) + len(images)
            return super().__call__(images)

    def open_network(name: str, *, resize: Any = None, device: Any = "cpu", **_: Any) -> features.FeatureNetwork:
        return Counting(
            name, Tiny(name), weights_sha256="f" * 64, published=False, resize=resize or "tf1", device=device
        )

    monkeypatch.setattr(features, "open_network", open_network)
    return seen


@dataclass
class Server:
    """A server whose ``answer`` a test chooses; it writes down what it was asked."""

    url: str = ""
    content: bytes = bytes(range(256)) * 4096  # 1 MiB, several blocks of a download
    etag: str | None = '"one"'
    answer: Callable[[Server, Request], None] | None = None
    asked: list[Request] = field(default_factory=list)

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request so far."""
        return [request.headers.get("Range") for request in self.asked]

    def file(self, request: Request, *, stop: int | None = None, ranges: bool = True) -> None:
        """Answer with the file, or with as much as is asked for; break off before byte ``stop``."""
        whole, asked = self.content, request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and ranges else 0
        if start >= len(whole):
            return request.say(416, Content_Range=f"bytes */{len(whole)}")
        headers: dict[str, str | int | None] = {"ETag": self.etag, "Content_Length": len(whole) - start}
        if asked and ranges:
            headers["Content_Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        request.say(206 if asked and ranges else 200, whole[start:stop], **headers)

    @staticmethod
    def breaking(*stops: int | None, **how: Any) -> Callable[[Server, Request], None]:
        """``file`` that breaks off at each of ``stops`` in turn, and then no more."""
        left = list(stops)
        return lambda server, request: server.file(request, stop=left.pop(0) if left else None, **how)

    @staticmethod
    def interrupting(limit: int) -> Callable[[int, int | None], None]:
        """A progress that interrupts when more than ``limit`` bytes are there."""

        def progress(done: int, total: int | None) -> None:
            if done > limit:
                raise KeyboardInterrupt

        return progress


class Request(BaseHTTPRequestHandler):
    """One request to ``server.play``."""

    @property
    def play(self) -> Server:
        return self.server.play  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        self.play.asked.append(self)
        with contextlib.suppress(ConnectionError):  # a client that has had enough
            (self.play.answer or Server.file)(self.play, self)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests quiet."""

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def say(self, status: int, body: bytes = b"", **headers: str | int | None) -> None:
        """Send an answer; ``Content_Length=...`` may lie, None leaves a header out."""
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def page(self, body: str, status: int = 200, cookie: str | None = None) -> None:
        self.say(status, body.encode(), Content_Type="text/html; charset=utf-8", Set_Cookie=cookie)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on the loopback, and downloads that do not wait between tries."""
    from ganformer_cli.downloads import patience

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(patience, "RETRIES", patience.Retries(3, backoff_factor=0))
    play = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), Request) as http:
        http.play = play  # type: ignore[attr-defined]
        play.url = f"http://127.0.0.1:{http.server_port}"
        with serve_in_thread(http):
            yield play


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def tiny() -> dict[str, Any]:
    """Settings of networks that train within seconds, for ``resolve_run``."""
    return {
        "resolution": 32,
        "components_num": 2,
        "latent_size": 16,
        "channel_base": 128,
        "channel_max": 8,
        "mapping_num_layers": 2,
        "precision": "fp32",
        "batch_size": 4,
    }


@pytest.fixture(scope="session")
def inception_weights() -> dict[str, Any]:
    """Random weights of the Inception network, with which it tells pictures apart."""
    from ganformer_cli.metrics.inception import Inception
    from tests.random_weights import random_weights

    return random_weights(Inception.shapes())
