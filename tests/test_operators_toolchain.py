"""Compilers and graphics cards are found wherever they are; nothing here runs a real one."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from ganformer_cli.errors import ConfigError
from ganformer_cli.operators import cuda_toolkit, toolchain
from ganformer_cli.operators.checks import Cards, find_cards
from ganformer_cli.operators.cuda_toolkit import Nvcc, covers, find_nvcc, misfit, parse_architectures, within
from ganformer_cli.operators.toolchain import (
    Compiler,
    compilers_after,
    decoded,
    find_all_msvc,
    find_compiler,
    gnu_commands,
    how_to_get_a_compiler,
    installations,
    run_program,
)

posix = pytest.mark.skipif(os.name == "nt", reason="Windows finds no program without an .exe")


def program(path: Path) -> Path:
    """A file that could be run, and does nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def answering(**answers: str) -> Callable[..., tuple[int, bytes]]:
    """A runner for which each program, by its file's name, says the same whatever it is asked; others fail."""

    def run(words: Sequence[str] | str, environment: Mapping[str, str] | None) -> tuple[int, bytes]:
        path = words.split()[0] if isinstance(words, str) else words[0]
        said = answers.get(Path(path).stem.replace("+", "p").replace("-", "_"))
        return (127, b"") if said is None else (0, said.encode())

    return run


# ----- GCC and Clang -----

GCC = "g++ (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.\n"
CLANG = "Ubuntu clang version 18.1.3 (1ubuntu1)\nTarget: x86_64-pc-linux-gnu\n"


@posix
@pytest.mark.parametrize(
    ("said", "name", "version"),
    [
        (GCC, "g++", "12.2.0"),
        ("g++ (GCC) 15.1.1 20250425 (Red Hat 15.1.1-1)\n", "g++", "15.1.1"),
        ("g++ (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0\n", "g++", "13.3.0"),
        ("x86_64-conda-linux-gnu-c++ (conda-forge gcc 14.2.0-1) 14.2.0\n", "g++", "14.2.0"),
        (CLANG, "clang++", "18.1.3"),
        ("Debian clang version 19.1.7 (3+b1)\n", "clang++", "19.1.7"),
    ],
)
def test_a_compiler_says_what_it_is(tmp_path: Path, said: str, name: str, version: str) -> None:
    program(tmp_path / "c++")
    found = find_compiler({"PATH": str(tmp_path)}, answering(cpp=said))
    assert found is not None
    assert (found.name, found.version, found.path) == (name, version, str(tmp_path / "c++"))


@posix
def test_the_first_that_answers_is_taken(tmp_path: Path) -> None:
    for name in ("c++", "g++", "clang++"):
        program(tmp_path / name)
    found = find_compiler({"PATH": str(tmp_path)}, answering(gpp=GCC, clangpp=CLANG))
    assert str(found) == "g++ 12.2.0"


@posix
@pytest.mark.parametrize(
    ("chosen", "command"),
    [
        ("clang++", ("clang++",)),
        ("ccache g++ -fuse-ld=gold", ("ccache", "g++", "-fuse-ld=gold")),
        ("my compiler", ("my compiler",)),  # a path with a space
        ("no-such-compiler", None),
    ],
)
def test_cxx_goes_before_all_others(tmp_path: Path, chosen: str, command: tuple[str, ...] | None) -> None:
    for name in ("c++", "clang++", "ccache", "my compiler"):
        program(tmp_path / name)
    found = gnu_commands({"PATH": str(tmp_path), "CXX": chosen})
    assert found == ([] if command is None else [(str(tmp_path / command[0]), *command[1:])])


@posix
def test_none_at_all(tmp_path: Path) -> None:
    program(tmp_path / "c++")  # is there, and answers nothing
    assert find_compiler({"PATH": str(tmp_path)}, answering()) is None
    assert find_compiler({"PATH": ""}, answering(cpp=GCC)) is None


def test_a_program_that_cannot_run_is_no_exception(tmp_path: Path) -> None:
    status, said = run_program([str(tmp_path / "missing"), "--version"])
    assert status == -1
    assert said


