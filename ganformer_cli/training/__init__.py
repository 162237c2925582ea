"""Training: the loop, its losses, and the run folder that it fills."""

from ganformer_cli.training.loop import Callbacks, RunResult, open_run

__all__ = ["Callbacks", "RunResult", "open_run"]
