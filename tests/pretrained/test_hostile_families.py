"""Files of every family in which one array or one word of the config makes no sense: they load, or are one message."""

import copy
import json
import random

import pytest
from families import RECORDED, written

from vit_jax import pretrained
from vit_jax.errors import UserError

FAMILIES = {name: case for name, case in json.loads(RECORDED.read_text()).items() if not name.startswith("big_vision")}
JUNK = (None, "x", -1, 0, 10**9, 1.5, [], {}, [1, 2, 3], True, float("nan"), "9" * 400)
TRIALS = 2  # of each kind and family, drawn; all of them, 13,280, were tried once (RECORDS.md)


def loads_or_says(path, told):
    try:
        pretrained.load(path, **told)
    except UserError as error:
        assert str(error)


def places(config, at=()):
    for key, value in config.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from places(value, (*at, key))


@pytest.mark.slow
def test_words_of_a_config_that_make_no_sense_are_one_message(tmp_path):
    rng = random.Random(0)
    for name, case in FAMILIES.items():
        if case["config"] is None:
            continue
        (folder := tmp_path / name).mkdir()
        path = written(folder, case["arrays"], case["config"])
        for place in rng.sample(list(places(case["config"])), TRIALS):
            config = inner = copy.deepcopy(case["config"])
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = rng.choice(JUNK)
            (folder / "config.json").write_text(json.dumps(config))
            loads_or_says(path, case["told"])


@pytest.mark.slow
def test_arrays_that_are_missing_or_of_other_shapes_are_one_message(tmp_path):
    rng = random.Random(1)
    for name, case in FAMILIES.items():
        for i, array in enumerate(rng.sample(list(case["arrays"]), TRIALS)):
            (folder := tmp_path / f"{name} {i}").mkdir()
            shapes = dict(case["arrays"])
            shape = rng.choice([None, (), (0,), (*reversed(shapes[array]), 1)])
            shapes = {k: (shape if k == array else v) for k, v in shapes.items() if k != array or shape is not None}
            loads_or_says(written(folder, shapes, case["config"]), case["told"])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("transformers: dinov3_vit", {"image_size": 10**9}),  # places of 10^17 tokens
        ("transformers: siglip2_vision_model", {"patch_size": 10**9}),
    ],
)
def test_sizes_beyond_any_machine_are_refused_before_anything_is_made(name, config, tmp_path):
    case = FAMILIES[name]
    path = written(tmp_path, case["arrays"], case["config"] | config)
    with pytest.raises(UserError, match="pixels"):
        pretrained.load(path, **case["told"])


def test_a_second_classifier_that_is_missing_is_told(tmp_path):
    case = FAMILIES["timm: distilled, alone"]
    arrays = {name: shape for name, shape in case["arrays"].items() if name != "head_dist.weight"}
    with pytest.raises(UserError, match="head_dist.weight: missing in the file"):
        pretrained.load(written(tmp_path, arrays, None), **case["told"])