def test_what_a_program_says_is_read_in_any_encoding() -> None:
    assert decoded("Ünïcode ‘quoted’".encode()) == "Ünïcode ‘quoted’"
    assert "error C2065" in decoded("error C2065: für".encode("cp1252"))


# ----- Microsoft's -----


class Windows:
    """A Windows with what is put on it: ``install`` makes a Visual Studio, ``run`` plays vswhere and vcvarsall."""

    def __init__(self, root: Path) -> None:
        self.programs, self.programs_32 = root / "Program Files", root / "Program Files (x86)"
        self.records: list[dict[str, str]] = []
        self.ran: list[tuple[Sequence[str] | str, Mapping[str, str]]] = []
        self.broken: set[Path] = set()
        self.vswhere_knows_utf8 = True
        self.environment = {"ProgramFiles": str(self.programs), "ProgramFiles(x86)": str(self.programs_32)}
        self.environment |= {"SystemRoot": "C:\\Windows", "PATH": "C:\\somewhere", "USERNAME": "Žofie", "CL": "/Wall"}

    def install(self, below: str, version: str, name: str = "", *, told: bool = True) -> Path:
        folder = self.programs / "Microsoft Visual Studio" / below
        program(folder / "VC" / "Auxiliary" / "Build" / "vcvarsall.bat")
        if told:
            self.records.append(
                {"installationPath": str(folder), "installationVersion": version, "displayName": name or below}
            )
        return folder

    def add_compiler(self, folder: Path, tools: str, *, host: str = "x64", target: str = "x64") -> Path:
        return program(folder / "VC" / "Tools" / "MSVC" / tools / "bin" / f"Host{host}" / target / "cl.exe")

    def add_vswhere(self) -> None:
        program(self.programs_32 / "Microsoft Visual Studio" / "Installer" / "vswhere.exe")

    def run(self, words: Sequence[str] | str, environment: Mapping[str, str] | None) -> tuple[int, bytes]:
        self.ran.append((words, environment or {}))
        if not isinstance(words, str):
            assert words[0].endswith("vswhere.exe")
            if "-utf8" in words and not self.vswhere_knows_utf8:
                return 87, b"Error 0x57: Unknown parameter: -utf8"
            return 0, json.dumps(self.records, ensure_ascii=False).encode("utf-8" if "-utf8" in words else "cp1252")
        assert "cmd.exe" in words
        folder = next(path for path in self.programs.rglob("vcvarsall.bat") if f'"{path}"' in words).parents[3]
        if folder in self.broken:
            return 1, "[ERROR:vcvars.bat] failed".encode("utf-16-le")
        tools = sorted((folder / "VC" / "Tools" / "MSVC").iterdir())[-1]
        variables = {**(environment or {}), "Path": "C:\\tools", "INCLUDE": "C:\\Ünïcode\\include"}
        variables |= {"VCToolsInstallDir": f"{tools}{os.sep}", "VCToolsVersion": tools.name}
        return 0, "\r\n".join(f"{name}={value}" for name, value in variables.items()).encode("utf-16-le")

    def find(self, platform: str = "win-amd64", **more: str) -> Compiler | None:
        return next(find_all_msvc({**self.environment, **more}, self.run, platform), None)


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    return Windows(tmp_path)


@pytest.mark.parametrize(
    ("below", "version"),
    [
        ("2017/BuildTools", "15.9.28307.1500"),
        ("2019/Enterprise", "16.11.36631.11"),
        ("2022/Community", "17.14.36511.14"),
        ("2022/Preview", "17.14.0-pre.1.0"),
        ("18/Professional", "18.0.11205.157"),
    ],
)
@pytest.mark.parametrize("told", [True, False], ids=["vswhere", "folders"])
def test_every_edition_is_found(windows: Windows, below: str, version: str, told: bool) -> None:
    if told:
        windows.add_vswhere()
    path = windows.add_compiler(windows.install(below, version, told=told), "14.44.35207")
    found = windows.find()
    assert found is not None
    assert (found.kind, found.path, str(found)) == ("msvc", str(path), "MSVC 14.44.35207")
    assert found.environment is not None
    assert found.environment["INCLUDE"] == "C:\\Ünïcode\\include"
    assert found.environment["PATH"] == "C:\\tools"


