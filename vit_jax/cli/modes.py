"""What the program can do, the flags of each thing, and the help about them."""

import argparse
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vit_jax.config import AT_EVALUATION


@dataclass(frozen=True)
class Mode:
    """One thing that the program does."""

    what: str  # in a line
    flags: tuple[str, ...]  # those that it takes, by name
    example: str
    keys: tuple[str, ...] | None = ()  # of the config, that can be given; None: all


_JOB = ("coordinator_address", "num_processes", "process_id", "peer_timeout")
_PLACES = ("data.dir", "data.cache_dir")
_OF_WEIGHTS = tuple(f"model.{key}" for key in ("heads", "activation", "norm_eps", "image_size", "image_width", "dtype"))
OF_A_RUN = ("data.test", *_PLACES)  # what few-shot evaluation of a run can be given; its model and data are known

MODES = {
    "train": Mode(
        "trains a config in DIR, or goes on with the run there (the mode if none is named)",
        ("config", "workdir", "resume", *_JOB),
        "vit-jax --config=quickstart --workdir=runs/first --config.seed=1",
        None,
    ),
    "evaluate": Mode(
        "tests a run's checkpoint on the test images",
        ("workdir", "checkpoint"),
        "vit-jax evaluate --workdir=runs/first --config.eval.flips=true",
        AT_EVALUATION,
    ),
    "predict": Mode(
        "names the classes of your own images",
        ("workdir", "checkpoint", "images", "top_k", "format"),
        "vit-jax predict --workdir=runs/first --images cat.png pictures/ --top_k=3",
    ),
    "export": Mode(
        "writes the model for other programs",
        ("workdir", "checkpoint", "format", "output"),
        "vit-jax export --workdir=runs/first --format=onnx",
    ),
    "features": Mode(
        "writes features of your own images, by a run or published weights",
        ("workdir", "weights", "checkpoint", "images", "output", "tokens"),
        "vit-jax features --weights=dinov2-small/ --images pictures/ --output=features.npz",
        _OF_WEIGHTS,
    ),
    "fewshot": Mode(
        "tests the features on a few images of each class",
        ("workdir", "weights", "checkpoint", "shots", "knn", "linear", "output"),
        "vit-jax fewshot --workdir=runs/first --shots=1,5,10",
        (*OF_A_RUN, *(f"data.{key}" for key in ("name", "train", "validation", "follow_links")), *_OF_WEIGHTS),
    ),
    "report": Mode(
        "writes a page about runs: results, curves, mistakes, attention",
        ("workdir", "output"),
        "vit-jax report --workdir runs/first runs/second --output=report.html",
    ),
    "sweep": Mode(
        "trains a config with several settings, compares them on validation",
        ("config", "workdir", "seeds", "grid", "arm", "split"),
        'vit-jax sweep --config=debug --workdir=runs/sweep --seeds=0,1 --grid="optim.learning_rate=1e-3;3e-3"',
        None,
    ),
    "prepare": Mode(
        "decodes a data set ahead of training, for machines without TensorFlow",
        ("name", "dir", "cache_dir", "image_size"),
        "vit-jax prepare --name=cifar10",
    ),
    "compile": Mode(
        "compiles a config for accelerators, here or not: does it fit, and how fast can it be?",
        ("config", "target", "batch", "json"),
        "vit-jax compile --config=record --target=h100 --target=v5e-4",
        None,
    ),
    "list": Mode(
        "shows the configs and models that have a name", ("image_size", "num_classes"), "vit-jax list --image_size=32"
    ),
    "doctor": Mode("looks at what is installed and found here", (), "vit-jax doctor"),
}

FORMATS = {
    "predict": ("table", "csv", "json"),
    "export": ("safetensors", "huggingface", "timm", "jax", "onnx", "savedmodel"),
}


def _above_0(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"a whole number above 0; found {text}")
    return int(text)


def _whole(text: str) -> int:
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"a whole number; found {text}")
    return int(text)


