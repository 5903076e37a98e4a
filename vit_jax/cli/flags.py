"""The command line as a typed Command."""

import argparse
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import vit_jax
from vit_jax.cli import config_files
from vit_jax.cli.modes import MODES, flags_of, help_text
from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.schema import keys_of, type_of, typed, with_overrides

if TYPE_CHECKING:
    from vit_jax.system.jobs import Peers


@dataclass(frozen=True)
class Command:
    """What was asked for. `flags` has the mode's own flags by name."""

    mode: str
    flags: argparse.Namespace
    config: Config | None = None  # of training
    overrides: dict[str, Any] = field(default_factory=dict)  # "optim.learning_rate" -> value; in `config` already
    typed: tuple[str, ...] = ()  # --config and the overrides as they were typed
    peers: "Peers | None" = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def parse(argv: list[str]) -> Command:
    """The command of an argument list, program name first. Raises UserError; for --help, SystemExit."""
    if argv[1:2] in (["--version"], ["version"]):
        print(f"vit_jax {vit_jax.__version__}")
        raise SystemExit(0)
    if argv[1:] == ["help"]:
        argv = [argv[0], "--help"]
    # -flag is --flag.
    argv = [f"-{arg}" if re.match(r"-[A-Za-z]\w", arg) else arg for arg in argv]
    mode, args = _mode(argv[1:])
    if any(arg in ("-h", "--help") for arg in args):
        # With a mode, of that; `vit-jax --help` names none.
        print(help_text(mode if _names_mode(argv[1:]) else None))
        raise SystemExit(0)
    config_args, args = _config_args(args)
    parser = _Parser(prog="vit-jax", add_help=False, allow_abbrev=False)
    for flag, told in flags_of(mode).items():
        parser.add_argument(f"--{flag}", **told)
    flags, rest = parser.parse_known_args(args)
    _check_rest(mode, rest)
    name, texts = _split(config_args)
    _check_config(mode, name, texts)
    instead = "weights" in MODES[mode].flags and flags.weights
    if instead and flags.workdir:
        raise UserError("--workdir names a run, --weights other weights in its place: name one of them")
    if instead and flags.checkpoint is not None:
        raise UserError("--checkpoint needs --workdir, a run; --weights have no checkpoints")
    if "workdir" in MODES[mode].flags and not flags.workdir and not instead:
        other = ", or --weights, a file or folder of weights" if "weights" in MODES[mode].flags else ""
        raise UserError(
            f"--workdir is missing: the folder of the run, like --workdir=runs/first{other} (vit-jax --help)"
        )
    if mode in ("predict", "features") and not flags.images:
        raise UserError("--images is missing: files and folders, like --images cat.png pictures/")
    overrides = {key: typed(Config, key, text) for key, text in texts.items()}
    config, peers = None, None
    if "config" in MODES[mode].flags:
        config = with_overrides(_config(mode, name, flags), overrides)
    if mode == "train":
        peers = _peers(flags)
    return Command(mode, flags, config, overrides, tuple(config_args), peers)


def _names_mode(args: list[str]) -> bool:
    return bool(args) and (args[0] in MODES or any(arg.startswith("--mode") for arg in args))


def _mode(args: list[str]) -> tuple[str, list[str]]:
    """The mode, named by the first word or by --mode, and the other arguments."""
    words = [arg for arg in args[:1] if re.fullmatch(r"[\w-]*", arg) and not arg.startswith("-")]
    named, rest = words, args[len(words) :]
    for i, arg in enumerate(rest):
        if re.fullmatch("--mode(=.*)?", arg):
            if named:
                raise UserError("the mode is named twice; name it once, as the first word or by --mode")
            taken = 1 if "=" in arg else 2
            named = [arg.partition("=")[2] if taken == 1 else (rest[i + 1 :] or [""])[0]]
            rest = rest[:i] + rest[i + taken :]
            break
    mode = named[0] if named else "train"
    if mode not in MODES:
        raise UserError(f"there is no mode {mode or repr(mode)}; {_nearest(mode, list(MODES))}")
    return mode, rest


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _config_args(args: list[str]) -> tuple[list[str], list[str]]:
    """Takes --config=X, --config.KEY=VALUE and --noconfig.KEY out of the arguments, each with its value in it."""
    config, rest = [], []
    following = iter(args)
    for arg in following:
        if not re.match(r"--(no)?config(?=[.=]|$)", arg):
            rest.append(arg)
        elif "=" in arg or arg.lstrip("-").startswith("no"):
            config.append(arg)
        else:
            config.append(_with_value(arg, following))
    return config, rest


