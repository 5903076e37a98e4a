"""Folders of images as small as can be, and what is found in them."""

import os
import struct
import zlib

import pytest

from vit_jax.data.sources.image_folder import scan
from vit_jax.errors import UserError


def png(width, height, rows=b""):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (*chunks, (b"IEND", b""))
    )


PIXEL = png(1, 1, bytes(4))


def make(root, *names):
    """Files with an image of one pixel each, whatever they are called; "a/" is an empty folder."""
    for name in names:
        path = os.fsencode(root) + b"/" + (name if isinstance(name, bytes) else name.encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not path.endswith(b"/"):
            with open(path, "wb") as file:
                file.write(PIXEL)
    return root


def files(found, split="train"):
    """The files of each class, relative to the root, in alphabetical order."""
    images = found.splits[split]
    names = [os.path.relpath(path, found.root) for path in images.paths]
    return {
        label: sorted(name for name, i in zip(names, images.labels, strict=True) if i == index)
        for index, label in enumerate(found.classes)
    }


def notes(found):
    return " ".join(found.notes)


def refused(root, *, follow_links=False):
    with pytest.raises(UserError) as caught:
        scan(root, follow_links)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TWO = ("train/cat/1.png", "train/dog/1.png")  # the least that can be trained on
