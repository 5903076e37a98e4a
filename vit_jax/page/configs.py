"""The configs of the runs: what differs between them and from the base, and the commands that repeat them."""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from vit_jax.config import Config
from vit_jax.page.html import Html, Section, element, join, paragraph, scrolling, table
from vit_jax.page.runs import Entry

_UNKNOWN = "not told: no run here was tested"


def section(entries: Sequence[Entry]) -> Section:
    """Tables of keys: those that differ between the folders, those that differ from the base, and all of them."""
    base, configs = leaves(Config()), [leaves(entry.config) for entry in entries]
    names = [entry.name for entry in entries]
    apart = [key for key in base if len({repr(config[key]) for config in configs}) > 1]
    changed = [key for key in base if any(config[key] != base[key] for config in configs)]
    body = []
    lead = "Keys are those of vit_jax/config.py, which says what each means."
    body.append(paragraph(lead, kind="note"))
    if len(entries) > 1:
        rows = [[_key(key), *(shown(config[key]) for config in configs)] for key in apart]
        caption = "What differs between the runs." if apart else "The configs of the runs are the same."
        body.append(table(caption, ["key", *names], rows, "keys") if apart else paragraph(caption))
    rows = [[_key(key), shown(base[key]), *(_told(config[key], base[key]) for config in configs)] for key in changed]
    body.append(
        table("What differs from the base config (every key at its default).", ["key", "base", *names], rows, "keys")
    )
    rows = [[_key(key), *(shown(config[key]) for config in configs)] for key in base]
    whole = table("Every key.", ["key", *names], rows, "keys tall")
    body.append(element("details", element("summary", "The whole config"), whole))
    return Section("config", "Config", join(body))


def environment(entries: Sequence[Entry]) -> Section:
    """What the figures depend on besides the config, and how to repeat each run."""
    results = [entry.shown().results for entry in entries]
    versions = [told if isinstance(told := found.get("versions"), dict) else {} for found in results]
    rows = [
        ["device", *(str(found.get("device") or _UNKNOWN) for found in results)],
        ["commit", *(str(found.get("git_commit") or _UNKNOWN) for found in results)],
        ["folder", *(str(entry.folder.path) for entry in entries)],
    ]
    packages = dict.fromkeys(name for found in versions for name in found)
    rows += [[name, *(str(found.get(name, "-")) for found in versions)] for name in packages]
    body = [table("Where the runs were trained and tested.", ["", *(entry.name for entry in entries)], rows, "keys")]
    for entry, found in zip(entries, results, strict=True):
        body.append(element("h3", f"To repeat {entry.name}"))
        body.append(
            scrolling(
                element("pre", element("code", command(entry, found.get("git_commit")))), "In a checkout of vit_jax:"
            )
        )
    body.append(
        paragraph(
            "The base config with every key that the run has otherwise, also those that it filled in by itself for "
            "its data and its machine.",
            kind="note",
        )
    )
    return Section("environment", "Environment", join(body))


def command(entry: Entry, commit: Any) -> str:
    """Shell lines that train the same again, in another folder."""
    lines = [f"git checkout {shlex.quote(str(commit).removesuffix('-dirty'))}"] if commit else []
    folder = f"runs/{entry.name.replace('/', '_')}_again"
    arguments = [
        "python -m vit_jax.main",
        "--config=base",
        f"--workdir={shlex.quote(folder)}",
        *map(shlex.quote, overrides(entry.config)),
    ]
    return "\n".join([*lines, " \\\n  ".join(arguments)])


def overrides(config: Config) -> list[str]:
    """--config.KEY=VALUE for each key that differs from its default, as the command line takes them."""
    base, found = leaves(Config()), []
    for key, value in leaves(config).items():
        if value != base[key]:
            text = value if isinstance(value, str) else "none" if value is None else repr(value)
            found.append(f"--{key}={text}")
    return found


def leaves(config: Any, where: str = "config") -> dict[str, Any]:
    """Every key of a dataclass config by its full name, with its value."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{where}.{field.name}"
        found |= leaves(value, name) if dataclasses.is_dataclass(value) else {name: value}
    return found


def shown(value: Any) -> str:
    """A value as a table has it: numbers to six digits, text without quotes."""
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float):
        return f"{value:g}"
    return {None: "none", "": '""'}.get(value, str(value))


def _key(name: str) -> Html:
    """A key without the "config." that all have, to be broken after its dots where a line ends."""
    first, *others = name.removeprefix("config.").split(".")
    return join([first, *(part for other in others for part in (".", element("wbr"), other))])


def _told(value: Any, base: Any) -> Html | str:
    return element("span", shown(value), class_="differs") if value != base else shown(value)
