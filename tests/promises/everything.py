"""All promises by their names."""

from collections.abc import Callable, Iterator

from promises import inputs, integrity, jobs, numerics, shared, stops
from promises.harness import Bench

Promise = Callable[[Bench], Iterator[str]]  # yields what it tried and what held; raises Broken

# These only start child processes, so that they can go on beside the others, which run the program in this one.
CHILDREN: dict[str, Promise] = {
    "P3": stops.p3,
    "P1": stops.p1,
    "P2": stops.p2,
    "P28": jobs.p28,
    "P29": jobs.p29,
    "P30": jobs.p30,
    "P17": numerics.p17,
}
HERE: dict[str, Promise] = {
    "P4": stops.p4,
    "P6": stops.p6,
    "P7": stops.p7,
    "P8": integrity.p8,
    "P9": integrity.p9,
    "P10": integrity.p10,
    "P11": integrity.p11,
    "P12": integrity.p12,
    "P13": integrity.p13,
    "P14": numerics.p14,
    "P15": numerics.p15,
    "P16": numerics.p16,
    "P18": inputs.p18,
    "P19": inputs.p19,
    "P20": inputs.p20,
    "P31": shared.p31,
}
NOT_TRIED = {"P5": "the same bits on a GPU with config.train.deterministic: needs one"}

# Proven by ordinary tests: what is promised, and words in their names.
TESTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "P21": ("Broken images and those of over 50 megapixels are named; only PNG and JPEG are decoded.", ("image",)),
    "P22": ("An archive is read only if its size and sha256 are CIFAR-10's own.", ("archive", "pins", "two_starts")),
    "P23": ("Hostile archives write nothing and take neither time nor memory.", ("hostile_tars",)),
    "P24": ("No pickle, no eval: no code in data runs.", ("pickle", "detector", "the_code_does", "instructions")),
    "P25": ("Arrays of objects, or of another shape or size than they claim, are refused.", ("cache", "arrays_of")),
    "P26": ("Loading a checkpoint runs nothing of it.", ("hostile_checkpoint",)),
    "P27": ("What is installed is locked by hash.", ("locked_by_hash", "by_hash_only")),
}
_DATA = ("cifar_files", "image_folder", "cache", "archives", "security")
TEST_FILES = (*(f"tests/data/test_{name}.py" for name in _DATA), "tests/runs/test_checkpoints.py")
