"""What hostile archives, images and caches do: nothing. And what the code itself must not contain."""

import ast
import builtins
import gzip
import io
import json
import pickle
import re
import struct
import tarfile
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from test_sources import NAMES, Canary, batch, expected, load, pin, small, write_pickles

from vit_jax.data import cache, cifar_files
from vit_jax.data.image_folder import MAX_PIXELS, read_image
from vit_jax.errors import UserError

REPOSITORY = Path(__file__).parents[2]

# --- archives


def member(name, content=b"", form=tarfile.GNU_FORMAT, **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(form) + content + bytes(-len(content) % 512)


def batches(folder="cifar-10-batches-py/"):
    contents = [pickle.dumps({b"data": d, b"labels": n}, 2) for d, n in (batch(i) for i in range(len(NAMES)))]
    return b"".join(member(folder + name, content) for name, content in zip(NAMES, contents, strict=True))


def link(name, kind, target="/etc/passwd"):
    return member(name, type=kind, linkname=target)


def pax(name, text):
    return member(name, text, type=tarfile.XHDTYPE)


HOSTILE_TARS = {
    # Read as if they were harmless: the data is right and nothing is written.
    "parent names": lambda: batches("../../outside/"),
    "absolute names": lambda: batches("/tmp/outside/"),
    "symlink": lambda: link("x/data_batch_1", tarfile.SYMTYPE) + batches(),
    "hardlink": lambda: link("x/data_batch_1", tarfile.LNKTYPE) + batches(),
    "device": lambda: member("data_batch_1", type=tarfile.CHRTYPE, devmajor=1, devminor=5) + batches(),
    "block device": lambda: member("data_batch_1", type=tarfile.BLKTYPE, devmajor=8) + batches(),
    "fifo": lambda: member("data_batch_1", type=tarfile.FIFOTYPE) + batches(),
    "folder": lambda: member("x/data_batch_1/", type=tarfile.DIRTYPE) + batches(),
    "other files": lambda: member("../../outside/evil.py", b"boom") + batches(),
    "renamed by pax": lambda: pax("x", b"30 path=../../outside/evil.py\n") + batches(),
    "pax to choke on": lambda: pax("x", b"1" * 2_000_000) + batches(),
    # Refused.
    "duplicates": lambda: batches() + batches(),
    "links only": lambda: b"".join(link(f"x/{name}", tarfile.SYMTYPE) for name in NAMES),
    "10 GB": lambda: member("x/data_batch_1", size=10**10) + batches(),
    "10 GB by pax": lambda: member("x/data_batch_1", size=10**10, form=tarfile.PAX_FORMAT) + batches(),
    "10 GB of a pax header": lambda: member("x", size=10**10, type=tarfile.XHDTYPE) + batches(),
    "negative size": lambda: negative(member("x/data_batch_1")) + batches(),
    "100,000 members": lambda: b"".join(member(f"x/{i}") for i in range(1000)) * 100 + batches(),
    "no tar": lambda: b"x" * 10_000,
    "cut": lambda: batches()[:-30_000],
    "empty": lambda: b"",
    "2 GB of zeros": lambda: None,
}
READ = list(HOSTILE_TARS)[: list(HOSTILE_TARS).index("duplicates")]


def negative(header):
    """A header whose size is -1024 in the GNU form of large numbers, with its checksum mended."""
    header = header[:124] + b"\xff" * 10 + b"\xfc\x00" + header[136:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


@pytest.mark.parametrize("kind", HOSTILE_TARS)
def test_hostile_tars(tmp_path, kind, monkeypatch):
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    content = HOSTILE_TARS[kind]()
    if content is None:  # a small file that unpacks to much
        archive.write_bytes(gzip.compress(bytes(2**20), 9) * 2048)
    else:
        archive.write_bytes(gzip.compress(content + bytes(1024), 1))
    files = {p for p in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"found [\d,]+ bytes, expected .*170,498,071.*or, if you trust it, unpack"):
        load("cifar10_batches", dir=str(archive))
    pin(monkeypatch, archive)
    tracemalloc.start()
    started = time.perf_counter()
    if kind in READ:
        splits = load("cifar10_batches", dir=str(archive)).splits
        np.testing.assert_array_equal(splits["train"].images, expected()[0])
        np.testing.assert_array_equal(splits["train"].labels, expected()[1])
    else:
        with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz"):
            load("cifar10_batches", dir=str(archive))
    assert time.perf_counter() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    tracemalloc.stop()
    assert {p for p in tmp_path.rglob("*") if "cache" not in p.parts} == files
    assert not Path("/tmp/outside").exists()


def test_an_archive_is_known_by_its_bytes_not_its_name(tmp_path, monkeypatch):
    archive = tmp_path / "renamed.bin"
    archive.write_bytes(gzip.compress(batches()))
    pin(monkeypatch, archive)
    assert len(load("cifar10_batches", dir=str(archive)).splits["test"].labels) == 7
    changed = bytearray(archive.read_bytes())
    changed[4] ^= 1  # in gzip's header: the time, which no checksum of gzip covers
    archive.write_bytes(changed)
    with pytest.raises(UserError, match=r"renamed\.bin is not.*found sha256 [0-9a-f]{64}, expected cifar-10-python.*"):
        load("cifar10_batches", dir=str(archive))


def test_an_archive_is_hashed_only_if_its_size_is_right(tmp_path, monkeypatch):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with archive.open("wb") as file:
        file.truncate(10**12)  # sparse: hashing it would take an hour
    with pytest.raises(UserError, match="found 1,000,000,000,000 bytes"):
        load("cifar10_batches", dir=str(archive))


def test_the_archive_that_was_hashed_is_read_though_its_name_changes_hands(tmp_path, monkeypatch):
    archive, other = tmp_path / "cifar-10-python.tar.gz", tmp_path / "other"
    archive.write_bytes(gzip.compress(batches()))
    other.write_bytes(b"hostile")
    pin(monkeypatch, archive)
    digest = cifar_files.hashlib.file_digest

    def swap(stream, name):
        hashed = digest(stream, name)
        if other.exists():
            other.replace(archive)
        return hashed

    monkeypatch.setattr(cifar_files.hashlib, "file_digest", swap)
    read = cifar_files.read([archive])
    assert archive.read_bytes() == b"hostile"
    np.testing.assert_array_equal(read["train"].images, expected()[0])


def test_the_pins_are_those_of_tfds_and_keras():
    assert list(cifar_files.ARCHIVES) == ["cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"]
    keras = pytest.importorskip("keras")
    source = (Path(keras.__file__).parent / "src/datasets/cifar10.py").read_text()
    assert cifar_files.ARCHIVES["cifar-10-python.tar.gz"][1] in source
    tfds = pytest.importorskip("tensorflow_datasets")
    sums = (Path(tfds.__file__).parent / "url_checksums/cifar10.txt").read_text().split()
    assert sums[1:3] == list(map(str, cifar_files.ARCHIVES["cifar-10-binary.tar.gz"]))


@pytest.mark.parametrize("name", ["data_batch_2", "cifar-10-python.tar.gz"])
def test_files_that_cannot_be_read_are_named(tmp_path, name, monkeypatch):
    write_pickles(tmp_path) if "tar" not in name else (tmp_path / name).touch()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open" if "tar" in name else "read_bytes", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        cifar_files.read(cifar_files.find(str(tmp_path)))


# --- images


def png(width, height, rows=b""):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (*chunks, (b"IEND", b""))
    )


def encoded(image, form):
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: png(60_000, 60_000), r"more than the 50,000,000 pixels.*3600000000"),
        (lambda: png(10_000, 10_000), r"more than the 50,000,000 pixels.*100000000"),
        (lambda: png(7_072, 7_072), r"more than the 50,000,000 pixels.*7072 x 7072 = 50,013,184"),
        (lambda: png(2**31 - 1, 2**31 - 1), "more than the 50,000,000 pixels"),
        (lambda: b"", "neither PNG nor JPEG"),
        (lambda: b"GIF89a", "neither PNG nor JPEG"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "neither PNG nor JPEG"),
        *((lambda form=form: encoded(Image.new("P", (8, 8)), form), "neither") for form in ("GIF", "TIFF", "BMP")),
        (lambda: encoded(Image.new("RGB", (64, 64), (1, 2, 3)), "PNG")[:100], "truncated|broken"),
        (lambda: encoded(Image.effect_noise((64, 64), 64), "PNG")[:900], "truncated"),
        (lambda: encoded(Image.effect_noise((64, 64), 64), "JPEG")[:900], "truncated"),
        (lambda: png(64, 64, bytes(100)), "truncated"),
    ],
)
def test_hostile_images_are_refused(tmp_path, content, message, monkeypatch):
    file = tmp_path / "x.png"
    file.write_bytes(content())
    if "truncated" not in message:  # the others are refused before anything is decoded

        def refuse(_):
            raise AssertionError("decoded")

        monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    started = time.perf_counter()
    with pytest.raises(UserError if "truncated" not in message else Exception, match=message):
        read_image(file, 4)
    assert time.perf_counter() - started < 1


