"""Predictions for one's own images by a trained run. N images, S side of the run's stored images, C classes."""

import contextlib
import csv
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.data.encoded import seen
from vit_jax.data.images import SUFFIXES, converted, passed_over, upright
from vit_jax.data.sources.names import shown
from vit_jax.data.sources.walk import SYSTEM_FOLDERS
from vit_jax.errors import UserError
from vit_jax.evaluation.evaluate import Evaluator
from vit_jax.evaluation.logits import probabilities
from vit_jax.models import rounded_once
from vit_jax.runs import trained
from vit_jax.system.disk import expanded
from vit_jax.system.progress import console, doing, percent, room, say
from vit_jax.system.sharding import make_mesh

if TYPE_CHECKING:
    from PIL import Image

    Picture = str | Path | Image.Image | np.ndarray

_BATCH = 64  # images decoded and predicted at a time: memory doesn't grow with their number

# A file's name with its classes, most probable first, and their probabilities.
Row = tuple[str, list[tuple[str, float]]]


class Predictor:
    """A trained run as a function of images, in three lines:

    predictor = Predictor("runs/first")
    probabilities = predictor(["cat.png", PIL.Image.open("dog.jpg"), pixels])  # (3, C) float32
    names = [predictor.classes[i] for i in probabilities.argmax(axis=1)]
    """

    def __init__(self, workdir: str, checkpoint: str | None = None, batch_size: int = 32):
        """Loads "best", "latest" or a step, by default what the run's config selects, and compiles.

        Raises UserError for a run or checkpoint that can't be used.
        """
        model = trained.load(workdir, checkpoint)
        config = dataclasses.replace(model.config, eval=dataclasses.replace(model.config.eval, batch_size=batch_size))
        self.classes, self._params = model.classes, rounded_once(model.params, model.module)
        self._view = model.view
        shape = (*self._view.size, self._view.channels)
        self._evaluator = Evaluator(model.module, config, make_mesh(), self._params, shape)

    def __call__(self, images: "Picture | Iterable[Picture]") -> np.ndarray:
        """Paths of files, PIL images and uint8 (H, W, 3 or 1), of any size -> probabilities (N, C) float32.

        One alone is taken as a list of one. Of an image whose logits aren't finite all are NaN. Raises what `read`
        does.
        """
        from PIL import Image

        # Of an array (N, H, W, 3) each is one.
        if isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim in (2, 3)):
            images = [images]
        if not isinstance(images, Iterable):
            raise UserError(f"images are a list of paths, PIL images or uint8 arrays; found {type(images).__name__}")
        pixels = [self._read(image) for image in images]
        if not pixels:
            return np.zeros((0, len(self.classes)), np.float32)
        logits = self._evaluator.logits(self._params, np.stack(pixels))  # (N, C)
        return probabilities(logits).astype(np.float32)

    def _read(self, image: "Picture") -> np.ndarray:
        """As `read`; what is wrong with a file names it."""
        if not isinstance(image, (str, Path)):
            return self.read(image)
        try:
            return self.read(image)
        except Exception as error:  # Pillow raises many types for broken files
            text = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
            raise UserError(f"{image}: {text or type(error).__name__}") from error

    def read(self, image: "Picture") -> np.ndarray:
        """One image as the run's evaluation sees it, uint8: its middle, resized.

        Raises UserError for what is no image; for a broken file, whatever Pillow raises.
        """
        from PIL import Image, ImageOps

        if isinstance(image, (str, Path)):
            if not str(image):
                raise UserError("the name of an image is empty")
            if Path(image).is_dir():
                raise UserError(f"this is a folder; give its images: Path({str(image)!r}).glob('*.png')")
            return seen(upright(Path(image).read_bytes(), self._view.channels), self._view)
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
                raise UserError(
                    f"an array of an image is uint8 (H, W, 3) or, grey, (H, W, 1); found {image.dtype} {image.shape}"
                )
            image = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
        if not isinstance(image, Image.Image):
            raise UserError(f"an image is a path, one of PIL or a uint8 array (H, W, 3); found {type(image).__name__}")
        if not (image.width and image.height):
            raise UserError(f"an image has pixels; found one of {image.width} x {image.height}")
        return seen(converted(ImageOps.exif_transpose(image), self._view.channels), self._view)


