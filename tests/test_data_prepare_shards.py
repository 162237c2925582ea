"""The zips that are written and the journal beside them: whole, of any size, and written on after any cut."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from ganformer_cli.data.loading.stores import ShardStore
from ganformer_cli.data.manifest import image_name
from ganformer_cli.data.prepare import shards
from ganformer_cli.data.prepare.shards import Journal, ShardWriter

LISTING = b'{"labels": null}'


def written(path: Path, contents: list[bytes], first: int = 0) -> dict[str, Any]:
    writer = ShardWriter(path, first)
    writer.open()
    for data in contents:
        writer.add(data, zlib.crc32(data))
    return writer.finish(LISTING)


def test_a_zip_is_what_zipfile_would_write(tmp_path: Path) -> None:
    contents = [b"a" * 10, b"", b"c" * 100_000]
    messages = written(tmp_path / "ours.zip", contents, first=998)
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w") as archive:
        for number, data in enumerate(contents, 998):
            archive.writestr(image_name(number), data)
        archive.writestr("dataset.json", LISTING)
    with zipfile.ZipFile(tmp_path / "ours.zip") as ours, zipfile.ZipFile(tmp_path / "theirs.zip") as theirs:
        assert ours.testzip() is None
        assert ours.namelist() == theirs.namelist()
        assert [ours.read(name) for name in ours.namelist()] == [*contents, LISTING]
        assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in ours.infolist())
        assert all(info.external_attr == 0o644 << 16 for info in ours.infolist())
    data = (tmp_path / "ours.zip").read_bytes()
    assert messages == {"file": "ours.zip", "count": 3, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.slow
def test_more_entries_than_a_plain_zip_holds(tmp_path: Path) -> None:
    written(tmp_path / "many.zip", [b"x"] * 65_535)
    with zipfile.ZipFile(tmp_path / "many.zip") as archive:
        assert len(archive.namelist()) == 65_536
        assert archive.read(image_name(65_534)) == b"x"


@pytest.mark.skipif(os.name == "nt", reason="holes in a file take space on Windows")
def test_a_zip_larger_than_4_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "images.zip"
    writer = ShardWriter(path, 0)
    with path.open("wb") as stream:  # five entries of a GiB each, which are holes
        for number in range(5):
            stream.write(shards._local(image_name(number), 1 << 30, 0))
            stream.seek(1 << 30, os.SEEK_CUR)
            writer.count_existing(1 << 30, 0)
        assert stream.tell() == writer.offset
    monkeypatch.setattr(writer, "_stream", path.open("r+b"))  # open() would read it all
    assert writer._stream is not None
    writer._stream.seek(writer.offset)
    writer.add(b"behind", zlib.crc32(b"behind"))
    messages = writer.finish(LISTING)
    assert path.stat().st_size == messages["bytes"]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [*(image_name(number) for number in range(6)), "dataset.json"]
        assert archive.read(image_name(5)) == b"behind"
        assert archive.read("dataset.json") == LISTING
    assert ShardStore(tmp_path, [messages]).read(5) == b"behind"


@pytest.mark.parametrize("cut", [0, 1, 60, 5000])
def test_written_on_behind_what_was_noted(tmp_path: Path, cut: int) -> None:
    contents = [bytes([i]) * 100 for i in range(9)]
    whole = written(tmp_path / "whole.zip", contents)
    path = tmp_path / "cut.zip"
    writer = ShardWriter(path, 0)
    writer.open()
    for data in contents[:5]:
        writer.add(data, zlib.crc32(data))
    writer.sync()
    writer.close()
    with path.open("ab") as stream:
        stream.write(b"?" * cut)  # what was written after the last time that all was in order
    again = ShardWriter(path, 0)
    for data in contents[:5]:
        again.count_existing(len(data), zlib.crc32(data))
    again.open()
    for data in contents[5:]:
        again.add(data, zlib.crc32(data))
    assert again.finish(LISTING) == {**whole, "file": "cut.zip"}
    assert path.read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_a_file_shorter_than_what_was_noted_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "short.zip").write_bytes(b"x" * 10)
    writer = ShardWriter(tmp_path / "short.zip", 0)
    writer.count_existing(100, 0)
    with pytest.raises(EOFError):
        writer.open()
    writer.close()


def test_a_journal_ends_before_its_first_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    entries: list[dict[str, object]] = [{"a": 1}, {"name": "猫\n"}, {"c": [1, 2]}]
    journal = Journal(path)
    assert list(journal.lines()) == []
    journal.open(0)
    for entry in entries:
        journal.append(entry)
    journal.close()
    data = path.read_bytes()
    ends = [end for _, end in journal.lines()]
    assert ends[-1] == len(data)
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        assert [entry for entry, _ in journal.lines()] == entries[: sum(end <= length for end in ends)]
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert [entry for entry, _ in journal.lines()] == entries[: sum(end <= at for end in ends)]
    path.write_bytes(data)
    journal.open(ends[0])
    journal.append({"b": 2})
    journal.close()
    assert [entry for entry, _ in journal.lines()] == [entries[0], {"b": 2}]
    assert json.loads(path.read_bytes().splitlines()[1].split(b" ", 1)[1]) == {"b": 2}
