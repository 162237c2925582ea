"""The text of a model card: Markdown with the YAML header that the Hugging Face Hub reads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ganformer_cli.cli.info_text import NOT_RECORDED, value_text
from ganformer_cli.config import option_name
from ganformer_cli.config.names import quoted
from ganformer_cli.text import printable

if TYPE_CHECKING:
    from ganformer_cli.data.catalogue import CatalogueEntry
    from ganformer_cli.metrics.records import ScoreValue

PAPER = "*Generative Adversarial Transformers* ([Hudson & Zitnick, 2021](https://arxiv.org/abs/2103.01209))"
VQGAN_PAPER = "*Taming Transformers* ([Esser, Rombach & Ommer, 2021](https://arxiv.org/abs/2012.09841))"
AUTHORS_REPOSITORY = "https://github.com/dorarad/gansformer"
#: The last line of a card, by which a later call knows whether anybody has edited it.
MARK = re.compile(r"\n<!-- ganformer info --card: ([0-9a-f]{64}) of (.+) -->\n?\Z")
#: Conditions of scores, in the order of the table's columns.
_CONDITIONS = {
    "num_fakes": "images",
    "num_reals": "real images",
    "truncation_psi": "truncation psi",
    "dataset": "data set",
    "network": "feature network",
    "seed": "seed",
    "ganformer": "ganformer",
    "torch": "torch",
}


@dataclass(frozen=True)
class Card:
    """What a card says beside the record of ``ganformer info``."""

    name: str  # of the model
    address: str  # as --model takes it
    scores: Mapping[str, ScoreValue] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)  # of training
    samples: Mapping[str, str] = field(default_factory=dict)  # links to images, and what they show
    licence: str | None = None  # as the Hub names it


def card_text(record: Mapping[str, Any], card: Card) -> str:
    """A card as Markdown; everything foreign in it is one line without markup."""
    sections = [
        _front_matter(record, card),
        f"# {without_markup(card.name)}\n\n{_what_it_is(record)}",
        _usage(card),
        f"## Data\n\n{_data(record)}",
        f"## Licence\n\n{_licence(record, card)}",
        _training(record, card),
        _scores(card.scores),
        _samples(card),
        _file(record),
    ]
    text = "\n\n".join(section for section in sections if section) + "\n"
    return f"{text}\n<!-- ganformer info --card: {card_digest(text)} of {without_markup(card.name)} -->\n"


def owner_of_card(text: str) -> tuple[str | None, bool]:
    """The model that a card was made for (None: not by ``ganformer info --card``), and whether it was edited since."""
    mark = MARK.search(text)
    if mark is None:
        return None, True
    return mark[2], card_digest(text[: mark.start()]) != mark[1]


def card_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def without_markup(text: object) -> str:
    """Foreign text on one line, without what Markdown, HTML or a table takes for markup."""
    line = printable(text, limit=300)
    for sign, instead in {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "'", "[": "(", "]": ")"}.items():
        line = line.replace(sign, instead)
    return line.replace("--", "-&#45;")  # which would end the comment at the end


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ----- Sections -----


def _front_matter(record: Mapping[str, Any], card: Card) -> str:
    """The YAML header; its texts are in JSON's form, which YAML shares."""
    lines = ["library_name: ganformer", "pipeline_tag: unconditional-image-generation"]
    if card.licence:
        lines.append(f"license: {card.licence}")
    elif _is_converted(record):
        lines += ["license: other", "license_name: gansformer-authors", f"license_link: {AUTHORS_REPOSITORY}"]
    attention = ["gansformer"] if record["components"] else []
    lines += ["tags:", *(f"- {tag}" for tag in ("gan", "image-generation", *attention))]
    if card.scores:
        lines += _model_index(card)
    return "\n".join(["---", *lines, "---"])


