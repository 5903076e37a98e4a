"""A look into one run: what its model took its images for, attended to, was shown, and has learned. N images."""

from dataclasses import dataclass

import numpy as np

from vit_jax.data import sources
from vit_jax.data.dataset import DataSet, Examples, take
from vit_jax.errors import UserError
from vit_jax.evaluation import attention_maps, filters
from vit_jax.evaluation.evaluate import Evaluator
from vit_jax.evaluation.logits import confusion, probabilities, scorable
from vit_jax.models.posembs import LEARNED
from vit_jax.models.stems import grid_shape, prefix_tokens
from vit_jax.page import classes
from vit_jax.page.html import Html, Section, element, join, paragraph, picture
from vit_jax.page.runs import Entry, Run
from vit_jax.runs import pictures, trained
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.trained import Trained
from vit_jax.system.progress import doing, percent, say
from vit_jax.system.sharding import make_mesh
from vit_jax.training import resolve
from vit_jax.training.shown import first_shown

_MISTAKES = 24
_SHOWN = 10  # train images as the model saw them
_MAPS = 10  # images with attention maps, of as many classes
_THUMBNAIL = 96  # pixels of the longer side, at most, of an image among many
_COMPONENTS = 28  # as in figure 7 of the ViT paper
_KERNELS = 64  # of a convolution, at most


@dataclass(frozen=True)
class Seen:
    """Labelled images and what the model gives for them."""

    split: str
    examples: Examples
    logits: np.ndarray  # (N, C) float32


def section(index: int, entry: Entry) -> Section:
    """Everything about the run that stands for the entry; what can't be had is said in its place.

    Raises UserError for a damaged checkpoint.
    """
    run, prefix = entry.shown(), f"run-{index}"
    dataset, absent = data_of(run)
    model, seen, reason = look(run, dataset, absent)
    matrix = run.matrix
    if matrix is None and seen is not None:
        matrix = confusion(seen.logits, seen.examples.labels)
    parts = []
    if matrix is not None:
        split = run.results.get("split", "test") if run.results else run.config.data.validation
        parts += classes.sections(prefix, matrix, run.classes, f"{matrix.sum():,} images of {split}")
    missing = paragraph(reason, kind="note")
    worst = maps = missing
    if model is not None and seen is not None:
        worst, maps = mistakes(seen, run.classes), attention(model, seen)
    parts.append(Section(f"{prefix}-mistakes", "Most confident mistakes", worst))
    parts.append(Section(f"{prefix}-attention", "Attention", maps))
    training = paragraph(absent, kind="note") if dataset is None else shown(run, dataset)
    parts.append(Section(f"{prefix}-shown", "What the model saw", training))
    learned = missing if model is None else join([input_filters(model), positions(model)])
    parts.append(Section(f"{prefix}-filters", "Learned filters and positions", learned))
    return Section(prefix, entry.name, _lead(entry, run, model), tuple(parts))


def _lead(entry: Entry, run: Run, model: Trained | None) -> Html:
    told = [f"Seed {run.config.seed}, {'the first tested ' if run.results else 'one '}of {len(entry.runs)}. "]
    told = told if len(entry.runs) > 1 else []
    if model:
        told.append(f"Pictures are of the checkpoint of step {model.step:,}.")
    if not run.results:
        told.append(" The run isn't tested: what follows is of its validation images.")
    return paragraph("".join(told), kind="note")


def data_of(run: Run) -> tuple[DataSet | None, str]:
    """The data set that the run was trained on; the reason where it can't be had."""
    try:
        with doing("Reading the data"):
            dataset = sources.load(run.config, must_find_dir=False, download=False, sha256=run.folder.data_sha256())
        run.folder.check_data(dataset)
    except UserError as error:
        return None, f"The images can't be shown: {error}."
    return dataset, ""


