"""Damaged small files, hostile pickles and hostile sources of images; part of ``stress.py``."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import random
import shlex
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests import stress_harness as harness
from tests.fuzz_original_snapshots import GOLDEN, mutilate
from tests.stress_harness import Report, Sandbox
from tests.stress_signals import RUN, TRAIN, Trained, images

MODEL_LINE = ("generate", "--model", "FILE", "--seeds", "0", "--output-dir", "out", "--gpus", "none")
HUGE = "1" + "0" * 400


# ----- Damaged small files -----


def damage_bytes(data: bytes, source: random.Random) -> bytes:
    """Flip, cut, repeat, blank or prefix some bytes."""
    kind = source.randrange(9)
    place = source.randrange(len(data) + 1)
    if kind == 0 and data:
        at = place % len(data)
        return data[:at] + bytes([data[at] ^ (1 << source.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data[:place] + b"\0" * source.choice((1, 100, 4096)) + data[place:]
    if kind == 3:
        return b""
    if kind == 4:
        return source.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) + data
    if kind == 5:
        return data + source.randbytes(source.choice((1, 50, 5000)))
    if kind == 6:
        return data[:place] + b"\x1b]0;owned\x07\x1b[31m" + data[place:]
    if kind == 7:
        return source.choice((b"[", b'{"a":')) * source.choice((2000, 200_000)) + data
    return data.decode("utf-8", "replace").encode("utf-16")


def damage_value(value: Any, source: random.Random) -> Any:
    """Something that should not stand where ``value`` stands."""
    return source.choice(
        (
            None,
            -1,
            -(2**63) - 1,
            int(HUGE),
            1e308,
            float("nan"),
            float("inf"),
            True,
            "",
            "\x1b[2J\x1b]0;owned\x07",
            "../../outside/canary.bin",
            "x" * 100_000,
            [],
            {},
            [[[]]],
            {"a": {"b": None}},
            [value],
            {"value": value},
            str(value),
            "\ud800",
        )
    )


def damage_json(text: str, source: random.Random) -> str:
    """Exchange, remove or repeat one value somewhere in a JSON document."""
    document = json.loads(text)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(document)
    if not places or source.random() < 0.05:
        document = damage_value(document, source)
    else:
        node, key = source.choice(places)
        if source.random() < 0.2:
            del node[key]
        else:
            node[key] = damage_value(node[key], source)
    return _to_json(document)


def _to_json(document: Any) -> str:
    import sys

    limit = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else 0
    try:
        if limit:
            sys.set_int_max_str_digits(0)
        return json.dumps(document)
    finally:
        if limit:
            sys.set_int_max_str_digits(limit)


def damage_text(data: bytes, source: random.Random) -> bytes:
    """Damage bytes, or a value of one of the JSON lines."""
    lines = data.decode("utf-8", "replace").splitlines()
    if source.random() < 0.4 or not lines:
        return damage_bytes(data, source)
    try:
        return damage_json("\n".join(lines), source).encode("utf-8", "surrogatepass")
    except ValueError:
        pass
    try:
        at = source.randrange(len(lines))
        lines[at] = damage_json(lines[at], source)
    except ValueError:
        return damage_bytes(data, source)
    end = "" if source.random() < 0.3 else "\n"
    return ("\n".join(lines) + end).encode("utf-8", "surrogatepass")


def damage_header(data: bytes, source: random.Random) -> bytes:
    """Damage the JSON header of a safetensors file, and keep its announced length right more often than not."""
    (size,) = struct.unpack("<Q", data[:8])
    header = damage_text(data[8 : 8 + size], source)
    if source.random() < 0.2:
        return struct.pack("<Q", source.choice((0, 1, 2**31, 2**63, size + 1))) + header + data[8 + size :]
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


class Files:
    """Small files of runs and data sets, damaged one at a time, and the commands that read them."""

    def __init__(self, root: Path, source: random.Random, report: Report) -> None:
        self.root, self.source, self.report = root, source, report
        self.expected: set[str] = set()
        self.kept: Path | None = None

    def prepare(self) -> Path:
        """A folder with a run, a prepared data set, a generated image and a catalogue entry."""
        if self.kept is None:
            sandbox = Sandbox(self.root, "files-kept")
            Trained.copy(sandbox.cwd)
            images(sandbox.cwd, 12)
            line = shlex.split("prepare images --name set --resolution 16 --labels folders --workers 1")
            for words in (line, ["generate", "--model", str(RUN), "--seeds", "0", "--output-dir", "made"]):
                outcome = harness.run(sandbox, words)
                if outcome.status != 0:
                    raise RuntimeError(f"{words}: {outcome.output}")
            (sandbox.cwd / "entry.toml").write_text(
                'title = "Mine"\nlicence = "none"\nratio = 1.0\nresolution = 16\nimages = 12\n\n'
                '[[source]]\nform = "zip of pictures"\n'
                'url = "http://127.0.0.1:9/x.zip"\ngigabytes = 1\n\n[preset]\ngamma = 1.0\n',
                encoding="utf-8",
            )
            self.kept = sandbox.cwd
            self.expected = harness.run_contents(sandbox.cwd / RUN)
        return self.kept

    def case(self) -> None:
        """Damage one file, and run a command that reads it."""
        kept = self.prepare()
        sandbox = Sandbox(self.root, "files")
        sandbox.cwd.rmdir()
        shutil.copytree(kept, sandbox.cwd)
        train = [*TRAIN, "--total-kimg", "0.084"]
        model = ["info", str(RUN)]
        newest = str(sorted((kept / RUN / "snapshots").glob("*.safetensors"))[-1].relative_to(kept))
        states = [str(path.relative_to(kept)) for path in sorted((kept / RUN / "state").glob("*.safetensors"))]
        made = str(next((kept / "made").rglob("*.png")).relative_to(kept))
        sets = [str(path.relative_to(kept)) for path in (kept / "datasets/set").rglob("*.json")]
        zips = [str(path.relative_to(kept)) for path in (kept / "datasets/set").rglob("*.zip")]
        notes = [str(path.relative_to(kept)) for path in (kept / "made").rglob("*.json")]
        dataset = shlex.split("train --dataset set --dry-run --expname other --resolution 16")
        choices: list[tuple[str, Callable[[bytes, random.Random], bytes], Sequence[Sequence[str]]]] = [
            (f"{RUN}/config.json", damage_text, (train, model, ["compare"])),
            (f"{RUN}/log.jsonl", damage_text, (train, model)),
            (f"{RUN}/metrics.jsonl", damage_text, (train, ["compare"], model, ["compare", "--snapshot", "best"])),
            (f"{RUN}/events.jsonl", damage_text, (train, model)),
            (newest, damage_header, (model, MODEL_LINE, train)),
            (self.source.choice(states), damage_header, (train,)),
            (made, damage_bytes, (["info", made],)),
            (self.source.choice(sets), damage_text, (dataset, ["prepare", "--verify", "set"])),
            (self.source.choice(zips), damage_bytes, (dataset, ["prepare", "--verify", "set"])),
            ("entry.toml", damage_text, (["prepare", "entry.toml", "--from-file", "images"],)),
            *[(note, damage_text, (_generate_again(),)) for note in notes[:1]],
        ]
        name, damage, lines = self.source.choice(choices)
        path = sandbox.cwd / name
        if not path.exists():
            path.write_bytes(b'{"kimg": 0, "message": "x"}\n')
        path.write_bytes(damage(path.read_bytes(), self.source))
        words = [name if word == "FILE" else word for word in self.source.choice(list(lines))]
        before = harness.folder_contents(sandbox.cwd / RUN / "snapshots")
        outcome = harness.run(sandbox, words, limit=90)
        what = f"{words[0]} with a damaged {name}"
        self.report.cases["files"] += 1
        self.report.check("files", what, outcome)
        after = harness.folder_contents(sandbox.cwd / RUN / "snapshots")
        if any(after.get(key) != value for key, value in before.items()):
            self.report.fault("lost", "files", f"{what}: a snapshot was replaced or removed")
        if words[0] == "train" and "--dry-run" not in words and outcome.status == 0 and name != newest:
            grids = {fact for fact in self.expected if fact.startswith("snapshot")}
            if not grids <= harness.run_contents(sandbox.cwd / RUN):
                self.report.fault("lost", "files", f"{what}: snapshots are gone")
        sandbox.check(self.report, "files", what)
        sandbox.remove()


def _generate_again() -> list[str]:
    return ["generate", "--model", str(RUN), "--seeds", "0", "--output-dir", "made"]


# ----- Hostile pickles -----


class Run:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def _call(module: str, name: str, argument: str) -> bytes:
    """Opcodes that call ``module.name(argument)``, whatever this Python has."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n(V" + argument.encode() + b"\ntR."