def _model_index(card: Card) -> list[str]:
    """The scores as the Hub shows them beside a model."""
    from ganformer_cli.metrics.registry import SCORES

    by_dataset: dict[str, list[ScoreValue]] = {}
    for score in card.scores.values():
        by_dataset.setdefault(_last_part(score.conditions.get("dataset") or "unknown"), []).append(score)
    lines = ["model-index:", f"- name: {json.dumps(without_markup(card.name))}", "  results:"]
    for dataset, scores in by_dataset.items():
        name = json.dumps(without_markup(dataset))
        lines += [
            "  - task:",
            "      type: unconditional-image-generation",
            "    dataset:",
            f"      type: {name}",
            f"      name: {name}",
            "    metrics:",
        ]
        for score in scores:
            known = SCORES.get(score.name)
            title = known.title if known else score.name
            lines += [
                f"    - type: {score.name}",
                f"      name: {json.dumps(_with_conditions(title, score), ensure_ascii=False)}",
                f"      value: {score.value:.6g}",
            ]
    return lines


def _with_conditions(title: str, score: ScoreValue) -> str:
    images, psi = score.conditions.get("num_fakes"), score.conditions.get("truncation_psi")
    parts = [f"{images} images"] * (images is not None) + [f"truncation psi {value_text(psi)}"] * (psi is not None)
    return without_markup(f"{title} ({', '.join(parts)})" if parts else title)


def _what_it_is(record: Mapping[str, Any]) -> str:
    height, width = record["image_size"]
    what = f"A generator of images of {width}x{height} pixels: {without_markup(record['architecture'])}."
    if record["components"] and record["attention"] != "none":
        what += (
            f" {record['components']} latent components of {record['component_size']} numbers each attend to regions "
            "of the image and style them."
        )
    if record["classes"]:
        what += f" It draws images of {record['classes']} classes."
    paper = VQGAN_PAPER if record["config"].get("vqgan") else PAPER
    maker = "Trained with the program of its authors" if _is_converted(record) else "Made with the program `ganformer`"
    return f"{what} {maker}, after {paper}."


def _usage(card: Card) -> str:
    address = quoted(card.address)
    code = (
        f"from ganformer_cli import load_generator, sample\n\ngenerator = load_generator({json.dumps(card.address)})\n"
        "images = sample(generator, seeds=range(8))  # torch.uint8 [8, 3, height, width]"
    )
    return f"## Use\n\n```sh\nganformer generate --model {address} --seeds 0-15 --grid\n```\n\n```python\n{code}\n```"


def _dataset_of(record: Mapping[str, Any]) -> tuple[str | None, CatalogueEntry | None]:
    """The name of the data set, without folders, and what the catalogue knows of it."""
    from ganformer_cli.data.catalogue import load_catalogue
    from ganformer_cli.original_snapshots.catalogue import PUBLISHED

    dataset, source, name = record["dataset"], record.get("source"), None
    if isinstance(dataset, Mapping) and isinstance(dataset.get("name"), str):
        name = _last_part(dataset["name"])
    published = PUBLISHED.get(str(source.get("file"))) if isinstance(source, Mapping) else None
    if published is not None:
        name = published.dataset
    return name, load_catalogue().get(name or "")


def _last_part(name: object) -> str:
    """The last part of a path, since folders of a machine are nobody's business."""
    return re.split(r"[\\/]", str(name).rstrip("\\/"))[-1]


def _data(record: Mapping[str, Any]) -> str:
    name, entry = _dataset_of(record)
    if name is None:
        return f"The data set is {NOT_RECORDED}."
    dataset = record["dataset"] if isinstance(record["dataset"], Mapping) else {}
    rows = [("name", without_markup(name))]
    if entry is not None:
        rows.append(("what", without_markup(entry.title)))
    if "images" in dataset:
        mirrored = ", also mirrored" if dataset.get("mirror_augment") is True else ""
        rows.append(("images", f"{without_markup(dataset['images'])}{mirrored}"))
    if "fingerprint" in dataset:
        rows.append(("fingerprint", f"`{without_markup(dataset['fingerprint'])}`"))
    if entry is not None:
        rows.append(("licence of the data", without_markup(entry.licence)))
        if entry.homepage:
            rows.append(("homepage", f"<{entry.homepage}>"))
    else:
        rows.append(("licence of the data", "not known to the program: ask whoever made the data set"))
    return _table(("", ""), rows)


