"""What the parts of a trial share: saying a row of figures, running the program, reading a prediction."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trial.runner import ROW

REPOSITORY = Path(__file__).resolve().parents[2]


def say(**row: Any) -> None:
    """One row of figures: kept at once, whatever becomes of the part."""
    print(ROW + json.dumps(row), flush=True)


def program(*args: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Starts vit_jax as a user does; what it prints goes to this part's log."""
    return subprocess.Popen(
        [sys.executable, "-m", "vit_jax.main", *args],
        cwd=REPOSITORY, env=environment or os.environ, stdout=sys.stdout.fileno(), stderr=subprocess.STDOUT,
    )  # fmt: skip


def predicted(file: str | None, config: str, batch_size: int, device_kind: str) -> dict[str, Any] | None:
    """The row of a config on this kind of device in a file of predictions; None if there is none.

    The file is one of `vit-jax compile --json`, or several of those in one list. The program is the run's one step.
    """
    rows = json.loads(Path(file).read_text()) if file else []
    for row in rows:
        same = row["config"] == config and row["batch_size"] == batch_size and row["devices"] == 1
        if same and not row["changed"] and row["device_kind"] == device_kind:
            return row["programs"][0]
    return None


def beside_prediction(seconds: float, row: dict[str, Any] | None) -> dict[str, Any]:
    """Columns that put a measured step beside its roofline, the longer of the two times (aot/forecast.py)."""
    if row is None or not row["seconds_by_flops"] or not row["seconds_by_bytes"]:
        return {}
    floor = max(row["seconds_by_flops"], row["seconds_by_bytes"])
    return {"ms_by_flops": 1e3 * row["seconds_by_flops"], "ms_by_bytes": 1e3 * row["seconds_by_bytes"]} | {
        "measured_by_roofline": seconds / floor
    }
