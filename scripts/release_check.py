"""Runs every command of README.md, in order, in a fresh clone with a fresh environment, and times it.

python scripts/release_check.py [--data_dir=DIR]

CIFAR-10 runs are cut to 20 steps; without --data_dir (a prepared TFDS folder) they are left out, and said to be.
Exits non-zero if any command did.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
_SHORTENED = '--config.train.length="20 steps" --config.optim.warmup="0 steps" --config.log.tensorboard=false'


def commands(readme: str) -> list[str]:
    """The commands in the bash blocks of a README, lines that end in a backslash joined."""
    blocks = re.findall(r"```bash\n(.*?)```", readme, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="a prepared TFDS folder with CIFAR-10")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "vit_jax"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        for command in commands((clone / "README.md").read_text()):
            if "cifar10.py" in command or "article.py" in command:
                if not args.data_dir:
                    rows.append((command, "left out", 0.0))
                    continue
                command = f"{command} {_SHORTENED} --config.data.dir={Path(args.data_dir).resolve()}"
            print(f"\n$ {command}", flush=True)
            started = time.monotonic()
            code = subprocess.run(command, shell=True, cwd=clone).returncode
            rows.append((command, f"exit {code}", time.monotonic() - started))
    print(f"\n{'seconds':>8}  {'':8}  command")
    for command, outcome, seconds in rows:
        print(f"{seconds:8.1f}  {outcome:8}  {command}")
    return int(any(outcome not in ("exit 0", "left out") for _, outcome, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
