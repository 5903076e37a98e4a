"""The command line as a typed Command. Config overrides go through ml_collections' flags."""

import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax.config import Config, from_config_dict, keys_of, unknown
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from vit_jax.system.jobs import Peers

RESUME = ("auto", "never", "must")

# Which flags each mode takes, besides those that each takes.
_FLAGS = {
    "train": ("workdir", "config", "resume", "coordinator_address", "num_processes", "process_id", "peer_timeout"),
    "evaluate": ("workdir", "checkpoint"),
    "predict": ("workdir", "checkpoint", "images", "top_k", "format"),
    "export": ("workdir", "checkpoint", "format", "output"),
    "fewshot": ("workdir", "checkpoint", "shots"),
    "list": ("image_size", "num_classes"),
    "doctor": (),
}
MODES = tuple(_FLAGS)
FORMATS = {
    "predict": ("table", "csv", "json"),
    "export": ("safetensors", "huggingface", "timm", "jax", "onnx", "savedmodel"),
}

_HELP = {
    "format": "Of predictions: table, csv, json. Of an export: safetensors, huggingface, timm, jax, onnx, savedmodel.",
    "coordinator_address": "host:port of process 0 of a job of several processes; auto: ask the cluster for all three.",
    "peer_timeout": "Seconds to wait for the job's other processes; without a step for twice that, the job ends.",
}


@dataclass(frozen=True)
class Command:
    mode: str
    workdir: str = ""
    config: Config | None = None  # of training
    resume: str = "auto"
    checkpoint: str | None = None
    peers: "Peers | None" = None
    model_keys: tuple[str, ...] = ()  # of config.model, that the command line sets, be it to their defaults
    images: tuple[str, ...] = ()  # files and folders to predict
    top_k: int = 5
    format: str = ""  # of predictions or of an export
    output: str | None = None  # folder of an export
    shots: tuple[int, ...] = ()  # images of each class that few-shot evaluation learns from
    image_size: int = 32
    num_classes: int = 10


def parse(argv: list[str]) -> Command:
    """The command of an argument list, program name first. Raises UserError; for --help, SystemExit."""
    values = _defined()
    if any(arg in ("-h", "--help", "-help") for arg in argv[1:]):
        from vit_jax import main

        print(f"{main.__doc__}\nFlags:\n{values.get_help()}\n--config.KEY=VALUE for each key in vit_jax/config.py")
        raise SystemExit(0)

    argv = _spelt_out(argv)
    _check_names(argv, values)
    model_keys = sorted({match[1] for arg in argv if (match := re.match(r"--?(?:no)?config\.model\.(\w+)", arg))})
    argv, unset = _take_unset(argv)
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)
        given = config.value
    except flags.Error as error:
        # ml_collections puts a whole traceback into what a config file raises; its last line is the error.
        text = re.sub(r"(?s)Error whilst parsing config file:.*\n(?=\w)", "", str(error).strip())
        text = re.sub(r": (invalid literal for int|could not convert string to float).*", ": expected a number", text)
        raise UserError(" ".join(text.split())) from error
    except Exception as error:  # a config file is a program: it may raise anything
        raise UserError(f"the config can't be read: {_first_line(error)}") from error
    if rest[1:]:
        raise UserError(f"arguments that belong to no flag: {' '.join(rest[1:])}; write --flag=value")
    mode = values.mode
    _check_mode(mode, values)
    if mode == "train":
        return _training(values, given, unset, model_keys)
    if mode in FORMATS and values.format not in (None, *FORMATS[mode]):
        raise UserError(f"--format={values.format} is not one of {', '.join(FORMATS[mode])}")
    if mode == "predict" and not values.images:
        raise UserError("--images is missing: files or folders, like --images cat.png pictures/")
    return Command(
        mode,
        values.workdir or "",
        checkpoint=values.checkpoint,
        images=tuple(values.images or ()),
        top_k=values.top_k,
        format=values.format or FORMATS.get(mode, ("",))[0],
        output=values.output,
        shots=tuple(map(int, values.shots)),
        image_size=values.image_size,
        num_classes=values.num_classes,
    )


