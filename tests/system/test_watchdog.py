"""A job that comes no further ends; one that waits for a slow disk goes on. In processes of their own: they end."""

import subprocess
import sys
import time

PROGRAM = """
import sys, time
from vit_jax.system.watchdog import Watchdog

began, how = time.monotonic(), sys.argv[1]

def writing():
    if how == "a slow disk":  # it grows for three times the patience, then it is written
        seconds = time.monotonic() - began
        return ("checkpoint 8 in /there", int(100 * seconds)) if seconds < 3 else None
    if how == "a disk that takes no more":
        return "checkpoint 8 in /there", 5
    if how == "a disk that is lost":
        time.sleep(60)
    return None

with Watchdog(1.0, writing) as watchdog:
    watchdog.beat()
    time.sleep(3.5 if how == "a slow disk" else 20)
    print("went on")
"""
MESSAGES = {
    "a slow disk": "went on",
    "a disk that takes no more": "checkpoint 8 in /there is begun and doesn't grow",
    "a disk that is lost": "the disk that it writes to doesn't answer",
    "a process that is stuck": "another process of the job may be stuck",
}


def test_a_slow_disk_is_waited_for_and_what_is_stuck_is_named():
    began = time.monotonic()
    processes = {
        how: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for how in MESSAGES
    }
    for how, process in processes.items():
        printed, _ = process.communicate(timeout=60)
        assert MESSAGES[how] in printed, f"{how}: {printed}"
        assert process.returncode == (0 if how == "a slow disk" else 1)
        assert ("error: process 0 has come no further" in printed) == (how != "a slow disk")
    assert time.monotonic() - began < 40
