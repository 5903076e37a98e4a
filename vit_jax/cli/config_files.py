"""Config files: those that come with the package, by name, and one's own, by path."""

import contextlib
import difflib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

import vit_jax
from vit_jax.config import Config, from_config_dict
from vit_jax.errors import UserError
from vit_jax.schema import keys_of, unknown_key


def shipped() -> Path:
    """The folder of the configs that come with the package: in it where it is installed, beside it in a clone."""
    package = Path(vit_jax.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Those of the shipped configs, for --config=NAME."""
    return sorted(file.stem for file in shipped().glob("*.py") if file.stem != "__init__")


def find(text: str) -> tuple[Path, str | None]:
    """("laptop:attention") -> (the file of that config, "attention"); what is no name of a config is a path.

    Raises UserError where there is no such config, with the nearest that there is.
    """
    name, colon, argument = text.partition(":")
    known = names()
    if "/" in name or os.sep in name or name.endswith(".py") or (name not in known and _is_file(Path(name))):
        path = Path(os.path.expanduser(name))
        if not _is_file(path):
            hint = f"did you mean {path.stem}, which comes with vit_jax?" if path.stem in known else _listed(known)
            raise UserError(f"--config={name}: there is no such file; {hint}")
    else:
        path = shipped() / f"{name}.py"
        if name not in known:
            beside = [f"{name}.py"] if _is_file(Path(f"{name}.py")) else []
            near = beside or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else _listed(known)
            raise UserError(f"--config={name}: there is no config of this name; {hint}")
    return path, argument if colon else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _listed(known: list[str]) -> str:
    return f"by name there are {', '.join(known)}; a file of yours ends in .py"


def read(text: str) -> Config:
    """The config that a name or path, with or without ":ARGUMENT", stands for. Config files are programs: it runs one.

    Raises UserError for one that there isn't, for whatever it raises, with the line, and for a result that is none.
    """
    path, argument = find(text)
    with _importable(path.absolute().parent):
        try:
            get_config = _get_config(_run(path))
            arguments = () if argument is None else (argument,)
            _check_argument(text, get_config, arguments)
            given = get_config(*arguments)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # a config file is a program: it may raise anything
            if argument is not None and isinstance(error, ValueError):
                raise UserError(f"--config={text}: {error}") from error
            raise UserError(f"{path}{_line_in(path, error)}: {_explained(error)}") from error
    if given is None:
        raise UserError(f"{path}: get_config() gives nothing back; end it with `return config`")
    if not isinstance(given, ConfigDict):
        raise UserError(f"{path}: get_config() gave a {type(given).__name__}, not a ConfigDict like base_config()'s")
    try:
        return from_config_dict(given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_argument(text: str, get_config: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    name = text.partition(":")[0]
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        if arguments:
            raise UserError(f"--config={text}: {name} takes no argument; write --config={name}") from error
        raise UserError(f"--config={text}: {name} needs an argument; write --config={name}:VALUE") from error


def _get_config(module: ModuleType) -> Callable[..., Any]:
    found = vars(module).get("get_config")
    if not callable(found):
        instead = "there is none" if found is None else f"it is {found!r}"
        raise UserError(f"{module.__file__}: a config file has a function get_config(); {instead}")
    return found


def _run(path: Path) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(f"_config_{path.stem}", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Within, a config's neighbours can be imported; each config gets its own."""
    before, bytecode, modules = sys.path[:], sys.dont_write_bytecode, set(sys.modules)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # nothing is left in the user's folder
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = before, bytecode
        for name in set(sys.modules) - modules:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
                del sys.modules[name]


def _line_in(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f" can't be read, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f", line {lines[-1]}" if lines else ""


def _explained(error: BaseException) -> str:
    """An error in a line; of ml_collections' about an unknown key, which takes a screen, what is meant."""
    text = " ".join(str(error).split())
    if isinstance(error, (AttributeError, KeyError)) and (match := re.search(r'Key "(\w+)" does not exist', text)):
        return unknown_key(Config, f"{_group_of(error)}.{match[1]}")
    return f"{type(error).__name__}: {text[:300]}"


def _group_of(error: BaseException) -> str:
    """The name of the group of keys in which ml_collections raised an error: that whose keys are its own."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        group = frame.f_locals.get("self")
        if isinstance(group, ConfigDict):
            keys = set(group.keys())
            groups: dict[str, set[str]] = {}
            for known in keys_of(Config):
                parent, _, key = known.rpartition(".")
                groups.setdefault(parent, set()).add(key)
            return next((name for name, own in groups.items() if own == keys), "config")
    return "config"