def _batch(text: str) -> str:
    if text != "largest" and not re.fullmatch("[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"a whole number above 0, or largest; found {text}")
    return text


def _listed(kind: Callable[[str], int]) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except argparse.ArgumentTypeError:
            least = "numbers above 0" if kind is _above_0 else "whole numbers"
            raise argparse.ArgumentTypeError(f"{least} with commas between, like 1,5,10; found {text}") from None

    return parse


# What argparse is told of each flag, in every mode that has it.
_FLAGS: dict[str, dict[str, Any]] = {
    "resume": {
        "choices": ("auto", "never", "must"),
        "default": "auto",
        "help": "auto: go on with a run in DIR, if any; never: refuse one; must: refuse to start one",
    },
    "checkpoint": {"metavar": "WHICH", "help": "best, latest or a step; by default what the run's config selects"},
    "images": {
        "metavar": "PATH",
        "nargs": "+",
        "action": "extend",
        "default": [],
        "help": "image files (PNG, JPEG, WebP, BMP, GIF, TIFF), and folders of them",
    },
    "top_k": {"type": _above_0, "default": 5, "metavar": "N", "help": "classes to name for each image (5)"},
    "weights": {"metavar": "PATH", "help": "in place of a run: a file or folder of weights (docs/weights.md)"},
    "tokens": {"action": "store_true", "help": "also write all tokens (a large file)"},
    "shots": {
        "type": _listed(_above_0),
        "default": (1, 5, 10),
        "metavar": "N,N",
        "help": "images of each class to learn from (1,5,10)",
    },
    "knn": {
        "type": _listed(_above_0),
        "default": (),
        "metavar": "N,N",
        "help": "also by k nearest neighbours of all train images, k like 10,20",
    },
    "linear": {"action": "store_true", "help": "also by linear probes on all train images"},
    "seeds": {"type": _listed(_whole), "default": (0,), "metavar": "N,N", "help": "seeds of each setting (0)"},
    "grid": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE;VALUE",
        "help": "values of a key; several grids are combined",
    },
    "arm": {
        "action": "append",
        "default": [],
        "metavar": '"KEY=VALUE KEY=VALUE"',
        "help": 'a setting; "" is the config as it is',
    },
    "split": {
        "choices": ("validation", "validation_ema"),
        "default": "validation",
        "help": "score to compare by: of the parameters, or of their EMA",
    },
    "target": {
        "action": "append",
        "default": [],
        "metavar": "NAME",
        "help": "h100, h200, a100-40, a100-80, l4, rtx4090, h100x8 for eight; v5e-1 to v5e-256, v5p-8, v6e-1, ...",
    },
    "batch": {"type": _batch, "metavar": "N", "help": "images a step; largest: looks for the most that fit"},
    "json": {"metavar": "FILE", "help": "also writes all figures there"},
    "name": {"metavar": "NAME", "default": "cifar10", "help": "the data set: config.data.name (cifar10)"},
    "dir": {"metavar": "FOLDER", "help": "where it lies: config.data.dir"},
    "cache_dir": {"metavar": "FOLDER", "help": "where to keep the arrays: config.data.cache_dir"},
    "image_size": {"type": _above_0, "default": 32, "metavar": "N", "help": "pixels a side (32)"},
    "num_classes": {"type": _above_0, "default": 10, "metavar": "N", "help": "classes (10)"},
    "coordinator_address": {
        "metavar": "HOST:PORT",
        "help": "of process 0; auto: Slurm, a TPU pod or MPI says this, N and which process this is",
    },
    "num_processes": {"type": _whole, "metavar": "N", "help": "processes of the job"},
    "process_id": {"type": _whole, "metavar": "N", "help": "which of them this is, from 0"},
    "peer_timeout": {
        "type": _above_0,
        "default": 300,
        "metavar": "SECONDS",
        "help": "to wait for the others at the start; twice that without a step ends the job (300)",
    },
}


