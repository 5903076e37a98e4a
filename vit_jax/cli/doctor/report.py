"""All checks, one after the other, and what they found on the screen."""

import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from vit_jax.cli.doctor.data import cifar, compiled, data_cache, tfds_places
from vit_jax.cli.doctor.devices import devices, nvidia_gpus
from vit_jax.cli.doctor.finding import Finding
from vit_jax.cli.doctor.machine import huge_pages, processors_and_memory, working_folder
from vit_jax.cli.doctor.probe import probe
from vit_jax.cli.doctor.settings import settings
from vit_jax.cli.doctor.versions import bytecode, installed_versions, libraries, needs
from vit_jax.data.sources import tfds
from vit_jax.errors import RunError
from vit_jax.system.accelerators import tpu_chips
from vit_jax.system.disk import cache_root
from vit_jax.system.processor import cores
from vit_jax.system.progress import doing, say


def examine() -> None:
    """Looks at everything and says each finding. Raises RunError if something is a problem."""
    findings = []
    for finding in _look(os.environ):
        say(f"{finding.status:<8} {finding.what:<20} {finding.found}")
        if finding.remedy:
            say(f"{'':<8} -> {finding.remedy}")
        findings.append(finding)
    count = Counter(finding.status for finding in findings)
    warnings = _counted(count, "warning")
    if count["problem"]:
        names = ", ".join(finding.what for finding in findings if finding.status == "problem")
        raise RunError(f"{_counted(count, 'problem')} ({names}) and {warnings}; what to do stands under each")
    say(f"\nNo problem, {warnings}. To try a run: vit-jax --config=quickstart --workdir=runs/quickstart")


def _counted(count: Counter, status: str) -> str:
    return f"{count[status]} {status}{'' if count[status] == 1 else 's'}"


def _look(env: Mapping[str, str]) -> Iterator[Finding]:
    installed = installed_versions()
    yield from libraries(installed, needs(installed), platform.python_version())
    yield from bytecode(find_spec("jax"), sys.dont_write_bytecode)
    with doing("Asking JAX for its devices"):
        seen, gpus = probe(env), nvidia_gpus()
    yield from devices(seen, gpus, installed, env, tpu_chips(Path("/")))
    yield from huge_pages(seen.platform, env, Path("/"), platform.libc_ver())
    yield from settings(env, cores())
    yield from processors_and_memory(Path("/"), cores())
    yield from _readable("disk", lambda: working_folder(Path.cwd()))
    root = cache_root(None)
    yield from _readable("data cache", lambda: data_cache(root))
    yield from _readable("compiled steps", lambda: compiled(root, env))
    places = tfds.places(None)
    yield from _readable("TFDS_DATA_DIR", lambda: tfds_places(places))
    for name, title in tfds.TITLES.items():
        yield from _readable(title, partial(cifar, name, root, places, installed))


def _readable(what: str, check: Callable[[], Iterable[Finding]]) -> Iterable[Finding]:
    try:
        return check()
    except OSError as error:
        return [Finding("warning", what, f"can't be looked at: {error}", "mend its permissions")]
