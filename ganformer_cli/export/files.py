"""Writes a generator as an ONNX file or a ``torch.export`` archive, and compares what the file computes with torch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError, GanformerError, first_line
from ganformer_cli.export.function import ExportedFunction, exportable
from ganformer_cli.files import json_text, remove_parts, write_bytes

ExportFormat = Literal["onnx", "torch-export"]
SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
#: Largest difference from torch, relative to the largest value if that is above 1.
TOLERANCE = 1e-4
#: What the exporter of the oldest supported torch writes by itself.
DEFAULT_OPSET = 18
#: Key of the model card in an ONNX file's metadata, and the name of its file in a torch.export archive.
CARD_KEY, CARD_FILE = "ganformer", "ganformer.json"

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
#: Number of steps that ``export_generator`` reports.
STEPS = 3

Arrays = Mapping[str, npt.NDArray[Any]]
Report = Callable[[str], None]


@dataclass(frozen=True)
class ExportCheck:
    """How far the file's outputs are from torch's."""

    differences: dict[str, float]  # the largest of each output, relative to its largest value if that is above 1
    runtime: str  # what ran the file
    batches: tuple[int, ...]

    @property
    def largest(self) -> float:
        """Of all outputs."""
        return max(self.differences.values())


def check_packages(to: ExportFormat) -> None:
    """Raise ConfigError if a package that ``to`` needs is not installed."""
    missing = [name for name in _PACKAGES if to == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--to onnx needs the package{'s' * (len(missing) > 1)} {', '.join(missing)}: pip install "
            f"{' '.join(missing)}; or say --to torch-export, which needs none"
        )


def export_generator(
    path: Path,
    function: ExportedFunction,
    card: Mapping[str, Any],
    *,
    to: ExportFormat,
    opset: int = DEFAULT_OPSET,
    tolerance: float = TOLERANCE,
    report: Report = lambda step: None,
) -> ExportCheck:
    """Write ``path``, after the same bytes have been run and compared with torch.

    Args:
        path: of the file; one that is there is replaced.
        function: the generator, on the CPU.
        card: JSON values that the file carries: what the model is and where it comes from.
        opset: of ONNX.
        tolerance: largest difference from torch.
        report: told of each step (``STEPS`` of them).

    Raises:
        ConfigError: a package is missing.
        GanformerError: torch cannot express the model in this format, or the file computes something else.
        OutputError: the place cannot be written to.
    """
    check_packages(to)
    report("tracing")
    program = _traced(function)
    report("converting")
    text = json_text(dict(card))
    data = _onnx_bytes(program, function, text, opset) if to == "onnx" else _archive_bytes(program, text)
    report("checking")
    run, runtime = _onnx_runner(data) if to == "onnx" else _archive_runner(data)
    check = compare(function, run, runtime)
    bad = {name: value for name, value in check.differences.items() if not value <= tolerance}
    if bad:
        said = ", ".join(f"{name} by {value:.2g}" for name, value in bad.items())
        raise GanformerError(
            f"{path}: {runtime} computes other values than torch ({said}; at most {tolerance:g}); nothing was written: "
            "try another --opset"
        )
    remove_parts(path)
    write_bytes(path, data)
    return check


def compare(function: ExportedFunction, run: Callable[[Arrays], Arrays], runtime: str) -> ExportCheck:
    """Run several batches and truncations with ``run`` and with torch, native operators included.

    Args:
        function: the generator.
        run: inputs to outputs, by name.
        runtime: what that is.
    """
    largest: dict[str, float] = {}
    batches = []
    for seeds, psi in ((range(1), 1.0), (range(1, 4), 0.7)):
        batches.append(len(seeds))
        inputs = function.example(seeds, psi)
        found = run({name: tensor.numpy() for name, tensor in inputs.items()})
        with torch.inference_mode():
            expected = function(**inputs)
        if found.keys() != expected.keys():
            raise GanformerError(f"{runtime} gives {', '.join(found)} instead of {', '.join(expected)}")
        for name, tensor in expected.items():
            apart = _difference(found[name], tensor)
            largest[name] = max(largest.get(name, 0.0), apart)
    return ExportCheck(largest, runtime, tuple(batches))


def _difference(found: npt.NDArray[Any], expected: Tensor) -> float:
    """The largest one; infinite for another shape, or numbers that are not finite on one side only."""
    truth = expected.double().numpy()
    if found.shape != truth.shape or not np.array_equal(np.isfinite(found), np.isfinite(truth)):
        return float("inf")
    scale = max(1.0, float(np.abs(truth).max(initial=0.0)))
    return float(np.abs(found.astype(np.float64) - truth).max(initial=0.0)) / scale


def _traced(function: ExportedFunction) -> torch.export.ExportedProgram:
    """The graph, with any number of images."""
    inputs = function.example(range(2), 1.0)
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} if tensor.ndim else {} for name, tensor in inputs.items()}
    with exportable(function.generator), _quiet():
        try:
            program = torch.export.export(function.eval(), (), inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # of many kinds, all of them torch's own
            raise GanformerError(f"torch.export cannot trace this model ({_root_cause(error)})") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
        if "ganformer" in str(node.target) and node.op == "call_function":
            raise GanformerError(f"the graph has an operator that only ganformer knows, {node.target}")
    return program


def _onnx_bytes(program: torch.export.ExportedProgram, function: ExportedFunction, card: str, opset: int) -> bytes:
    """The content of an ONNX file."""
    described = function.described()
    names = {kind: [each["name"] for each in described[kind]] for kind in described}
    with exportable(function.generator), _quiet():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=names["inputs"],
                output_names=names["outputs"],
                verbose=False,
            )
        except Exception as error:
            raise GanformerError(
                f"torch.onnx cannot convert this model to opset {opset} ({_root_cause(error)}); try another --opset"
            ) from error
    assert made is not None
    model = made.model
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # where in the source it comes from
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props[CARD_KEY] = card
    model.graph.name = "ganformer"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.onnx"
        made.save(place, external_data=False)
        return place.read_bytes()


def _archive_bytes(program: torch.export.ExportedProgram, card: str) -> bytes:
    """The content of a ``torch.export`` archive."""
    stream = io.BytesIO()
    with _quiet():
        torch.export.save(program, stream, extra_files={CARD_FILE: card})
    return stream.getvalue()


def _onnx_runner(data: bytes) -> tuple[Callable[[Arrays], Arrays], str]:
    import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise GanformerError(f"onnxruntime cannot load the file ({_root_cause(error)}); try another --opset") from error
    names = [each.name for each in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run, f"onnxruntime {onnxruntime.__version__}"


def _archive_runner(data: bytes) -> tuple[Callable[[Arrays], Arrays], str]:
    with _quiet():
        module = torch.export.load(io.BytesIO(data)).module()

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            found = module(**{name: torch.from_numpy(np.array(array)) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in found.items()}

    return run, f"torch {torch.__version__}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings, which are for their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _root_cause(error: BaseException) -> str:
    """The beginning of what was wrong first: exporters wrap errors in advice for their own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)[:200]
