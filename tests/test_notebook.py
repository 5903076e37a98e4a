"""In a Jupyter kernel: the notebooks in docs/ run, a mistake is told, stopping saves."""

import json
import re
import threading
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")


def executed(name, folder, monkeypatch):
    """The outputs of a notebook's code cells after a quick run in `folder`, those without any left out."""
    monkeypatch.setenv("QUICK", "1")
    notebook = nbformat.read(DOCS / name, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return outputs_of(notebook)


def outputs_of(notebook):
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]


def text_of(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures_in(outputs):
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_the_articles_sections_run(tmp_path, monkeypatch):
    found = executed("article.ipynb", tmp_path, monkeypatch)
    text = "".join(map(text_of, found))
    assert "the same images: True" in text and re.search(r"all +21,666,762 ", text)
    four = ["Image size: 72 X 72", "Patch size: 6 X 6", "Patches per image: 144", "Elements per patch: 108"]
    assert any(text_of(outputs).splitlines() == four and pictures_in(outputs) == 1 for outputs in found)
    results = json.loads((tmp_path / "runs/article_quick/results.json").read_text())
    assert re.search(rf"top-1, % +{100 * results['top1']:.2f} +70.32", text)
    # Images, augmented ones, patches, curves, confusion, attention, the prediction of a picture.
    assert sum(map(pictures_in, found)) == 7


@pytest.mark.slow
def test_a_loop_of_ones_own_compares_arms(tmp_path, monkeypatch):
    found = executed("research.ipynb", tmp_path, monkeypatch)
    text = "".join(map(text_of, found))
    assert "the rule 'positions.*' matches no parameter" in text
    assert len(re.findall(r"^[a-z ]+ \d+\.\d\d \+- \d+\.\d\d %", text, flags=re.M)) == 4
    assert sum(map(pictures_in, found)) == 1


@pytest.mark.parametrize("name", ["article.ipynb", "research.ipynb"])
def test_outputs_are_kept_and_name_no_machine(name):
    text = (DOCS / name).read_text()
    notebook = nbformat.reads(text, as_version=4)
    assert sum(map(pictures_in, outputs_of(notebook))) >= 1
    assert not re.search(r"/(tmp|root|home|work)/", text)
    assert not any(output.output_type == "error" for outputs in outputs_of(notebook) for output in outputs)


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
