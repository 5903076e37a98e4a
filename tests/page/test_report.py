"""The page about runs: what it says is what the runs' folders say, and it is sound HTML that fetches nothing."""

import csv
import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
from promises.harness import RUN

from vit_jax.cli import flags
from vit_jax.config import Config
from vit_jax.main import main
from vit_jax.page import classes, configs, results
from vit_jax.page.inside import worst_mistakes
from vit_jax.page.runs import names_of, read_all
from vit_jax.schema import from_mapping, to_dict

CONFIG = to_dict(Config()) | {"seed": 3}
CONFIG["model"] |= {"variant": "Ti/4", "num_classes": 3}
CONFIG["data"] |= {"name": "fake"}
CLASSES = ["cat", "dog", "<script>alert(1)</script>"]
RESULTS = {
    "dataset": "fake", "split": "test", "loss": 0.5, "top1": 0.7, "top5": 1.0, "num_examples": 100, "steps": 40,
    "checkpoint": 40, "selected": "last", "tested_params": "raw", "params": 1234, "flops_per_image": 5_000_000,
    "epochs": 2.0, "seed": 3, "wall_seconds": 95.0, "train_seconds": 80.0, "images_per_second": 64.0,
    "calibration_error": 0.05, "device": "1 x cpu", "git_commit": "abc-dirty", "versions": {"jax": "0.10"},
}  # fmt: skip
MATRIX = [[30, 5, 0], [10, 20, 5], [8, 2, 20]]


def rows(last=40):
    for step in range(10, last + 1, 10):
        yield {"step": step, "split": "train", "epoch": step / 20, "loss": 2 - step / 40, "top1": step / 60,
               "learning_rate": 0.01, "images_per_second": 64.0}  # fmt: skip
        if step % 20 == 0:
            for split in ("train_epoch", "validation"):
                yield {"step": step, "split": split, "epoch": step / 20, "loss": 1.5, "top1": 0.6, "top5": 1.0}


