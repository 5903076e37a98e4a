"""A trial on a borrowed machine loses nothing: it goes on where a call ended, and no part takes the others with it."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from trial import beside_torch, gradients, machine, pack, recipes, report  # noqa: E402 - after the path
from trial.child import beside_prediction, predicted  # noqa: E402
from trial.parts import ON_EACH_MACHINE, Places, parts_of  # noqa: E402
from trial.record import Record  # noqa: E402
from trial.runner import Part, run_parts  # noqa: E402

ROW = """print('RESULT {"found": 1}', flush=True)"""


def part(name, code, expected=0.0, most=20.0, **more):
    return Part(name, f"title of {name}", ("-c", code), expected, most, **more)


def call(folder, *parts, seconds=60.0):
    """One call of the trial: its record afterwards."""
    record = Record(folder / "work", folder / "out")
    run_parts(parts, record, seconds, os.environ, folder / "logs")
    return record


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()


def test_a_part_that_fails_or_hangs_is_noted_and_the_next_one_runs(tmp_path):
    child = f"import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); {ROW}; p.wait()"
    record = call(
        tmp_path,
        part("fails", f"{ROW}; raise SystemExit('no cuDNN here')"),
        part("hangs", child, most=1.0),
        part("works", ROW),
    )
    assert [record.status(name) for name in ("fails", "hangs", "works")] == ["failed", "killed", "done"]
    assert [record.rows(name) for name in ("fails", "hangs", "works")] == [[{"found": 1}]] * 3  # as far as each came
    assert "no cuDNN here" in record.of("fails", "end")[0]["why"]
    pid, end = int((tmp_path / "logs" / "hangs.log").read_text().split()[0]), time.monotonic() + 10
    while alive(pid):  # what it had started was killed, too
        assert time.monotonic() < end
        time.sleep(0.01)


def test_without_the_first_part_nothing_is_spent_and_what_is_named_runs_again(tmp_path):
    machine = part("machine", "raise SystemExit(1)", first=True)
    record = call(tmp_path, machine, part("other", ROW))
    assert (record.status("machine"), record.status("other")) == ("failed", None)
    record = Record(tmp_path / "work", tmp_path / "out")
    mended = part("machine", ROW, first=True)
    run_parts([mended, part("other", ROW)], record, 60, os.environ, tmp_path / "logs", again=("machine",))
    assert (record.status("machine"), record.status("other")) == ("done", "done")


def test_the_next_call_goes_on_where_the_file_ends(tmp_path):
    trace = f"open({str(tmp_path / 'trace')!r}, 'a').write('%s '); {ROW}"
    parts = [part(name, trace % name) for name in ("first", "second", "third")]
    call(tmp_path, parts[0])
    file = tmp_path / "work" / "trial.jsonl"
    with file.open("a") as open_file:  # a call that was killed while the second ran, and while it wrote
        open_file.write('{"event": "start", "part": "second", "at": "12:00:00"}\n{"event": "ro')
    record = call(tmp_path, *parts)
    assert (tmp_path / "trace").read_text().split() == ["first", "second", "third"]
    assert all(record.status(p.name) == "done" for p in parts)
    assert (tmp_path / "out" / "trial.jsonl").read_text() == file.read_text()  # what comes back
    assert [json.loads(line) for line in file.read_text().splitlines()] == record.events


def test_a_part_that_its_call_cuts_off_has_one_more_try(tmp_path):
    slow = part("slow", "import time; time.sleep(60)", most=50.0)
    record = call(tmp_path, slow, seconds=8.5)  # 8 s of a call are kept for its report
    assert record.status("slow") == "cut" and not record.is_settled("slow")
    assert call(tmp_path, slow, seconds=8.5).is_settled("slow")


def test_what_does_not_fit_or_lacks_its_data_is_left_to_a_later_call_and_said(tmp_path):
    parts = [part("long", ROW, expected=100.0), part("fed", ROW, ready=lambda: False, waits_for="all pieces")]
    record = call(tmp_path, *parts, part("short", ROW))
    assert record.status("long") is record.status("fed") is None and record.status("short") == "done"
    text = report.write(tmp_path / "trial.md", [*parts, part("short", ROW)], record)
    missing = text.partition("## Not reached")[2]
    assert "long: title of long" in missing and "waits for all pieces" in missing and "short" not in missing
    assert "| found |\n| --- |\n| 1 |" in text


def test_a_new_machine_takes_up_what_came_back_from_the_last(tmp_path):
    call(tmp_path / "old", part("machine", ROW), part("first", ROW))
    file = tmp_path / "old" / "out" / "trial.jsonl"
    record = Record(tmp_path / "new", tmp_path / "out", file, anew=ON_EACH_MACHINE)
    assert record.is_settled("first") and record.rows("first") == [{"found": 1}]
    assert not record.is_settled("machine")  # packages are to be unpacked there, too


def test_the_order_is_correctness_then_speed_then_recipes_that_wait_for_all_pieces(tmp_path):
    places = Places(tmp_path / "work", tmp_path / "carried", rehearse=False)
    parts = {p.name: p for p in parts_of(places, 2)}
    names = list(parts)
    expected = ["machine", "gradients", "beside_torch", "repeats", "steps_sprint", "data"]
    expected += ["article", "sprint_0", "record"]
    assert [name for name in names if name in expected] == expected
    places.pieces.mkdir(parents=True)
    (places.pieces / "cifar10_000000.npz").touch()
    assert not parts["data"].ready() and not parts["sprint_0"].ready()
    (places.pieces / "cifar10_000001.npz").touch()
    assert parts["data"].ready() and not parts["sprint_0"].ready()
    assert sum(p.most for p in parts.values() if p.name in names[:5]) <= 900  # a machine's whole time


def test_a_shorter_record_is_never_called_one():
    assert recipes.trained_for(600, 800, 130) == 600
    assert recipes.trained_for(600, 370.9, 130) == 240
    with pytest.raises(SystemExit, match="too few"):
        recipes.trained_for(60, 100, 100)
    assert recipes.name_of("record", 600, 600) == "record"
    assert recipes.name_of("record", 240, 600) == "record for 240 s, not its 600 s"


def test_gradients_are_compared_with_plain_attention_in_float32(capsys):
    assert gradients.compare_attention("chunked", "float32", 4, [(6, 2, 8)])
    assert '"held": true' in capsys.readouterr().out
    gradients.compare_attention("cudnn", "bfloat16", 2, [(6, 2, 8)])  # what is refused is said, and no more
    assert '"refused": "' in capsys.readouterr().out


def test_goals_are_those_against_the_fastest_torch():
    ours = {"contestant": "vit_jax_bf16", "mfu": 0.46}
    peers = [{"contestant": name, "times_ours": times} for name, times in (("plain", 1.5), ("graphs", 1.2))]
    row = beside_torch.verdict([ours, *peers, {"contestant": "broken", "absent": "no"}], 3)
    assert (row["fastest_torch"], row["times_ours"], row["ratio_met"], row["mfu_met"]) == ("graphs", 1.2, False, True)


def test_a_step_beside_torch_s_is_measured_and_said_contestant_by_contestant(capsys, monkeypatch):
    result = {"seconds": [0.5], "batch_size": 4, "cpu_seconds_per_step": 0.5, "peak_memory_bytes": 1, "params": 7}
    result |= {"accelerator_bytes": 0, "ready_seconds": 1.0}
    monkeypatch.setattr(beside_torch.training, "run_worker", lambda contestant, spec: result)
    monkeypatch.setattr(beside_torch.training.importlib.util, "find_spec", lambda module: True)  # all are installed
    monkeypatch.setattr(sys, "argv", ["beside_torch", "--rehearse"])
    assert beside_torch.main() == 0
    rows = [json.loads(line.removeprefix("RESULT ")) for line in capsys.readouterr().out.splitlines()]
    assert [row["contestant"] for row in rows[:2]] == ["vit_jax_bf16", "torch_compile_bf16_graphs"]
    assert (rows[-1]["times_ours"], rows[-1]["ratio_met"]) == (1.0, False)


def test_a_measured_step_stands_beside_its_own_prediction(tmp_path):
    rows = [
        {
            "config": "sprint",
            "changed": [],
            "device_kind": kind,
            "devices": 1,
            "batch_size": 1024,
            "programs": [{"seconds_by_flops": 1e-3, "seconds_by_bytes": seconds}],
        }
        for kind, seconds in (("NVIDIA H200", 3e-3), ("NVIDIA H100 80GB HBM3", 4e-3))
    ]
    file = tmp_path / "predicted.json"
    file.write_text(json.dumps(rows))
    found = predicted(str(file), "sprint", 1024, "NVIDIA H100 80GB HBM3")
    assert beside_prediction(8e-3, found)["measured_by_roofline"] == pytest.approx(2)
    assert predicted(str(file), "sprint", 512, "NVIDIA H100 80GB HBM3") is None
    assert beside_prediction(8e-3, None) == {}


def test_wheels_are_those_of_the_lock_for_the_machine_s_python():
    names = pack.locked((SCRIPTS.parent / "requirements.lock").read_text(), "3.12")
    flax = {python: next(n for n in pack.locked(LOCK, python) if n.startswith("flax")) for python in ("3.11", "3.12")}
    assert len(names) == len(pack.WHEELS)
    assert all(" --hash=sha256:" in name for name in names)
    assert flax == {"3.11": "flax==0.12.8", "3.12": "flax==0.12.12"}


LOCK = "\n".join(
    ["flax==0.12.8 ; python_full_version < '3.12' \\", "flax==0.12.12 ; python_full_version >= '3.12' \\"]
    + [f"{name}==1.0 \\\n    --hash=sha256:00" for name in pack.WHEELS if name != "flax"]
)


def test_only_what_is_missing_or_too_old_is_unpacked(tmp_path, monkeypatch):
    wheels = []
    for name, version in (("not_here", "1.0"), ("numpy", "99.0"), ("flax", "99.0")):
        wheels.append(tmp_path / f"{name}-{version}-py3-none-any.whl")
        with zipfile.ZipFile(wheels[-1], "w") as archive:
            archive.writestr(f"{name}_of_wheel.py", "")
    real = machine.metadata.version
    monkeypatch.setattr(machine.metadata, "version", lambda name: "0.1" if name == "flax" else real(name))
    assert machine.install(wheels, tmp_path / "site") == ["not_here 1.0", "flax 99.0"]
    assert {p.name for p in (tmp_path / "site").iterdir()} == {"not_here_of_wheel.py", "flax_of_wheel.py"}


@pytest.mark.slow
def test_a_rehearsal_runs_its_parts_and_a_second_call_has_nothing_to_do(tmp_path):
    """Those that need no more than a few steps; docs/trial.md has the whole of it, a minute."""
    parts = ("machine", "gradients", "steps_debug")
    command = [sys.executable, str(SCRIPTS / "accelerator_trial.py"), "run", "--rehearse", "--seconds=400"]
    command += [f"--parts={','.join(parts)}", f"--work={tmp_path / 'work'}", f"--out={tmp_path / 'out'}"]
    command += [f"--carried={tmp_path / 'carried'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    record = Record(tmp_path / "work", tmp_path / "out")
    assert [record.status(name) for name in parts] == ["done"] * 3, done.stdout + done.stderr
    held = [row["held"] for row in record.rows("gradients")]
    assert len(held) >= 2 and all(held)
    assert {row["augmented"] for row in record.rows("steps_debug")} == {True, False}
    subprocess.run(command, capture_output=True)
    assert len(Record(tmp_path / "work", tmp_path / "out").of("machine", "start")) == 1