def test_images_below_the_cap_are_read_whatever_their_suffix(tmp_path):
    side = int(MAX_PIXELS**0.5)
    (tmp_path / "large.jpg").write_bytes(encoded(Image.new("L", (side, side), 100), "PNG"))
    (tmp_path / "cmyk.png").write_bytes(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    (tmp_path / "grey.png").write_bytes(encoded(Image.fromarray(np.full((8, 8), 65_535, np.uint16)), "PNG"))
    assert (read_image(tmp_path / "large.jpg", 4) == 100).all()
    assert (read_image(tmp_path / "grey.png", 4) == 255).all()
    red = read_image(tmp_path / "cmyk.png", 4)
    assert red[..., 0].min() > 200 and red[..., 1:].max() < 60


def test_all_hostile_images_of_a_folder_are_named_in_one_message(tmp_path):
    folder = tmp_path / "train" / "cat"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    (folder / "bomb.png").write_bytes(png(60_000, 60_000))
    (folder / "empty.jpg").touch()
    (folder / "gif.png").write_bytes(encoded(Image.new("P", (8, 8)), "GIF"))
    with pytest.raises(UserError, match=r"3 images.*bomb\.png.*50,000,000.*empty\.jpg.*gif\.png \(neither PNG nor"):
        load("image_folder", dir=str(tmp_path))


# --- the cache


def write_cache(path, arrays=(), **changes):
    """A cache folder in which the checksums are right, but some arrays or entries of the index are others."""
    cache.write(path, small())
    index = json.loads((path / "index.json").read_text())
    for name, content in dict(arrays).items():
        stream = io.BytesIO()
        if isinstance(content, bytes):
            stream.write(content)
        else:
            np.save(stream, content, allow_pickle=True)
        (path / name).write_bytes(stream.getvalue())
        index["sha256"][name] = cache.hashlib.sha256(stream.getvalue()).hexdigest()
    for key, change in changes.items():
        index[key] = change(index[key]) if callable(change) else change
    (path / "index.json").write_text(json.dumps(index))


def npy(header, content=b""):
    header = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def npz():
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros(1))
    return stream.getvalue()


