"""``ganformer build-ops``: what it builds is found afterwards where no compiler is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from click.testing import Result

from ganformer_cli.operators import build, compiling
from ganformer_cli.operators.build import build_folders, find_build
from ganformer_cli.operators.compiling import Tools, make_build_spec
from ganformer_cli.operators.cuda_toolkit import Nvcc
from ganformer_cli.operators.toolchain import Compiler, NoCompilerError

Run = Callable[..., Result]

# Takes GCC's command line and nvcc's: what it is to write stands behind -o.
FAKE = """\
import pathlib, sys
if "--list-gpu-arch" in sys.argv:
    sys.exit(print("compute_80\\ncompute_90\\ncompute_100"))
for path in map(pathlib.Path, sys.argv):
    if path.suffix == ".cpp" and "FAIL" in path.read_text():
        sys.exit("first\\nops/x.cpp:1: error: FAIL\\nlast")
pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_bytes(b"library")
"""


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Sources of our own and a compiler that is no compiler."""
    script, folder = tmp_path / "fake.py", tmp_path / "ops"
    script.write_text(FAKE, encoding="utf-8")
    folder.mkdir()
    (folder / "one.cpp").write_text("int one;", encoding="utf-8")
    tools = Tools(Compiler("gnu", (sys.executable, str(script)), "fake", "1.0"), tmp_path)
    monkeypatch.setattr(compiling, "resource_folder", lambda name: folder)
    monkeypatch.setattr(build, "find_tools", lambda: tools)
    monkeypatch.delenv("GANFORMER_OPS_FOLDER")
    return folder


def libraries(done: Result) -> list[dict[str, object]]:
    assert done.exit_code == 0, done.output
    found: list[dict[str, object]] = json.loads(done.stdout)["libraries"]
    return found


def test_built_once_unless_forced(ganformer: Run, sources: Path) -> None:
    done = ganformer("build-ops")
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert torch.backends.cpu.get_cpu_capability() in line
    assert "fake 1.0: built in" in line
    assert str(build_folders()[0]) in line
    assert "building" in done.stderr
    again = ganformer("build-ops")
    assert "up to date" in again.stdout
    assert again.stderr == ""
    assert "built in" in ganformer("build-ops", "--force").stdout


def test_json(ganformer: Run, sources: Path, tmp_path: Path) -> None:
    (record,) = libraries(ganformer("build-ops", "--json", "--cpu", "avx2", "--output-dir", tmp_path / "shared"))
    assert (record["library"], record["capability"], record["built"]) == ("cpu", "AVX2", True)
    assert record["bytes"] == len(b"library")
    path = Path(str(record["path"]))
    assert path.parent == tmp_path / "shared"
    assert path.read_bytes() == b"library"


def test_nodes_without_a_compiler_find_it(
    ganformer: Run, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ganformer("build-ops", "--cpu", "DEFAULT", "--output-dir", tmp_path / "shared").exit_code == 0
    monkeypatch.setenv("GANFORMER_OPS_FOLDER", str(tmp_path / "shared"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    build_spec = make_build_spec("cpu", "AVX512", sources)
    assert build_spec is not None
    assert find_build(build_spec, build_folders())


def test_that_folder_is_filled_if_nothing_else_is_said(
    ganformer: Run, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANFORMER_OPS_FOLDER", str(tmp_path / "shared"))
    (record,) = libraries(ganformer("build-ops", "--json"))
    assert Path(str(record["path"])).parent == tmp_path / "shared"


def test_a_failure_shows_all_that_the_compiler_said(ganformer: Run, sources: Path) -> None:
    (sources / "one.cpp").write_text("FAIL", encoding="utf-8")
    done = ganformer("build-ops")
    assert (done.exit_code, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[1:4] == ["first", "ops/x.cpp:1: error: FAIL", "last"]
    assert lines[4].startswith("ganformer build-ops: error: fake 1.0 failed: ops/x.cpp:1: error: FAIL; ")
    assert len(lines) == 5


def test_no_compiler(ganformer: Run, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> NoReturn:
        raise NoCompilerError("no C++ compiler was found", "install one")

    monkeypatch.setattr(build, "find_tools", none)
    done = ganformer("build-ops")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "ganformer build-ops: error: no C++ compiler was found; install one\n"


# ----- CUDA -----


@pytest.fixture
def cuda_sources(sources: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Those of the CUDA library too, an nvcc that is none, and a torch that sees no card."""
    for name in ("kernel.cu", "cuda_bindings.cpp"):
        (sources / name).write_text("kernel", encoding="utf-8")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{tmp_path / 'fake.py'}' \"$@\"\n", encoding="utf-8")
    nvcc.chmod(0o755)
    tools = build.find_tools()
    with_nvcc = Tools(tools.compiler, tools.torch, Nvcc(str(nvcc), (13, 0), ()))
    monkeypatch.setattr(build, "find_cuda_tools", lambda: with_nvcc)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return sources


posix = pytest.mark.skipif(os.name == "nt", reason="the nvcc that is none is a shell's script")


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    ("words", "capability"),
    [([], "sm80-sm90"), (["--cuda-arch", "9.0"], "sm90"), (["--cuda-arch", "80,121"], "sm80-sm100")],
)
def test_both_libraries(ganformer: Run, cuda_sources: Path, words: list[str], capability: str) -> None:
    cpu, cuda = libraries(ganformer("build-ops", "--json", "--device", "cuda", *words))
    assert (cpu["library"], cuda["library"]) == ("cpu", "cuda")
    assert cuda["capability"] == capability  # 121 is newer than that nvcc, and its cards translate what is for 100


@pytest.mark.slow
@posix
def test_a_torch_without_cuda_needs_no_cuda_library(
    ganformer: Run, cuda_sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert [record["library"] for record in libraries(ganformer("build-ops", "--json"))] == ["cpu"]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert [record["library"] for record in libraries(ganformer("build-ops", "--json"))] == ["cpu", "cuda"]


def test_without_nvcc_the_cpu_library_is_built_all_the_same(
    ganformer: Run, cuda_sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> NoReturn:
        raise NoCompilerError("no nvcc was found", "install the CUDA toolkit")

    monkeypatch.setattr(build, "find_cuda_tools", none)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    done = ganformer("build-ops")
    assert done.exit_code == 0
    assert "without the CUDA library: no nvcc was found" in done.stderr
    done = ganformer("build-ops", "--device", "cuda")
    assert done.exit_code == 1
    assert "no nvcc was found; install the CUDA toolkit" in done.stderr


def test_an_installation_without_cuda_sources(ganformer: Run, sources: Path) -> None:
    done = ganformer("build-ops", "--device", "cuda")
    assert done.exit_code == 1
    assert "no sources of the cuda library" in done.stderr