def make_run(folder, tested=True, config=CONFIG, **changed):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "data.json").write_text(json.dumps({"name": "fake", "classes": CLASSES, "examples": {"test": 100}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    if tested:
        (folder / "results.json").write_text(json.dumps(RESULTS | changed))
        with (folder / "confusion.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [["", *CLASSES], *([name, *row] for name, row in zip(CLASSES, MATRIX, strict=True))]
            )
    return folder


class Page(HTMLParser):
    """The elements, texts and addresses of a page; sound if every element ends and no id comes twice."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.headings, self.words, self.tags = [], [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open and len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.images += [given] if tag == "img" else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        assert tag == "img" or not {"src", "srcset", "action"} & given.keys()
        assert not [name for name in given if name.startswith("on")]
        if tag not in ("img", "meta", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check_page(path):
    """The page, sound, with nothing to fetch, headings without gaps, and contents that lead somewhere."""
    text = path.read_text()
    page = Page(text)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids) and page.links
    assert not {"script", "link", "iframe", "object"} & set(page.tags) and "@import" not in text and "url(" not in text
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    steps = np.diff([1, *page.headings])
    assert page.headings[0] == 1 and steps.max() <= 1
    return page


# --- the whole page


def report(*arguments):
    """The exit code of `vit-jax report` for folders of runs and flags."""
    return main(["vit-jax", "report", *(a if isinstance(a, str) else f"--workdir={a}" for a in arguments)])


def test_a_run_without_checkpoint_and_data_still_has_a_page(tmp_path, capsys):
    assert report(make_run(tmp_path / "run")) == 0
    page = check_page(tmp_path / "run" / "report.html")
    words = " ".join(page.words)
    for said in ("70.00 %", "60.42 to 78.11", "1,234", "5.0 million", "1:35", "one seed only", "in no commit"):
        assert said in words, said
    assert "The checkpoint of step 40, which was tested, isn't there." in words
    assert "What the model saw The images can't be shown: " in words  # the run's data aren't the fake data set's
    # Of the matrix: recall, its interval, precision, F1 of the first class.
    assert "cat 85.71 % 70.6 to 93.7 % 62.50 % 72.29 % 35" in words
    assert "balanced accuracy" not in words  # the results are of an earlier version
    assert "<script>alert(1)</script>" in words  # as text
    assert "report.html" in capsys.readouterr().out


def test_several_runs_are_compared(tmp_path):
    other = json.loads(json.dumps(CONFIG))
    other["optim"]["learning_rate"] = 3e-4
    first = make_run(tmp_path / "first")
    second = make_run(tmp_path / "second", config=other, top1=0.8, device="1 x gpu", top1_flips=0.81,
                      balanced_accuracy=0.6905, macro_f1=0.687)  # fmt: skip
    unfinished = make_run(tmp_path / "third", tested=False)
    output = tmp_path / "page.html"
    assert report(first, second, unfinished, f"--output={output}") == 0
    page = check_page(output)
    words = "|".join(page.words)
    assert "differ in their device: 1 x cpu, 1 x gpu" in words
    assert "optim.|learning_rate|0.001|0.0003|0.001" in words
    assert "third: not tested; it has come to step 40." in words and "validation top-1 at epoch 2.0" in words
    assert "81.00 %" in words and "figures with flips" in words
    assert "|balanced accuracy|-|69.05 %|macro F1|-|68.70 %|" in words
    assert not (first / "report.html").exists()


def test_seeds_are_summed_up(tmp_path):
    folder = tmp_path / "seeds"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"seeds": 3}))
    for seed, top1 in ((3, 0.7), (4, 0.72)):
        make_run(folder / f"seed_{seed}", config=CONFIG | {"seed": seed}, top1=top1, seed=seed)
    assert report(folder) == 0
    words = "|".join(check_page(folder / "report.html").words)
    assert "71.00 ± 1.41 %" in words and "test top-1, 2 seeds" in words
    assert "58.29 % to 83.71 %" in words  # Student's t with one degree of freedom: 12.7 standard errors
    assert "2 of 3 seeds have begun" in words and "one seed only" not in words
    assert "--config.seeds=3" in words


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json can't be read"),
        ("data.json", '{"classes": [1]}', "data.json is damaged"),
        ("results.json", json.dumps(RESULTS | {"top1": 70}), "top1 is 70"),
        ("results.json", json.dumps(RESULTS | {"loss": "<b>"}), "loss is '<b>'"),
        ("results.json", json.dumps(RESULTS | {"macro_f1": 1.5}), "macro_f1 is 1.5"),
        ("results.json", json.dumps(RESULTS | {"num_examples": 0}), "num_examples is 0"),
        ("confusion.csv", "a,b\n1,x\n", "confusion.csv is damaged"),
        ("confusion.csv", "a,b\n1,2\n", "not 3 x 3"),
    ],
)
def test_damaged_runs_are_one_message(tmp_path, capsys, file, content, message):
    run = make_run(tmp_path / "run")
    (run / file).write_text(content)
    assert report(run) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and message in printed and "Traceback" not in printed
    assert not (run / "report.html").exists()


def test_folders_and_places_that_can_not_be(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    for arguments, message in (
        ([tmp_path], "holds no run"),
        ([run, tmp_path / "run"], "named twice"),
        ([run, f"--output={tmp_path}/nowhere/page.html"], "there is no folder"),
        ([run, f"--output={run}/data.json/page.html"], "there is no folder"),
        ([run, f"--output={tmp_path}"], "is no page"),
        ([run, f"--output={run}/data.json"], "is no page"),
    ):
        assert report(*arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_trained_is_looked_into(tmp_path, command):
    """With its images: mistakes, maps, filters and positions; and without them, what is left."""
    workdir = tmp_path / "seeds"
    code, printed = command(*RUN, "--config.seeds=2", f"--workdir={workdir}")
    assert code == 0, printed
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    assert report(workdir) == 0
    page = check_page(workdir / "report.html")
    alts = [image["alt"] for image in page.images]
    assert len([alt for alt in alts if "taken for" in alt]) > 3
    assert len([alt for alt in alts if alt.endswith("rollout")]) == 10
    assert len([alt for alt in alts if ", as the model saw it: class " in alt]) == 10
    assert "Similarity of positions" in alts and "The first 28 principal components of the patch embedding" in alts
    assert before == {p: p.read_bytes() for p in before}  # looking changes nothing
    for seed in ("seed_0", "seed_1"):
        (workdir / seed / "results.json").unlink()
    assert report(workdir / "seed_0") == 0
    assert "it has come to step 30" in "".join(check_page(workdir / "seed_0" / "report.html").words)


# --- its parts


def test_overrides_rebuild_the_config():
    mapping = json.loads(json.dumps(CONFIG))
    mapping["augment"] |= {"mean": [0.1, 0.25, 1e-7], "std": [0.5] * 3, "flip": True}
    mapping["model"]["stem"] |= {"kind": "conv", "widths": [8], "strides": [2]}
    mapping["optim"] |= {"clip_norm": None, "decay_rules": [["a|b\\d+", 0.5]], "warmup": "5 %"}
    mapping["data"] |= {"dir": "/a folder/it's", "test": ""}
    mapping["train"] |= {"sizes": [[0.0, 24], [0.7, 32]], "ema": 0.99}
    config = from_mapping(Config, mapping)
    quoted = " ".join(map(shlex.quote, configs.overrides(config)))
    argv = ["vit-jax", "--config=configs/base.py", "--workdir=x", *shlex.split(quoted)]
    assert flags.parse(argv).config == config


def test_names_are_as_short_as_they_can_be(tmp_path):
    a, b = tmp_path / "x" / "seed_0", tmp_path / "y" / "seed_0"
    assert names_of([a]) == ["seed_0"] and names_of([a, b]) == ["x/seed_0", "y/seed_0"]


def test_mistakes_are_ordered():
    logits = np.array([[3.0, 0, 0], [0, 9.0, 0], [0, 0, 2.0], [5.0, 0, 0], [np.nan, 9.0, 0]])  # the last has none
    chosen, probabilities = worst_mistakes(logits, np.array([0, 0, 1, 2, 2]), 2)
    assert worst_mistakes(logits, np.array([0, 0, 1, 2, 2]), 9)[0].tolist() == [1, 3, 2]
    assert chosen.tolist() == [1, 3] and probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert classes.most_confused(np.array(MATRIX), 2) == [(1, 0, 10), (2, 0, 8)]
    assert classes.most_confused(np.eye(3, dtype=int), 2) == []


def test_logits_that_are_not_finite_are_noted(tmp_path):
    (entry,) = read_all([str(make_run(tmp_path / "run", loss=None))])
    assert any("weren't finite" in note for note in results.notes([entry]))
    assert "nan" not in results.section([entry]).body.lower()


def test_many_classes_have_pairs_instead_of_a_matrix():
    names = tuple(f"class {i}" for i in range(60))
    matrix = 9 * np.eye(60, dtype=int)
    matrix[7, 5], matrix[3] = 4, 0
    first, second = classes.sections("run-0", matrix, names, "some images")
    assert first.title == "Most frequent mistakes" and "class 7" in first.body and "class 6" not in first.body
    assert "30.77 %" in first.body and "class 5, 30.77 %" in second.body  # 4 of 13


def test_an_entry_shows_the_first_run_that_was_tested(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"seeds": 2}))
    make_run(tmp_path / "seed_3", tested=False, config=CONFIG)
    make_run(tmp_path / "seed_4", config=CONFIG | {"seed": 4})
    (entry,) = read_all([str(tmp_path)])
    assert entry.shown().config.seed == 4 and len(entry.tested()) == 1