def _nested_key(depth: int) -> bytes:
    """A dictionary whose key is a tuple of pairs of the same tuple: its hash takes 2**depth steps."""
    body = b"\x80\x04)" + b"".join(b"2\x86" for _ in range(depth))
    return body.replace(b"\x80\x04)", b"\x80\x04}", 1).replace(b"}", b"})", 1) + b"K\x01s."


def hostile_pickles(marker: Path, source: random.Random) -> list[tuple[str, bytes]]:
    """Pickles that would run code, hang, or take memory, by what they try."""
    touch = f"open({str(marker)!r}, 'w').close()"
    shell = f"touch {marker}"
    real = GOLDEN / "duplex-kmeans" / "network-snapshot-000000.pkl"
    found: list[tuple[str, bytes]] = [
        ("exec", pickle.dumps(Run(exec, touch))),
        ("eval", pickle.dumps(Run(eval, touch))),
        ("os.system", pickle.dumps(Run(os.system, shell))),
        ("inside a snapshot", pickle.dumps({"G": None, "D": None, "Gs": Run(os.system, shell)})),
        ("in a state", pickle.dumps({"G": {}, "Gs": {"_parameters": Run(exec, touch)}})),
        ("partial", pickle.dumps(Run(functools.partial, os.system, shell))),
        ("open for writing", pickle.dumps(Run(open, str(marker), "w"))),
        ("nested keys", _nested_key(60)),
        ("deep list", b"\x80\x04" + b"]" * 5_000_000 + b"a" * 4_999_999 + b"."),
        ("deep tuple", b"\x80\x04)" + b"\x85" * 5_000_000 + b"."),
        ("marks", b"\x80\x04" + b"(" * 5_000_000 + b"."),
        ("doubling", b"\x80\x04]" + b"2\x86" * 200 + b"."),
        ("huge integer", b"\x80\x04\x8b" + struct.pack("<I", 2**31 - 1) + b"\xff" * 1000 + b"."),
        ("long digits", b"I" + b"9" * 2_000_000 + b"\n."),
        ("huge string announced", b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x."),
        ("huge frame", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."),
        ("huge memo index", b"\x80\x04Nr\xff\xff\xff\xff."),
        ("escape in a global", b"c\x1b[2Jmodule\x07\nname\n."),
        ("persistent id", b"\x80\x04\x8c\x04evilQ."),
        ("extension code", b"\x80\x04\x82\x01."),
        ("bytes bomb", pickle.dumps({"Gs": zlib.compress(b"\0" * (1 << 26)), "x": b"\0" * (1 << 24)})),
    ]
    found += [
        (f"{module}.{name}", _call(module, name, argument))
        for module, name, argument in (
            ("posix", "system", shell),
            ("nt", "system", shell),
            ("builtins", "exec", touch),
            ("__builtin__", "eval", touch),
            ("subprocess", "check_output", shell),
            ("os", "popen", shell),
            ("runpy", "run_path", str(marker)),
            ("importlib", "import_module", "antigravity"),
            ("torch.storage", "_load_from_bytes", "not bytes"),
            ("torch", "load", str(marker)),
            ("numpy", "load", str(marker)),
            ("pickle", "loads", touch),
            ("torch_utils.persistence", "_reconstruct_persistent_obj", touch),
            ("torch._utils", "_rebuild_tensor_v2", "x"),
            ("collections", "OrderedDict", "x"),
            ("numpy.core.multiarray", "_reconstruct", "x"),
            ("numpy.core.multiarray", "scalar", "x"),
            ("shutil", "rmtree", str(marker.parent)),
            ("webbrowser", "open", "http://127.0.0.1:9"),
        )
    ]
    inner = pickle.dumps(Run(os.system, shell))
    found.append(("inner pickle", _storage(inner)))
    found.append(("inner zip bomb", _storage(_zip_bomb())))
    found.append(("one storage many times", _repeated_storage(20_000)))
    tree = real.read_bytes()
    found += [(f"mutilated {n}", mutilate(tree, source)) for n in range(len(found))]
    tf = GOLDEN / "duplex-kmeans" / "network-snapshot-tf.pkl"
    if tf.is_file():
        found += [(f"mutilated TensorFlow {n}", mutilate(tf.read_bytes(), source)) for n in range(20)]
    found += [("persistent object", _persistent(source, touch)) for _ in range(30)]
    return found


def _storage(content: bytes) -> bytes:
    call = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(content)) + content + b"\x85R"
    return b"\x80\x04}\x8c\x02Gs" + call + b"s."


def _zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02]." + b"\0" * (1 << 20))
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(512):
                member.write(b"\0" * (1 << 20))
    return stream.getvalue()


