"""Training: the loop, its losses, and the run folder that it fills."""

from ganformer_cli.training.loop import Callbacks, RunResult
from ganformer_cli.training.opening import open_run

__all__ = ["Callbacks", "RunResult", "open_run"]
