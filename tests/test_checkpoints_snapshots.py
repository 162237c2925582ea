"""Model files: whole, strict, readable without us."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load, load_file, save_file

from ganformer_cli.checkpoints import headers, run_folder, snapshots
from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import OutputError, SnapshotError
from ganformer_cli.models import Discriminator, Generator, parameter_count

CONFIG = ModelConfig(
    resolution=8, components_num=2, latent_size=16, channel_base=64, channel_max=8, mapping_num_layers=2
)


def write(path: Path, config: ModelConfig = CONFIG) -> tuple[Generator, Path]:
    """A snapshot of new networks."""
    generator = Generator(config)
    snapshots.save_snapshot(
        path,
        config=config,
        ema=generator,
        generator=Generator(config),
        discriminator=Discriminator(config),
        kimg=1.5,
        provenance={"dataset": {"name": "scenes"}},
    )
    return generator, path


def rewrite(path: Path, change: dict[str, Any] | None = None, drop: str = "", add: str = "") -> None:
    """Change the configuration, or drop or add a tensor."""
    header = headers.read_header(path)
    tensors = load(path.read_bytes())  # load_file maps the file, and Windows overwrites none that is mapped
    header["config"].update(change or {})
    tensors.pop(drop, None)
    if add:
        tensors[add] = torch.zeros(1)
    save_file(tensors, path, metadata={"ganformer": json.dumps(header)})


def test_there_and_back(tmp_path: Path) -> None:
    generator, path = write(tmp_path / "a.safetensors")
    loaded = snapshots.load_snapshot(path)
    z = torch.randn(2, *generator.z_shape)
    with torch.no_grad():
        assert torch.equal(loaded(z, noise_mode="const"), generator.eval()(z, noise_mode="const"))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    header = headers.read_header(path)
    assert header["kimg"] == 1.5
    assert header["dataset"] == {"name": "scenes"}
    assert headers.read_config(path) == CONFIG


def test_plain_safetensors_reads_it(tmp_path: Path) -> None:
    generator, path = write(tmp_path / "a.safetensors")
    tensors = load_file(path)
    assert {name.split(".")[0] for name in tensors} == {"ema", "generator", "discriminator"}
    for name, value in generator.state_dict().items():
        assert torch.equal(tensors[f"ema.{name}"], value)


def test_the_other_generator_is_there_too(tmp_path: Path) -> None:
    _, path = write(tmp_path / "a.safetensors")
    average, trained, _ = snapshots.load_available(path)
    assert average.pos is not None
    assert trained is not None
    assert trained.pos is not None
    assert not torch.equal(average.pos, trained.pos)


def test_newest_snapshot_of_a_run(tmp_path: Path) -> None:
    for kimg in (0, 20, 100):
        write(tmp_path / "run" / "snapshots" / run_folder.snapshot_name(kimg))
    assert run_folder.resolve_model(tmp_path / "run").name == "network-snapshot-000100.safetensors"


@pytest.mark.parametrize("keep", [0, 4, 50, 5000, -1])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    _, path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SnapshotError, match=r"a\.safetensors"):
        snapshots.load_snapshot(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no open file")
def test_a_file_that_goes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a training removes an old one: torch, which opens it again, says so by an error of another kind."""
    _, path = write(tmp_path / "a.safetensors")
    from_file = torch.UntypedStorage.from_file

    def open_what_is_gone(*given: Any, **options: Any) -> Any:
        path.unlink()
        return from_file(*given, **options)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", open_what_is_gone)
    with pytest.raises(SnapshotError, match=r"a\.safetensors: cannot be read"):
        snapshots.read_tensors(path)


def test_header_that_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(SnapshotError):
        snapshots.load_snapshot(path)


def test_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(SnapshotError, match="no ganformer configuration"):
        snapshots.load_snapshot(path)
    (tmp_path / "b.safetensors").write_text("<html>quota exceeded</html>", encoding="utf-8")
    with pytest.raises(SnapshotError, match="a web page"):
        snapshots.load_snapshot(tmp_path / "b.safetensors")


def test_another_architecture_names_the_tensors(tmp_path: Path) -> None:
    _, path = write(tmp_path / "a.safetensors")
    rewrite(path, change={"attention": "simplex"})
    with pytest.raises(SnapshotError, match=r"another architecture.*missing.*to_keys.*surplus.*centroids") as error:
        snapshots.load_snapshot(path)
    assert "a.safetensors" in str(error.value)


def test_another_width_names_the_shapes(tmp_path: Path) -> None:
    _, path = write(tmp_path / "a.safetensors")
    rewrite(path, change={"channel_max": 4})
    with pytest.raises(SnapshotError, match=r"\[8.* instead of \[4"):
        snapshots.load_snapshot(path)