def _defined() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", MODES, "What to do; may also be the first word.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_enum("resume", "auto", RESUME, "Whether to go on with a run in the workdir.", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "Which to use: best, latest or a step.", flag_values=values)
    flags.DEFINE_multi_string("images", None, "Files and folders to predict, PNG and JPEG.", flag_values=values)
    flags.DEFINE_integer("top_k", 5, "Classes to name for each image.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("format", None, _HELP["format"], flag_values=values)
    flags.DEFINE_string("output", None, "Folder of an export.", flag_values=values)
    flags.DEFINE_list("shots", ["1", "5", "10"], "Images of each class to learn from.", flag_values=values)
    flags.DEFINE_integer("image_size", 32, "Pixels a side, of list.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("num_classes", 10, "Classes, of list.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("coordinator_address", None, _HELP["coordinator_address"], flag_values=values)
    flags.DEFINE_integer("num_processes", None, "Processes of the job.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_integer("peer_timeout", 300, _HELP["peer_timeout"], lower_bound=1, flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    flags.register_validator(
        "shots",
        lambda shots: bool(shots) and all(re.fullmatch("[1-9][0-9]*", shot) for shot in shots),
        "numbers above 0, like 1,5,10",
        flag_values=values,
    )
    return values


def _training(values: flags.FlagValues, given: Any, unset: list[str], model_keys: list[str]) -> Command:
    from vit_jax.runs.folder import RunFolder  # imports JAX, without which the other modes' flags can be read

    peers = _peers(values)
    if given is None:
        if not RunFolder(values.workdir).exists():
            raise UserError("--config is missing: a file like configs/quickstart.py")
        return Command("train", values.workdir, RunFolder(values.workdir).config(), values.resume, peers=peers)
    config = _typed(given, unset)
    return Command("train", values.workdir, config, values.resume, peers=peers, model_keys=tuple(model_keys))


def _check_mode(mode: str, values: flags.FlagValues) -> None:
    """Raises UserError for a flag that the mode doesn't take, and for a missing workdir."""
    for name in {name for names in _FLAGS.values() for name in names}:
        if values[name].present and name not in _FLAGS[mode]:
            if name == "config" and "workdir" in _FLAGS[mode]:
                raise UserError(f"--mode={mode} takes no --config: a run describes itself")
            takers = ", ".join(f"--mode={other}" for other, names in _FLAGS.items() if name in names)
            raise UserError(f"--{name} doesn't belong to --mode={mode}; it belongs to {takers}")
    if "workdir" in _FLAGS[mode] and not values.workdir:
        raise UserError("--workdir is missing: the folder of the run, like --workdir=runs/first")


def _spelt_out(argv: list[str]) -> list[str]:
    """`list` as the first word is --mode=list; `--images a.png b.png` is --images=a.png --images=b.png."""
    program, *args = argv
    if args and args[0] in MODES:
        args[0] = f"--mode={args[0]}"
    spelt, of_images = [], False
    for arg in args:
        if arg.startswith("-"):
            of_images = arg in ("--images", "-images")
            spelt += [] if of_images else [arg]
        else:
            spelt.append(f"--images={arg}" if of_images else arg)
    return [program, *spelt]


def _peers(values: flags.FlagValues) -> "Peers | None":
    address, count, number = values.coordinator_address, values.num_processes, values.process_id
    if address is None:
        if (count, number) != (None, None):
            raise UserError("--num_processes and --process_id need --coordinator_address=HOST:PORT, too")
        return None
    if address != "auto":
        if not re.fullmatch(r".+:\d+", address):
            raise UserError(f"--coordinator_address={address}: write HOST:PORT of process 0, or auto")
        if count is None or number is None or not 0 <= number < count:
            raise UserError(
                f"a job at {address} needs --num_processes=N and, in each process, --process_id from 0 to N - 1; "
                f"found {count} and {number}"
            )
    from vit_jax.system.jobs import Peers  # imports JAX

    return Peers(address, count, number, values.peer_timeout)


def _typed(given: object, unset: list[str]) -> Config:
    if not isinstance(given, ConfigDict):
        raise UserError(f"get_config() of the --config file gave a {type(given).__name__}, not a ConfigDict")
    for key in unset:
        parent, name = given, key.removeprefix("config.")
        while "." in name:
            head, name = name.split(".", 1)
            parent = parent[head]
        parent[name] = None
    return from_config_dict(given)


def _take_unset(argv: list[str]) -> tuple[list[str], list[str]]:
    """Takes `--config.key=none` out of the arguments where the key may be unset: ml_collections can't unset."""
    unset = [
        match[1]
        for arg in argv
        if (match := re.fullmatch(r"--?(config\.[\w.]+)=[Nn]one", arg)) and match[1] in _optional_keys(Config, "config")
    ]
    return [arg for arg in argv if arg.rsplit("=", 1)[0].lstrip("-") not in unset], unset


def _optional_keys(cls: type, where: str) -> list[str]:
    found = []
    for name, hint in typing.get_type_hints(cls).items():
        if hasattr(hint, "__dataclass_fields__"):
            found += _optional_keys(hint, f"{where}.{name}")
        elif type(None) in typing.get_args(hint):
            found.append(f"{where}.{name}")
    return found


def _check_names(argv: list[str], values: flags.FlagValues) -> None:
    """Raises UserError for a flag or config key that there isn't, with the nearest that there is."""
    known = ["config", *keys_of(), *(name for name in values if name != "h")]
    names = [match[1] for arg in argv[1:] if (match := re.match(r"--?(?:no(?=config\.))?([A-Za-z][\w.]*)", arg))]
    for name in names:
        if name not in known:
            raise UserError(unknown("flag", f"--{name}", [f"--{key}" for key in known]))
    if "config" not in names and any(name.startswith("config.") for name in names):
        raise UserError("--config.KEY=VALUE changes a config: name the file too, like --config=configs/quickstart.py")
    for arg, following in zip(argv[1:], [*argv[2:], ""], strict=False):
        match = re.fullmatch(r"--?config(?:=(.*))?", arg)
        if not match:
            continue
        file = (following if match[1] is None else match[1]).split(":")[0]
        if not Path(file).is_file():
            raise UserError(f"--config={file}: there is no such file; those of this project are in configs/")


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}"