def _repeated_storage(count: int) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(torch.zeros(1 << 18), stream)
    content = stream.getvalue()
    call = b"\x80\x04ctorch.storage\n_load_from_bytes\n\x94B" + struct.pack("<I", len(content)) + content + b"\x940"
    return call[:2] + b"]" + call[2:].replace(b"\x940", b"\x94", 1) + b"0" + b"(h\x00h\x01\x85R" * count + b"."


def _persistent(source: random.Random, touch: str) -> bytes:
    """The call that persistent objects are rebuilt with, with states of every wrong type."""
    odd: list[Any] = [
        None,
        5,
        "text",
        [],
        {},
        {"_init_kwargs": [[[]]]},
        {"_init_kwargs": {"k": "x" * 1000, "w_dim": [[]]}, "_parameters": {}, "_buffers": {}, "_modules": {}},
        {"_init_kwargs": {"k": 5, "img_resolution": 10**30}, "_parameters": {}, "_buffers": {}, "_modules": {}},
        {"_parameters": {"\x1b[2J": None}, "_buffers": [], "_modules": 3},
    ]
    meta = {
        "type": source.choice(("class", "clazz", 3, None)),
        "version": source.choice((6, 99, "6", None)),
        "module_src": touch,
        "class_name": source.choice(("Generator", "\x1b[31mG", ["G"], {}, None)),
        "state": source.choice(odd),
    }
    if source.random() < 0.3:
        del meta[source.choice(list(meta))]
    body = pickle.dumps(meta, 4)[2:-1]
    if body[:1] == b"\x95":
        body = body[9:]
    call = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n" + body + b"\x85R"
    return b"\x80\x04}(\x8c\x01GN\x8c\x01DN\x8c\x02Gs" + call + b"u."


