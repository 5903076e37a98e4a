"""Makes the machine ready and says what it is: carried wheels where something is missing or too old, versions, device.

python -m trial.machine --carried=DIR --site=DIR
"""

import argparse
import configparser
import importlib
import json
import os
import re
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from trial.child import REPOSITORY, say
from vit_jax.system.accelerators import ask


def install(wheels: list[Path], site: Path) -> list[str]:
    """Unpacks the wheels of what isn't here, or is older than setup.cfg asks for; gives their names and versions.

    A wheel is an archive of what goes into a folder of packages; so no installer is needed.
    """
    wanted, taken = _wanted(), []
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        try:
            here = Version(metadata.version(name.replace("_", "-")))
        except metadata.PackageNotFoundError:
            here = None
        if here and all(floor <= here for floor in wanted.get(_plain(name), [])):
            continue
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        taken.append(f"{name} {version}")
    importlib.invalidate_caches()
    return taken


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _wanted() -> dict[str, list[Version]]:
    """The lower bounds of setup.cfg's requirements that hold for this Python, by name."""
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    lines = parser["options"]["install_requires"].splitlines()
    requirements = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    bounds: dict[str, list[Version]] = {}
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate():
            floors = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
            bounds.setdefault(_plain(requirement.name), []).extend(floors)
    return bounds


def _driver() -> str | None:
    query = "--query-gpu=name,driver_version,memory.total,clocks.sm"
    return ask("nvidia-smi", query, "--format=csv,noheader").text.strip() or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--carried", type=Path, required=True)
    parser.add_argument("--site", type=Path, required=True, help="where packages go; on PYTHONPATH already")
    args = parser.parse_args()
    taken = install(sorted(args.carried.glob("*/wheels/*.whl")), args.site)
    packs = sorted(args.carried.glob("*/pack.json"))  # the working tree comes without its history
    commit = json.loads(packs[0].read_text())["commit"] if packs else None

    from vit_jax.runs import folder  # noqa: F401 - what a run imports is there, or this part says what isn't
    from vit_jax.system import environment
    from vit_jax.training import loop  # noqa: F401

    say(
        device=environment.device(), driver=_driver(), cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        commit=environment.git_commit() or commit, unpacked=", ".join(taken) or "nothing",
        **environment.versions(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