def look(run: Run, dataset: DataSet | None, absent: str) -> tuple[Trained | None, Seen | None, str]:
    """The model and what it gives for the images to show; the reason where one of them can't be had.

    The images are those of the test if the run was tested, by the checkpoint that was. They are looked at, and no
    result is changed. Before the test those of the validation split, so that the test's stay unseen. `absent` says why
    there is no data set.
    """
    with Checkpoints(run.folder.path) as checkpoints:
        steps = checkpoints.steps()
    step = run.results["checkpoint"] if run.results else None
    if not steps or (step is not None and step not in steps):
        return None, None, f"The checkpoint{'' if step is None else f' of step {step}, which was tested,'} isn't there."
    # Before the end no checkpoint need have been evaluated, so the best can't be asked for.
    model = trained.load(str(run.folder.path), "latest" if step is None else str(step))
    data = run.config.data
    spec, key = (data.test, "config.data.test") if run.results else (data.validation, "config.data.validation")
    if not spec:
        return model, None, "There are no images to show: the run has no validation split and wasn't tested."
    if dataset is None:
        return model, None, absent
    try:
        examples = take(dataset, spec, key)
    except UserError as error:
        return model, None, f"The images can't be shown: {error}."
    say(f"Looking at {len(examples.labels):,} images of {spec} with checkpoint {model.step} of {run.name} ...")
    with doing("Computing"):
        evaluator = Evaluator(model.module, run.config, make_mesh(), model.params, examples.images.shape[1:])
        return model, Seen(spec, examples, evaluator.logits(model.params, examples.images)), ""


def shown(run: Run, dataset: DataSet) -> Html:
    """Some train images as the first step showed them to the model: cropped, changed, mixed."""
    try:
        with doing("Augmenting"):
            images, targets = first_shown(run.config, resolve.split(run.config, dataset))
    except (UserError, ImportError) as error:
        return paragraph(f"The images can't be shown: {error}.", kind="note")
    figures = []
    for i, image in enumerate(images[:_SHOWN]):
        label, partner, share = (values[i] for values in (targets.label, targets.partner, targets.weight))
        told = run.classes[label]
        if label != partner and share < 1:
            told = f"{told} {_short(float(share))}, {run.classes[partner]} {_short(1 - float(share))}"
        alt = f"image {i} of the first batch, as the model saw it: {told}"
        figures.append(element("figure", picture(_enlarged(image), alt), element("figcaption", told)))
    changed = "augmented as config.augment says; of a mixed image, the share of each label"
    lead = (
        f"The first {len(figures)} of the {len(images):,} images of the first step, as the model was given them, but "
        f"without the normalisation: {'as they are' if run.config.train.overfit_one_batch else changed}. What grows "
        "over the run (config.augment.ramp) is at its least here."
    )
    return join([paragraph(lead, kind="note"), element("div", *figures, class_="pictures")])


def mistakes(seen: Seen, names: tuple[str, ...]) -> Html:
    """The images whose wrong class was given the greatest probability."""
    chosen, probabilities = worst_mistakes(seen.logits, seen.examples.labels, _MISTAKES)
    if not len(chosen):
        return paragraph("There are none.", kind="note")
    figures = []
    for i, probs in zip(chosen, probabilities, strict=True):
        true, guess = names[seen.examples.labels[i]], names[probs.argmax()]
        told = join([
            element("strong", guess), f" {_short(probs.max())}", element("br"),
            "is ", element("strong", true), f" {_short(probs[seen.examples.labels[i]])}",
        ])  # fmt: skip
        alt = f"{true}, taken for {guess} with {percent(probs.max())}; image {i} of {seen.split}"
        figures.append(
            element("figure", picture(_thumbnail(seen.examples.images[i]), alt), element("figcaption", told))
        )
    lead = (
        f"Images of {seen.split} that were taken for another class with the greatest probability: first that class, "
        "then the true one."
    )
    return join([paragraph(lead, kind="note"), element("div", *figures, class_="pictures")])