class Pickles:
    """Hostile snapshots, given wherever a model is asked for."""

    def __init__(self, root: Path, source: random.Random, report: Report) -> None:
        self.root, self.source, self.report = root, source, report
        self.todo: list[tuple[str, Callable[[Path], bytes]]] = []

    def case(self) -> None:
        """One hostile pickle to one command."""
        sandbox = Sandbox(self.root, "pickles")
        if not self.todo:
            made = hostile_pickles(sandbox.marker, self.source)
            self.todo = [(name, lambda _, data=data: data) for name, data in made]  # type: ignore[misc]
            self.source.shuffle(self.todo)
        name, data = self.todo.pop()
        (sandbox.cwd / "model.pkl").write_bytes(data(sandbox.marker))
        line = self.source.choice(
            (
                ["info", "model.pkl"],
                ["convert", "model.pkl", "out.safetensors"],
                [word if word != "FILE" else "model.pkl" for word in MODEL_LINE],
                [*TRAIN, "--pretrained-pkl", "model.pkl"],
            )
        )
        outcome = harness.run(sandbox, line, limit=60)
        what = f"{line[0]} of a pickle, {name}"
        self.report.cases["pickles"] += 1
        self.report.check("pickles", what, outcome)
        if (sandbox.cwd / "out.safetensors").exists() and outcome.status != 0:
            self.report.fault("lost", "pickles", f"{what}: failed and left a file")
        sandbox.check(self.report, "pickles", what)
        sandbox.remove()


# ----- Hostile sources -----


def _png(width: int = 8, height: int = 8, seed: int = 0) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(width * height * 3)).save(stream, "PNG")
    return stream.getvalue()


