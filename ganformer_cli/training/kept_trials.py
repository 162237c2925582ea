"""Outcomes of trials, kept in the user's cache: the next start on this machine need not try again."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
from typing import Any

from ganformer_cli.cpus import cpu_name
from ganformer_cli.errors import GanformerError
from ganformer_cli.files import read_json, write_json
from ganformer_cli.resources import cache_folder

TRIALS_FILE = "trials/trials.json"  # in the cache
#: The oldest go.
MAX_TRIALS = 200


def key_of(**what: Any) -> str:
    """Names what a trial's outcome depends on: this machine, torch, and ``what``, JSON values."""
    machine = {"machine": platform.node(), "cpu": cpu_name(), "torch": importlib.metadata.version("torch")}
    return hashlib.sha256(json.dumps({**machine, **what}, sort_keys=True, default=str).encode()).hexdigest()[:32]


def kept_trial(key: str) -> Any:
    """The outcome of an earlier trial, as a JSON value that the caller checks; None where there is none."""
    return _kept_trials().get(key)


def keep_trial(key: str, outcome: Any) -> None:
    """Keep an outcome; without a writable cache, the next start tries again."""
    trials = [*_kept_trials().items(), (key, outcome)]
    with contextlib.suppress(GanformerError):
        write_json(cache_folder() / TRIALS_FILE, dict(trials[-MAX_TRIALS:]))


def _kept_trials() -> dict[str, Any]:
    try:
        values = read_json(cache_folder() / TRIALS_FILE)
    except GanformerError:
        return {}
    return values if isinstance(values, dict) else {}