IMAGES, LABELS = "train_images.npy", "train_labels.npy"
HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 4, 3)}\n"
CODE = "{'descr': '|u1', 'fortran_order': False, 'shape': (__import__('os').system('touch CANARY'),)}\n"
HOSTILE_CACHES = {
    "a trillion rows": {"arrays": {IMAGES: npy(HUGE)}},
    "rows beyond 64 bits": {"arrays": {IMAGES: npy(HUGE.replace("1000000000000", "9" * 40))}},
    "negative rows": {"arrays": {IMAGES: npy(HUGE.replace("1000000000000", "-1"), bytes(48))}},
    "code in the header": {"arrays": {IMAGES: npy(CODE)}},
    "a long header": {"arrays": {IMAGES: npy("(" * 60_000)}},
    "npz": {"arrays": {IMAGES: npz()}},
    "pickle": {"arrays": {IMAGES: b"cos\nsystem\n(S'touch CANARY'\ntR."}},
    "float images": {"arrays": {IMAGES: np.zeros((9, 4, 4, 3), np.float32)}},
    "grey images": {"arrays": {IMAGES: np.zeros((9, 4, 4, 1), np.uint8)}},
    "flat images": {"arrays": {IMAGES: np.zeros((9, 48), np.uint8)}},
    "fewer images": {"arrays": {IMAGES: np.zeros((8, 4, 4, 3), np.uint8)}},
    "float labels": {"arrays": {LABELS: np.zeros(9, np.float32)}},
    "foreign byte order": {"arrays": {LABELS: np.zeros(9, ">i4")}},
    "label out of range": {"arrays": {LABELS: np.full(9, 2, np.int32)}},
    "negative label": {"arrays": {LABELS: np.full(9, -1, np.int32)}},
    "labels of two dimensions": {"arrays": {LABELS: np.zeros((9, 1), np.int32)}},
    "a path outside": {"sha256": lambda sums: sums | {"../secret.npy": "0" * 64}},
    "an absolute path": {"sha256": lambda sums: sums | {"/etc/passwd": "0" * 64}},
    "a split outside": {"splits": ["train", "test", "../outside"]},
    "files outside, with checksums": {
        "splits": ["train", "test", "../../work/x"],
        "sha256": lambda sums: sums | {name.replace("train", "../../work/x"): sums[name] for name in (IMAGES, LABELS)},
    },
    "a split without checksums": {"splits": ["train", "test", "more"]},
    "a split that is a newline": {"splits": ["train", "test\n"]},
    "a split that is a number": {"splits": ["train", 3]},
    "checksums left out": {"sha256": {}},
    "no checksums": {"sha256": None},
    "classes that are text": {"classes": "ab"},
    "classes that are numbers": {"classes": [0, 1]},
    "a name that is a list": {"name": []},
}