def test_vswhere_is_asked_for_all_that_counts(windows: Windows) -> None:
    windows.add_vswhere()
    windows.find()
    words = " ".join(windows.ran[0][0])
    assert "-products * -prerelease" in words
    assert "-requires Microsoft.VisualStudio.Component.VC.Tools.x86.x64" in words
    assert words.endswith("-utf8")


def test_an_old_vswhere_is_asked_again_in_its_words(windows: Windows) -> None:
    windows.add_vswhere()
    windows.vswhere_knows_utf8 = False
    windows.add_compiler(windows.install("2017/BuildTools", "15.0.1", "Générateurs"), "14.16.27023")
    assert str(windows.find()) == "MSVC 14.16.27023"


def test_the_newest_that_works_is_taken(windows: Windows) -> None:
    windows.add_vswhere()
    for below, version, tools in (
        ("2019/BuildTools", "16.11.1", "14.29.30133"),
        ("2022/Community", "17.9.1", "14.39.33519"),
        ("2022/Preview", "17.14.1", "14.44.35207"),
    ):
        folder = windows.install(below, version)
        windows.add_compiler(folder, tools)
        if below == "2022/Preview":
            windows.broken.add(folder)
    (windows.install("18/Community", "18.0") / "VC" / "Tools" / "MSVC" / "14.50").mkdir(parents=True)  # no cl.exe in it
    assert str(windows.find()) == "MSVC 14.39.33519"


