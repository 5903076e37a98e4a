"""What corresponds to what between a model of ours and one of another project, and the way from one to the other.

P patch size, C channels, D width, K heads, E head dim, N patches, F any features.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vit_jax.errors import UserError
from vit_jax.pretrained.files import Shape, Weights
from vit_jax.pretrained.positions import Grid


class Rows(NamedTuple):
    """Rows of an array of theirs that several parameters of ours share."""

    start: int
    total: int  # rows in all
    rows: np.ndarray


class Piece(NamedTuple):
    """One parameter of ours and the arrays of the other project that it is made of."""

    ours: str  # its path
    theirs: Mapping[str, Shape]  # by name, in the order in which `into` takes them
    into: Callable[..., np.ndarray]
    out: Callable[[np.ndarray], Mapping[str, np.ndarray | Rows]]  # the other way


def same(ours: str, theirs: str, shape: Shape) -> Piece:
    """Alike in both."""
    return reshaped(ours, theirs, shape, shape)


def reshaped(ours: str, theirs: str, shape: Shape, our_shape: Shape) -> Piece:
    return Piece(ours, {theirs: shape}, lambda x: x.reshape(our_shape), lambda x: {theirs: x.reshape(shape)})


def norm(ours: str, theirs: str, width: int, names: tuple[str, str]) -> list[Piece]:
    """Scale and bias of a norm, called `names` there."""
    return [same(f"{ours}/{k}", theirs + name, (width,)) for k, name in zip(("scale", "bias"), names, strict=True)]


def zeros(ours: str, shape: Shape) -> Piece:
    """A parameter that the other model does without."""
    return Piece(ours, {}, lambda: np.zeros(shape, np.float32), lambda x: {})


def torch_dense(ours: str, theirs: str, ins: Shape, outs: Shape, bias: bool = True) -> list[Piece]:
    """A torch.nn.Linear: its weight is (out, in), each flattened; ours (*ins, *outs) in its flattened input."""
    n_in, n_out = math.prod(ins), math.prod(outs)
    kernel = Piece(
        f"{ours}/kernel",
        {f"{theirs}.weight": (n_out, n_in)},
        lambda w: w.T.reshape(n_in, *outs),
        lambda x: {f"{theirs}.weight": x.reshape(n_in, n_out).T},
    )
    if not bias:
        return [kernel, zeros(f"{ours}/bias", outs)]
    return [kernel, reshaped(f"{ours}/bias", f"{theirs}.bias", (n_out,), outs)]


def torch_dense_rows(ours: str, names: Sequence[str], theirs: str, n_in: int, n_out: int) -> list[Piece]:
    """Layers of ours `names`, n_in to n_out each, whose outputs are one torch.nn.Linear's, one after the other."""
    weight, bias, total = f"{theirs}.weight", f"{theirs}.bias", len(names) * n_out
    found = []
    for name, start in zip(names, range(0, total, n_out), strict=True):
        part = slice(start, start + n_out)

        def kernel_out(x: np.ndarray, start: int = start) -> dict[str, Rows]:
            return {weight: Rows(start, total, x.T)}

        def bias_out(x: np.ndarray, start: int = start) -> dict[str, Rows]:
            return {bias: Rows(start, total, x)}

        kernel = {weight: (total, n_in)}
        found.append(Piece(f"{ours}/{name}/kernel", kernel, lambda w, part=part: w[part].T, kernel_out))
        found.append(Piece(f"{ours}/{name}/bias", {bias: (total,)}, lambda b, part=part: b[part], bias_out))
    return found


