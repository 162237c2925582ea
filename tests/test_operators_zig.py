"""The compiler of the package ``ziglang``: found last, called for every system, and linked with what is at hand."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from click.testing import Result

from ganformer_cli.errors import GanformerError
from ganformer_cli.operators import build, compiling, native, toolchain, zig_runtime
from ganformer_cli.operators.compiling import Tools, compile_job, link_jobs, make_build_spec
from ganformer_cli.operators.import_libraries import libraries_for
from ganformer_cli.operators.jobs import CompilerJob
from ganformer_cli.operators.toolchain import BuildError, Compiler, find_compiler, how_to_get_a_compiler, is_current

PROGRAM = "zig.exe" if sys.platform == "win32" else "zig"
Run = Callable[..., Result]


def answer(text: str, status: int = 0) -> Callable[..., tuple[int, bytes]]:
    """A runner that says the same whatever it is asked."""

    def run(words: Sequence[str] | str, environment: Mapping[str, str] | None) -> tuple[int, bytes]:
        return status, text.encode()

    return run


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``ziglang`` in an environment whose path has spaces and letters of many languages."""
    site = tmp_path / "mein Ordner ä 日本"
    folder = site / "ziglang"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / PROGRAM).write_text("", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "ziglang", raising=False)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    return folder


PLATFORM = "linux-x86_64"


def test_it_is_found_where_it_is_installed(package: Path) -> None:
    found = toolchain.find_zig(answer("0.17.1\n"), PLATFORM)
    assert found == Compiler("zig", (str(package / PROGRAM), "c++"), "zig c++", "0.17.1")


