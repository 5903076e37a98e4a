"""What a release must stand: every command that the pages show, and every figure that can be made again.

python scripts/release_check.py commands [--data_dir=DIR]
python scripts/release_check.py figures [--data_dir=DIR] [--figures=quickstart,laptop] [--folder=DIR]

commands  runs those in the bash blocks of README.md and docs/*.md, in order, in a fresh clone and environment,
          and times them; one that stands on several pages is run once. CIFAR-10 runs are cut to 20 steps
figures   makes published figures again (scripts/figures.py) and prints claim | recorded | now; runs stay in --folder,
          where one that was stopped goes on. Three hours on two slow cores, which nothing else should use meanwhile

Without --data_dir (a prepared TFDS folder) what needs CIFAR-10 is left out, and said to be. Exits non-zero if a command
fails or a figure differs.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from scripts.figures import FIGURES, Bench, made, table  # noqa: E402

_SHORTENED = '--config.train.length="20 steps" --config.optim.warmup="0 steps" --config.log.tensorboard=false'
_CIFAR10 = r"--config=(article|base|laptop|sprint|record|\w+_cifar10)\b(?!.*--config\.data\.name=)"


def blocks(page: str, language: str) -> list[str]:
    """The contents of a page's blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def commands(page: str, language: str = "bash") -> list[str]:
    """The lines of a page's bash blocks, those that end in a backslash joined."""
    lines = "\n".join(blocks(page, language)).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def pages(folder: Path) -> list[Path]:
    """README.md, then the pages of docs/ in the order of their names."""
    return [folder / "README.md", *sorted((folder / "docs").glob("*.md"))]


def needs_cifar10(command: str) -> bool:
    """Whether a command trains on CIFAR-10."""
    return re.search(_CIFAR10, command) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("commands", "figures"))
    parser.add_argument("--data_dir", type=Path, help="a prepared TFDS folder with CIFAR-10")
    parser.add_argument("--figures", default=",".join(FIGURES), help=f"some of {', '.join(FIGURES)}")
    parser.add_argument("--folder", type=Path, help="where the runs of the figures lie (default: a temporary folder)")
    args = parser.parse_args()
    names = args.figures.split(",")
    if unknown := set(names) - set(FIGURES):
        parser.error(f"--figures: {', '.join(sorted(unknown))} is none of {', '.join(FIGURES)}")
    data_dir = args.data_dir.resolve() if args.data_dir else None
    if args.what == "commands":
        return _check_commands(data_dir)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            rows = made(Bench(folder, data_dir), names)
        except ValueError as error:
            parser.error(f"--folder: {error}")
    print(f"\n{table(rows)}")
    return int(any(row.agrees is False for row in rows))


def _check_commands(data_dir: Path | None) -> int:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "vit_jax"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        # Each command has a shell of its own: what `source .venv/bin/activate` does has to hold in all.
        environment = os.environ | {"PATH": f"{clone / '.venv/bin'}:{os.environ['PATH']}"}
        for command in dict.fromkeys(command for page in pages(clone) for command in commands(page.read_text())):
            if needs_cifar10(command):
                if data_dir is None:
                    rows.append((command, "left out", 0.0))
                    continue
                command = f"{command} {_SHORTENED} --config.data.dir={data_dir}"
            print(f"\n$ {command}", flush=True)
            started = time.monotonic()
            code = subprocess.run(["bash", "-c", command], cwd=clone, env=environment).returncode
            rows.append((command, f"exit {code}", time.monotonic() - started))
    print(f"\n{'seconds':>8}  {'':8}  command")
    for command, outcome, seconds in rows:
        print(f"{seconds:8.1f}  {outcome:8}  {command}")
    return int(any(outcome not in ("exit 0", "left out") for _, outcome, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
