"""What training on many nodes is expected to reach, computed from what was measured on one.

The model: a node takes the measured seconds for its batch, a third of them forward and two thirds backward, in which
layers take time by their multiply-adds. A bucket of gradients leaves when the layers that it holds are done, and the
one before it has arrived. Adding up b bytes over n nodes takes 2 (n - 1) / n b / bandwidth + 2 log2(n) latency (the
bound of reduce-scatter and allgather: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication
Operations in MPICH", 2005, section 4.5). Messages take processor time as well: the measured seconds a byte for adding
up in memory, which nothing hides. Nodes are equally fast, and links carry nothing else.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks`

from benchmarks.harness import RESULTS
from cnnzoo.command import Parser, align, run_command
from cnnzoo.errors import CnnzooError

NODES = (2, 4, 8, 16, 32, 64, 128, 256)
GBITS = (1.0, 10.0, 100.0)
USABLE = 0.9  # of a link's rate, for payload
LATENCY = {1.0: 50e-6, 10.0: 20e-6, 100.0: 3e-6}  # seconds a message: TCP, TCP, RDMA
FORWARD_SHARE = 1 / 3
ELEMENT_BYTES = 4
BUCKET_BYTES, LEAST_BYTES = 25_000_000, 2**20


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node's part of a step.

    Attributes
    ----------
    seconds : float
        Of a step with nothing added up.
    buckets : list of (int, float)
        Bytes of each message, and the share of backward after which it can leave.
    byte_seconds : float
        Processor time that adding up takes, a byte.
    """

    seconds: float
    buckets: list[tuple[int, float]]
    byte_seconds: float

    @property
    def total_bytes(self) -> int:
        """Of all gradients."""
        return sum(size for size, _ in self.buckets)

    def step_seconds(self, nodes: int, bandwidth: float, latency: float) -> float:
        """Return the seconds of a step of so many nodes; bandwidth in bytes a second."""
        share_moved = 2 * (nodes - 1) / nodes  # of each byte of a gradient, by every rank: all of it with two
        adding = self.total_bytes * self.byte_seconds * share_moved
        forward = FORWARD_SHARE * self.seconds
        backward = self.seconds - forward + adding
        computing = forward + backward
        arrived = 0.0
        for size, share in self.buckets:
            sending = share_moved * size / bandwidth + 2 * math.log2(nodes) * latency
            arrived = max(arrived, forward + share * backward) + sending
        return max(computing, arrived)

    def efficiency(self, nodes: int, gbits: float) -> float:
        """Return the images a second of so many nodes over as many times those of one."""
        return self.seconds / self.step_seconds(nodes, USABLE * gbits * 1e9 / 8, LATENCY[gbits])


def find_buckets(model: str) -> list[tuple[int, float]]:
    """Return the bytes of a network's buckets, and the share of its backward after which each can leave."""
    from cnnzoo.models import create_model
    from cnnzoo.training.mpi import cut_buckets

    net = create_model(model)
    starts = {name: start for name, start, _, _ in net.parameter_segments()}
    size, total, done = net.gradient_arena.size, 0, []
    for node in reversed(net.graph.nodes):
        total += node.operator.multiply_adds(*(x.extent for x in node.inputs))
        done += [(starts[f"{node.operator.name}.{p.name}"], total) for p in node.operator.parameters]
    bounds = cut_buckets(size, BUCKET_BYTES // ELEMENT_BYTES, LEAST_BYTES // ELEMENT_BYTES)
    # A bucket holds what begins before its end; the last of these that backward reaches decides.
    ready = [max(work for start, work in done if start < last) / total for _, last in bounds]
    return [((last - first) * ELEMENT_BYTES, share) for (first, last), share in zip(bounds, ready, strict=True)]


def read_measured(model: str, path: Path = RESULTS / "mpi.json") -> dict[str, Any]:
    """Return what `benchmarks/mpi.py` measured of a network."""
    try:
        return json.loads(path.read_text())["results"][model]
    except (OSError, KeyError, ValueError):
        raise CnnzooError(f"{path}: expected results for {model}; run python benchmarks/mpi.py first") from None


def make_node(model: str, seconds: float, measured: dict[str, Any]) -> Node:
    """Return a node that takes so many seconds for its batch, as far as the rest is known from a measurement."""
    buckets = find_buckets(model)
    total = sum(size for size, _ in buckets)
    return Node(seconds=seconds, buckets=buckets, byte_seconds=measured["median_seconds"]["sums"] / total)


def check(node: Node, measured: dict[str, Any]) -> tuple[float, float]:
    """Return the efficiency of two ranks on one machine as the model has it, and as it was measured.

    Their link is memory, which the model takes as free: what is left is the processor's time for adding up.
    """
    medians = measured["median_seconds"]
    own = Node(seconds=medians["apart"], buckets=node.buckets, byte_seconds=node.byte_seconds)
    return medians["apart"] / own.step_seconds(2, math.inf, 0.0), medians["apart"] / medians["together"]


def main() -> None:
    """Print the table, and how the model fits what was measured."""
    parser = Parser(description=__doc__, epilog="example:\n  python tools/scaling_model.py --step-seconds 0.1")
    parser.add_argument("--model", default="resnet18", help="network (default: %(default)s)")
    parser.add_argument(
        "--step-seconds",
        type=float,
        help="seconds that one node takes for its batch (default: as one process took in benchmarks/results/mpi.json)",
    )
    parsed = parser.parse(None)
    measured = read_measured(parsed.model)
    seconds = parsed.step_seconds or measured["median_seconds"]["one"]
    node = make_node(parsed.model, seconds, measured)
    print(f"{parsed.model}: {seconds:.3f} s a step of a node, {node.total_bytes / 1e6:.1f} MB of gradients")
    rows = [["nodes", *(f"{gbits:g} Gbit/s" for gbits in GBITS)]]
    rows += [[str(nodes), *(f"{node.efficiency(nodes, gbits):.0%}" for gbits in GBITS)] for nodes in NODES]
    print(*align(rows, left=0), sep="\n")
    expected, found = check(node, measured)
    print(f"two ranks on one machine keep {found:.1%} of their speed when they add up; the model says {expected:.1%}")


if __name__ == "__main__":
    sys.exit(run_command("tools/scaling_model.py", main))