@pytest.mark.parametrize("broken", ["answers nothing", "fails", "no program", "no package", "another system"])
def test_half_an_installation_is_none(package: Path, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "no program":
        (package / PROGRAM).unlink()
    if broken == "no package":
        monkeypatch.setitem(sys.modules, "ziglang", None)
    run = answer("", 0) if broken == "answers nothing" else answer("0.17.1", int(broken == "fails"))
    assert toolchain.find_zig(run, "macosx-14-arm64" if broken == "another system" else PLATFORM) is None


@pytest.mark.skipif(sys.platform == "win32", reason="other compilers are looked for elsewhere on Windows")
def test_every_other_compiler_goes_before_it(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(find_compiler({"PATH": str(tmp_path)}, answer("0.17.1"))) == "zig c++ 0.17.1"
    gcc = tmp_path / "g++"
    gcc.write_text("#!/bin/sh\n", encoding="utf-8")
    gcc.chmod(0o755)
    assert str(find_compiler({"PATH": str(tmp_path)}, answer("g++ (GCC) 12.2.0\n"))) == "g++ 12.2.0"


@pytest.mark.skipif(sys.platform == "win32", reason="CXX is read on Linux")
def test_a_compiler_that_was_named_and_is_not_there_is_not_replaced(package: Path, tmp_path: Path) -> None:
    assert find_compiler({"PATH": str(tmp_path), "CXX": "no-such-compiler"}, answer("0.17.1")) is None


@pytest.mark.skipif(sys.platform == "win32", reason="there the one that was taken stays")
def test_what_it_built_is_kept_until_there_is_another_compiler(package: Path, tmp_path: Path) -> None:
    program = str(package / PROGRAM)
    known = {"command": [program, "c++"], "identity": build.file_identity(program)}
    assert is_current(known)
    gcc = tmp_path / "g++"
    gcc.write_text("#!/bin/sh\n", encoding="utf-8")
    gcc.chmod(0o755)
    assert not is_current(known)


def test_without_a_compiler_the_remedy_is_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CXX", "GANFORMER_VISUAL_STUDIO"):
        monkeypatch.delenv(name, raising=False)
    assert "pip install ziglang" in how_to_get_a_compiler()


# ----- Command lines -----


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "ops"
    folder.mkdir()
    (folder / "one.cpp").write_text("int one;", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("target", "capability", "machine", "output"),
    [
        ("windows-x86_64", "AVX2", "-target x86_64-windows-gnu -mcpu=x86_64_v3", ".dll"),
        ("windows-x86_64", "AVX512", "-target x86_64-windows-gnu -mcpu=x86_64_v4", ".dll"),
        ("linux-x86_64", "AVX512", "-target x86_64-linux-gnu.2.28 -mcpu=x86_64_v4", ".so"),
        ("linux-x86_64", "DEFAULT", "-target x86_64-linux-gnu.2.28 -mcpu=x86_64", ".so"),
        ("linux-aarch64", "DEFAULT", "-target aarch64-linux-gnu.2.28 -mcpu=generic", ".so"),
    ],
)
def test_the_system_to_build_for_is_said(
    sources: Path, tmp_path: Path, target: str, capability: str, machine: str, output: str
) -> None:
    compiler = Compiler("zig", ("zig", "c++"), "zig c++", "0.17.1")
    tools = Tools(compiler, tmp_path / "torch", target=toolchain.TARGETS[target], libraries=tmp_path / "libraries")
    build_spec = make_build_spec("cpu", capability, sources)
    assert build_spec is not None
    job = compile_job(build_spec, tools, "one.cpp")
    line = " ".join(job.words)
    assert machine in line
    assert ("-fPIC" in line) == (output == ".so")
    assert "-fno-sanitize=undefined" in line
    (link,) = link_jobs(build_spec, tools, [job.output])
    assert link.output.suffix == output
    assert machine in " ".join(link.words)
    assert any(str(tmp_path / "libraries") in word for word in link.words)


# ----- The parts of its C++ library -----


def with_parts(folder: Path) -> Compiler:
    for part in (*zig_runtime.PARTS, *zig_runtime.WINDOWS_PARTS):
        path = folder / "lib" / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    return Compiler("zig", (str(folder / "zig"), "c++"), "zig c++", "0.17.1")


@pytest.mark.parametrize("target", toolchain.TARGETS)
def test_only_the_parts_that_are_needed_are_compiled(sources: Path, tmp_path: Path, target: str) -> None:
    tools = Tools(with_parts(tmp_path), tmp_path / "torch", target=toolchain.TARGETS[target])
    build_spec = make_build_spec("cpu", "DEFAULT", sources)
    assert build_spec is not None
    job, link = link_jobs(build_spec, tools, [Path("one.o")])
    assert link.words[1] == "cc"  # c++ links with the whole library
    assert job.output in link.inputs
    assert str(job.output) in link.words
    assert "-fvisibility=hidden" in job.words
    assert ("-fPIC" in job.words) == (not tools.windows)
    assert ("thread_win32.cpp" in zig_runtime.source_text(toolchain.TARGETS[target])) == tools.windows


def test_a_zig_that_keeps_them_elsewhere_compiles_the_whole_library(sources: Path, tmp_path: Path) -> None:
    tools = Tools(with_parts(tmp_path), tmp_path / "torch", target=toolchain.TARGETS["linux-x86_64"])
    (tmp_path / "lib" / zig_runtime.PARTS[-1]).unlink()
    build_spec = make_build_spec("cpu", "DEFAULT", sources)
    assert build_spec is not None
    (link,) = link_jobs(build_spec, tools, [Path("one.o")])
    assert link.words[1] == "c++"


def test_where_the_parts_do_not_compile_the_whole_library_does(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def run_jobs(jobs: Sequence[CompilerJob], *_: object) -> None:
        called.append(jobs[-1].words[1])
        if len(called) == 1:
            raise BuildError("an unknown flag", "")

    monkeypatch.setattr(compiling, "run_jobs", run_jobs)
    tools = Tools(with_parts(tmp_path), tmp_path / "torch", target=toolchain.TARGETS["linux-x86_64"])
    build_spec = make_build_spec("cpu", "DEFAULT", sources)
    assert build_spec is not None
    compiling.compile_libraries([(build_spec, tools)], tmp_path)
    assert called == ["cc", "c++"]


# ----- What another system's torch has -----


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"torch/lib/{name}", name)
    return path


COMPILER = Compiler("zig", ("zig", "c++"), "zig c++", "0.17.1")
WINDOWS = toolchain.TARGETS["windows-x86_64"]


def test_import_libraries_come_out_of_a_wheel(tmp_path: Path) -> None:
    given = wheel(tmp_path / "torch-2.13.0-cp313-cp313-win_amd64.whl", "torch_cpu.lib", "c10.lib", "torch_cpu.dll")
    folder = libraries_for(WINDOWS, COMPILER, "2.13.0", given)
    assert {path.name for path in folder.iterdir()} == {"torch_cpu.lib", "c10.lib"}
    assert libraries_for(WINDOWS, COMPILER, "2.13.0", folder) == folder


@pytest.mark.parametrize("kind", ["another wheel", "no wheel", "empty folder"])
def test_what_is_no_torch_for_that_system_is_named(tmp_path: Path, kind: str) -> None:
    given = tmp_path / ("folder" if kind == "empty folder" else "torch.whl")
    if kind == "another wheel":
        wheel(given, "libtorch_cpu.so")
    elif kind == "no wheel":
        given.write_bytes(b"no wheel")
    else:
        given.mkdir()
    with pytest.raises(BuildError, match=str(given.name)):
        libraries_for(WINDOWS, COMPILER, "2.13.0", given)


# ----- build-ops -----


@pytest.fixture
def other_system(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that is none, and something to link with."""
    script = tmp_path / "fake.py"
    script.write_text(
        "import pathlib, sys\npathlib.Path(sys.argv[sys.argv.index('-o') + 1]).write_bytes(b'library')\n",
        encoding="utf-8",
    )
    compiler = Compiler("zig", (sys.executable, str(script)), "zig c++", "0.17.1")
    monkeypatch.setattr(compiling, "resource_folder", lambda name: sources)
    monkeypatch.setattr(
        build, "find_tools_for", lambda target, given=None: Tools(compiler, tmp_path, None, target, tmp_path)
    )


def test_a_library_for_each_level_of_another_system(ganformer: Run, other_system: None, tmp_path: Path) -> None:
    done = ganformer("build-ops", "--target", "windows-x86_64", "--output-dir", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    records = json.loads(done.stdout)["libraries"]
    assert [record["capability"] for record in records] == ["AVX512", "AVX2"]
    assert all(Path(record["path"]).suffix == ".dll" and "win32-amd64" in record["path"] for record in records)


def test_several_levels_of_this_machine(ganformer: Run, other_system: None, tmp_path: Path) -> None:
    words = ("--target", "linux-x86_64", "--cpu", "avx2,default", "--output-dir", tmp_path / "out", "--json")
    records = json.loads(ganformer("build-ops", *words).stdout)["libraries"]
    assert [record["capability"] for record in records] == ["AVX2", "DEFAULT"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "linux-aarch64", "--cpu", "AVX2"], "--cpu AVX2"),
        (["--target", "macos"], "--target"),
        (["--torch", "."], "--target"),
        (["--target", "linux-x86_64", "--device", "cuda"], "--device cuda"),
        (["--cpu", "AVX1024"], "AVX1024"),
        (["--cpu", ""], "--cpu"),
    ],
)
def test_what_does_not_go_together(ganformer: Run, words: list[str], said: str) -> None:
    done = ganformer("build-ops", *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_library_inside_the_installation_is_taken_where_no_compiler_is(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_spec = make_build_spec("cpu", "DEFAULT", sources)
    assert build_spec is not None
    folder = sources / build.SHIPPED
    folder.mkdir()
    name = f"cpu-{build.platform_tag()}-{build_spec.digest}-DEFAULT-0.17.1"
    (folder / f"{name}.so").write_bytes(b"library")
    note = {"file": f"{name}.so", "sha256": build.sha256_of(folder / f"{name}.so"), "capability": "DEFAULT"}
    (folder / f"{name}.json").write_text(json.dumps({**note, "ahead": True}), encoding="utf-8")
    monkeypatch.setattr(build, "resource_folder", lambda name: sources)
    monkeypatch.delenv("GANFORMER_OPS_FOLDER", raising=False)
    found = build.find_or_build(build_spec, lambda: pytest.fail("no compiler is asked for"))
    assert found.path.parent == folder


# ----- Errors -----


def test_errors_reach_python_as_ours(native_backend: None) -> None:
    x = torch.ones(2, 3, 4, 5)
    native.serves(x)
    with pytest.raises(GanformerError, match="upfirdn2d: up must be 1 or more"):
        native.call(torch.ops.ganformer.upfirdn2d, x, torch.ones(4), 0, 1, 0, 0, 4, 5, False, 1.0)
    good = native.call(torch.ops.ganformer.upfirdn2d, x, torch.ones(1), 1, 1, 0, 0, 4, 5, False, 1.0)
    torch.testing.assert_close(good, x)


def test_errors_of_one_thread_are_not_those_of_another(native_backend: None) -> None:
    from concurrent.futures import ThreadPoolExecutor

    x = torch.ones(1, 1, 4, 4)
    native.serves(x)

    def fail(up: int) -> str:
        with pytest.raises(GanformerError) as caught:
            native.call(torch.ops.ganformer.upfirdn2d, x, torch.ones(4), up, 1, 0, 0, 4, 4, False, 1.0)
        return str(caught.value)

    with ThreadPoolExecutor(4) as pool:
        for up, message in zip(range(-20, 0), pool.map(fail, range(-20, 0)), strict=True):
            assert f"and is {up}" in message