def _with_value(arg: str, following: Iterator[str]) -> str:
    """`--config.KEY VALUE` as `--config.KEY=VALUE`; a key that is true or false needs no value."""
    key = arg.lstrip("-").removeprefix("config").removeprefix(".")
    if key and type_of(Config, key) is bool:
        return f"{arg}=true"
    value = next(following, None)
    if value is None or value.startswith("--"):
        raise UserError(f"{arg} has no value; write {arg}=VALUE")
    return f"{arg}={value}"


def _split(config_args: list[str]) -> tuple[str | None, dict[str, str]]:
    """What --config names, and the text of each key; the last of several counts."""
    name, texts = None, {}
    for arg in config_args:
        flag, _, text = arg.lstrip("-").partition("=")
        if flag == "config":
            name = text
        elif flag.startswith("noconfig."):
            texts[flag.removeprefix("noconfig.")] = "false"
        else:
            texts[flag.removeprefix("config.")] = text
    return name, texts


def _check_rest(mode: str, rest: list[str]) -> None:
    """Raises UserError for arguments that the mode doesn't take."""
    for arg in rest:
        if not arg.startswith("-"):
            continue
        name = arg.lstrip("-").partition("=")[0]
        if takers := [other for other, told in MODES.items() if name in told.flags]:
            belongs = ", ".join(f"--mode={taker}" for taker in takers)
            raise UserError(f"--{name} doesn't belong to --mode={mode}; it belongs to {belongs}")
        if name == "mode":
            raise UserError("the mode is named twice; name it once, as the first word or by --mode")
        if f"config.{name}" in keys_of(Config):
            raise UserError(f"unknown flag --{name}; did you mean --config.{name}?")
        known = [f"--{flag}" for flag in (*MODES[mode].flags, "mode", "help")]
        near = difflib.get_close_matches(f"--{name}", known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"vit-jax {mode} --help shows those that there are"
        raise UserError(f"unknown flag {arg.partition('=')[0]}; {hint}")
    if rest and rest[0] in MODES:
        raise UserError(f"the mode comes first: vit-jax {rest[0]} ...")
    if rest:
        raise UserError(f"arguments that belong to no flag: {' '.join(rest)}; write --flag=value")


def _check_config(mode: str, name: str | None, texts: dict[str, str]) -> None:
    """Raises UserError for a config, or keys of one, where the mode takes none."""
    keys = MODES[mode].keys
    if name is not None and "config" not in MODES[mode].flags:
        if "workdir" in MODES[mode].flags:
            raise UserError(f"--mode={mode} takes no --config: a run describes itself")
        raise UserError(f"--mode={mode} takes no --config")
    for key in texts:
        type_of(Config, key)
        if keys is not None and key not in keys:
            if not keys and "workdir" not in MODES[mode].flags:
                raise UserError(f"--mode={mode} takes no config; vit-jax {mode} --help shows its flags")
            can = (
                f"what can be: {', '.join(f'--config.{one}' for one in keys)}"
                if keys
                else "a trained run's config is fixed"
            )
            raise UserError(f"--config.{key} can't be changed by --mode={mode}; {can}")


def _config(mode: str, name: str | None, flags: argparse.Namespace) -> Config:
    """The config that --config names or, of training without it, that of the run in the workdir."""
    if name is not None:
        return config_files.read(name)
    if mode in ("sweep", "compile"):
        raise UserError(f"--config is missing: what to {mode}, like --config=quickstart")
    from vit_jax.runs.folder import RunFolder  # imports JAX

    run = RunFolder(flags.workdir)
    if not run.exists():
        raise UserError(
            f"--workdir={flags.workdir}: there is no run to go on with; to start one, name its config, like "
            "--config=quickstart (vit-jax list shows all)"
        )
    return run.config()


def _peers(flags: argparse.Namespace) -> "Peers | None":
    address, count, number = flags.coordinator_address, flags.num_processes, flags.process_id
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

    return Peers(address, count, number, flags.peer_timeout)
