"""The program ``ganformer``: finds and runs the command, and turns errors into one line on stderr and a status.

Status: 0 success; 1 an error; 2 an invalid command line; 130 interrupted; 128 + N ended by another signal N.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import click

from ganformer_cli import __version__
from ganformer_cli.cli.output import VERBOSITY, echo, error_text, replace_unencodable
from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import is_out_of_memory
from ganformer_cli.stop_signals import StopSignal, as_interrupts
from ganformer_cli.text import printable

# The help of the program is made from this table, so that showing it imports no command.
COMMANDS = {
    "prepare": "Make a data set from images.",
    "train": "Train a model, or resume its training.",
    "generate": "Generate images with a trained model.",
    "eval": "Compute metrics of a trained model.",
    "compare": "Compare the metrics of several runs.",
    "runs": "List the runs of a result folder.",
    "watch": "Show runs in the browser while they train.",
    "explore": "Take hold of components of an image, in the browser.",
    "sweep": "Train a table of settings and seeds.",
    "project": "Find latents that reproduce images.",
    "export": "Export a model to ONNX or torch.export.",
    "convert": "Convert a snapshot to safetensors.",
    "push": "Put a model on the Hugging Face Hub.",
    "info": "Show what a model is and where it comes from.",
    "bench": "Measure speed and memory on this machine.",
    "doctor": "Check this machine, and say how to fix what is missing.",
    "cache": "Show what is kept on this machine, and delete it.",
    "build-ops": "Build the native operators ahead of time.",
}

MAX_ERROR = 1500  # characters of a message
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class Failure(click.ClickException):
    """An error while the command ran: one line on stderr, status 1."""

    def __init__(self, command: str, message: str) -> None:
        super().__init__(f"{command}: error: {' '.join(printable(message, limit=MAX_ERROR, lines=True).splitlines())}")

    def show(self, file: IO[Any] | None = None) -> None:
        echo(self.format_message(), file=file, err=file is None)


class UsageFailure(Failure):
    """An invalid command line: one line on stderr, status 2."""

    exit_code = 2


@contextlib.contextmanager
def one_line_errors(command: Callable[[], str], ctx: click.Context | None = None) -> Iterator[None]:
    """Turn errors of the block into one line that begins with ``command()``; a bug keeps its traceback.

    ``ctx`` knows what came from a file of ``--config``.
    """
    try:
        yield
    except (click.exceptions.NoArgsIsHelpError, Failure):
        raise
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else command()
        raise UsageFailure(path, f"{error.format_message()} (see {path} --help)") from error
    except click.ClickException as error:
        raise Failure(command(), error.format_message()) from error
    except GanformerError as error:
        from ganformer_cli.cli.config_file import place_of_fault

        place = "" if ctx is None else place_of_fault(ctx, str(error))
        raise Failure(command(), f"{place}{error}") from error
    except StopSignal as error:
        with contextlib.suppress(OSError):  # the terminal may be gone
            echo(f"\n{command()}: ended by {error.number.name}", err=True, lines=True)
        raise click.exceptions.Exit(error.status) from None
    except KeyboardInterrupt:
        echo(f"\n{command()}: interrupted", err=True, lines=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise  # the reader is gone, as in `| head`: click exits quietly
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            said = " ".join(str(error).split())[:200]
            raise Failure(
                command(),
                f"out of memory{f' ({said})' if said else ''}; close other programs, raise the limit (ulimit, "
                "container), or choose a smaller batch or image size",
            ) from error
        if not isinstance(error, OSError):
            raise
        raise Failure(command(), error_text(error)) from error


class Program(click.Group):
    """A group that imports a command only when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"ganformer_cli.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(COMMANDS)}"
            ctx.fail(f"no such command {name!r}: {advice}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        VERBOSITY.reset()
        with one_line_errors(lambda: info_name or "ganformer"):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with (
            one_line_errors(lambda: " ".join(filter(None, (ctx.command_path, ctx.invoked_subcommand))), ctx),
            as_interrupts(),
        ):
            return super().invoke(ctx)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ganformer")
def program() -> None:
    """Train and use GANsformers: generators in which each latent component controls a region or an object.

    Start with `ganformer train`: it needs no data, and ends with images within minutes. Every command has a help:
    `ganformer train --help`.
    """


def main() -> None:
    """Run the program on the command line of this process, and exit with its status."""
    replace_unencodable()
    program(prog_name="ganformer")
