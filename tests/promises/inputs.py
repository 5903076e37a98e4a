"""P18 to P20: mistakes in a config, wrong folders, and no network. P21 is in tests/data/test_image_folder.py."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from promises.faults import Faults
from promises.harness import REPOSITORY, Bench, Child, begins, call, digests, require


def _refused(bench: Bench, *args: str) -> str:
    """Starts a run that must be refused within 10 s by one message and exit code 2; gives the message."""
    started = time.monotonic()
    if bench.full:
        with Child(*args, devices=8, log=bench.new("log")) as child:
            code = child.wait(60)
            printed = child.printed()
    else:
        code, printed = call(*args)
    require(code == 2, f"{args}: exit code {code}: {printed[-300:]}")
    said = [line for line in printed.splitlines() if not line.startswith("Decoding ")]
    require(len(said) == 1 and said[0].startswith("error: "), f"{args}: {printed[-300:]}")
    require(time.monotonic() - started < 10, f"{args}: refused after more than 10 s")
    return printed


def p18(bench: Bench) -> Iterator[str]:
    """Each of over fifty wrong configs: one message within 10 s, exit code 2, before anything is read or written."""
    from test_config import MISTAKES

    for override, _ in MISTAKES if bench.full else bench.rng.sample(MISTAKES, 6):
        workdir = bench.new()
        flags = ["--config." + part.removeprefix("--config.") for part in override.split(" ")]
        _refused(bench, "--config=configs/debug.py", f"--workdir={workdir}", *flags)
        require(not workdir.exists() or "data." in override, f"{override}: the folder was made")
        yield override


def p19(bench: Bench) -> Iterator[str]:
    """A wrong, empty or unreadable folder of data: one message that says what was expected and found."""
    folder = bench.new("data")
    (folder / "empty").mkdir(parents=True)
    (folder / "other").mkdir()
    (folder / "other" / "holiday.txt").write_text("sun")
    (folder / "file").write_bytes(b"no archive")
    cases = [
        ("image_folder", "empty", "train/<class>"),
        ("cifar10_batches", "other", "holiday.txt"),
        ("image_folder", "other", "holiday.txt"),
        ("cifar10_batches", "empty", "data_batch_1"),
        ("cifar10_batches", "file", "sha256|bytes|archive"),
        ("image_folder", "missing", "does not exist"),
        ("cifar10_batches", "missing", "does not exist"),
        ("cifar10", "missing", "does not exist"),
    ]
    for name, place, said in cases[: bench.times(2, len(cases))]:
        args = ["--config=configs/debug.py", f"--config.data.name={name}", f"--config.data.dir={folder / place}"]
        printed = _refused(bench, *args, f"--workdir={bench.new()}")
        require(any(word in printed for word in said.split("|")), printed[-300:])
        yield f"{name} from a folder that is {place}"


def p20(bench: Bench) -> Iterator[str]:
    """With data at hand nothing is asked of a network: no connect() while training and evaluating."""
    from PIL import Image

    pets = bench.new("pets")
    for split in ("train", "test"):
        for i in range(40):
            folder = pets / split / ("cat", "dog")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (200 * (i % 2), i, 0)).save(folder / f"{i}.png")
    before = digests(pets)
    sources = [["--config.data.name=digits"], ["--config.data.name=image_folder", f"--config.data.dir={pets}"]]
    for source in sources[: bench.times(1, 2)]:
        workdir, events = bench.new(), bench.new("events")
        events.parent.mkdir(parents=True)
        args = ["--config=configs/debug.py", "--config.model.depth=1", "--config.train.length=3 steps", *source]
        args += [f"--workdir={workdir}"]
        for command in ([*args], ["--mode=evaluate", f"--workdir={workdir}"])[: bench.times(1, 2)]:
            with Child(*command, faults=Faults(events=str(events)), log=bench.new("log")) as child:
                require(child.wait() == 0, child.tail())
            connects = [line for line in events.read_text().splitlines() if line.startswith("connect")]
            require(begins(events, "data") and not connects, f"it connects: {connects}")
        yield source[0]
    require(digests(pets) == before, "the user's images were changed")
    if bench.full:
        args = [sys.executable, "-m", "vit_jax.main", "--config=configs/debug.py", *sources[0]]
        alone = ["unshare", "-rn", *args, f"--workdir={bench.new()}"]
        done = subprocess.run(
            alone, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, timeout=120, start_new_session=True
        )
        if "unshare" not in done.stderr:
            require(done.returncode == 0, done.stderr[-300:])
            yield "in a network namespace with no interface"
