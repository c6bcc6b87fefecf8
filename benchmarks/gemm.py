"""The matrix product beside NumPy's (OpenBLAS), over the products of which the networks' convolutions consist.

For each distinct convolution or linear layer of the networks there are three kinds of products, as an im2col
convolution has them; K = kernel * kernel * in_channels, P = output pixels:

- forward: [P, K] x [K, out]
- input gradient: for each set of input pixels that share their taps (all of them with stride 1),
  [pixels, taps * out] x [taps * out, in]; not for the images
- weight gradient: [P, K] transposed x [P, out]

A product counts once, however often the networks have it. Ours is the product that convolutions run on: a 1x1
convolution of a pixel matrix, the packing of B included. Where a left operand would take more than 1 GB, the product
has fewer images. Both results are compared before either is timed.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks` and `tests`

from benchmarks import harness
from cnnzoo.command import align, run_command
from cnnzoo.errors import CnnzooError

LARGEST_BYTES = 1e9
SECONDS_A_TURN = 0.05
MODELS = ("vgg16", "vgg16_bn", "resnet18")


class Product(NamedTuple):
    """C[rows, columns] = A B, or A' B for A[depth, rows], with `depth` terms an element."""

    transposed: bool
    rows: int
    columns: int
    depth: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.depth}x{self.columns}" + ("  A transposed" if self.transposed else "")

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.columns * self.depth


def list_products(models: Sequence[str], images: int) -> dict[Product, Counter[str]]:
    """Return the distinct products of a training step of some networks, and how many of it each network has."""
    from tests.shapes import list_convolutions

    products: dict[Product, Counter[str]] = {}
    for shape, counts in list_convolutions(models, images).items():
        if shape.groups > 1:
            continue  # no product of matrices
        for product in _products_of(shape, images):
            products.setdefault(product, Counter()).update(counts)
    return dict(sorted(products.items()))


def _products_of(s: Any, images: int) -> Iterator[Product]:
    """Yield the products of one `ConvolutionShape`."""
    depth = s.kernel**2 * s.in_channels
    pixels = _capped(s.out_pixels, depth, images)
    yield Product(False, pixels, s.out_channels, depth)
    yield Product(True, depth, s.out_channels, pixels)
    if s.in_channels > 3:
        for height, row_taps in _phases(s, s.height):
            for width, column_taps in _phases(s, s.width):
                depth = row_taps * column_taps * s.out_channels
                yield Product(False, _capped(s.images * height * width, depth, images), s.in_channels, depth)


def _phases(s: Any, size: int) -> list[tuple[int, int]]:
    """Return, for each remainder of a position divided by the stride that any tap reaches, its positions and taps."""
    starts = range(min(s.stride, size))
    taps = [sum((start + s.padding - r) % s.stride == 0 for r in range(s.kernel)) for start in starts]
    return [(len(range(start, size, s.stride)), count) for start, count in zip(starts, taps, strict=True) if count]