@pytest.fixture
def three(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three Visual Studios, newest first, and ziglang, on what calls itself Windows."""
    monkeypatch.setattr(toolchain, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "win-amd64")
    zig = Compiler("zig", ("zig.exe", "c++"), "zig c++", "0.17.1")
    monkeypatch.setattr(toolchain, "find_zig", lambda run: zig)
    windows.add_vswhere()
    folders = []
    for below, version, tools in (
        ("18/Insiders", "18.1", "14.50.1"),
        ("2022/Community", "17.9.1", "14.39.2"),
        ("2019/BuildTools", "16.11.1", "14.29.3"),
    ):
        folders.append(windows.install(below, version))
        windows.add_compiler(folders[-1], tools)
    return folders


def test_after_a_visual_studio_that_fails_come_the_older_ones_and_ziglang(windows: Windows, three: list[Path]) -> None:
    newest = find_compiler(windows.environment, windows.run)
    assert str(newest) == "MSVC 14.50.1"
    assert newest is not None
    others = list(compilers_after(newest, windows.environment, windows.run))
    assert list(map(str, others)) == ["MSVC 14.39.2", "MSVC 14.29.3", "zig c++ 0.17.1"]
    assert list(compilers_after(others[-1], windows.environment, windows.run)) == []


def test_one_visual_studio_can_be_named_and_is_the_only_one(
    windows: Windows, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**windows.environment, "GANFORMER_VISUAL_STUDIO": str(three[2])}
    found = find_compiler(environment, windows.run)
    assert str(found) == "MSVC 14.29.3"
    assert found is not None
    assert list(compilers_after(found, environment, windows.run)) == []
    windows.broken.add(three[2])
    assert find_compiler(environment, windows.run) is None
    monkeypatch.setenv("GANFORMER_VISUAL_STUDIO", "D:\\gone")
    assert "GANFORMER_VISUAL_STUDIO=D:\\gone" in how_to_get_a_compiler()


def test_remedies_name_what_windows_reads(three: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANFORMER_VISUAL_STUDIO", raising=False)
    said = how_to_get_a_compiler()
    assert said.startswith("run: pip install ziglang (or install the Visual Studio Build Tools")
    assert "CXX" not in said


def test_what_is_older_than_2017_is_left_alone(windows: Windows) -> None:
    windows.add_vswhere()
    windows.add_compiler(windows.install("14.0", "14.0.25431"), "14.0")
    assert windows.find() is None


def test_nothing_installed(windows: Windows) -> None:
    assert windows.find() is None
    windows.add_vswhere()
    assert windows.find() is None


def test_an_installation_is_listed_once(windows: Windows) -> None:
    windows.add_vswhere()
    windows.install("2022/Community", "17.9.1")  # vswhere tells of it, and it lies in a usual folder
    assert len(installations(windows.environment, windows.run, "any")) == 1


def test_vcvarsall_starts_from_a_clean_environment(windows: Windows) -> None:
    windows.add_compiler(windows.install("2022/Community", "17", told=False), "14.44.1")
    windows.find(PATH="C:\\" + "x" * 9000, INCLUDE="C:\\another", VSCMD_ARG_TGT_ARCH="x86")
    ((line, environment),) = windows.ran
    assert isinstance(line, str)
    assert line.endswith('vcvarsall.bat" x64 >nul 2>&1 && set"')
    assert "/d /u /s /c" in line
    assert environment["PATH"].startswith("C:\\Windows\\System32;")
    assert "xxx" not in environment["PATH"]
    assert {"INCLUDE", "CL", "VSCMD_ARG_TGT_ARCH"}.isdisjoint(environment)
    assert environment["USERNAME"] == "Žofie"


def test_a_developer_prompt_is_used_as_it_is(windows: Windows, tmp_path: Path) -> None:
    path = windows.add_compiler(tmp_path, "14.38.1")
    tools = str(path.parents[3])
    found = windows.find(VSCMD_ARG_TGT_ARCH="x64", VCToolsInstallDir=tools, VCToolsVersion="14.38.1")
    assert found is not None
    assert found.path == str(path)
    assert windows.ran == []


def test_an_arm_python_gets_arm_code(windows: Windows) -> None:
    windows.add_vswhere()
    folder = windows.install("2022/Community", "17.9.1")
    windows.add_compiler(folder, "14.44.1")
    path = windows.add_compiler(folder, "14.44.1", host="x64", target="arm64")
    found = windows.find("win-arm64")
    assert found is not None
    assert found.path == str(path)
    assert "Microsoft.VisualStudio.Component.VC.Tools.ARM64" in windows.ran[0][0]


# ----- nvcc -----


def toolkit(folder: Path) -> Path:
    """The folder of an nvcc; its version is that of the folder's name."""
    program(folder / "bin" / ("nvcc.exe" if os.name == "nt" else "nvcc"))
    return folder / "bin"


def nvcc_by_folder(words: Sequence[str] | str, environment: Mapping[str, str] | None) -> tuple[int, bytes]:
    version = Path(words[0]).parent.parent.name
    return 0, f"Cuda compilation tools, release {version}, V{version}.88\n".encode()


@pytest.mark.parametrize(
    ("there", "wanted", "taken", "fits"),
    [
        (["12.4", "13.0", "13.1"], (13, 0), (13, 0), True),
        (["12.4", "13.1", "13.2"], (13, 0), (13, 2), True),
        (["12.4", "11.8"], (13, 0), (12, 4), False),
        (["12.4", "13.0"], (), (12, 4), True),
    ],
)
def test_the_nvcc_that_fits_torch_best(
    tmp_path: Path, there: list[str], wanted: tuple[int, ...], taken: tuple[int, int], fits: bool
) -> None:
    found = find_nvcc(wanted, {}, nvcc_by_folder, [toolkit(tmp_path / version) for version in there])
    assert found is not None
    assert found.version == taken
    assert (misfit(found, wanted) == "") == fits


def test_no_nvcc(tmp_path: Path) -> None:
    assert find_nvcc((13, 0), {}, nvcc_by_folder, [tmp_path]) is None
    silent = toolkit(tmp_path / "13.0")
    assert find_nvcc((13, 0), {}, lambda words, environment: (1, b""), [silent]) is None


@posix
def test_what_the_user_says_goes_first(tmp_path: Path) -> None:
    home, on_path = toolkit(tmp_path / "home"), toolkit(tmp_path / "path")
    places = list(cuda_toolkit.toolkit_places({"CUDA_HOME": str(home.parent), "PATH": str(on_path)}))
    assert places[:2] == [home, on_path]
    assert Path("/usr/local/cuda/bin") in places


def test_the_newest_toolkit_of_a_folder_goes_first(tmp_path: Path) -> None:
    for name in ("cuda-9.2", "cuda-12.4", "cuda-12.10"):
        (tmp_path / name).mkdir()
    found = cuda_toolkit._newest_first(tmp_path, "cuda-*")
    assert [path.parent.name for path in found] == ["cuda-12.10", "cuda-12.4", "cuda-9.2"]


@posix
@pytest.mark.parametrize(
    "place", ["lib64/libcudart.so", "targets/x86_64-linux/lib/libcudart.so", "lib/libcudart.so.13"]
)
def test_the_runtime_is_found_beside_nvcc(tmp_path: Path, place: str) -> None:
    program(tmp_path / place)
    assert Nvcc("nvcc", (13, 0), (tmp_path,)).runtime == tmp_path / place
    assert Nvcc("nvcc", (12, 0), (tmp_path / "elsewhere",)).runtime is None


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("80,90", ("80", "90")), ("9.0, 8.0;8.0", ("80", "90")), ("sm_120 sm_90a", ("90a", "120"))],
)
def test_architectures_are_read(text: str, parsed: tuple[str, ...]) -> None:
    assert parse_architectures(text) == parsed


