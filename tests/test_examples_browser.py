"""The page that draws with an exported model in a browser: with a stand-in for onnxruntime-web, and with itself."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.chromium import Page, needs_chromium
from tests.serving import serve_in_thread

pytestmark = [pytest.mark.slow, needs_chromium]

#: A folder with onnxruntime-web's dist/: its wasm is 13 MB, so it is not in this repository.
ORT_WEB = os.environ.get("GANFORMER_ORT_WEB")
#: Images of one colour, as bright as the truncation; two components, one in each half.
STAND_IN = """
class Tensor { constructor(type, data, dims) { Object.assign(this, {type, data, dims}); } }
const ort = {env: {wasm: {}}, Tensor};
ort.InferenceSession = {create: async bytes => {
  if (new TextDecoder().decode(bytes) !== "a model") throw new Error("not a model");
  return {
    inputNames: ["z", "psi"], outputNames: ["image", "maps.b4.conv1"],
    inputMetadata: [{name: "z", shape: ["batch", 3, 2]}, {name: "psi", shape: []}],
    run: async feeds => {
      const image = new Float32Array(3 * 4 * 8).fill(feeds.psi.data[0]);
      const maps = Float32Array.from({length: 2 * 4 * 8}, (_, i) => (i < 32) === (i % 8 < 4) ? 0.9 : 0.1);
      return {image: {data: image, dims: [1, 3, 4, 8]}, "maps.b4.conv1": {data: maps, dims: [1, 1, 2, 4, 8]}};
    },
  };
}};
"""
PIXEL = "Array.from(document.getElementById('%s').getContext('2d').getImageData(%d, %d, 1, 1).data)"


@pytest.fixture
def folder(tmp_path: Path, checkout: Path) -> Path:
    shutil.copy(checkout / "examples" / "browser.html", tmp_path / "browser.html")
    return tmp_path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, serve_in_thread(server):
        yield f"http://127.0.0.1:{server.server_address[1]}/browser.html"


@pytest.fixture
def page(browser: Page) -> Page:
    browser.restart()
    return browser


def status(page: Page) -> str:
    return str(page.evaluate("document.getElementById('status').textContent"))


def test_missing_files_are_named(page: Page, folder: Path, address: str) -> None:
    page.open(address)
    page.wait_for("document.getElementById('status').classList.contains('error')")
    assert "ort.wasm.min.js is missing" in status(page)
    (folder / "ort.wasm.min.js").write_text(STAND_IN, encoding="utf-8")
    page.open(address)
    page.wait_for("document.getElementById('status').classList.contains('error')")
    assert "model.onnx: 404" in status(page)


def test_the_page_draws_image_and_maps(page: Page, folder: Path, address: str) -> None:
    (folder / "ort.wasm.min.js").write_text(STAND_IN, encoding="utf-8")
    (folder / "model.onnx").write_text("a model")
    page.open(address)
    page.wait_for("document.body.dataset.drawn === '0 0.7'")
    assert page.evaluate(PIXEL % ("image", 7, 3)) == [217, 217, 217, 255], "(0.7 + 1) · 127.5"
    left, right = page.evaluate(PIXEL % ("maps", 0, 0)), page.evaluate(PIXEL % ("maps", 7, 0))
    assert left != right
    page.evaluate("document.getElementById('next').click()")
    page.wait_for("document.body.dataset.drawn === '1 0.7'")
    page.evaluate(
        "(() => { const e = document.getElementById('psi'); e.value = 0; e.dispatchEvent(new Event('input')) })()"
    )
    page.wait_for("document.body.dataset.drawn === '1 0'")
    assert page.evaluate(PIXEL % ("image", 0, 0)) == [128, 128, 128, 255]
    page.evaluate(
        "(() => { const e = document.getElementById('seed'); e.value = -3; e.dispatchEvent(new Event('input')) })()"
    )
    page.wait_for("document.getElementById('status').classList.contains('error')")
    assert "a seed is a number from 0" in status(page)
    assert page.errors == []


@pytest.mark.skipif(ORT_WEB is None, reason="needs onnxruntime-web's files in the folder GANFORMER_ORT_WEB")
def test_onnxruntime_web_computes_what_torch_does(page: Page, folder: Path, address: str) -> None:
    pytest.importorskip("onnxscript")
    from ganformer_cli.config import ModelConfig
    from ganformer_cli.export.files import export_generator
    from ganformer_cli.export.function import FunctionSettings, GeneratorFunction
    from ganformer_cli.models import Generator

    assert ORT_WEB is not None
    for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        shutil.copy(Path(ORT_WEB) / name, folder / name)
    torch.manual_seed(0)
    config = ModelConfig(resolution=8, components_num=2, latent_size=16, channel_base=64, channel_max=8)
    function = GeneratorFunction(Generator(config).eval(), FunctionSettings(maps=True))
    export_generator(folder / "model.onnx", function, {}, to="onnx")
    page.open(address)
    page.wait_for("document.body.dataset.drawn === '0 0.7'")
    inputs = function.example(range(1), 0.7)
    z = inputs["z"].flatten().tolist()
    found = page.evaluate(f"compute(Float32Array.from({z}), 0.7).then(o => Array.from(o.image.data))")
    with torch.no_grad():
        expected = function(**inputs)["image"].numpy().ravel()
    np.testing.assert_allclose(np.array(found, np.float32), expected, atol=1e-4)
    assert page.errors == []