@pytest.mark.parametrize("kind", HOSTILE_CACHES)
def test_hostile_caches_are_set_aside(tmp_path, kind, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = tmp_path / "store" / "small-1"
    write_cache(path, **HOSTILE_CACHES[kind])
    for part in ("images", "labels"):  # readable, if it were looked for
        (tmp_path / "work" / f"x_{part}.npy").write_bytes((path / f"test_{part}.npy").read_bytes())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and path not in p.parents}
    opened, original = [], builtins.open
    with monkeypatch.context() as patch:
        for module in (builtins, io):
            patch.setattr(
                module, "open", lambda file, *args, **more: opened.append(file) or original(file, *args, **more)
            )
        assert cache.read(path) is None
    assert [p.name[:15] for p in (tmp_path / "store").iterdir()] == ["small-1-damaged"]
    assert opened and all(Path(p).parent == path and ".." not in Path(p).parts for p in opened)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "store" not in p.parts} == before
    assert not list(tmp_path.rglob("CANARY"))


@pytest.mark.parametrize("index", [b"[]", b"3", b"{}", b"\xff", b"[" * 100_000, b'{"name": 1' + b"0" * 10_000 + b"}"])
def test_indexes_that_are_none_are_set_aside(tmp_path, index):
    cache.write(tmp_path / "small-1", small())
    (tmp_path / "small-1" / "index.json").write_bytes(index)
    assert cache.read(tmp_path / "small-1") is None and not (tmp_path / "small-1").exists()


def test_arrays_of_objects_in_the_cache_run_nothing(tmp_path):
    objects = np.empty((9, 4, 4, 3), object)
    objects[:] = Canary(tmp_path / "canary")
    write_cache(tmp_path / "small-1", {IMAGES: objects})
    assert cache.read(tmp_path / "small-1") is None
    assert not (tmp_path / "canary").exists()
    np.load(next(tmp_path.glob("small-1-damaged-*")) / IMAGES, allow_pickle=True)  # the test can fail
    assert (tmp_path / "canary").exists()


# --- the code

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs text"),
    **dict.fromkeys(("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__"), "runs text"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), "starts a shell"),
    "tempfile.mktemp": "mktemp",
    "ssl._create_unverified_context": "no certificates",
}
# What is so on purpose, with the number of places: the README's commands, and a name out of a table in the code.
ADMITTED = {("scripts/release_check.py", "shell"): 1, ("scripts/benchmarks/worker.py", "import_module"): 1}


