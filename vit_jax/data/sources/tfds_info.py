"""What a folder that TensorFlow Datasets prepared holds, by its two JSON files and without TensorFlow."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from vit_jax.data.sources import cifar_files
from vit_jax.errors import UserError

FORMATS = ("tfrecord", "array_record")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's own, where a split has none


class Shards(NamedTuple):
    """The files of a split in their order, and how many examples each has."""

    files: list[Path]
    counts: list[int]


class Info(NamedTuple):
    name: str  # NAME or NAME/CONFIG
    version: str
    format: str  # one of FORMATS
    image: str  # the feature's name
    label: str
    classes: tuple[str, ...]
    size: tuple[int, int] | None  # height and width, where all images have the same
    splits: dict[str, Shards]
    nbytes: int  # of all records
    written: Any  # the JSON of the splits, as it stands there


def read_info(folder: Path) -> Info:
    """Raises UserError for a folder that can't be read, and for examples that aren't one image with one class."""
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        features = json.loads((folder / "features.json").read_text())["featuresDict"]["features"]
        name = f"{info['name']}/{info['configName']}" if info.get("configName") else info["name"]
        image, label = _supervised(name, info.get("supervisedKeys"), features)
        dimensions = features[image]["image"].get("shape", {}).get("dimensions", [])
        height, width, *_ = [*map(int, dimensions), -1, -1]
        form = info.get("fileFormat") or "tfrecord"
        if form not in FORMATS:
            raise UserError(
                f"{folder} is of the file format {form}; prepare it again as one of {', '.join(FORMATS)}: "
                f"tfds build {name} --file_format=tfrecord"
            )
        return Info(
            name=name,
            version=info["version"],
            format=form,
            image=image,
            label=label,
            classes=_classes(folder, info["name"], label, features[label]["classLabel"]),
            size=(height, width) if height > 0 and width > 0 else None,
            splits=_splits(folder, info["name"], form, info["splits"]),
            nbytes=sum(int(split.get("numBytes", 0)) for split in info["splits"]),
            written=info["splits"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = " ".join(str(error).split())[:160]
        raise UserError(f"{folder} can't be read ({type(error).__name__}: {text}); prepare it again") from error


def _kind(feature: dict[str, Any]) -> str:
    """Image, ClassLabel, Sequence ...; with what is unusual about an image."""
    kind = feature["pythonClassName"].rpartition(".")[2]
    if kind == "Image" and (dtype := feature["image"].get("dtype", "uint8")) not in ("uint8", "uint16"):
        return f"Image of {dtype}"  # which TFDS hides in the channels of a PNG
    return kind


def _supervised(name: str, keys: Any, features: dict[str, Any]) -> tuple[str, str]:
    """The names of the image and of its label: those that TFDS would give, else the only ones."""
    kinds = {key: _kind(feature) for key, feature in features.items()}
    if keys and "tuple" in keys:
        images, labels = ([item["featureKey"]] for item in keys["tuple"]["items"][:2])
    elif keys and "input" in keys:  # as TFDS wrote it before 4.0
        images, labels = [keys["input"]], [keys["output"]]
    else:
        images, labels = ([key for key, kind in kinds.items() if kind == wanted] for wanted in ("Image", "ClassLabel"))
    kind_of = [kinds.get(keys[0]) if len(keys) == 1 else None for keys in (images, labels)]
    if kind_of != ["Image", "ClassLabel"]:
        found = ", ".join(f"{key} ({kind})" for key, kind in sorted(kinds.items()))
        raise UserError(
            f"tfds:{name} can't be learned from here, where an example is one encoded image (Image) with one class "
            f"(ClassLabel); found {found}"
        )
    return images[0], labels[0]


def _classes(folder: Path, name: str, label: str, feature: dict[str, Any]) -> tuple[str, ...]:
    count, file = int(feature["numClasses"]), folder / f"{label}.labels.txt"
    if name == "cifar10":
        return cifar_files.CLASSES
    if not file.is_file():
        return tuple(map(str, range(count)))
    names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    if len(names) != count:
        raise ValueError(f"{file.name} has {len(names)} names for {count} classes")
    return names


def _splits(folder: Path, name: str, form: str, splits: list[dict[str, Any]]) -> dict[str, Shards]:
    """Those with examples, and with a name that config.data.train and so on can say: a word."""
    found = {}
    for split in splits:
        counts = [int(length) for length in split.get("shardLengths", ())]
        if not sum(counts) or not re.fullmatch(r"\w+", split["name"], re.ASCII):
            continue
        digits = max(len(str(len(counts))), 5)
        files = []
        for i in range(len(counts)):
            number, total = f"{i:0{digits}}", f"{len(counts):0{digits}}"
            names = {"DATASET": name, "SPLIT": split["name"], "FILEFORMAT": form, "SHARD_INDEX": number}
            names |= {"NUM_SHARDS": total, "SHARD_X_OF_Y": f"{number}-of-{total}"}
            template = split.get("filepathTemplate") or _TEMPLATE
            file = re.sub(r"\{(\w+)\}", lambda match, names=names: names[match[1]], template)
            if Path(file).name != file:
                raise ValueError(f"{file} lies outside of the folder")
            files.append(folder / file)
        found[split["name"]] = Shards(files, counts)
    if not found:
        raise ValueError("no split has examples")
    return found