def test_missing_and_surplus_tensor(tmp_path: Path) -> None:
    _, path = write(tmp_path / "a.safetensors")
    rewrite(path, drop="ema.pos", add="ema.surprise")
    with pytest.raises(SnapshotError, match=r"missing: pos; surplus: surprise"):
        snapshots.load_snapshot(path)


@pytest.mark.parametrize(
    "change", [{"channel_max": 10**9}, {"resolution": 2**40}, {"surprise": 1}, {"style": "yes"}, {"latent_size": -5}]
)
def test_absurd_configuration_is_refused_before_anything_is_built(tmp_path: Path, change: dict[str, Any]) -> None:
    _, path = write(tmp_path / "a.safetensors")
    rewrite(path, change=change)
    with pytest.raises(SnapshotError, match=next(iter(change)).replace("_", ".")):
        snapshots.load_snapshot(path)


@pytest.mark.slow
def test_a_header_larger_than_its_tensors_takes_no_memory(tmp_path: Path) -> None:
    """65,536 numbers a latent would make each layer of the mapping network 17 GB."""
    _, path = write(tmp_path / "a.safetensors")
    rewrite(path, change={"latent_size": 65536, "components_num": 1, "mapping_num_layers": 64})
    with pytest.raises(SnapshotError, match="of another architecture"):
        snapshots.load_snapshot(path)


def test_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"ganformer": '{"format": 99}'})
    with pytest.raises(SnapshotError, match="newer ganformer"):
        snapshots.load_snapshot(path)


def test_missing_places(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no such file"):
        run_folder.resolve_model(tmp_path / "nowhere")
    with pytest.raises(SnapshotError, match="no snapshot"):
        run_folder.resolve_model(tmp_path)


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the old file, and nothing else."""
    _, path = write(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.safetensors"]


def framed(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


def one_tensor(**more: Any) -> bytes:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **more}
    values = {"ema.a": tensor, "__metadata__": {"ganformer": '{"format": 1, "config": {}}'}}
    return framed(json.dumps(values).encode()) + bytes(8)


NO_NUMBERS = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
HOSTILE_FILES = {
    "a header of exabytes": framed(b"{}", 2**63),
    "a header of 20 MiB": framed(b"{" + b" " * (20 << 20) + b"}"),
    "a deep header": framed(b'{"a":' + b"[" * 100_000),
    "100,000 tensors": framed(("{" + ",".join(f'"t{i}":{NO_NUMBERS}' for i in range(100_000)) + "}").encode()),
    "another kind of number": one_tensor(dtype="F99"),
    "an endless shape": one_tensor(shape=[2**40, 2**40]),
    "a negative shape": one_tensor(shape=[-1]),
    "offsets beyond the file": one_tensor(data_offsets=[0, 2**40]),
    "offsets backwards": one_tensor(data_offsets=[8, 0]),
    "deep settings": framed(json.dumps({"__metadata__": {"ganformer": "[" * 5000}}).encode()),
    "a number of 5000 digits": framed(
        json.dumps({"__metadata__": {"ganformer": '{"format":' + "9" * 5000 + "}"}}).encode()
    ),
    "a truth value for a format": framed(json.dumps({"__metadata__": {"ganformer": '{"format": true}'}}).encode()),
    "escapes": framed(
        json.dumps({"__metadata__": {"ganformer": '{"format": 1, "config": {"\\u001b]0;x": 1}}'}}).encode()
    ),
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE_FILES.values(), ids=HOSTILE_FILES)
def test_hostile_files_are_refused_in_one_line(ganformer: Callable[..., Result], tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(data)
    done = ganformer("info", path)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert str(path) in done.stderr
    assert done.stderr.rstrip("\n").isprintable()
    assert len(done.stderr) < 800


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "kmeans", "d_transformer": True},
        {"attention": "none", "components_num": 0},
        {"attention": "none", "kgan": True, "merge_type": "leaves"},
        {"g_arch": "skip", "d_arch": "orig", "local_noise": False, "mapping_shared": True, "pos_type": "trainable2d"},
        {"g_img2img": 8, "latent_stem": True, "img_gate": True, "ltnt_gate": True, "g_ltnt2ltnt": True},
    ],
    ids=str,
)
def test_parameters_are_counted_from_the_header(tmp_path: Path, changes: dict[str, Any]) -> None:
    small = {"resolution": 16, "components_num": 2, "latent_size": 16, "channel_base": 64, "channel_max": 8}
    config = ModelConfig(**{**small, **changes})
    generator, discriminator = Generator(config), Discriminator(config)
    path = tmp_path / "model.safetensors"
    snapshots.save_snapshot(
        path, config=config, ema=generator, generator=None, discriminator=discriminator, kimg=0, provenance={}
    )
    assert headers.parameter_counts(path) == {
        "ema": parameter_count(generator),
        "discriminator": parameter_count(discriminator),
    }
