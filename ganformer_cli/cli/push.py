"""``ganformer push``: puts a model with its card and samples on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from ganformer_cli.cli.completion import complete_models
from ganformer_cli.cli.info import describe
from ganformer_cli.cli.model_card import CARD, card_images, card_options, card_path, check_licence, make_card, read_card
from ganformer_cli.cli.model_card_text import owner_of_card
from ganformer_cli.cli.model_choice import named_model
from ganformer_cli.cli.options import GroupedCommand, json_option, option, section, switch, warn
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.errors import ConfigError, SnapshotError
from ganformer_cli.files import MIB

README = "README.md"  # what the Hub shows and reads the header of
SAMPLES = "samples"


@click.command("push", cls=GroupedCommand)
@click.argument("model", metavar="RUN|FILE", shell_complete=complete_models)
@click.argument("repo", metavar="USER/REPO[/FILE]")
@section("Hub")
@switch("--private", help="If the repository is new, only its owner sees it.")
@option("--message", metavar="TEXT", help="Of the commit.  [default: the model's name]")
@card_options
@switch("--dry-run", help="Show what would be pushed, without asking the Hub.")
@json_option
def command(
    model: str,
    repo: str,
    private: bool,
    message: str | None,
    samples: tuple[Path, ...],
    licence: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put a model on the Hugging Face Hub: its file, its card and sample images, and nothing else.

    RUN|FILE is a run folder (its newest snapshot) or a model file of ours, .safetensors. It becomes model.safetensors
    in the repository USER/REPO, or FILE, if that is given; the repository is made if it does not exist. The card is
    MODEL.md as ganformer info --card writes it, with your changes if you have edited it. It is README.md, too, which
    the Hub shows, unless somebody has written another README.md there.

    Needs the package huggingface_hub, and a token that may write, from hf auth login or in HF_TOKEN.

    \b
      ganformer push results/faces-000 me/faces --licence cc-by-4.0 --dry-run
      ganformer push results/faces-000 me/faces --licence cc-by-4.0
      ganformer generate --model hf:me/faces
    """
    from ganformer_cli.downloads.hub import HUB_MODEL, HubAddress, hub_text, parse_hub_address
    from ganformer_cli.original_snapshots import is_original

    address = parse_hub_address(repo, "REPO")
    if address.revision != "main":
        raise ConfigError(f"REPO {repo}: a push goes to main; leave out @{address.revision}")
    name = address.file or HUB_MODEL
    if not name.endswith(".safetensors"):
        raise ConfigError(f"REPO {repo}: {name} must end in .safetensors; change the name")
    licence = check_licence(licence)
    file = named_model(model, "--model", offline=False)
    if is_original(file):
        raise SnapshotError(
            f"{file}: only .safetensors files are pushed; convert it first: ganformer convert {file} model.safetensors"
        )
    images = {f"{SAMPLES}/{path.name}": path for path in card_images(file, samples)}
    record = describe(file)
    short = str(HubAddress(address.repo, address.file if name != HUB_MODEL else None))
    text = _edited_card(file, record["sha256"])
    if text is None:
        text = make_card(file, record, list(images), licence=licence, address=short)
    elif licence is not None:
        warn(f"{card_path(file)}: was edited, so is pushed as it is; --licence does not act")
    files: dict[str, Path | bytes] = {name: file, CARD: text.encode(), **images}
    pushed = {"repo": address.repo, "address": short, "files": [*files, README]}
    if dry_run:
        if as_json:
            echo_json({**pushed, "card": text})
            return
        _show(files)
        echo(f"card       as follows, as {CARD} and {README}\n\n{text}", lines=True)
        return

    from ganformer_cli.downloads.hub_push import HubRepositoryClient

    client = HubRepositoryClient(address.repo)
    there = client.look()
    if private and there.exists and not there.private:
        raise ConfigError(f"--private: {address.repo} exists, and everybody sees it; make it private in its settings")
    kept = README in there.files and not _is_generated(hub_text(address.repo, README) or "")
    if kept:
        warn(f"{address.repo}: keeps its {README}, which was edited; the model card is {CARD} there")
    else:
        files[README] = text.encode()
    if not as_json:
        _show(files)
    commit = client.push(files, private=private, create=not there.exists, message=message or f"ganformer: {file.name}")
    if as_json:
        echo_json({**pushed, "files": list(files), "commit": commit})
        return
    echo(f"pushed     {commit}")
    echo(f"more       ganformer generate --model {short}")


def _edited_card(file: Path, digest: str) -> str | None:
    """The card beside a model, if somebody has edited it."""
    path = card_path(file)
    if not path.is_file():
        return None
    text = read_card(path)
    if _is_generated(text):
        return None
    if digest not in text:
        warn(f"{path}: does not name the checksum of {file.name}; check that it is the card of this model")
    return text


def _is_generated(text: str) -> bool:
    """Whether a card is as ``ganformer info --card`` has written it, or empty."""
    owner, edited = owner_of_card(text)
    return not text.strip() or (owner is not None and not edited)


def _show(files: dict[str, Path | bytes]) -> None:
    for name, file in files.items():
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        echo(f"file       {name} ({size / MIB:.2f} MiB)")
