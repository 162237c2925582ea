"""Training: the loop, its losses, and the run folder that it fills."""

from ganformer_cli.training.loop import Callbacks, RunResult, train

__all__ = ["Callbacks", "RunResult", "train"]