def _huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _zip(path: Path, members: dict[str, bytes], **how: Any) -> None:
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


class Sources:
    """Sources of images that try to write elsewhere, read elsewhere, run, hang, or fill memory."""

    def __init__(self, root: Path, source: random.Random, report: Report) -> None:
        self.root, self.source, self.report = root, source, report
        self.makers = [value for name, value in vars(type(self)).items() if name.startswith("make_")]
        self.todo: list[Callable[[Sources, Sandbox], Path]] = []

    def case(self) -> None:
        """One hostile source to ``prepare`` or ``eval --images``."""
        sandbox = Sandbox(self.root, "sources")
        if not self.todo:
            self.todo = list(self.makers)
            self.source.shuffle(self.todo)
        maker = self.todo.pop()
        try:
            target = maker(self, sandbox)
        except ImportError:
            return
        line = ["prepare", target.name, "--name", "set", "--resolution", "16", "--workers", "1"]
        extra = self.source.choice(([], ["--strict"], ["--labels", "folders"], ["--near-duplicates"]))
        if self.source.random() < 0.2:
            line, extra = ["eval", "--images", target.name, "--reals", target.name, "--gpus", "none"], []
        outcome = harness.run(sandbox, [*line, *extra], limit=90)
        what = f"{line[0]} {maker.__name__.removeprefix('make_')} {' '.join(extra)}"
        self.report.cases["sources"] += 1
        self.report.check("sources", what, outcome)
        if outcome.status not in (0, None) and list((sandbox.cwd / "datasets").glob("set/manifest*")):
            self.report.fault("lost", "sources", f"{what}: failed and left a data set")
        if outcome.status == 0 and line[0] == "prepare":
            self.no_canary(sandbox, what)
        sandbox.check(self.report, "sources", what)
        sandbox.remove()

    def no_canary(self, sandbox: Sandbox, what: str) -> None:
        """Whether bytes of a file outside became pixels."""
        import numpy as np
        from PIL import Image

        stolen = np.frombuffer(harness.CANARY[:12], np.uint8).tobytes()
        for path in (sandbox.cwd / "datasets").rglob("*.zip"):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".png"):
                        with Image.open(archive.open(name)) as image:
                            if stolen in image.tobytes():
                                self.report.fault("outside", "sources", f"{what}: another file's bytes are images")
                                return

    def make_zip_that_climbs(self, box: Sandbox) -> Path:
        names = ("../../outside/a.png", "/tmp/../outside/b.png", "..\\..\\outside\\c.png", "C:\\d.png", "a/../../e.png")
        _zip(box.cwd / "s.zip", {name: _png(seed=n) for n, name in enumerate(names)})
        return box.cwd / "s.zip"

    def make_tar_that_climbs(self, box: Sandbox) -> Path:
        links = [
            (_member("link", tarfile.SYMTYPE, "../outside"), b""),
            (_member("link/x.png"), _png()),
            (_member("hard.png", tarfile.LNKTYPE, "../outside/canary.bin"), b""),
            (_member("../outside/y.png"), _png()),
            (_member("device.png", tarfile.CHRTYPE), b""),
            (_member("fifo.png", tarfile.FIFOTYPE), b""),
        ]
        _tar(box.cwd / "s.tar", links)
        return box.cwd / "s.tar"

    def make_folder_of_odd_files(self, box: Sandbox) -> Path:
        folder = box.cwd / "s"
        folder.mkdir()
        os.mkfifo(folder / "a.png")
        (folder / "b.png").symlink_to(box.canary)
        (folder / "c.png").symlink_to(folder)
        (folder / "d.png").symlink_to("/dev/zero")
        (folder / "loop").symlink_to(folder)
        (folder / "e.png").write_bytes(_png())
        (folder / "f.png").mkdir()
        return folder

    def make_names_with_escapes(self, box: Sandbox) -> Path:
        folder = box.cwd / "s" / "class\x1b[31m\x07"
        folder.mkdir(parents=True)
        (folder / "\x1b]0;owned\x07.png").write_bytes(b"damaged")
        (folder / "good\n\r.png").write_bytes(_png())
        os.makedirs(os.fsencode(folder.parent) + b"/\xff\xfe")
        Path(os.fsdecode(os.fsencode(folder.parent) + b"/\xff\xfe/x.png")).write_bytes(_png(seed=2))
        return box.cwd / "s"

    def make_zip_bomb(self, box: Sandbox) -> Path:
        with zipfile.ZipFile(box.cwd / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("bomb.png", "w", force_zip64=True) as member:
                for _ in range(2048):
                    member.write(b"\0" * (1 << 20))
            archive.writestr("ok.png", _png())
        return box.cwd / "s.zip"

    def make_json_bomb(self, box: Sandbox) -> Path:
        _zip(
            box.cwd / "s.zip",
            {"a.png": _png(), "dataset.json": b'{"labels": ' + b"[" * 50_000_000},
            compression=zipfile.ZIP_DEFLATED,
        )
        return box.cwd / "s.zip"

    def make_many_labels(self, box: Sandbox) -> Path:
        body = b'{"labels": [["a.png", ' + HUGE.encode() + b'], ["a.png", NaN], ["../x", -1], [null, null], 5]}'
        _zip(box.cwd / "s.zip", {"a.png": _png(), "dataset.json": body})
        return box.cwd / "s.zip"

    def make_pixel_bombs(self, box: Sandbox) -> Path:
        sizes = ((60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 5), (20_000, 20_000))
        _zip(box.cwd / "s.zip", {f"{w}x{h}.png": _huge_png(w, h) for w, h in sizes} | {"ok.png": _png()})
        return box.cwd / "s.zip"

    def make_zip_of_zips(self, box: Sandbox) -> Path:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr("a.png", _png())
        _zip(box.cwd / "s.zip", {"inner.zip": inner.getvalue(), "b.png": _png(seed=1), "film.mp4": b"\0" * 50})
        return box.cwd / "s.zip"

    def make_mutilated_zip(self, box: Sandbox) -> Path:
        _zip(box.cwd / "s.zip", {f"{n}.png": _png(seed=n) for n in range(4)})
        (box.cwd / "s.zip").write_bytes(mutilate((box.cwd / "s.zip").read_bytes(), self.source) or b"PK")
        return box.cwd / "s.zip"

    def make_mutilated_png(self, box: Sandbox) -> Path:
        damaged = {f"{n}.png": mutilate(_png(seed=n), self.source) for n in range(6)}
        _zip(box.cwd / "s.zip", damaged | {"ok.png": _png()})
        return box.cwd / "s.zip"

    def make_mutilated_tar(self, box: Sandbox) -> Path:
        _tar(box.cwd / "s.tar", [(_member(f"{n}.png"), _png(seed=n)) for n in range(4)])
        (box.cwd / "s.tar").write_bytes(mutilate((box.cwd / "s.tar").read_bytes(), self.source) or b"\0")
        return box.cwd / "s.tar"

    def make_zip_with_lying_sizes(self, box: Sandbox) -> Path:
        _zip(box.cwd / "s.zip", {"a.png": _png(), "b.png": _png(seed=1)})
        data = bytearray((box.cwd / "s.zip").read_bytes())
        at = data.rfind(b"PK\x01\x02")
        data[at + 20 : at + 28] = struct.pack("<II", self.source.choice((0, 2**31, 2**32 - 1)), 2**32 - 2)
        (box.cwd / "s.zip").write_bytes(data)
        return box.cwd / "s.zip"

    def make_zip_with_many_members(self, box: Sandbox) -> Path:
        _zip(box.cwd / "s.zip", {f"{n}.txt": b"" for n in range(20_000)} | {"a.png": _png()})
        return box.cwd / "s.zip"

    def make_pickled_npy(self, box: Sandbox) -> Path:
        import numpy as np

        array = np.array([Run(os.system, f"touch {box.marker}")], dtype=object)
        np.save(box.cwd / "s.npy", array, allow_pickle=True)
        return box.cwd / "s.npy"

    def make_pickled_npz(self, box: Sandbox) -> Path:
        import numpy as np

        array = np.array([Run(os.system, f"touch {box.marker}")], dtype=object)
        np.savez(box.cwd / "s.npz", images=array)
        return box.cwd / "s.npz"

    def make_npy_with_hostile_header(self, box: Sandbox) -> Path:
        header = self.source.choice(
            (
                f"__import__('os').system('touch {box.marker}')",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000, 3)}",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, 3)}",
                "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
                "(" * 5000,
            )
        ).encode()
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) % 65536)
        (box.cwd / "s.npy").write_bytes(start + header + b"\0" * 64)
        return box.cwd / "s.npy"

    def make_hdf5_that_points_elsewhere(self, box: Sandbox) -> Path:
        import h5py

        with h5py.File(box.cwd / "s.h5", "w") as file:
            shape = (2, 8, 8, 3)
            external = [(str(box.canary), 0, 2 * 8 * 8 * 3)]
            kind = self.source.randrange(3)
            if kind == 0:
                file.create_dataset("images", shape, "uint8", external=external)
            elif kind == 1:
                file["images"] = h5py.ExternalLink(str(box.outside / "other.h5"), "/images")
            else:
                layout = h5py.VirtualLayout(shape, "uint8")
                layout[:] = h5py.VirtualSource(str(box.outside / "other.h5"), "images", shape)
                file.create_virtual_dataset("images", layout)
        return box.cwd / "s.h5"

    def make_hdf5_mutilated(self, box: Sandbox) -> Path:
        import h5py
        import numpy as np

        with h5py.File(box.cwd / "s.h5", "w") as file:
            file["images"] = np.zeros((3, 8, 8, 3), np.uint8)
        (box.cwd / "s.h5").write_bytes(mutilate((box.cwd / "s.h5").read_bytes(), self.source) or b"\0")
        return box.cwd / "s.h5"

    def make_tfrecord_with_lying_lengths(self, box: Sandbox) -> Path:
        length = struct.pack("<Q", self.source.choice((2**63, 2**40, 5, 0)))
        (box.cwd / "s.tfrecords").write_bytes(length + b"\0" * 4 + b"x" * 50)
        return box.cwd / "s.tfrecords"

    def make_lmdb_mutilated(self, box: Sandbox) -> Path:
        import lmdb

        folder = box.cwd / "s_lmdb"
        with lmdb.open(str(folder), map_size=1 << 20) as database, database.begin(write=True) as write:
            write.put(b"a", _png())
        data = folder / "data.mdb"
        if self.source.random() < 0.5:
            data.write_bytes(data.read_bytes()[: self.source.randrange(1, 8192)])
        return folder

    def make_webdataset_mutilated(self, box: Sandbox) -> Path:
        members = {"0.png": _png(), "0.cls": b"\xff\x00", "1.png": b"x", "1.json": b"[" * 99999}
        _tar(box.cwd / "s-000000.tar", [(_member(name), data) for name, data in members.items()])
        return box.cwd / "s-000000.tar"

    def make_manifest_that_lies(self, box: Sandbox) -> Path:
        folder = box.cwd / "s"
        folder.mkdir()
        (folder / "a.png").write_bytes(_png())
        (folder / "dataset.json").write_bytes(damage_text(b'{"labels": [["a.png", 0]]}', self.source))
        return folder

    def make_labels_with_escapes(self, box: Sandbox) -> Path:
        folder = box.cwd / "s"
        folder.mkdir()
        (folder / "a.png").write_bytes(_png())
        labels = [["\x1b[2J.png", "\x1b]0;x\x07"], ["a.png", "\x1b[1m"]]
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
        return folder

    def make_empty_things(self, box: Sandbox) -> Path:
        name = self.source.choice(("s.zip", "s.tar", "s.npy", "s.h5", "s.tfrecords", "s.tar.gz", "s.npz"))
        (box.cwd / name).write_bytes(b"")
        return box.cwd / name

    def make_fifo_as_archive(self, box: Sandbox) -> Path:
        name = self.source.choice(("s.zip", "s.tar", "s.npy", "s.h5", "s.tfrecords", "s.npz", "s.png"))
        os.mkfifo(box.cwd / name)
        return box.cwd / name

    def make_gzip_bomb(self, box: Sandbox) -> Path:
        import gzip

        with gzip.open(box.cwd / "s.tar.gz", "wb", compresslevel=9) as stream:
            member = _member("bomb.png")
            member.size = 1 << 31
            stream.write(member.tobuf())
            for _ in range(2048):
                stream.write(b"\0" * (1 << 20))
        return box.cwd / "s.tar.gz"
