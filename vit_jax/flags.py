"""The command line as a typed Command. Config overrides go through ml_collections' flags."""

import re
import typing
from dataclasses import dataclass
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax.config import Config, from_config_dict, keys_of, unknown
from vit_jax.errors import UserError
from vit_jax.run import RunFolder

MODES = ("train", "evaluate")
RESUME = ("auto", "never", "must")


@dataclass(frozen=True)
class Command:
    mode: str
    workdir: str
    config: Config | None  # None except to train
    resume: str
    checkpoint: str | None


def parse(argv: list[str]) -> Command:
    """The command of an argument list, program name first. Raises UserError; for --help, SystemExit."""
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_enum("resume", "auto", RESUME, "Whether to go on with a run in the workdir.", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "Which to evaluate: best, latest or a step.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    if any(arg in ("-h", "--help", "-help") for arg in argv[1:]):
        from vit_jax import main

        print(f"{main.__doc__}\nFlags:\n{values.get_help()}\n--config.KEY=VALUE for each key in vit_jax/config.py")
        raise SystemExit(0)

    _check_names(argv, values)
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
    if not values.workdir:
        raise UserError("--workdir is missing: the folder of the run, like --workdir=runs/first")
    mode, workdir = values.mode, values.workdir
    if mode == "evaluate":
        if given is not None:
            raise UserError("--mode=evaluate takes no --config: a run describes itself")
        return Command(mode, workdir, None, values.resume, values.checkpoint)
    if values.checkpoint:
        raise UserError("--checkpoint belongs to --mode=evaluate; training goes on from the latest")
    if given is None:
        if not RunFolder(workdir).exists():
            raise UserError("--config is missing: a file like configs/quickstart.py")
        return Command(mode, workdir, RunFolder(workdir).config(), values.resume, None)
    return Command(mode, workdir, _typed(given, unset), values.resume, None)


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
