"""In a Jupyter kernel: docs/notebook.ipynb runs, a mistake is told, stopping saves."""

import json
import threading
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")


@pytest.mark.slow
def test_the_notebook_fits_plots_and_predicts(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"10 epochs"', '"20 steps"')
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    fit, plot, predict, loss = (cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    table = fit[-1]["data"]
    results = json.loads((tmp_path / "runs/notebook/results.json").read_text())
    assert "<table>" in table["text/html"] and f"{100 * results['top1']:.2f} %" in table["text/plain"]
    assert any("image/png" in output.get("data", {}) for output in plot)
    assert predict[-1]["data"]["text/plain"].count("'") == 10
    assert float(loss[-1]["data"]["text/plain"]) > 0


@pytest.mark.slow
def test_the_stop_button_saves_and_a_mistake_is_told(tmp_path):
    workdir = tmp_path / "run"
    manager, client = start_new_kernel(cwd=str(tmp_path))
    said: list[dict] = []
    try:
        overrides = {"train.length": "100000 steps", "log.every": "1 steps", "eval.every": "0 steps"}
        code = f"import vit_jax\nvit_jax.fit('debug', {str(workdir)!r}, {overrides})"

        def stop_once_it_trains() -> None:
            until, metrics = time.monotonic() + 200, workdir / "metrics.jsonl"
            while time.monotonic() < until and not (metrics.exists() and metrics.read_text().count("\n") >= 5):
                time.sleep(0.1)
            manager.interrupt_kernel()

        thread = threading.Thread(target=stop_once_it_trains)
        thread.start()
        reply = client.execute_interactive(code, output_hook=said.append, timeout=300)
        thread.join()
        assert reply["content"]["ename"] == "KeyboardInterrupt" and "saving" in reply["content"]["evalue"]
        saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
        assert saved >= 5
        printed = "".join(m["content"]["text"] for m in said if m["msg_type"] == "stream")
        assert f"Stopped after step {saved} of 100000; saved" in printed
        wrong = client.execute_interactive("vit_jax.fit('debgu', 'x')", output_hook=said.append, timeout=60)
        assert wrong["content"]["ename"] == "UserError" and "did you mean debug?" in wrong["content"]["evalue"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