def worst_mistakes(logits: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n,) of the most confident mistakes, the worst first, at most `count`; and their probabilities (n, C).

    Without images that have no probabilities.
    """
    probs = probabilities(logits)  # (N, C)
    wrong = np.flatnonzero(scorable(logits) & (logits.argmax(axis=1) != labels))
    chosen = wrong[np.argsort(-probs[wrong].max(axis=1), kind="stable")[:count]]
    return chosen, probs[chosen]


def attention(model: Trained, seen: Seen) -> Html:
    """For the first image of each class: attention of the last block, and rollout over all, over the image."""
    cfg = model.module.cfg
    if not attention_maps.has_weights(cfg):
        return paragraph("An MLP-Mixer has no attention.", kind="note")
    chosen = np.unique(seen.examples.labels, return_index=True)[1][:_MAPS]
    images = np.asarray(seen.examples.images[np.sort(chosen)])
    weights = attention_maps.weights_of(model.module, model.params, images, model.config.augment)
    prefix, by_token = prefix_tokens(cfg), cfg.pool.startswith("token")
    grid = grid_shape(cfg)
    kinds = {
        "last block": attention_maps.seen_by_output(weights[-1], prefix, by_token),
        "rollout": attention_maps.seen_by_output(attention_maps.rollout(weights), prefix, by_token),
    }
    figures = []
    for row, i in enumerate(np.sort(chosen)):
        true, guess = model.classes[seen.examples.labels[i]], model.classes[seen.logits[i].argmax()]
        cells = [element("div", picture(_thumbnail(images[row]), f"the image, {true}"), element("span", "image"))]
        for kind, maps in kinds.items():
            drawn = picture(pictures.overlay(images[row], maps[row].reshape(grid)), f"attention on a {true}, {kind}")
            most = maps[row].max() * maps.shape[1]
            cells.append(element("div", drawn, element("span", kind, element("br"), f"{most:.1f} × mean")))
        told = [element("strong", true), "" if guess == true else f", taken for {guess}"]
        figures.append(element("figure", element("figcaption", *told), element("div", *cells)))
    whose = "of the class token" if by_token else "of all the image's tokens on average"
    lead = paragraph(
        f"Attention {whose}, averaged over the heads: of the last block, and by rollout through all {cfg.depth} (Abnar "
        "and Zuidema 2020), which mixes half of the identity into each block for its residual connection. Each picture "
        "goes from its least weight, dark, to its greatest, light; below it, how many times the mean the greatest is.",
        kind="note",
    )
    return join([lead, element("div", *figures, class_="maps")])


def input_filters(model: Trained) -> Html:
    """Principal components of the first layer's filters and, of a convolution, the filters themselves."""
    name, kernels = filters.input_filters(model.module.cfg, model.params)
    components, shares = filters.principal_components(kernels, _COMPONENTS)
    size, count = kernels.shape[1], len(kernels)
    told = f"The first {len(components)} principal components of the {name}, {count} filters of {size} x {size} pixels"
    figures = [_tiled(components, 7, f"{told}: {percent(float(shares.sum()))} of their variance. Grey is 0.")]
    if model.module.cfg.stem.kind != "patch":
        some = kernels[:_KERNELS]
        which = f"The {count}" if len(some) == count else f"{len(some)} of the {count}"
        figures.append(_tiled(some, 8, f"{which} filters of the {name}. Grey is 0."))
    return element("div", *figures, class_="charts")


def _tiled(kernels: np.ndarray, columns: int, caption: str) -> Html:
    """Filters (n, P, P, C) side by side."""
    drawn = pictures.tiles(filters.filter_pictures(kernels), columns, max(40 // kernels.shape[1], 1), gap=4)
    return element("figure", picture(drawn, caption.split(",")[0], "tiles"), element("figcaption", caption))


def positions(model: Trained) -> Html:
    """How alike the learned positions are."""
    cfg = model.module.cfg
    if cfg.posemb not in LEARNED:
        return paragraph(f"Its positions are not learned: config.model.posemb is {cfg.posemb}.", kind="note")
    similarity = filters.position_similarity(np.asarray(model.params["posemb"]))
    drawn, columns = filters.similarity_pictures(similarity, grid_shape(cfg))
    caption = (
        f"Learned positions: each tile is the cosine similarity of one place's embedding, where the tile stands, with "
        f"those of all {len(similarity):,}. From {similarity.min():.2f}, dark, to 1, light."
    )
    return element(
        "figure",
        picture(
            pictures.tiles(drawn, columns, max(48 // drawn.shape[2], 1), gap=4), "Similarity of positions", "tiles"
        ),
        element("figcaption", caption),
    )


def _short(probability: float) -> str:
    return f"{100 * probability:.1f}\N{NO-BREAK SPACE}%"


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) uint8 as (h, w, 3), smaller where it is large: a page holds many."""
    from PIL import Image

    small = Image.fromarray(pictures.rgb(np.asarray(image)))
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(small)


def _enlarged(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) uint8, each pixel a square of them where it is small, so that no browser blurs it."""
    times = max(_THUMBNAIL // max(image.shape[:2]), 1)
    return _thumbnail(image.repeat(times, axis=0).repeat(times, axis=1))
