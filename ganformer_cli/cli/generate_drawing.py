"""The pictures of ``ganformer generate``: drawn, written behind the drawing, and gathered into sheets."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.cli.generate_figures import Figures, figure_files
from ganformer_cli.cli.generate_output import (
    GRID_FILE,
    IMAGES_FILE,
    LATENTS_FILE,
    ROWS_FILE,
    TRUNCATION_FILE,
    Kept,
    Picture,
    Plan,
    Writer,
    array_file,
    holds_array,
    taken,
    without_names,
)
from ganformer_cli.cli.generate_sheets import draw_figures, draw_maps, sources_of
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.errors import GanformerError, OutputError
from ganformer_cli.files import read_json, remove, write_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ganformer_cli.sampling import Generator, NoiseMode, Sample

    Images = npt.NDArray[np.uint8]

#: More than this many pictures in one sheet are more than anyone looks at, and so are more pixels.
MOST_IN_GRID = 1024
MOST_PIXELS = 1 << 26


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How the pictures of a plan are made."""

    generator: Generator
    plan: Plan
    label: list[float] | None  # of all; None draws each seed's own
    noise: NoiseMode
    ratio: float | None
    batch_size: int
    figures: Figures
    overwrite: bool

    @property
    def beside(self) -> dict[str, dict[str, Any]]:
        """What is drawn beside each picture, as ``Kept`` takes it."""
        return {f"-{name}.png": about for name, about in self.figures.about_each().items()}

    def sheets(self, *, grid: bool) -> dict[str, Path]:
        """The sheets of several pictures."""
        wanted = {"grid": (grid, GRID_FILE), "truncation": (len(self.plan.psis) > 1, TRUNCATION_FILE)}
        return {name: self.plan.sheets / file for name, (there, file) in wanted.items() if there}

    def draws_sheets(self, *, grid: bool, way: bool) -> bool:
        """Whether anything is drawn of the images, beside the images themselves; ``way``: an interpolation is."""
        return bool(way or self.figures.of_each or self.figures.others or self.sheets(grid=grid))

    def missing_sheets(self, kept: Kept, *, grid: bool) -> dict[str, Path]:
        """Those of ``sheets`` that are still to be made.

        Raises:
            OutputError: others are in their way.
        """
        sheets = self.sheets(grid=grid)
        return {name: path for name, path in sheets.items() if not kept.holds(path, self._about_sheet(name))}

    def array_is_kept(self) -> bool:
        """Whether ``IMAGES_FILE`` is there already.

        Raises:
            OutputError: another one is in its way.
        """

        file, rows = self.plan.folder / IMAGES_FILE, self.plan.folder / ROWS_FILE
        if self.plan.format != "npy" or not file.exists():
            return False
        with contextlib.suppress(GanformerError):
            kept = read_json(rows)
            if isinstance(kept, dict) and without_names(kept) == without_names(self._rows()):
                return True
        if not self.overwrite:
            raise OutputError(taken(file, f"holds other pictures than these (see {ROWS_FILE})"))
        return False

    def draw(self, kept: Kept, sheets: Mapping[str, Path], progress: ProgressBar) -> None:
        """Draw and write what is missing: pictures, and these sheets of them."""
        plan = self.plan
        in_sheets = self._in_sheets(sheets)
        held: dict[int, Images] = {}
        lossless = plan.format in ("png", "webp")
        todo = [index for index in range(len(plan)) if not kept.done[index] or (index in in_sheets and not lossless)]
        before = len(plan) - len(todo)
        progress.start(len(plan), "images", "drawing", done=before)
        with contextlib.ExitStack() as stack:
            append = None
            if plan.format == "npy":
                remove(plan.folder / ROWS_FILE)  # of an array that is to be replaced
                shape = (len(plan), 3, *self.generator.output_size)
                append = stack.enter_context(array_file(plan.folder / IMAGES_FILE, shape))
            writer = stack.enter_context(Writer())
            for done, (picture, sample) in enumerate(self._samples(todo), 1):
                if append is not None:
                    append(sample.image)
                image = self._as_uint8(sample)
                if picture.place in in_sheets:
                    held[picture.place] = self._cropped(image)
                writer.submit(self._save, picture, image, sample)
                progress.update(before + done)
        if plan.format == "npy":
            write_json(plan.folder / ROWS_FILE, self._rows())
        for index in in_sheets - held.keys():
            held[index] = _read(plan.picture(index).file)
        for name, path in sheets.items():
            self._save_sheet(name, path, held)

    def other_files(self, rich_num: int, component: int | None) -> dict[Path, dict[str, Any]]:
        """The figures that are not of one picture, and what each says of itself."""
        plan = self.plan
        stems = [plan.picture(index).stem for index in range(min(rich_num, len(plan.numbers)))]
        return figure_files(self.figures, stems, component, plan.sheets, plan.about_all())

    def draw_others(
        self, rich_num: int, component: int | None, header: Mapping[str, Any], progress: ProgressBar
    ) -> dict[str, Any]:
        """The figures that are not of one picture; see ``draw_figures``."""
        plan, current, parts = self.plan, "", 0

        def update(name: str, done: int, total: int) -> None:
            nonlocal current, parts
            if name != current:
                progress.update(parts)
                current, parts = name, total
                progress.start(total, "parts", name)
            progress.update(done)

        count = self.figures.sources_needed(len(plan.numbers), rich_num)
        sources = sources_of(
            self.generator,
            header,
            seeds=plan.numbers[:count],
            latents=None if plan.latents is None else plan.latents[:count],
            space=plan.settings.get("space", "z"),
            truncation_psi=plan.psis[0],
            labels=self.label,
        )
        progress.start(0, "parts", "mapping")
        written = draw_figures(
            self.figures,
            sources,
            self.other_files(rich_num, component),
            rich_num=rich_num,
            component=component,
            folder=plan.sheets,
            update=update,
        )
        progress.update(parts)
        return written

    def check_latents_file(self) -> bool:
        """Whether ``LATENTS_FILE`` is there already.

        Raises:
            OutputError: another one is in its way.
        """

        file = self.plan.folder / LATENTS_FILE
        if not file.exists():
            return False
        same = holds_array(file, self._latents_shape, self._latents())
        if not (same or self.overwrite):
            raise OutputError(taken(file, "holds other latents"))
        return same

    def save_latents(self) -> None:
        """Write ``LATENTS_FILE``."""
        with array_file(self.plan.folder / LATENTS_FILE, self._latents_shape) as append:
            for row in self._latents():
                append(row)

    def records(self) -> list[dict[str, Any]]:
        """What to say of each picture."""
        plan = self.plan
        records = []
        labels = self._said_labels()
        for picture in map(plan.picture, range(len(plan))):
            record: dict[str, Any] = {"seed" if plan.latents is None else "row": picture.number}
            if len(plan.psis) > 1:
                record["truncation_psi"] = picture.psi
            if labels:
                record |= labels[picture.place % len(labels)]
            record["file"] = str(picture.file)
            for end in self.beside:
                record[end[1:-4].replace("-", "_")] = str(plan.sheet_folder(picture) / f"{picture.stem}{end}")
            records.append(record)
        return records

    def _said_labels(self) -> list[dict[str, Any]]:
        """The class or label of each number of the plan; none where labels do not act."""
        from ganformer_cli.sampling import labels_from_seeds

        kept = self.generator.label_distribution
        if self.generator.config.c_dim == 0 or self.plan.settings.get("space") == "w":
            return []
        rows = [self.label] * len(self.plan.numbers)
        if self.label is None:
            rows = labels_from_seeds(self.generator, self.plan.numbers).tolist()
        single = [row is not None and sum(row) == 1 and max(row) == 1 for row in rows]
        if kept is not None and kept.kind == "vectors" or not all(single):
            return [{"label": row} for row in rows]
        return [{"class": row.index(1)} for row in rows if row is not None]

    def _samples(self, todo: list[int]) -> Iterator[tuple[Picture, Sample]]:
        from ganformer_cli.sampling import LANES, sample_latents, sample_seeds

        plan = self.plan
        options: dict[str, Any] = {
            "noise_mode": self.noise,
            "labels": self.label,
            "attention": self.figures.of_each,
            "raw": plan.format == "npy",
            # Few at a time where each brings its maps along.
            "batch_size": min(self.batch_size, LANES) if self.figures.of_each else self.batch_size,
        }
        for turn, psi in enumerate(plan.psis):
            first = turn * len(plan.numbers)
            pictures = [plan.picture(index) for index in todo if first <= index < first + len(plan.numbers)]
            numbers = [picture.number for picture in pictures]
            drawn: Iterable[Sample]
            if plan.latents is None:
                drawn = sample_seeds(self.generator, numbers, truncation_psi=psi, **options)
            else:
                space = plan.settings["space"]
                drawn = sample_latents(
                    self.generator, plan.latents, rows=numbers, space=space, truncation_psi=psi, **options
                )
            yield from zip(pictures, drawn, strict=True)

    def _save(self, picture: Picture, image: Images, sample: Sample) -> None:
        """Write one picture; what lies beside it first, so that the picture says that all is there."""
        from ganformer_cli.files import write_bytes
        from ganformer_cli.sampling.image_files import encode_image

        about = self.plan.about(picture)
        if self.figures.of_each:
            draw_maps(self.figures, image, sample.maps, self.plan.sheet_folder(picture), picture.stem, about)
        if self.plan.format != "npy":
            write_bytes(picture.file, encode_image(self._cropped(image), self.plan.format, about))

    def _as_uint8(self, sample: Sample) -> Images:
        import torch

        from ganformer_cli.sampling import to_uint8

        if self.plan.format != "npy":
            return sample.image
        image: Images = to_uint8(torch.from_numpy(sample.image)).numpy()
        return image

    def _cropped(self, image: Images) -> Images:
        from ganformer_cli.sampling.image_files import crop_to_ratio

        return image if self.ratio is None else crop_to_ratio(image, self.ratio)

    def _most_in_sheet(self) -> int:
        height, width = self.generator.output_size
        return max(1, min(MOST_IN_GRID, MOST_PIXELS // (height * width)))

    def _in_sheets(self, sheets: Mapping[str, Path]) -> set[int]:
        """Which pictures are wanted for sheets."""
        wanted: set[int] = set()
        if "grid" in sheets:
            wanted |= set(range(min(len(self.plan), self._most_in_sheet())))
        if "truncation" in sheets:
            count = len(self.plan.numbers)
            turns = range(len(self.plan.psis))
            wanted |= {turn * count + row for turn in turns for row in range(self._rows_of_truncation())}
        return wanted

    def _rows_of_truncation(self) -> int:
        return max(1, min(len(self.plan.numbers), self._most_in_sheet() // len(self.plan.psis)))

    def _about_sheet(self, name: str) -> dict[str, Any]:
        return self.plan.about_all(figure=name)

    def _save_sheet(self, name: str, path: Path, held: Mapping[int, Images]) -> None:
        import numpy as np

        from ganformer_cli.sampling.image_files import save_png
        from ganformer_cli.visualization import image_grid
        from ganformer_cli.visualization.sheets import fitted, table

        plan = self.plan
        if name == "grid":
            pictures = [held[index] for index in range(min(len(plan), self._most_in_sheet()))]
            sheet = image_grid(np.stack(pictures))
        else:
            count, turns = len(plan.numbers), range(len(plan.psis))
            rows = range(self._rows_of_truncation())
            cells = [[fitted(held[turn * count + row]) for turn in turns] for row in rows]
            what = "seed" if plan.latents is None else "row"
            names = [f"{what} {plan.numbers[row]}" for row in rows]
            sheet = table(cells, columns=[f"psi {psi:g}" for psi in plan.psis], rows=names)
        save_png(path, sheet, self._about_sheet(name))

    def _rows(self) -> dict[str, Any]:
        """The content of ``ROWS_FILE``."""
        numbers = [int(number) for number in self.plan.numbers]
        return {**self.plan.about_all(), "seeds" if self.plan.latents is None else "rows": numbers}

    @property
    def _latents_shape(self) -> tuple[int, ...]:
        given = self.plan.latents
        return (len(self.plan.numbers), *self.generator.z_shape) if given is None else given.shape

    def _latents(self) -> Iterator[npt.NDArray[Any]]:
        from ganformer_cli.sampling import latents_from_seeds

        if self.plan.latents is None:
            return (latents_from_seeds(self.generator, [seed]).numpy()[0] for seed in self.plan.numbers)
        return iter(self.plan.latents)


def _read(path: Path) -> Images:
    """uint8 ``[3, H, W]`` from a file without loss."""
    import numpy as np
    import PIL.Image

    with PIL.Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
