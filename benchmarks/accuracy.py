"""Loss curves of whole networks by each convolution algorithm: how far apart they run, beside those of other seeds.

A run is the first steps of a training with the model's own recipe, from a seed of its own for weights, order of the
images and dropout. Runs by two algorithms with one seed differ by rounding errors alone, which training amplifies; runs
by one algorithm with two seeds show how much of a difference means nothing. The distance of two curves, each a moving
average so that batches weigh little, is taken at every step; means and largest values are over steps and pairs of runs.

Results are kept by model, algorithm and seed, each as it is done; what the file holds is not run again. The bits of a
run depend neither on the number of threads nor on what else the machine does, so that it may be busy meanwhile.
"""

import itertools
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks` and `tests`

from benchmarks import harness
from cnnzoo.command import Parser, align, run_command
from cnnzoo.config import RunConfig
from cnnzoo.errors import CnnzooError, DivergenceError

if TYPE_CHECKING:
    from cnnzoo.data import Dataset

ACCURACY_RESULTS = harness.RESULTS / "accuracy.json"
WINDOW = 20  # steps of the moving average
DIGITS = 7  # that are kept of a loss: as many as float32 tells apart


class Spread(NamedTuple):
    """How far pairs of smoothed curves are apart: over all steps and pairs, on average and at most."""

    mean: float
    largest: float


def train(config: RunConfig, dataset: "Dataset", algorithm: str, seed: int, steps: int) -> list[float]:
    """Return the loss of each step.

    Raises
    ------
    DivergenceError
        A loss is not finite.
    """
    from cnnzoo import SGD, create_model, cross_entropy
    from cnnzoo.data import Augmentation, Batches

    channels, height, width = dataset.train.images.shape[1:]
    net = create_model(
        config.model, len(dataset.classes), seed, image_shape=(channels, height, width), algorithm=algorithm
    )
    optimizer = SGD(net, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    batches = Batches(
        dataset.train, config.batch_size, mean=dataset.mean, std=dataset.std, seed=seed,
        augmentation=Augmentation() if config.augmentation else None,
    )  # fmt: skip
    losses = []
    for step in tqdm(range(steps), file=sys.stderr, leave=False, disable=not sys.stderr.isatty()):
        images, labels = batches.extract_batch(*divmod(step, batches.num_batches))
        loss, dlogits = cross_entropy(net.forward(images, training=True), labels)
        if not math.isfinite(loss):
            raise DivergenceError(f"{config.model}, {algorithm}, seed {seed}, step {step}: expected a finite loss")
        net.backward(dlogits)
        optimizer.step()
        losses.append(float(f"{loss:.{DIGITS}g}"))
    return losses


def smooth(losses: Sequence[float], window: int) -> list[float]:
    """Return the means of `window` losses in a row, or of all where they are fewer."""
    window = min(window, len(losses))
    sums = list(itertools.accumulate(losses, initial=0.0))
    return [(sums[i + window] - sums[i]) / window for i in range(len(losses) - window + 1)]


def measure_spreads(runs: Mapping[tuple[str, int], Sequence[float]], window: int = WINDOW) -> dict[str, Spread | None]:
    """Return how far runs of one model are apart.

    Parameters
    ----------
    runs : dict of (str, int) to sequence of float
        The losses by algorithm and seed.

    Returns
    -------
    dict of str to (Spread or None)
        "algorithms": of pairs with one seed; "seeds": of pairs with one algorithm. None without such a pair.
    """
    curves = {key: smooth(losses, window) for key, losses in runs.items()}
    pairs = list(itertools.combinations(curves, 2))
    kinds = {
        "algorithms": [(a, b) for a, b in pairs if a[1] == b[1]],
        "seeds": [(a, b) for a, b in pairs if a[0] == b[0]],
    }
    spreads: dict[str, Spread | None] = {}
    for kind, chosen in kinds.items():
        distances = [abs(p - q) for a, b in chosen for p, q in zip(curves[a], curves[b], strict=True)]
        spreads[kind] = Spread(statistics.fmean(distances), max(distances)) if distances else None
    return spreads


def describe(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of two tables: where each run came to, and the spreads of each model."""
    ends = [["model", "algorithm", "seed", f"mean loss of the last {WINDOW} steps"]]
    models: dict[str, dict[tuple[str, int], list[float]]] = {}
    for run in results.values():
        ends.append([run["model"], run["algorithm"], str(run["seed"]), f"{smooth(run['losses'], WINDOW)[-1]:.4f}"])
        models.setdefault(run["model"], {})[run["algorithm"], run["seed"]] = run["losses"]
    spreads = [["model", "distance", "between algorithms", "between seeds", "ratio"]]
    for model, runs in models.items():
        algorithms, seeds = measure_spreads(runs).values()
        for name in Spread._fields:
            values = [None if spread is None else getattr(spread, name) for spread in (algorithms, seeds)]
            ratio = f"{values[0] / values[1]:.2f}" if values[0] is not None and values[1] else "-"
            spreads.append([model, name, *("-" if value is None else f"{value:.4f}" for value in values), ratio])
    return [*align(ends, left=2), "", *align(spreads, left=2)]


def setting_of(config: RunConfig, dataset: str, steps: int) -> dict[str, Any]:
    """Return what runs of a model have in common when their curves can be compared."""
    names = ("batch_size", "lr", "momentum", "weight_decay", "augmentation")
    return {"dataset": dataset, "steps": steps} | {name: getattr(config, name) for name in names}


def check_settings(path: str | Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `CnnzooError` where a file's runs of a model were made with another setting than is asked for."""
    for run in harness.read_results(path).values():
        model, found = run.get("model"), run.get("setting")
        if model in settings and found != settings[model]:
            raise CnnzooError(
                f"{path}: expected runs of {model} with {dict(settings[model])}, found {found}; use another file"
            )


def make_parser() -> Parser:
    """Return the parser of the arguments."""
    parser = Parser(
        description=__doc__.splitlines()[0],
        epilog="example:\n  python benchmarks/accuracy.py --models resnet18 --seeds 0,1,2 --data-dir DIR",
    )
    lists = {
        "models": ("resnet18,vgg16_bn", "networks"),
        "algorithms": ("winograd,im2col", "cnnzoo's, each used wherever it accepts the shape"),
        "seeds": ("0,1,2", "seeds"),
    }
    for name, (default, help_text) in lists.items():
        parser.add_argument(
            f"--{name}", type=harness.names, default=default, metavar="NAMES", help=f"{help_text} (default: {default})"
        )
    parser.add_argument("--steps", type=harness.positive, default=300, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=harness.positive, metavar="N", help="images (default: the recipe's)")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where CIFAR-10 lies; without it, synthetic pictures are used"
    )
    parser.add_argument(
        "--threads", type=harness.positive, default=harness.count_cores(), metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--json", type=harness.new_file, default=str(ACCURACY_RESULTS), metavar="FILE",
        help="add the runs to this file (default: benchmarks/results/accuracy.json)",
    )  # fmt: skip
    return parser


def run(arguments: Sequence[str] | None) -> None:
    """Make the runs that the arguments ask for, then print the tables of all runs that the file holds."""
    parsed = make_parser().parse(arguments)
    harness.use_threads(parsed.threads)  # before numba is imported
    from cnnzoo.data import choose_dataset, load_dataset
    from cnnzoo.graph.algorithms import NAMES
    from cnnzoo.models import list_models

    models = harness.choose("--models", parsed.models, list_models())
    algorithms = harness.choose("--algorithms", parsed.algorithms, NAMES)
    seeds = [harness.whole("--seeds", text) for text in parsed.seeds]
    name, folder = choose_dataset(None if parsed.data_dir else "synthetic", parsed.data_dir)
    options = {} if parsed.batch_size is None else {"batch_size": parsed.batch_size}
    configs = {model: RunConfig(model=model, **options) for model in models}
    settings = {model: setting_of(configs[model], name, parsed.steps) for model in models}
    check_settings(parsed.json, settings)
    dataset = load_dataset(name, folder)
    campaign = list(itertools.product(models, seeds, algorithms))
    for model, seed, algorithm in tqdm(campaign, file=sys.stderr, disable=not sys.stderr.isatty()):
        key = f"{model} {algorithm} {seed}"
        if key in harness.read_results(parsed.json):
            continue
        losses = train(configs[model], dataset, algorithm, seed, parsed.steps)
        found = {"model": model, "algorithm": algorithm, "seed": seed, "setting": settings[model], "losses": losses}
        machine = {k: v for k, v in harness.describe(parsed.threads).items() if k not in ("command", "features")}
        harness.update_results(parsed.json, {key: found | {"machine": machine}})
    print(*describe(harness.read_results(parsed.json)), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    return run_command("benchmarks/accuracy.py", lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
