"""One ``ganformer eval``: what its options mean is opened, scored, printed and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.eval_networks import fetching
from ganformer_cli.cli.eval_report import draw_curve, echo_curve, echo_scores
from ganformer_cli.cli.kept_scores import add_record, scores_file
from ganformer_cli.cli.label_choice import class_number
from ganformer_cli.cli.model_choice import run_of
from ganformer_cli.cli.options import warn
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.errors import GanformerError, OutputError, SnapshotError
from ganformer_cli.files import sha256_of

if TYPE_CHECKING:
    import torch

    from ganformer_cli.data import ImageDataset
    from ganformer_cli.metrics.opening import FeatureNetworks
    from ganformer_cli.training.distributed import Group

#: What is said where nobody has chosen the scores.
HINT = "for FID, use --metrics fid; its network of 91 MiB is downloaded once (--fetch only downloads it)"


class Evaluation:
    """One ``ganformer eval``: options, device and processes."""

    def __init__(
        self, options: Mapping[str, Any], device: torch.device, group: Group, *, given: Mapping[str, Any]
    ) -> None:
        self.options, self.device, self.group = options, device, group
        self.given = given  # those of the options that are on the command line
        self.metrics: tuple[str, ...] = options["metrics"]
        self.networks: FeatureNetworks | None = None
        self.left_out: dict[str, None] = {}  # what could not be scored, and why; each once

    def run(self) -> str:
        """Score what the options mean; returns what could not be, and why, as one line."""
        if self.options["images"] is not None:
            self.score_images(self.options["images"])
        else:
            self.score_snapshots()
        return "; ".join(self.left_out)

    def score_images(self, path: Path) -> None:
        """Score images that are there already."""
        from ganformer_cli.data.catalogue import SCENES
        from ganformer_cli.metrics.kept import file_beside, image_identity
        from ganformer_cli.metrics.sources import open_images

        if self.options["dataset"] == SCENES:  # drawn in the size of the images
            images = open_images(path, "--images", notice=self.warn)
            reals = self.open_reals({}, images.resolution, images.height / images.width)
        else:
            reals = self.open_reals({}, 0, 1.0)
            images = open_images(path, "--images", like=reals, notice=self.warn)
        self.open_networks()
        record = {"images": images.name, **self.score(images, reals)}
        record["provenance"] |= self.group.run_on_rank0(lambda: image_identity(path))
        kept = self.keep(file_beside(path), record)
        self.answer(lambda: echo_scores(images.name, record), {**record, "images": str(path)}, kept)

    def score_snapshots(self) -> None:
        """Score a snapshot, or all snapshots of a run."""
        from ganformer_cli.original_snapshots.model_files import load_model

        files = snapshots(self.options["model"].find(), every=self.options["every"])
        self.open_networks()
        records, scored, reals, kept = [], [], None, None
        for file in files:
            generator, header = load_model(file, self.device, self.options["precision"])
            if self.options["every"] and not self.metrics_of(generator):
                self.warn(f"{file.name} is left out: stage 1 of a VQGAN has no samples; see --metrics rswd,psnr")
                continue
            reals = reals or self.open_reals(header, generator.config.resolution, generator.config.ratio)
            scores = self.score(generator, reals)
            scores["provenance"]["snapshot_sha256"] = sha256_of(file)
            record = {"snapshot": file.name, "kimg": header.get("kimg"), **scores}
            records.append(record)
            scored.append(file)
            kept = self.keep(scores_file(file), record)
        if not records:
            raise GanformerError(f"--metrics {','.join(self.metrics)}: there is nothing to score")
        values = [{"model": str(file), **record} for file, record in zip(scored, records, strict=True)]
        if not self.options["every"]:
            self.answer(lambda: echo_scores(files[0].name, records[0]), values[0], kept)
        elif self.group.is_main:
            curve = draw_curve(files[0].parent.parent, records)
            self.answer(lambda: echo_curve(records, curve), values, kept)

    def keep(self, file: Path, record: Mapping[str, Any]) -> Path | None:
        """Keep scores in ``file``, or where --output says; returns where they are, or None."""
        output: Path | None = self.options["output"]
        if not self.group.is_main:
            return None
        try:
            add_record(output or file, record)
        except OutputError as error:
            # The scores are printed all the same: a folder that cannot be written to is no failure, unless it is named.
            self.warn(f"the scores were not saved: {error}{'' if output else '; --output FILE saves them elsewhere'}")
            if output:
                self.left_out[f"the scores were not saved: {error}"] = None
            return None
        return output or file

    def answer(self, print_text: Callable[[], None], value: Any, kept: Path | None) -> None:
        """The scores on stdout; on stderr where they are ``kept``, if not in the run, and how to get FID."""
        from ganformer_cli.metrics.kept import SUFFIX

        if not self.group.is_main:
            return
        if self.options["as_json"]:
            echo_json(value)
        else:
            print_text()
        if kept is not None and (self.options["output"] or kept.name.endswith(SUFFIX)):
            echo(f"scores saved in {kept}", err=True)
        if "metrics" not in self.given:
            echo(HINT, err=True)

    def warn(self, text: str) -> None:
        """A warning, from one of the processes."""
        if self.group.is_main:
            warn(text)

    # ----- What is compared, and with what -----

    def open_reals(self, header: Mapping[str, Any], resolution: int, ratio: float) -> ImageDataset:
        """The real images that the options name, or those that a snapshot's header says it was trained on."""
        from ganformer_cli.data.loading.reals import open_reals
        from ganformer_cli.metrics.sources import open_images

        name, reals, data_dir = (self.options[key] for key in ("dataset", "reals", "data_dir"))
        if reals is not None:
            return open_images(reals, "--reals", notice=self.warn)
        return open_reals(name, header, data_dir=data_dir, resolution=resolution, ratio=ratio, warn=self.warn)

    def open_networks(self) -> None:
        """Open the networks that the metrics need; those metrics whose network cannot be had are left out, and said."""
        from ganformer_cli.metrics.opening import open_networks, weights_by_network
        from ganformer_cli.metrics.registry import METRICS

        offline = self.options["model"].offline
        weights = weights_by_network(self.options["weights"], self.metrics)
        with fetching(silent=not self.group.is_main) as report:
            found, missing = open_networks(
                self.metrics,
                weights=weights,
                resize=self.options["resize"],
                device=self.device,
                offline=offline,
                progress=report,
            )
        self.networks = found
        reasons: dict[str, str] = {}
        for each in self.group.all_gather_object({name: str(error) for name, error in missing.items()}):
            reasons.update(each)
        if not reasons:
            return
        without = [name for name in self.metrics if METRICS[name].network in reasons]
        text = f"no {','.join(without)}: {'; '.join(reasons.values())}"
        self.metrics = tuple(name for name in self.metrics if name not in without)
        if not self.metrics:
            raise GanformerError(text if offline else f"{text}; swd and diversity need no weights")
        self.warn(text)
        self.left_out[text] = None

    def class_index(self, reals: ImageDataset) -> int | None:
        """The class of ``--class``, by its number."""
        chosen: int | str | None = self.options["class_index"]
        if chosen is None or reals.label_kind != "classes":
            return chosen if not isinstance(chosen, str) else 0  # `evaluate` says that there are no classes
        return class_number(chosen, reals.label_dim, reals.class_names, f"--dataset {reals.name}")

    def metrics_of(self, fakes: Any) -> tuple[str, ...]:
        """Those that are asked for, or the usual ones; of several snapshots, those that each can have."""
        from ganformer_cli.metrics.plan import default_metrics, usable_metrics

        if "metrics" not in self.given:
            return default_metrics(fakes)
        return usable_metrics(self.metrics, fakes) if self.options["every"] else self.metrics

    def score(self, fakes: Any, reals: ImageDataset) -> dict[str, Any]:
        """The scores of a generator or of images."""
        from ganformer_cli.metrics.cache import Cache
        from ganformer_cli.metrics.evaluate import evaluate

        options = self.options
        asked = options["eval_images_num"]
        if asked is not None and asked > len(reals):
            self.warn(f"--eval-images-num {asked}: {reals.name} has {len(reals)} images; all of them are compared")
        if not options["every"]:
            reals.cache_bytes = 0  # each picture is looked at once
        with stages(silent=not self.group.is_main) as report:
            scores = evaluate(
                fakes,
                reals,
                num_images=asked,
                seed=options["seed"],
                truncation_psi=options["truncation_psi"],
                batch_size=options["batch_size"],
                metrics=self.metrics_of(fakes),
                class_index=self.class_index(reals),
                networks=self.networks,
                floor=True,
                group=self.group,
                cache=Cache(notice=self.warn) if options["keep_statistics"] else None,
                device=self.device,
                progress=report,
                warn=self.warn,
            )
        for name, reason in scores.get("failed", {}).items():
            self.left_out[f"no {name}: {reason}"] = None
        return scores


def snapshots(file: Path, *, every: bool) -> list[Path]:
    """The snapshot, or with ``every`` all of its run, oldest first."""
    from ganformer_cli.checkpoints.run_folder import snapshots_of

    if not every:
        return [file]
    if run_of(file) is None:
        raise SnapshotError(f"--all: {file} lies in no run; give a run folder with --model or --expname")
    return snapshots_of(file.parent.parent)


@contextmanager
def stages(*, silent: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Progress of the stages of an evaluation."""
    with ProgressBar() as progress:

        def report(stage: str, done: int, total: int) -> None:
            if not silent:
                progress.show(stage, done, total, "steps" if stage == "comparing" else "images")

        yield report