def _capped(pixels: int, depth: int, images: int) -> int:
    fitting = max(1, int(LARGEST_BYTES / (4 * depth * (pixels // images))))
    return pixels // images * min(images, fitting)


class Contest:
    """One product's operands, and its computation by both, each into an array of its own."""

    def __init__(self, product: Product):
        import numpy as np

        from cnnzoo.kernels.convolution import ConvolutionShape
        from cnnzoo.kernels.im2col import Im2col

        self.product = product
        transposed, rows, columns, depth = product
        rng = np.random.default_rng(0)
        self.a = harness.aligned((depth, rows) if transposed else (rows, depth))
        self.b = harness.aligned((depth, columns))
        for operand in (self.a, self.b):
            rng.standard_normal(out=operand, dtype=np.float32)
        self.ours, self.theirs = harness.aligned((rows, columns)), harness.aligned((rows, columns))
        pixels, channels = self.a.shape
        layer = Im2col(ConvolutionShape(pixels, 1, 1, channels, columns, kernel=1), np.dtype(np.float32))
        a, b, c = self.a.reshape(-1), self.b.reshape(-1), self.ours.reshape(-1)
        scratch = harness.aligned((layer.scratch["weight_gradient" if transposed else "forward"].size(),))

        def run_ours():
            if transposed:
                layer.weight_gradient(a, channels, b, columns, c, scratch)
            else:
                layer.forward(a, channels, b, c, columns, scratch)

        def run_theirs():
            np.matmul(self.a.T if transposed else self.a, self.b, out=self.theirs)

        self.functions = {"cnnzoo": run_ours, "numpy": run_theirs}

    def check(self) -> None:
        """Compute the product by both.

        Raises
        ------
        CnnzooError
            The results differ by more than the rounding errors of both, gamma_depth |A| |B| each.
        """
        import numpy as np

        from tests.gradients import rounding

        for function in self.functions.values():
            function()
        a = np.abs(self.a.T if self.product.transposed else self.a)
        bound = 2 * rounding(self.product.depth, np.float32) * (a @ np.abs(self.b))
        excess = np.max(np.abs(self.ours - self.theirs) / bound)
        if not excess <= 1:
            raise CnnzooError(
                f"{self.product}: expected equal results up to rounding, got {excess:.3g} times its bound"
            )


def compare(product: Product, rounds: int) -> dict[str, list[float]]:
    """Check one product, then time both programs in turns; returns the seconds of each round."""
    contest = Contest(product)
    contest.check()
    calls = harness.calls_for(contest.functions["numpy"], SECONDS_A_TURN)
    return harness.in_turns(contest.functions, rounds, dict.fromkeys(contest.functions, calls))


def compile_seconds() -> float:
    """Return what the first calls take: compiling, or loading what was compiled before."""
    start = time.perf_counter()
    for transposed in (False, True):
        Contest(Product(transposed, 8, 8, 8)).check()
    return time.perf_counter() - start


def run(arguments: Sequence[str] | None) -> None:
    """Print the table that the arguments ask for."""
    parser = harness.parser(__doc__.splitlines()[0], "python benchmarks/gemm.py --json benchmarks/results/gemm.json")
    parser.add_argument(
        "--models", type=harness.names, default=",".join(MODELS), metavar="NAMES",
        help="of these networks (default: %(default)s)",
    )  # fmt: skip
    parsed = parser.parse(arguments)
    harness.use_threads(parsed.threads)
    from tqdm import tqdm

    from cnnzoo.models import list_models

    products = list_products(harness.choose("--models", parsed.models, list_models()), parsed.batch_size)
    compiling = compile_seconds()
    results = []
    for product, counts in tqdm(products.items(), file=sys.stderr, disable=not sys.stderr.isatty()):
        seconds = compare(product, parsed.rounds)
        medians = {name: harness.median(times) for name, times in seconds.items()}
        ratio = medians["numpy"] / medians["cnnzoo"]
        results.append({
            **product._asdict(), "counts": dict(counts), "seconds": seconds, "medians": medians, "ratio": ratio,
        })  # fmt: skip
    _print(list(products), results)
    print(f"compiling, or loading from the cache: {compiling:.1f} s")
    if parsed.json:
        machine = harness.describe(parsed.threads)
        harness.write_json(parsed.json, machine, {"compile_seconds": compiling, "products": results})


def _print(products: list[Product], results: list[dict[str, Any]]) -> None:
    rows = [["product, rows x depth x columns", "times", "cnnzoo ms", "cnnzoo GFLOP/s", "numpy GFLOP/s", "ratio"]]
    for product, result in zip(products, results, strict=True):
        medians = result["medians"]
        rates = [f"{product.operations / medians[name] / 1e9:.1f}" for name in ("cnnzoo", "numpy")]
        times, milliseconds = sum(result["counts"].values()), f"{medians['cnnzoo'] * 1e3:.3f}"
        rows.append([str(product), str(times), milliseconds, *rates, f"{result['ratio']:.2f}"])
    print(*align(rows, left=1), sep="\n")
    ratios = [result["ratio"] for result in results]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"ratio of the rates: geometric mean {mean:.2f}, least {min(ratios):.2f}, over {len(ratios)} products")
    for model in {model: None for result in results for model in result["counts"]}:
        ours, theirs = (
            sum(result["counts"].get(model, 0) * result["medians"][name] for result in results) * 1e3
            for name in ("cnnzoo", "numpy")
        )
        print(f"all products of a step of {model}: cnnzoo {ours:.0f} ms, numpy {theirs:.0f} ms")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    return run_command("benchmarks/gemm.py", lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