def dotted(node, names):
    """The whole name that an expression like np.load stands for; empty for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        parent = dotted(node.value, names)
        return parent and f"{parent}.{node.attr}"
    return ""


def findings(source):
    """(line, what) of everything in Python source that the program must not do."""
    tree, names, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}" if module else alias.name
                names[alias.asname or alias.name.split(".")[0]] = (
                    whole if alias.asname or module else whole.split(".")[0]
                )
                if PICKLES & set(whole.split(".")):
                    found.append((node.lineno, "pickle"))
                if whole in CALLS:
                    found.append((node.lineno, CALLS[whole]))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("http://"):
            found.append((node.lineno, "http"))
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func, names), {k.arg: k.value for k in node.keywords}

        def is_constant(key, value, given=given):
            return isinstance(given.get(key), ast.Constant) and given[key].value is value

        if name in CALLS:
            found.append((node.lineno, CALLS[name]))
        if name == "numpy.load" and not is_constant("allow_pickle", False):
            found.append((node.lineno, "np.load"))
        if "allow_pickle" in given and not is_constant("allow_pickle", False):
            found.append((node.lineno, "allow_pickle"))
        if "shell" in given and not is_constant("shell", False):
            found.append((node.lineno, "shell"))
        if is_constant("verify", False):
            found.append((node.lineno, "no certificates"))
        if name == "importlib.import_module" and not (node.args and isinstance(node.args[0], ast.Constant)):
            found.append((node.lineno, "import_module"))
        if getattr(node.func, "attr", "") in ("extractall", "unpack_archive"):
            found.append((node.lineno, "unpacks an archive"))
    return found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        *((f"import {module}", "pickle") for module in sorted(PICKLES)),
        ("from pickle import loads", "pickle"),
        ("from six.moves import cPickle", "pickle"),
        ("import numpy, joblib.numpy_pickle as j", "pickle"),
        ("def f():\n    import pickle as harmless", "pickle"),
        ("eval('1')", "runs text"),
        ("exec('1')", "runs text"),
        ("compile('1', '', 'eval')", "runs text"),
        ("__import__('os')", "runs text"),
        ("import builtins\nbuiltins.eval('1')", "runs text"),
        ("import os\nos.system('ls')", "starts a shell"),
        ("import os as o\no.popen('ls')", "starts a shell"),
        ("from os import system as s\ns('ls')", "starts a shell"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell"),
        ("from subprocess import Popen\nPopen('ls', shell=flag)", "shell"),
        ("import numpy as np\nnp.load('x')", "np.load"),
        ("import numpy as np\nnp.load('x', allow_pickle=flag)", "np.load"),
        ("from numpy import load\nload('x')", "np.load"),
        ("import numpy as np\nnp.save('x', y, allow_pickle=True)", "allow_pickle"),
        ("import importlib\nimportlib.import_module(name)", "import_module"),
        ("from importlib import import_module\nimport_module(f'a.{b}')", "import_module"),
        ("import tempfile\ntempfile.mktemp()", "mktemp"),
        ("import urllib.request\nurllib.request.urlopen('http://x.org')", "http"),
        ("URL = f'http://{host}'", "http"),
        ("import requests\nrequests.get('https://x.org', verify=False)", "no certificates"),
        ("import ssl\nssl._create_unverified_context()", "no certificates"),
        ("import tarfile\ntarfile.open('x').extractall()", "unpacks an archive"),
    ],
)
def test_each_detector_fires(source, what):
    assert what in [found for _, found in findings(source)]


def test_harmless_code_is_let_be():
    source = """
import importlib, os, re, subprocess, pickletools
import numpy as np
re.compile("x"); model.eval(); step.lower(x).compile(); np.load("x", allow_pickle=False)
subprocess.run(["ls"], shell=False); importlib.import_module("os.path"); os.path.join("https://x.org", "a")
"""
    assert findings(source) == []


def test_the_code_does_nothing_of_the_kind():
    files = [f for folder in ("vit_jax", "configs", "scripts") for f in sorted((REPOSITORY / folder).rglob("*.py"))]
    assert len(files) > 30
    found = [
        (f.relative_to(REPOSITORY).as_posix(), line, what) for f in files for line, what in findings(f.read_text())
    ]
    counts = {}
    for file, _, what in found:
        counts[file, what] = counts.get((file, what), 0) + 1
    assert counts == ADMITTED, found


# --- the installation


def requirements(text):
    """The requirements of a pip file, each with its options on one line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def unlocked(text):
    pattern = r"[A-Za-z0-9._\[\],-]+==[^ ;]+( ;[^-]*)?( --hash=sha256:[0-9a-f]{64})+"
    return [line for line in requirements(text) if not re.fullmatch(pattern, line)]


def unhashed_installs(script):
    lines = [line for line in script.splitlines() if "pip install" in line]
    # This package itself, in place, with nothing else: there is nothing to hash.
    return [line for line in lines if "--require-hashes" not in line and not re.search(r"--no-deps .*-e \.$", line)]


def test_every_requirement_is_locked_by_hash():
    text = (REPOSITORY / "requirements.lock").read_text()
    assert len(requirements(text)) > 50 and unlocked(text) == []
    digest = "--hash=sha256:" + "0" * 64
    for bad in ("x==1", f"x>=1 {digest}", f"x @ https://x.org/x.whl {digest}", "-e .", "--index-url=http://x.org"):
        assert unlocked(bad)


def test_the_set_up_installs_by_hash_only():
    script = (REPOSITORY / "scripts" / "setup.sh").read_text()
    assert script.count("--require-hashes -r requirements.lock") == 2 and unhashed_installs(script) == []
    assert unhashed_installs("pip install -r requirements.lock\nuv pip install x")