@pytest.mark.parametrize("text", ["hopper", "80,ninety", "8", "80 -o x"])
def test_what_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a compute capability"):
        parse_architectures(text)


@pytest.mark.parametrize(
    ("built", "present", "runs"),
    [
        (["80", "90"], ["80"], True),
        (["80", "90"], ["86", "89"], True),  # of the same generation
        (["86"], ["80"], False),  # of an earlier card
        (["80", "90"], ["120"], True),  # later: translated from what is kept for 90
        (["80", "90"], ["75"], False),
        (["80", "90"], ["80", "75"], False),
        (["90a"], ["90"], False),  # of that card only
        (["80"], [], False),
    ],
)
def test_which_cards_run_a_library(built: list[str], present: list[str], runs: bool) -> None:
    assert covers(built, present) == runs


def test_a_card_that_nvcc_does_not_know_is_built_for_the_one_before() -> None:
    assert within(["80", "121"], ["75", "80", "90", "90a", "100"]) == ("80", "100")
    assert within(["80"], []) == ("80",)


# ----- Cards -----


@posix
def test_cards_that_the_driver_tells_of(tmp_path: Path) -> None:
    program(tmp_path / "nvidia-smi")

    def run(words: Sequence[str] | str, environment: Mapping[str, str] | None) -> tuple[int, bytes]:
        if len(words) > 1:
            return 0, b"NVIDIA GeForce RTX 3060, 580.65.06\nNVIDIA A100, 580.65.06\n"
        return 0, b"| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06     CUDA Version: 13.0  |"

    cards = find_cards({"PATH": str(tmp_path)}, run)
    assert cards == Cards(("NVIDIA GeForce RTX 3060", "NVIDIA A100"), "580.65.06", (13, 0), works=True)


@posix
def test_cards_of_a_driver_that_does_not_answer(tmp_path: Path) -> None:
    folder = tmp_path / "proc" / "driver" / "nvidia"
    (folder / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (folder / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA A10\nIRQ: 1\n", encoding="utf-8")
    (folder / "version").write_text("NVRM version: NVIDIA UNIX Module  550.54.15  Tue\n", encoding="utf-8")
    cards = find_cards({"PATH": ""}, answering(), tmp_path)
    assert cards == Cards(("NVIDIA A10",), "550.54.15")


@posix
def test_cards_without_a_driver_show_on_the_bus(tmp_path: Path) -> None:
    for address, vendor, kind in (
        ("0000:00:02.0", "0x8086", "0x030000"),  # another maker's
        ("0000:01:00.0", "0x10de", "0x030200"),
        ("0000:01:00.1", "0x10de", "0x040300"),  # its sound
    ):
        folder = tmp_path / "sys" / "bus" / "pci" / "devices" / address
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n", encoding="utf-8")
        (folder / "class").write_text(f"{kind}\n", encoding="utf-8")
    assert find_cards({"PATH": ""}, answering(), tmp_path) == Cards(("NVIDIA card",))


@posix
def test_no_cards(tmp_path: Path) -> None:
    assert find_cards({"PATH": ""}, answering(), tmp_path) == Cards()
