"""The parts of the trial in order, the most valuable first, and how long each may take."""

from dataclasses import dataclass
from pathlib import Path

from trial.runner import Part

ON_EACH_MACHINE = ("machine", "data")  # what they do lies on it
SEEDS = 3  # of sprint; record has what is left


@dataclass(frozen=True)
class Places:
    """Where things lie on the machine."""

    work: Path  # kept between calls
    carried: Path  # what the calls bring: N/wheels, N/pieces, N/pack.json, N/predicted.json
    rehearse: bool  # on a CPU, with the smallest sizes that run the same code

    @property
    def site(self) -> Path:
        return self.work / "site"

    @property
    def pieces(self) -> Path:
        return self.work / "pieces"

    @property
    def cache(self) -> Path:
        return self.work / "cache"

    @property
    def pack(self) -> Path:
        return self.work / "pack.json"

    @property
    def predicted(self) -> Path:
        return self.work / "predicted.json"

    def has_data(self) -> bool:
        return any(self.cache.glob("cifar10-*/index.json"))


def parts_of(places: Places, total_pieces: int | None) -> list[Part]:
    """All parts; `total_pieces` is how many the data was cut into, None where nothing was carried."""
    with_data = total_pieces is not None or not places.rehearse
    data = [_data(places, total_pieces or 1)] if with_data else []
    gradients, repeats = _correctness(places)
    beside_torch, *steps, cores = _speed(places)
    # The two goals come before what takes as long and tells less; what needs no accelerator comes last.
    return [_machine(places), gradients, beside_torch, repeats, *steps, *data, *_recipes(places, with_data), cores]


def _machine(places: Places) -> Part:
    command = ("-m", "trial.machine", f"--carried={places.carried}", f"--site={places.site}")
    return Part("machine", "what it is; packages that were carried", command, 15, 60, first=True)


def _correctness(places: Places) -> list[Part]:
    rehearse = ("--rehearse",) if places.rehearse else ()
    fused = "chunked attention (no cuDNN on a CPU)" if places.rehearse else "cuDNN's attention"
    work = f"--work={places.work / 'repeats'}"
    return [
        Part("gradients", f"gradients: {fused} against plain, bfloat16 against float32",
             ("-m", "trial.gradients", *rehearse), 100, 170),
        Part("repeats", "the deterministic preset bit for bit; killed and gone on",
             ("-m", "trial.repeats", work, *rehearse), 80, 180),
    ]  # fmt: skip


def _speed(places: Places) -> list[Part]:
    rehearse = ("--rehearse",) if places.rehearse else ()
    predicted = (f"--predicted={places.predicted}",) if places.predicted.exists() else ()
    recipes = [("sprint", "1,20,5", 100, 200), ("record", "1", 80, 160)]  # (config, --calls, expected, most)
    if places.rehearse:
        recipes = [("debug", "2", 10, 60)]
    parts = [
        Part("beside_torch", "vit_s4's step in bfloat16 beside torch.compile's: MFU and ratio",
             ("-m", "trial.beside_torch", *rehearse), 150, 240),
    ]  # fmt: skip
    parts += [
        Part(f"steps_{name}", f"{name}'s step: steps in a call, augmentation's share, roofline",
             ("-m", "trial.steps", f"--config={name}", f"--calls={calls}", *predicted, *rehearse), least, most)
        for name, calls, least, most in recipes
    ]  # fmt: skip
    scaling = Part("cores", "our step on the machine's CPU cores", ("-m", "trial.cores", *rehearse), 150, 250)
    return [*parts, scaling]


def _data(places: Places, pieces: int) -> Part:
    def ready() -> bool:
        return len(list(places.pieces.glob("*.npz"))) == pieces

    command = (str(Path(__file__).parents[1] / "carry_data.py"), "join", f"--pieces={places.pieces}")
    return Part("data", f"CIFAR-10 from its {pieces} pieces", command, 10, 60, ready, "all pieces")


def _recipes(places: Places, with_data: bool) -> list[Part]:
    """The article, sprint, one part a seed, then record.

    None is begun that can't have its whole time, or record a minute of it.
    """
    # (config, seconds of training, seconds for all else: the most of it is compiling, once for all seeds)
    first, other, record = ("sprint", 60, 100), ("sprint", 60, 25), ("record", 600, 130)
    article: tuple[str, ...] = ("--config=article",)
    if places.rehearse:
        first, other, record = ("debug", 1, 20), ("debug", 1, 20), ("debug", 1, 20)
        article = ("--config=debug", "train.length=4 steps")
    data, work = "--data=cifar10" if with_data else "--data=fake", f"--work={places.work / 'recipes'}"
    ready = places.has_data if with_data else lambda: True

    def part(name: str, title: str, recipe: tuple[str, int, int], seed: int, least: int) -> Part:
        config, train, besides = recipe
        command = (
            "-m", "trial.recipes", f"--config={config}", f"--train={train}", f"--seed={seed}", "--seconds={seconds}",
            f"--besides={besides}", work, data,
        )  # fmt: skip
        return Part(name, title, command, least + besides, train + 2 * besides, ready, "the data")

    # By epochs, not by the clock. Of its 1,760 steps is known that each moves 21 GB: some 20 s at the best.
    command = ("-m", "trial.recipes", "--seconds={seconds}", work, data, *article)
    epochs = Part("article", "the article's ViT, 10 epochs", command, 70, 150, ready, "the data")
    sprints = [
        part(f"sprint_{seed}", f"sprint, seed {seed}", first if seed == 0 else other, seed, first[1])
        for seed in range(1 if places.rehearse else SEEDS)
    ]
    return [epochs, *sprints, part("record", "record for the time that is left", record, 0, min(record[1], 60))]
