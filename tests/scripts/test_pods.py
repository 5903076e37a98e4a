"""What scripts/pods.py makes of compiled programs' figures: these are made up."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from vit_jax.aot.machines import GIB, machine

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pods  # noqa: E402 - after the path

PARAMETERS = {"B/16": 1e8, "L/16": 4e8}


def rows():
    found = [row(case) for case in pods.cases_of(["B/16", "L/16"], ["v5e-16", "v5e-256"], 32)]
    return found + [row(case) for case in pods.growth_cases(found, [128], (112, 448))]


def row(case):
    """State of 12 bytes a parameter; an image takes 1,000 bytes for the root of their number."""
    one, count = machine(case.target), PARAMETERS[case.model]
    sharers = {"whole": 1, "by all": one.devices, "by neighbours": pods.neighbours(one)}[case.state]
    state = 12 * count / sharers / GIB
    needed = state + case.images * (case.pixels / 224) ** 2 * count**0.5 * 1000 / GIB
    figures = {"devices": one.devices, "parameters": count, "state_gib": state, "needed_gib": needed}
    figures |= {"capacity_gib": 16.0, "fits": needed < 16, "flops_ms": 1.0, "memory_ms": 2.0, "wires_ms": 3.0}
    return {**vars(case), **figures, "received_gib": {"all-reduce": 8 * count / GIB}}


def test_what_is_compiled():
    targets = ["v5e-16", "v5e-256", "h100x8"]
    cases = pods.cases_of(["B/16", "L/16"], targets, 32)
    assert {case.state for case in cases if case.target == "h100x8"} == {"whole", "by all"}  # they all are neighbours
    more = pods.growth_cases([row(case) for case in cases], [128], (112, 224))
    assert len({*cases, *more}) == len(cases) + len(more)
    assert {case.target for case in more} == {"v5e-16", "h100x8"}
    assert {case.model for case in more if case.pixels == 112} == {"B/16"}
    full = [row(case) | {"fits": case.model == "B/16" or case.state != "whole"} for case in cases]
    fitting = pods.growth_cases(full, [128], (112, 224))
    assert {(c.model, c.state, c.target) for c in {*more} - {*fitting}} == {("L/16", "whole", t) for t in targets[::2]}
    config = pods.config_of(pods.Case("L/16", "v5e-256", "by neighbours", 32), machine("v5e-256"))
    assert (config.train.mesh, config.train.batch_size) == ("data=16,fsdp=16", 32 * 256)


@pytest.mark.parametrize(
    ("target", "state", "kind", "expected"),
    [("v5e-16", "by all", "all-gather", 2e11), ("v5e-16", "by neighbours", "all-gather", 1e11)]
    + [("h100x8", "by all", "all-reduce", 4.5e11), ("h100x64", "whole", "all-reduce", 4e11)]
    + [("h100x64", "by neighbours", "all-gather", 4.5e11), ("h100x64", "by neighbours", "all-reduce", 5e10)]
    + [("v5p-16", "by all", "all-gather", None)],
)
def test_how_fast_devices_receive(target, state, kind, expected):
    assert pods.wires(kind, machine(target), state) == expected


def test_growth_and_what_fits():
    found = rows()
    by_devices = [row for row in found if row["model"] == "B/16" and row["images"] == 32 and row["pixels"] == 224]
    shared = [row for row in by_devices if row["state"] == "by all"]
    assert pods.exponent(shared, "devices", lambda row: row["state_gib"]) == pytest.approx(-1)
    assert pods.exponent(shared[:1], "devices", lambda row: row["state_gib"]) is None
    fit = pods.largest_batches(found)
    whole = (16 * GIB - 12 * 1e8) / (1e4 * 1000)
    assert fit[pods.Case("B/16", "v5e-256", "whole", 32)] == int(whole) // 8 * 8
    table, growth = pods.table(found), pods.growth(found)
    assert f"| B/16 | v5e-256 | whole | 224 | 32 | 1.12 | 1.4 of 16.0 | {int(whole) // 8 * 8:,} |" in table
    assert "| devices | v5e | by all | -1.00 |" in growth
    models = pods.largest_models(found)
    assert "| v5e-16 | whole | L/16 |" in models and "| 1.4 billion, extrapolated |" in models
    assert "| parameters | v5e-16 | whole | 1.00 |" in growth and "| pixels | v5e-16 | whole | 0.00 |" in growth


def test_the_chart(tmp_path):
    pods.draw(rows(), tmp_path / "pods.png")
    with Image.open(tmp_path / "pods.png") as image:
        assert image.size[0] > image.size[1]
