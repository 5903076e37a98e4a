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

_HELP = {
    "coordinator_address": "host:port of process 0 of a job of several processes; auto: ask the cluster for all three.",
    "peer_timeout": "Seconds to wait for the job's other processes; without a step for twice that, the job ends.",
}


@dataclass(frozen=True)
class Peers:
    """How to find the other processes of a job."""

    coordinator_address: str  # host:port of process 0, or "auto": what the cluster (Slurm, TPU, MPI) says
    num_processes: int | None
    process_id: int | None
    timeout: int  # seconds to wait for a peer at the start; twice that within a step


@dataclass(frozen=True)
class Command:
    mode: str
    workdir: str
    config: Config | None  # None except to train
    resume: str
    checkpoint: str | None
    peers: Peers | None = None


def parse(argv: list[str]) -> Command:
    """The command of an argument list, program name first. Raises UserError; for --help, SystemExit."""
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_enum("resume", "auto", RESUME, "Whether to go on with a run in the workdir.", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "Which to evaluate: best, latest or a step.", flag_values=values)
    flags.DEFINE_string("coordinator_address", None, _HELP["coordinator_address"], flag_values=values)
    flags.DEFINE_integer("num_processes", None, "Processes of the job.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_integer("peer_timeout", 300, _HELP["peer_timeout"], lower_bound=1, flag_values=values)
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
    mode, workdir, peers = values.mode, values.workdir, _peers(values)
    if mode == "evaluate":
        if given is not None:
            raise UserError("--mode=evaluate takes no --config: a run describes itself")
        if peers:
            raise UserError("--mode=evaluate needs one process; leave --coordinator_address out")
        return Command(mode, workdir, None, values.resume, values.checkpoint)
    if values.checkpoint:
        raise UserError("--checkpoint belongs to --mode=evaluate; training goes on from the latest")
    if given is None:
        if not RunFolder(workdir).exists():
            raise UserError("--config is missing: a file like configs/quickstart.py")
        return Command(mode, workdir, RunFolder(workdir).config(), values.resume, None, peers)
    return Command(mode, workdir, _typed(given, unset), values.resume, None, peers)


def _peers(values: flags.FlagValues) -> Peers | None:
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