def _flags(mode: str) -> dict[str, dict[str, Any]]:
    """What argparse is told of each flag, in the words that fit the mode."""
    several = mode == "report"
    formats = FORMATS.get(mode, ("",))
    return _FLAGS | {
        "workdir": {
            "metavar": "DIR",
            "help": "folder of the run" + (", or several of them" if several else ""),
            **({"nargs": "+", "action": "extend", "default": []} if several else {}),
        },
        "format": {"choices": formats, "default": formats[0], "help": f"one of {', '.join(formats)} ({formats[0]})"},
        "output": {
            "metavar": "FOLDER" if mode == "export" else "FILE",
            "help": {
                "report": "by default report.html in the first folder",
                "features": "an .npz file; by default features.npz",
                "fewshot": "a JSON file; by default fewshot.json in DIR or, of weights, here",
            }.get(mode, "by default DIR/export/FORMAT"),
        },
    }


def flags_of(mode: str) -> dict[str, dict[str, Any]]:
    """The flags of a mode but for --config and its keys: name -> keyword arguments of argparse's add_argument."""
    known = _flags(mode)
    return {name: known[name] for name in MODES[mode].flags if name != "config"}


_USED = (
    ("--config=NAME", "what to train: a name, like laptop:attention, or a file"),
    ("--workdir=DIR", "folder of the run; if it holds one, training goes on there"),
    ("--config.KEY=VALUE", "changes a key of the config: --config.train.length='5 epochs'"),
    ("--checkpoint=WHICH", "best, latest or a step, of a run that is used"),
    ("--resume=WHICH", "with a run in DIR: auto, must go on; never refuses"),
)


def help_text(mode: str | None) -> str:
    """The screen of `vit-jax --help` or, of a mode, of `vit-jax MODE --help`."""
    if mode is None:
        examples = [MODES[name].example for name in ("train", "evaluate", "predict")]
        modes, used = _columns([(name, mode.what) for name, mode in MODES.items()]), _columns(_USED)
        return (
            "vit-jax [MODE] [--flag=value ...]: Vision Transformers from scratch\n\n"
            f"Modes\n{modes}\n\nMost used\n{used}\n\nExamples\n{_indented(examples)}\n\n"
            "vit-jax MODE --help shows a mode's flags. Exit codes: 0 done, 2 a mistake in\n"
            "what was asked, 130, 138, 143 stopped after saving, 1 anything else."
        )
    chosen = MODES[mode]
    rows = [_USED[0]] if "config" in chosen.flags else []
    for name, told in flags_of(mode).items():
        value = told.get("metavar") or ("FORMAT" if name == "format" else "WHICH")
        flag = f"--{name}={value}"
        if told.get("nargs"):
            flag = f"--{name} {value} ..."
        elif told.get("action") == "store_true":
            flag = f"--{name}"
        rows.append((flag, told["help"]))
    if chosen.keys is None:
        rows.append((_USED[2][0], "changes a key of the config; vit_jax/config.py has them all"))
    of_a_run = chosen.keys or () if "weights" not in chosen.flags else OF_A_RUN
    of_each = {True: "in place of the run's own", False: "with --weights: what they don't tell, and their data"}
    rows += [(f"--config.{key}=VALUE", of_each[key in of_a_run]) for key in chosen.keys or ()]
    flags = f"\n\nFlags\n{_columns(rows)}" if rows else ""
    return f"vit-jax {mode}: {chosen.what}{flags}\n\nExample\n{_indented([chosen.example])}"


def _columns(rows: Any) -> str:
    width = max(len(first) for first, _ in rows)
    lines = []
    for first, second in rows:
        wrapped = textwrap.wrap(second, 76 - width) or [""]
        lines += [f"  {first:{width}}  {wrapped[0]}", *(f"  {'':{width}}  {more}" for more in wrapped[1:])]
    return "\n".join(lines)


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
