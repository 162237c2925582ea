"""The command lines of compilers, and what to do about what they say."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ganformer_cli.operators.compiling import (
    BuildSpec,
    Library,
    Tools,
    compile_job,
    link_jobs,
    longest_first,
    make_build_spec,
)
from ganformer_cli.operators.cuda_toolkit import Nvcc
from ganformer_cli.operators.jobs import first_error, remedy_of
from ganformer_cli.operators.toolchain import Compiler


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with one source."""
    folder = tmp_path / "ops"
    folder.mkdir()
    (folder / "one.cpp").write_text("first", encoding="utf-8")
    return folder


def spec_of(sources: Path, capability: str = "AVX2", library: Library = "cpu") -> BuildSpec:
    build_spec = make_build_spec(library, capability, sources)
    assert build_spec is not None
    return build_spec


def write(sources: Path, name: str, text: str) -> None:
    (sources / name).write_text(text, encoding="utf-8")


def gnu_tools(folder: Path) -> Tools:
    return Tools(Compiler("gnu", (sys.executable,), "fake", "1.0"), folder)


# ----- Command lines -----


def test_the_longest_source_is_compiled_first(sources: Path, tmp_path: Path) -> None:
    write(sources, "two.cpp", "x" * 100)
    write(sources, "three.cpp", '#include "three.h"\n')  # short, and yet the longest with what it includes
    write(sources, "three.h", '#pragma once\n#include <vector>\n  # include "templates.h"\n#include "three.h"\n')
    write(sources, "templates.h", "x" * 200)
    assert longest_first(spec_of(sources)) == ["three.cpp", "two.cpp", "one.cpp"]