def _is_converted(record: Mapping[str, Any]) -> bool:
    """Whether the weights are those of a snapshot of the authors' program."""
    return isinstance(record.get("source"), Mapping)


def _licence(record: Mapping[str, Any], card: Card) -> str:
    stated = f"The model: {card.licence}, as whoever publishes it says."
    if _is_converted(record):
        facts = (
            "The weights come from a snapshot of the authors' program, and its terms stay those of whoever trained "
            f"it: see <{AUTHORS_REPOSITORY}>. That program builds on NVIDIA's StyleGAN2, which is under a licence of "
            "NVIDIA's own. Read both licences before you use or share these weights. The program `ganformer`, which "
            "reads the file, is under the Apache License 2.0 and shares no code with either; its licence does not "
            "cover the weights."
        )
        return f"{stated} {facts}" if card.licence else facts
    if card.licence:
        text = stated
    elif record["licence"]:
        text = f"The model: {without_markup(record['licence'])}."
    else:
        text = "The model: not stated. Whoever trained it decides, within the licence of the data."
    return f"{text} The program `ganformer` is under the Apache License 2.0, which does not cover the model."


def _training(record: Mapping[str, Any], card: Card) -> str:
    config, kimg = record["config"], record["kimg"]
    rows = [
        ("images shown", NOT_RECORDED if kimg is None else f"{value_text(kimg)} thousand"),
        *((f"`{option_name(key)}`", without_markup(value_text(value))) for key, value in card.settings.items()),
        ("parameters", ", ".join(f"{count:,} in the {name}" for name, count in record["parameters"].items()) or "none"),
        ("resolution", f"{record['resolution']}, ratio {record['ratio']:g}"),
        ("attention", without_markup(record["architecture"])),
        ("`--channel-base`, `--channel-max`", f"{config['channel_base']}, {config['channel_max']}"),
    ]
    if isinstance(record.get("training"), Mapping):
        rows += [
            (without_markup(name.replace("_", " ")), without_markup(value_text(value)))
            for name, value in record["training"].items()
        ]
    return f"## Training\n\n{_table(('', ''), rows)}"


def _scores(scores: Mapping[str, ScoreValue]) -> str:
    if not scores:
        return "## Scores\n\nNone were measured: `ganformer eval` measures them."
    from ganformer_cli.metrics.registry import SCORES

    used = [key for key in _CONDITIONS if any(score.conditions.get(key) is not None for score in scores.values())]
    rows = []
    for score in scores.values():
        known = SCORES.get(score.name)
        value = known.text(score.value) if known else f"{score.value:.4g}"
        conditions = {**score.conditions, "dataset": _last_part(score.conditions.get("dataset", "-"))}
        rows.append(
            [
                without_markup(known.title if known else score.name),
                value,
                *(without_markup(value_text(conditions.get(key, "-"))) for key in used),
            ]
        )
    heads = ["score", "value", *(_CONDITIONS[key] for key in used)]
    return f"## Scores\n\nMeasured by `ganformer` on this very file.\n\n{_table(heads, rows)}"


def _samples(card: Card) -> str:
    if not card.samples:
        return ""
    images = (f"![{text}]({quote(link, safe='/.-_~')})" for link, text in card.samples.items())
    return "\n\n".join(["## Samples", *images])


def _file(record: Mapping[str, Any]) -> str:
    rows = [
        ("sha256", f"`{record['sha256']}`"),
        ("bytes", f"{record['bytes']:,}"),
        ("networks", ", ".join(record["networks"]) or "none"),
        ("written by ganformer", without_markup(record["version"] or NOT_RECORDED)),
    ]
    source = record.get("source")
    if isinstance(source, Mapping):
        rows.append(
            ("converted from", f"{without_markup(source.get('file'))} ({without_markup(source.get('format'))}), "
             f"sha256 `{without_markup(source.get('sha256'))}`")
        )  # fmt: skip
    left_out = record.get("left_out")
    if isinstance(left_out, Mapping):
        rows += [("left out", f"{without_markup(name)}: {without_markup(why)}") for name, why in left_out.items()]
    return f"## File\n\n{_table(('', ''), rows)}"
