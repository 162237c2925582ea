"""JSON and TOML within limits: whatever the bytes are, there is a value or one line that names the file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ganformer_cli.errors import ConfigError, DataError, GanformerError
from ganformer_cli.files import append_json_line, parse_json, read_json, read_json_lines, read_toml, write_json

GOOD = {"name": "façade", "sizes": [1, 2.5, -3e-7, True, None], "nested": {"a": [{"b": 'c,[{"'}]}}


def file_of(tmp_path: Path, data: bytes, name: str = "values.json") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_json_is_read_with_and_without_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    assert read_json(file_of(tmp_path, mark + json.dumps(GOOD, ensure_ascii=False).encode())) == GOOD


HOSTILE_JSON = {
    "empty": (b"", "is empty"),
    "blank": (b" \n ", "is empty"),
    "half": (b'{\n"a": 1,\n"b": ', ", line 3: is not JSON"),
    "one wrong byte": (b'{\n"a": "\xff"}', ", line 2: is not UTF-8"),
    "zeros": (bytes(100), "line 1: is not JSON"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "is UTF-16, not UTF-8"),
    "deep lists": (b"\n" + b"[" * 100_000 + b"]" * 100_000, ", line 2: is nested more than"),
    "deep objects": (b'{"a":' * 200 + b"1" + b"}" * 200, ", line 1: is nested more than"),
    "4300 digits": (b'[1,\n' + b"9" * 5000 + b"]", ", line 2: has a number that is too large"),
    "400 digits": (b'[1,\n' + b"9" * 400 + b"]", ", line 2: has a number that is too large"),
    "2^65": (b'{"a":\n36893488147419103232}', ", line 2: has a number that is too large"),
    "infinite by its exponent": (b"[\n1e999]", ", line 2: has a number that is not finite"),
    "NaN": (b"[\n\nNaN]", ", line 3: has a number that is not finite"),
    "Infinity": (b'{"a":-Infinity}', ", line 1: has a number that is not finite"),
    "half a surrogate pair": (b'{\n"a":\n"\\ud800"}', ", line 3: has half of a surrogate pair"),
    "half a pair as a key": (b'{\n"\\ud800":1}', ", line 2: has half of a surrogate pair"),
    "many empty lists": (b"[" + b"[]," * 8_000_000 + b"[]]", "holds more than a file of this kind can"),
    "two values": (b'{}\n{}', ", line 2: is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_json_is_one_line_that_names_the_file_and_the_line(tmp_path: Path, data: bytes, said: str) -> None:
    path = file_of(tmp_path, data)
    with pytest.raises(ConfigError) as caught:
        read_json(path, kind=ConfigError, remedy="begin anew")
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith("; begin anew")
    assert said in message
    assert len(message) < 300 + len(str(path))
    assert "\n" not in message


def test_json_that_is_not_there_or_too_large_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "zero\0byte")
    with pytest.raises(DataError, match="is larger than"):
        read_json(file_of(tmp_path, b"[" + b"0," * 1000 + b"0]"), max_bytes=1000)


def test_the_limits_are_those_that_are_asked_for() -> None:
    deep = "[" * 64 + "]" * 64
    assert json.dumps(parse_json(deep, "here")) == deep
    with pytest.raises(DataError, match="line 1: is nested more than 64 deep"):
        parse_json(f"[{deep}]", "here")
    assert parse_json("[NaN, 1e999]", "here", finite=False)[1] == float("inf")
    assert parse_json(str(2**64), "here") == 2**64


def test_commas_and_brackets_in_strings_are_no_values() -> None:
    text = json.dumps(['[{,"' * 1000] * 10)
    assert parse_json(text, "here", max_memory=2 * len(text)) == json.loads(text)


@pytest.mark.slow
def test_a_million_short_strings_pass_and_ten_million_lists_do_not() -> None:
    labels = {"labels": [[f"img{number:08d}.png", number % 10] for number in range(100_000)]}
    assert parse_json(json.dumps(labels), "labels") == labels


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_json_lines_are_read_with_their_numbers(tmp_path: Path, ending: str) -> None:
    path = file_of(tmp_path, f'{{"a": 1}}{ending}{ending}{{"a": 2}}'.encode())
    assert read_json_lines(path) == [(1, {"a": 1}), (3, {"a": 2})]


def test_damaged_json_lines_are_named_one_by_one(tmp_path: Path) -> None:
    lines = [
        b'{"a": 1}',
        b"null",
        b'{"a": \xff}',
        b"[" * 5000,
        b'{"a": 2}',
        b'{"a": ' + b"9" * 5000,
        b'{"a": 3}',
        b'{"a',
    ]
    path = file_of(tmp_path, b"\n".join(lines))
    messages: list[GanformerError] = []
    assert read_json_lines(path, damaged=messages.append) == [(1, {"a": 1}), (5, {"a": 2}), (7, {"a": 3})]
    assert [str(error).split(": ")[0] for error in messages] == [f"{path}, line {number}" for number in (2, 3, 4, 6, 8)]
    with pytest.raises(DataError, match="line 2: is not a JSON object"):
        read_json_lines(path)


def test_a_line_is_appended_behind_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_json_line(path, {"a": 1})
    with path.open("ab") as stream:
        stream.write(b'{"a": 2, "na')
    append_json_line(path, {"a": 3})
    assert read_json_lines(path) == [(1, {"a": 1}), (2, {"a": 3})]


@pytest.mark.parametrize("before", [b"", b'{"a": 0', b'{"a": 0}\n' * 20_000 + b'{"b' + b"c" * 100_000])
def test_what_is_cut_off_ends_at_a_line(tmp_path: Path, before: bytes) -> None:
    path = file_of(tmp_path, before)
    append_json_line(path, {"last": True})
    whole = before[: before.rfind(b"\n") + 1]
    assert path.read_bytes() == whole + b'{"last": true}\n'


def test_an_object_without_a_line_break_is_kept(tmp_path: Path) -> None:
    path = file_of(tmp_path, b'{"a": 1}')
    append_json_line(path, {"a": 2})
    assert read_json_lines(path) == [(1, {"a": 1}), (2, {"a": 2})]


def test_what_json_does_not_have_is_written_as_null_and_names_of_bytes_as_text(tmp_path: Path) -> None:
    record: dict[str, Any] = {"loss": float("nan"), "list": [float("inf"), 1.5], "file": "a\udcffb"}
    append_json_line(tmp_path / "log.jsonl", record)
    wanted = {"loss": None, "list": [None, 1.5], "file": "a\\udcffb"}
    assert read_json_lines(tmp_path / "log.jsonl") == [(1, wanted)]
    write_json(tmp_path / "record.json", {"file": "a\udcffb"})
    assert read_json(tmp_path / "record.json") == {"file": "a\\udcffb"}


def test_toml_is_read(tmp_path: Path) -> None:
    text = (
        '\ufefftitle = "a [{[ # . b"\r\nratio = 0.5\r\n[[source]]\r\nurl = \'x\'\r\n[preset]\r\na.b = """\r\n["""\r\n'
    )
    values = read_toml(file_of(tmp_path, text.encode()))
    assert values == {
        "title": "a [{[ # . b", "ratio": 0.5, "source": [{"url": "x"}], "preset": {"a": {"b": "["}}
    }  # fmt: skip


HOSTILE_TOML = {
    "half": (b'a = 1\nb = "', ", line 2: is not TOML"),
    "one wrong byte": (b'a = 1\nb = "\xff"', ", line 2: is not UTF-8"),
    "deep lists": (b"a = 1\nb = " + b"[" * 5000, ", line 2: is nested more than"),
    "deep inline tables": (b"a = " + b"{a = " * 5000, ", line 1: is nested more than"),
    "deep keys": (b"a." * 100_000 + b"b = 1", ", line 1: names tables in one another"),
    "deep tables": (b"[" + b"a." * 200 + b"b]", "is nested more than"),
    "5000 digits": (b"a = 1\nb = " + b"9" * 5000, ", line 2: has a number that is too large"),
    "400 digits": (b"a = " + b"9" * 400, ", line 1: has a number that is too large"),
    "many hexadecimal digits": (b"a = 1\nb = 0x" + b"f" * 9000, ", line 2: has a number that is too large"),
    "infinite": (b"# inf\na = -inf", ", line 2: has a number that is not finite"),
    "NaN": (b"a = [1,\nnan]", ", line 2: has a number that is not finite"),
    "zeros": (bytes(10), ", line 1: is not TOML"),
    "a megabyte": (b"#" * 1_000_000, "is larger than 0.25 MiB"),
    "utf-16": ("a = 1".encode("utf-16"), "is UTF-16, not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), HOSTILE_TOML.values(), ids=HOSTILE_TOML)
def test_hostile_toml_is_one_line_that_names_the_file(tmp_path: Path, data: bytes, said: str) -> None:
    path = file_of(tmp_path, data, "set.toml")
    with pytest.raises(DataError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def mutant(data: bytes, source: random.Random) -> bytes:
    """Some bytes changed, repeated, cut out or put in."""
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 2, 8))):
        place = source.randrange(len(changed) + 1)
        kind = source.randrange(4)
        if kind == 0:
            changed[place : place + 1] = bytes([source.randrange(256)])
        elif kind == 1:
            del changed[place : place + source.randrange(1, 20)]
        elif kind == 2:
            changed[place:place] = source.choice((b"[", b'{"a":', b"9", b"NaN,", b"\\ud800", b"a.")) * source.choice(
                (1, 500)
            )
        else:
            del changed[place:]
    return bytes(changed)


def test_mutilated_files_are_read_or_refused(tmp_path: Path) -> None:
    source = random.Random(0)
    toml = b'title = "x"\nratio = 0.75\n[[source]]\nform = "npy"\nbytes = 12\n[preset]\ngamma = [1, {a = 2}]\n'
    for _ in range(150):
        for data, read in ((json.dumps(GOOD).encode(), read_json), (toml, read_toml)):
            path = file_of(tmp_path, mutant(data, source))
            try:
                read(path)
            except DataError as error:
                assert str(error).startswith(str(path))  # noqa: PT017  # it may be readable, too