@pytest.mark.parametrize(
    ("capability", "flags"),
    [("AVX512", {"-mavx512f", "-mfma"}), ("AVX2", {"-mavx2", "-mfma"}), ("DEFAULT", set()), ("SVE256", set())],
)
def test_flags_of_gcc(sources: Path, tmp_path: Path, capability: str, flags: set[str]) -> None:
    job = compile_job(spec_of(sources, capability), gnu_tools(tmp_path), "one.cpp")
    assert {word for word in job.words if word.startswith("-m")} >= flags
    assert flags or not any(word.startswith("-m") for word in job.words)
    assert {"-std=c++17", "-O3", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020a000000000000"} <= {*job.words}
    assert not {"-ffast-math", "-march=native"} & {*job.words}


@pytest.mark.parametrize(("version", "contracts"), [("14.44.35207", True), ("14.29.30133", False)])
def test_command_lines_of_microsofts(sources: Path, tmp_path: Path, version: str, contracts: bool) -> None:
    torch = tmp_path / "torch"
    (torch / "lib").mkdir(parents=True)
    for name in ("torch_cpu", "c10", "torch"):
        (torch / "lib" / f"{name}.lib").touch()
    tools = Tools(Compiler("msvc", ("C:\\cl.exe",), "MSVC", version, {"PATH": ""}), torch)
    job = compile_job(spec_of(sources, "AVX512"), tools, "one.cpp")
    assert {"/std:c++17", "/O2", "/EHsc", "/MD", "/utf-8", "/arch:AVX512", "/c", f"/I{torch / 'include'}"} <= {
        *job.words
    }
    assert ("/fp:contract" in job.words) == contracts
    assert job.words[-1] == f"/Fo{job.output}"
    (link,) = link_jobs(spec_of(sources), tools, [job.output])
    assert {"/LD", f"/Fe{link.output}", f"/LIBPATH:{torch / 'lib'}", "torch_cpu.lib", "c10.lib", "torch.lib"} <= {
        *link.words
    }
    assert link.words.index("/link") > link.words.index(str(job.output))


def test_command_lines_of_cuda(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NVCC_CCBIN", "CUDAHOSTCXX"):
        monkeypatch.delenv(name, raising=False)
    write(sources, "kernel.cu", "a kernel, longer than the bindings")
    write(sources, "cuda_bindings.cpp", "bindings")
    build_spec = make_build_spec("cuda", "sm80-sm90", sources)
    assert build_spec is not None
    assert build_spec.sources == ("cuda_bindings.cpp", "kernel.cu")
    tools = replace(gnu_tools(tmp_path), nvcc=Nvcc("nvcc", (13, 0), (tmp_path,)))
    kernel, bindings = (compile_job(build_spec, tools, name) for name in ("kernel.cu", "cuda_bindings.cpp"))
    said = " ".join(kernel.words)
    assert said.startswith("nvcc -std=c++17 -O3")
    for pair in ("arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"):
        assert f"-gencode {pair}" in said
    assert f"-ccbin {sys.executable}" in said
    assert bindings.words[0] == sys.executable
    assert "-DUSE_CUDA" in bindings.words
    assert "-lcudart" in link_jobs(build_spec, tools, [kernel.output, bindings.output])[-1].words
    monkeypatch.setenv("NVCC_CCBIN", "g++-13")
    assert "-ccbin g++-13" in " ".join(compile_job(build_spec, tools, "kernel.cu").words)


@pytest.mark.skipif(os.name == "nt", reason="Windows links with an import library")
def test_a_torch_without_cuda_builds_for_one_that_has_it(sources: Path, tmp_path: Path) -> None:
    tools = replace(gnu_tools(tmp_path), nvcc=Nvcc("nvcc", (13, 0), (tmp_path,)))
    build_spec = replace(spec_of(sources), library="cuda")
    stand_in, link = link_jobs(build_spec, tools, [])
    assert "-Wl,-soname,libtorch_cuda.so" in stand_in.words
    assert str(stand_in.output) in link.words
    assert stand_in.output in link.inputs
    real = tools.torch / "lib" / "libtorch_cuda.so"
    real.parent.mkdir()
    real.touch()
    (link,) = link_jobs(build_spec, tools, [])
    assert str(real) in link.words
    assert len(link_jobs(build_spec, gnu_tools(tmp_path), [])) == 1  # the CPU library needs none


def test_a_folder_without_sources_has_no_build_spec(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    assert make_build_spec("cpu", "AVX2", tmp_path) is None
    assert make_build_spec("cuda", "sm80", tmp_path) is None


# ----- What compilers say -----

REPAIR = "installer" if sys.platform == "win32" else "apt install g++"


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("ops/x.cpp:1:10: fatal error: torch/csrc/stable/library.h: No such file or directory", "torch"),
        ("ops/x.cpp:1:10: fatal error: 'cmath' file not found", REPAIR),
        ("/usr/include/c++/12/cmath:45:15: fatal error: math.h: No such file or directory", REPAIR),
        ("x.cpp(3): fatal error C1083: Cannot open include file: 'torch/csrc/stable/library.h': No such file", "torch"),
        ("g++: error: unrecognized command-line option '-std=c++17'", "too old"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "memory"),
        ("/usr/bin/ld: final link failed: No space left on device", "make room"),
        ("Fatal error: can't create ops/x.building-1/x.o: No such file or directory", "GANFORMER_CACHE"),
        ("/usr/bin/ld: cannot open output file x/library.so: Permission denied", "GANFORMER_CACHE"),
        ("/usr/bin/ld: cannot find -ltorch_cpu: No such file or directory", "torch"),
        ("/usr/include/crt/host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions", "NVCC_CCBIN"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_200'", "CUDA toolkit"),
        ("k.cu:1:10: fatal error: cuda_runtime.h: No such file or directory", "CUDA toolkit"),
        ("library.obj : error LNK2001: unresolved external symbol aoti_torch_x", "another compiler"),
        ("x.cpp:265:57: error: 'PF' was not declared in this scope", "another compiler"),
    ],
)
def test_each_failure_has_its_remedy(line: str, remedy: str) -> None:
    said = f"In file included from ops/common.h:1,\n                 from ops/x.cpp:1:\n{line}\n  | note\n1 error\n"
    assert first_error(said) == line.replace("   ", " ")
    assert remedy in remedy_of(said)


@pytest.mark.parametrize(
    "line",
    [
        "error: unable to find zig installation directory from executable path '/a b/ziglang/zig': FileNotFound",
        "ops/x.cpp:1:10: fatal error: 'vector' file not found",
        "/a b/ziglang/lib/libcxx/include/vector:3:10: fatal error: '__config' file not found",
        r"C:\env\ziglang\lib\libcxx\include\vector:3:10: fatal error: '__config' file not found",
    ],
)
def test_an_incomplete_ziglang_is_to_be_installed_again(line: str) -> None:
    assert "pip install --force-reinstall ziglang" in remedy_of(line, "zig c++ 0.17.1")


def test_what_says_nothing_is_still_a_line() -> None:
    assert first_error("") == ""
    assert first_error("\n  something \t else\n") == "something else"