def predict(
    workdir: str,
    checkpoint: str | None,
    images: Sequence[str],
    top_k: int,
    format: str,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Writes the `top_k` most probable classes of each image to stdout as a "table", "csv" or "json", as they come.

    `images` are files and folders. `check` is called before each batch and may raise. Raises UserError for a run,
    checkpoint or path that can't be used and, after all others are predicted, for images that can't be read or whose
    logits aren't finite.
    """
    broken: list[tuple[Path, str]] = []
    lost: list[Path] = []
    with contextlib.nullcontext() if format == "table" else _said_on_stderr():
        files, left_out = find_images(images)
        if left_out:
            say(f"Left out: {left_out}. Only PNG, JPEG, WebP, BMP, GIF and TIFF are read; convert the others first.")
        with doing("Loading"):
            predictor = Predictor(workdir, checkpoint, min(len(files), _BATCH))
        rows = _rows(predictor, files, top_k, broken, lost, check)
        with contextlib.suppress(BrokenPipeError):  # who read it, like `head`, has seen enough
            if format == "table":
                _say_table(rows, files, predictor.classes, top_k)
            else:
                {"csv": _write_csv, "json": _write_json}[format](rows)
                sys.stdout.flush()
    wrong = []
    if broken:
        wrong.append(f"{len(broken):,} of {len(files):,} images can't be read; mend them or leave them out:")
        wrong += [f"  {shown(file)}: {reason}" for file, reason in broken]
    if lost:
        what = f"the model's logits of {len(lost):,} of {len(files):,} images aren't finite"
        wrong.append(f"{what}; predict by another --checkpoint:")
        wrong += [f"  {shown(file)}" for file in lost]
    if wrong:
        raise UserError("\n".join(wrong))


def find_images(paths: Sequence[str]) -> tuple[list[Path], str]:
    """The files named and, in the order of their names, every image in the folders, but the hidden and the system's.

    Also how many pictures of other formats are in the folders, as `passed_over` says it. Raises UserError for a path
    that doesn't exist and a folder without images.
    """
    try:
        return _found(paths)
    except OSError as error:  # a folder that can't be read, a name that is too long
        raise UserError(f"--images: {error.strerror} ({error.filename}); mend that, or name others") from error


def _found(paths: Sequence[str]) -> tuple[list[Path], str]:
    files: list[Path] = []
    others: list[Path] = []
    if "" in paths:
        raise UserError("--images is empty; name files and folders, like --images cat.png pictures/")
    for path in (expanded(path) for path in paths):
        if path.is_dir():
            there = sorted(file for file in _below(path) if file.is_file())
            found = [file for file in there if file.suffix.lower() in SUFFIXES]
            if not found:
                instead = f"; found {passed_over(there)}: convert them first" if passed_over(there) else ""
                raise UserError(f"--images {shown(path)}: no *.png, *.jpg or other image in this folder{instead}")
            files += found
            others += there
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"--images {shown(path)}: there is no such file or folder")
    return files, passed_over(others)


def _below(root: Path) -> Iterator[Path]:
    """All that is no folder, but the hidden and what is in systems' folders, of thumbnails, say: as training reads.

    Raises OSError for a folder that can't be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "." and name.lower() not in SYSTEM_FOLDERS]
        yield from (Path(folder, name) for name in names if name[0] != ".")


def _rows(
    predictor: Predictor,
    files: list[Path],
    top_k: int,
    broken: list[tuple[Path, str]],
    lost: list[Path],
    check: Callable[[], None],
) -> Iterator[Row]:
    """The predictions, in order.

    Images that can't be read go to `broken`, with the reason, and those without probabilities to `lost`.
    """
    for start in range(0, len(files), _BATCH):
        check()
        there, pixels = [], []
        for file in files[start : start + _BATCH]:
            try:
                pixels.append(predictor.read(file))
                there.append(file)
            except Exception as error:  # Pillow raises many types for broken files
                broken.append((file, " ".join(str(error).split()) or type(error).__name__))
        for file, probs in zip(there, predictor(pixels), strict=True):
            if np.isnan(probs).any():
                lost.append(file)
                continue
            best = np.argsort(-probs, kind="stable")[:top_k]
            yield _name(file), [(predictor.classes[i], float(probs[i])) for i in best]


def _say_table(rows: Iterable[Row], files: list[Path], classes: Sequence[str], top_k: int) -> None:
    """Lines as wide as the longest names need: nothing has to wait for the last image."""
    path_width = max(len("image"), *(len(shown(file)) for file in files))
    class_width = max(len("class 1"), *(len(name) for name in classes))
    heads = [f"{f'class {i + 1}':{class_width + 10}}" for i in range(min(top_k, len(classes)))]
    columns = room()
    if columns is not None and path_width + len(heads) * (2 + class_width + 10) > columns:
        _say_narrow(rows, columns)
        return
    say("  ".join([f"{'image':{path_width}}", *heads]).rstrip())
    for path, best in rows:
        name = shown(path)
        cells = (f"{label:{class_width}}  {percent(probability):>8}" for label, probability in best)
        say("  ".join([f"{name:{path_width}}", *cells]))


def _say_narrow(rows: Iterable[Row], columns: int) -> None:
    """Each image with its classes below; of a path that is too long the end is shown, of a class the beginning."""
    for path, best in rows:
        name = shown(path)
        say(name if len(name) <= columns else f"...{name[3 - columns :]}")
        for label, probability in best:
            text = f"  {percent(probability):>8}  {label}"
            say(text if len(text) <= columns else f"{text[: columns - 3]}...")


def _write_csv(rows: Iterable[Row]) -> None:
    """A line for each image and class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("path", "rank", "class", "probability"))
    for name, best in rows:
        writer.writerows((name, rank, label, f"{p:.7g}") for rank, (label, p) in enumerate(best, 1))


def _write_json(rows: Iterable[Row]) -> None:
    """A list with a line for each image."""
    separator = "[\n"
    for name, best in rows:
        predictions = [{"class": label, "probability": float(f"{p:.7g}")} for label, p in best]
        sys.stdout.write(separator + json.dumps({"path": name, "predictions": predictions}))
        separator = ",\n"
    sys.stdout.write("\n]\n" if separator != "[\n" else "[]\n")


def _name(path: Path) -> str:
    """A path as text that any terminal takes: bytes of its name that are no UTF-8 as \\xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")


@contextlib.contextmanager
def _said_on_stderr() -> Iterator[None]:
    """Within, stdout holds data alone: what is said goes to stderr."""
    console.stderr = True
    try:
        yield
    finally:
        console.stderr = False
