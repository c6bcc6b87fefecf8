"""The matrix product beside NumPy's (OpenBLAS), over the products of which the networks' convolutions consist.

For each distinct convolution or linear layer of the networks there are three products, as an im2col convolution has
them; K = kernel * kernel * in_channels, P = output pixels:

- forward: [P, K] x [K, out]
- input gradient: [input pixels, kernel * kernel * out] x [that, in]
- weight gradient: [P, K] transposed x [P, out]

Ours is the product that convolutions run on: a 1x1 convolution of a pixel matrix, the packing of B included. Where a
left operand would take more than 1 GB, the product has fewer images.
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks` and `tests`

from benchmarks import harness

LARGEST_BYTES = 1e9
SECONDS_A_TURN = 0.05


class Product(NamedTuple):
    """C[rows, columns] = A B, or A' B for A[depth, rows], with `depth` terms an element."""

    transposed: bool
    rows: int
    columns: int
    depth: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.depth}x{self.columns}" + ("  A transposed" if self.transposed else "")


def list_products(models: tuple[str, ...], images: int) -> list[Product]:
    """Return the distinct products of some networks."""
    from tests.shapes import list_convolutions

    products: set[Product] = set()
    for s in list_convolutions(models, images):
        taps = s.kernel**2
        depth, back_depth = taps * s.in_channels, taps * s.out_channels
        pixels, back_pixels = s.out_pixels, s.images * s.height * s.width
        products.add(Product(False, _capped(pixels, depth, images), s.out_channels, depth))
        products.add(Product(True, depth, s.out_channels, _capped(pixels, depth, images)))
        if s.in_channels > 3:
            products.add(Product(False, _capped(back_pixels, back_depth, images), s.in_channels, back_depth))
    return sorted(products)


def _capped(pixels: int, depth: int, images: int) -> int:
    fitting = max(1, int(LARGEST_BYTES / (4 * depth * (pixels // images))))
    return pixels // images * min(images, fitting)


def compare(product: Product, rounds: int) -> dict[str, float]:
    """Check one product, then time both programs in turns; returns medians in seconds."""
    import numpy as np

    from cnnzoo.kernels.convolution import ConvolutionShape
    from cnnzoo.kernels.im2col import Im2col

    transposed, rows, columns, depth = product
    rng = np.random.default_rng(0)
    a = rng.standard_normal((depth, rows) if transposed else (rows, depth), dtype=np.float32)
    b = rng.standard_normal((depth, columns), dtype=np.float32)
    ours, theirs = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
    pixels, channels = a.shape
    layer = Im2col(ConvolutionShape(pixels, 1, 1, channels, columns, kernel=1), np.dtype(np.float32))
    flat_a, flat_b, flat_c = a.reshape(-1), b.reshape(-1), ours.reshape(-1)
    scratch = np.empty(layer.scratch_sizes["weight_gradient" if transposed else "forward"], np.float32)

    def run_ours():
        if transposed:
            layer.weight_gradient(flat_a, channels, flat_b, columns, flat_c, scratch)
        else:
            layer.forward(flat_a, channels, flat_b, flat_c, columns, scratch)

    def run_theirs():
        np.matmul(a.T if transposed else a, b, out=theirs)

    run_ours()
    run_theirs()
    # Two sums of `depth` products of magnitude about one, in different orders.
    if not np.allclose(ours, theirs, rtol=0, atol=1e-5 * math.sqrt(depth) * 10):
        raise SystemExit(f"{product}: the two results differ by {np.abs(ours - theirs).max():.2e}")
    calls = harness.calls_for(run_theirs, SECONDS_A_TURN)
    times = harness.in_turns({"cnnzoo": run_ours, "numpy": run_theirs}, rounds, calls)
    return {name: harness.median(values) for name, values in times.items()}


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(__doc__.splitlines()[0], "python benchmarks/gemm.py --json benchmarks/results/gemm.json")
    parser.add_argument(
        "--models", default="vgg16,vgg16_bn,resnet18", metavar="NAMES", help="of these networks (default: %(default)s)"
    )
    arguments = parser.parse_args()
    harness.use_threads(arguments.threads)
    from tqdm import tqdm

    rows = [["product, rows x depth x columns", "cnnzoo GFLOP/s", "numpy GFLOP/s", "ratio"]]
    results = []
    products = list_products(tuple(arguments.models.split(",")), arguments.batch_size)
    for product in tqdm(products, file=sys.stderr, disable=not sys.stderr.isatty()):
        times = compare(product, arguments.rounds)
        work = 2 * product.rows * product.columns * product.depth
        ratio = times["numpy"] / times["cnnzoo"]
        rates = [f"{work / times[name] / 1e9:.1f}" for name in ("cnnzoo", "numpy")]
        rows.append([str(product), *rates, f"{ratio:.2f}"])
        results.append({**product._asdict(), "seconds": times, "ratio": ratio})
    print(harness.table(rows))
    ratios = [result["ratio"] for result in results]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"ratio of the rates: geometric mean {mean:.2f}, least {min(ratios):.2f}, over {len(ratios)} products")
    if arguments.json:
        machine = harness.describe_machine(arguments.threads)
        harness.write_json(arguments.json, machine, {"geometric_mean": mean, "products": results})


if __name__ == "__main__":
    main()
