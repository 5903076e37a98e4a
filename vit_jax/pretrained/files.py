"""Files of weights, opened without running anything in them: names, shapes and dtypes first, arrays when asked for.

.npz is read member by member, .safetensors by the library of that name. Pickles (.bin, .pt, .pth) are refused.
"""

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors

from vit_jax.errors import UserError
from vit_jax.system.disk import expanded

Shape = tuple[int, ...]

_BOMB_BYTES, _BOMB_RATIO = 2**28, 4  # weights hardly compress: what grows more than that is no weights
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")
_COUNTS = (".position_ids", ".relative_position_index", ".num_batches_tracked")  # integers beside weights
_FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class Weights:
    """What a file or folder of weights says before any array is read."""

    path: Path
    shapes: dict[str, Shape]
    read: Callable[[str], np.ndarray]  # one array by its name, as float32
    config: dict[str, Any] = field(default_factory=dict)  # of a config.json beside the weights
    metadata: dict[str, str] = field(default_factory=dict)  # within a .safetensors file

    def beside(self, name: str) -> dict[str, Any]:
        """The content of a JSON file in the folder of the weights; {} where there is none."""
        file = (self.path if self.path.is_dir() else self.path.parent) / name
        return _json(file) if file.is_file() else {}


def open_weights(path: str | Path) -> Weights:
    """Opens an .npz or .safetensors file, or a folder with model.safetensors and config.json.

    Raises UserError for one that isn't there, can't be read, or holds anything but numbers.
    """
    path = expanded(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise UserError(f"there are no weights at {path}; name an .npz or .safetensors file, or a folder with one")
    if path.suffix == ".npz":
        return _open_npz(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path, _config_beside(path.parent))
    if path.suffix in _PICKLES:
        raise UserError(
            f"{path} is a pickle, which runs code when it is loaded; with PyTorch and a file that is trusted, "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors') makes a safe copy"
        )
    raise UserError(f"{path}: weights are read from .npz and .safetensors; found {path.suffix or 'no suffix'}")


def _open_folder(folder: Path) -> Weights:
    config = _config_beside(folder)
    if (folder / "model.safetensors").is_file():
        return _open_safetensors(folder / "model.safetensors", config)
    if (index := folder / "model.safetensors.index.json").is_file():
        return _open_shards(index, config)
    names = sorted(entry.name for entry in folder.iterdir())
    if pickles := [name for name in names if name.endswith(_PICKLES) and (folder / name).is_file()]:
        return open_weights(folder / pickles[0])  # says what to do with one
    raise UserError(f"{folder} has no model.safetensors; found {', '.join(names[:8]) or 'nothing'}")


def _open_shards(index: Path, config: dict[str, Any]) -> Weights:
    names = _json(index).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in names.values()
    ):
        raise UserError(f"{index} has no weight_map from names to files beside it; bring the whole folder again")
    parts = {file: _open_safetensors(index.parent / file, {}) for file in sorted(set(names.values()))}
    if lost := [name for name, file in names.items() if name not in parts[file].shapes]:
        raise UserError(f"{index} puts {lost[0]} into {names[lost[0]]}, which doesn't have it; bring the folder again")
    shapes = {name: parts[file].shapes[name] for name, file in names.items()}
    return Weights(index.parent, shapes, lambda name: parts[names[name]].read(name), config)


def _config_beside(folder: Path) -> dict[str, Any]:
    return _json(folder / "config.json") if (folder / "config.json").is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error}); bring it again from where it came") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; bring it again from where it came")
    return content


def _open_safetensors(path: Path, config: dict[str, Any]) -> Weights:
    shapes = {}
    with _reading(path), safetensors.safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            view = file.get_slice(name)
            if view.get_dtype() not in _FLOATS and not name.endswith(_COUNTS):
                raise UserError(f"{path}: {name} is of type {view.get_dtype()}; weights are {', '.join(_FLOATS)}")
            shapes[name] = tuple(view.get_shape())
        metadata = file.metadata() or {}

    def read(name: str) -> np.ndarray:
        with _reading(path), safetensors.safe_open(path, framework="numpy") as file:
            return _finite(path, name, file.get_tensor(name))

    return Weights(path, shapes, read, config, metadata)


def _open_npz(path: Path) -> Weights:
    shapes = {}
    with _reading(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        total = sum(info.file_size for info in members.values())
        if total > _BOMB_BYTES and total > _BOMB_RATIO * path.stat().st_size:
            raise UserError(
                f"{path} would unpack to {total / 2**20:,.0f} MiB, {total / path.stat().st_size:.0f} times its size"
            )
        for name, info in members.items():
            with archive.open(info) as stream:
                shape, dtype = _npy_header(stream)
                if dtype.kind != "f":  # object arrays are pickles
                    raise UserError(f"{path}: {name} is of type {dtype}; weights are floating-point numbers")
                if stream.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
                    raise UserError(f"{path}: {name} says that it is {shape} of {dtype}, and has another length")
                shapes[name] = shape

    def read(name: str) -> np.ndarray:
        with _reading(path), zipfile.ZipFile(path) as archive, archive.open(members[name]) as stream:
            return _finite(path, name, np.lib.format.read_array(stream, allow_pickle=False))

    return Weights(path, shapes, read)


def _npy_header(stream: IO[bytes]) -> tuple[Shape, np.dtype]:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an array of version {version}")
    shape, _, dtype = readers[version](stream)
    return shape, dtype


def _finite(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {name} has {np.count_nonzero(~np.isfinite(array)):,} values that aren't finite")
    return array


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what the readers raise for damaged files into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zipfile, NumPy and safetensors raise many types for damaged files
        text = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} can't be read ({type(error).__name__}: {text}); bring it again from where it came"
        ) from error