def torch_dense_stack(ours: str, theirs: list[str], n_in: int, outs: Shape, bias: Sequence[bool]) -> list[Piece]:
    """Several torch.nn.Linear of outputs `outs` side by side in one of ours: kernel (n_in, len(theirs), *outs).

    `bias`: which of them have one.
    """
    n_out, count = math.prod(outs), len(theirs)

    def kernels_out(x: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{name}.weight": x[:, i].reshape(n_in, n_out).T for i, name in enumerate(theirs)}

    def biases_out(x: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{name}.bias": x[i].reshape(n_out) for i, name in enumerate(theirs) if bias[i]}

    def biases_in(*found: np.ndarray) -> np.ndarray:
        known = iter(found)
        return np.stack([(next(known) if has else np.zeros(n_out, np.float32)).reshape(outs) for has in bias])

    kernel = Piece(
        f"{ours}/kernel",
        {f"{name}.weight": (n_out, n_in) for name in theirs},
        lambda *w: np.stack([one.T.reshape(n_in, *outs) for one in w], axis=1),
        kernels_out,
    )
    if not any(bias):
        return [kernel, zeros(f"{ours}/bias", (count, *outs))]
    names = {f"{name}.bias": (n_out,) for name, has in zip(theirs, bias, strict=True) if has}
    return [kernel, Piece(f"{ours}/bias", names, biases_in, biases_out)]


def torch_patches(ours: str, theirs: str, patch: int, channels: int, width: int, bias: bool = True) -> list[Piece]:
    """A torch.nn.Conv2d of stride P as linear patches: (D, C, P, P) there, (P*P*C, D) here."""
    kernel = Piece(
        f"{ours}/kernel",
        {f"{theirs}.weight": (width, channels, patch, patch)},
        lambda w: w.transpose(2, 3, 1, 0).reshape(patch * patch * channels, width),
        lambda x: {f"{theirs}.weight": x.reshape(patch, patch, channels, width).transpose(3, 2, 0, 1)},
    )
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias", (width,)) if bias else zeros(f"{ours}/bias", (width,))]


def summed_over_colours(kernel: Piece) -> Piece:
    """A first layer's kernel for grey images, from one for three channels: its sum over them, as timm's for in_chans=1.

    A grey image then gives what it gives the other as three equal channels, normalised alike.
    """

    def into(*arrays: np.ndarray) -> np.ndarray:
        colours = kernel.into(*arrays)  # (P*P*3, D) of linear patches, (P, P, 3, D) of a convolution
        return colours.reshape(*colours.shape[:-2], -1, 3, colours.shape[-1]).sum(axis=-2)

    return kernel._replace(into=into)


def spread_over_colours(kernel: Piece) -> Piece:
    """The reverse: for three channels, from one for grey images, a third of it each.

    The colours' mean then gives what it gives the other as a grey image, normalised alike.
    """

    def into(*arrays: np.ndarray) -> np.ndarray:
        grey = kernel.into(*arrays)  # (P*P, D) of linear patches, (P, P, 1, D) of a convolution
        if grey.ndim == 2:
            return np.repeat(grey / 3, 3, axis=0)
        return np.repeat(grey / 3, 3, axis=-2)

    return kernel._replace(into=into)


def positions_table(theirs: str, before: int, grid: Grid, width: int, leading: bool = True) -> Piece:
    """Learned positions (1, before + N, D) there, of which ours (N, D) are those of patches.

    Without `leading` their first axis isn't there.
    """
    rows = before + grid[0] * grid[1]
    return Piece(
        "posemb",
        {theirs: (1, rows, width) if leading else (rows, width)},
        lambda table: table.reshape(rows, width)[before:],
        lambda x: {theirs: np.concatenate([np.zeros((before, width), x.dtype), x])[None if leading else ...]},
    )


def prefix(
    theirs: dict[str, int], table: str | None, before: int, grid: Grid | None, width: int, leading: bool = True
) -> Piece:
    """Class token, DeiT's second one and registers, (1, count, D) each there, ours (prefix, D).

    Ours have no positions: the first `before` rows of the other's table are added to the first tokens once and for all.
    Without `leading` it is (count + N, D), and the only token (D,).
    """
    names: dict[str, Shape] = {name: (1, count, width) if leading else (width,) for name, count in theirs.items()}
    adds = table is not None and grid is not None and before > 0
    if adds and table is not None and grid is not None:
        rows = before + grid[0] * grid[1]
        names[table] = (1, rows, width) if leading else (rows, width)

    def into(*arrays: np.ndarray) -> np.ndarray:
        tokens = np.concatenate([array.reshape(-1, width) for array in arrays[: len(theirs)]])
        if adds:
            tokens = tokens.astype(np.float32)
            tokens[:before] += arrays[-1].reshape(-1, width)[:before]
        return tokens

    def out(x: np.ndarray) -> dict[str, np.ndarray]:
        ends = np.cumsum(list(theirs.values()))[:-1]
        return {name: part[None] if leading else part[0] for name, part in zip(theirs, np.split(x, ends), strict=True)}

    return Piece("prefix", names, into, out)


def mismatches(
    weights: Weights, pieces: list[Piece], wanted: dict[str, Shape], ignored: Callable[[str], bool]
) -> list[str]:
    """One line for each array that the file lacks, has in another shape, or has without anything to take it.

    Also for each parameter among `wanted`, our paths and shapes, that the source's models don't have so.
    """
    lines, taken = [], {}
    for piece in pieces:
        for name, shape in piece.theirs.items():
            if name in taken:
                continue
            taken[name] = shape
            found = weights.shapes.get(name)
            if found is None:
                lines.append(f"{name}: missing in the file, {shape} in the model ({piece.ours})")
            elif found != shape:
                lines.append(f"{name}: {found} in the file, {shape} in the model ({piece.ours})")
    extra = [name for name in weights.shapes if name not in taken and not ignored(name)]
    lines += [f"{name}: {weights.shapes[name]} in the file, nothing in the model" for name in extra]
    # Zeros that take no memory show what shapes the pieces make.
    made = {
        piece.ours: piece.into(*(np.broadcast_to(np.float32(0), shape) for shape in piece.theirs.values())).shape
        for piece in pieces
    }
    for path in sorted(made.keys() | wanted.keys()):
        ours, theirs = wanted.get(path), made.get(path)
        if ours != theirs:
            lines.append(f"{path}: {theirs or 'nothing'} of such weights, {ours or 'nothing'} in the model")
    return lines


def check(weights: Weights, pieces: list[Piece], wanted: dict[str, Shape], ignored: Callable[[str], bool]) -> None:
    """Raises UserError with every mismatch at once."""
    if lines := mismatches(weights, pieces, wanted, ignored):
        places = "1 place" if len(lines) == 1 else f"{len(lines)} places"
        title = f"{weights.path} and the model don't fit in {places}; nothing was loaded:"
        raise UserError("\n".join([title, *(f"  {line}" for line in lines)]))


def convert(weights: Weights, pieces: list[Piece]) -> dict[str, np.ndarray]:
    """Our parameters by path, read from the file."""
    return {piece.ours: piece.into(*(weights.read(name) for name in piece.theirs)) for piece in pieces}


def written(pieces: Sequence[Piece], flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The other project's arrays by name, of our parameters by path: the other way of `convert`."""
    found: dict[str, np.ndarray] = {}
    for piece in pieces:
        for name, x in piece.out(flat[piece.ours]).items():
            if isinstance(x, Rows):
                whole = found.setdefault(name, np.zeros((x.total, *x.rows.shape[1:]), x.rows.dtype))
                whole[x.start : x.start + len(x.rows)] = x.rows
            else:
                found[name] = x
    return found
