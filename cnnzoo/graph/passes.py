"""Rewritings of a graph that change how it runs and not what it computes.

Each takes a graph and returns one; operators that are merged are used up with the graph they came from.
"""

from collections.abc import Callable, Collection, Iterator, Mapping

from cnnzoo.graph.algorithms import choose_algorithms
from cnnzoo.graph.operator import Loan, Operator
from cnnzoo.graph.operators.activation import ReLU
from cnnzoo.graph.operators.batch_norm import BatchNorm
from cnnzoo.graph.operators.convolution import Convolution, WeightedSum
from cnnzoo.graph.operators.depthwise import Depthwise
from cnnzoo.graph.operators.elementwise import Add, Concatenation
from cnnzoo.graph.operators.pooling import MaxPool
from cnnzoo.graph.tensor import Extent, Graph, Node, Tensor
from cnnzoo.kernels.winograd import Winograd

USUAL_IMAGES = 128


def fuse_batch_norm_add(graph: Graph) -> Graph:
    """Merge a batch norm with the addition that alone reads it: one pass over memory instead of two.

    Where both terms are batch norms, the one that comes last is merged, and the other one is its residual. A batch norm
    that is added to its own input stays: one kernel cannot write and add to the same gradient.
    """
    producers = {node.output: node for node in graph.nodes}
    consumers = graph.consumers()
    merged, used = {}, set()
    for node in graph.nodes:
        if not isinstance(node.operator, Add) or node.inputs[0] is node.inputs[1]:
            continue
        terms = [producers[x] for x in node.inputs if x in producers]
        terms = [t for t in terms if _is_plain_batch_norm(t) and consumers[t.output] == [node]]
        terms = [t for t in terms if t.inputs[0] not in node.inputs]
        if terms:
            term = max(terms, key=graph.nodes.index)
            assert isinstance(term.operator, BatchNorm)
            term.operator.add = True
            residual = node.inputs[1] if node.inputs[0] is term.output else node.inputs[0]
            merged[node] = Node(term.operator, (*term.inputs, residual), node.output)
            used.add(term)
    return _rebuilt(graph, merged, used)


def fuse_batch_norm_relu(graph: Graph) -> Graph:
    """Merge a batch norm, with its addition if any, with the ReLU that alone reads it."""
    return _merge_with_relu(graph, lambda operator: isinstance(operator, BatchNorm))


def fuse_convolution_relu(graph: Graph) -> Graph:
    """Merge a convolution or linear layer that has a bias with the ReLU that alone reads it.

    Forward takes the maximum where it adds the bias, and backward the bias's gradient where it applies the mask.
    """
    return _merge_with_relu(graph, lambda operator: isinstance(operator, WeightedSum) and operator.has_bias)


def fuse_relu_max_pool(graph: Graph) -> Graph:
    """Merge a ReLU with the max pool that alone reads it: it then passes one value of a window, forward and backward.

    Backward needs neither's input nor output: no window's maximum has a gradient where it is not positive.
    """
    consumers = graph.consumers()
    merged, used = {}, set()
    for node in graph.nodes:
        readers = consumers[node.output]
        if isinstance(node.operator, ReLU) and len(readers) == 1 and isinstance(readers[0].operator, MaxPool):
            (pool,) = readers
            assert isinstance(pool.operator, MaxPool)
            pool.operator.relu = True
            merged[pool] = Node(pool.operator, node.inputs, pool.output)
            used.add(node)
    return _rebuilt(graph, merged, used)


def collect_statistics(graph: Graph) -> Graph:
    """Let each convolution that a batch norm reads take the batch-norm sums of its output while it lies in cache.

    What was measured of a tensor serves all batch norms that read it, alone or in a concatenation: those of a dense
    block measure nothing but what its first tensor and each layer add.
    """
    producers = {node.output: node for node in graph.nodes}
    measured: dict[Tensor, BatchNorm] = {}

    def parts(x: Tensor) -> Iterator[tuple[int, Loan | None]]:
        """Yield the channels of each part of x, and what is known of its statistics."""
        operator = producers[x].operator if x in producers else None
        if x in measured:
            yield x.channels, Loan(measured[x], "moments")
        elif isinstance(operator, Concatenation):
            for term in producers[x].inputs:
                yield from parts(term)
        elif isinstance(operator, Convolution):
            operator.collects_statistics = True
            yield x.channels, Loan(operator, "statistics")
        else:
            yield x.channels, None

    for node in graph.nodes:
        if isinstance(node.operator, BatchNorm):
            node.operator.parts = tuple(parts(node.inputs[0]))
            node.operator.borrows = tuple(loan for _, loan in node.operator.parts if loan)
            measured.setdefault(node.inputs[0], node.operator)
    return graph


def apply_batch_norm_on_load(graph: Graph) -> Graph:
    """Let a convolution or max pool apply the batch norm + ReLU that it alone reads while it loads its input.

    The normalized tensor is then never written, read or kept for backward; and where the algorithm of the input
    gradient can, it does the first half of the batch norm's backward before it stores what it has computed.
    Pools are left out that load each value more often than those of 3x3 windows two pixels apart.
    Convolutions are left out that would normalize every value once a tap: a depthwise one does, but waits for memory,
    and Winograd's about twice. That follows from the algorithm that is preferred: this pass may be run again when
    another one is. What is pinned does not count, for it may differ between numbers of images.
    """
    consumers = graph.consumers()
    for node in graph.nodes:
        operator, readers = node.operator, consumers[node.output]
        if not isinstance(operator, BatchNorm) or not operator.relu or operator.add or len(readers) != 1:
            continue
        reader = readers[0].operator
        if isinstance(reader, Convolution):
            on_load = _loads_each_value_once(reader, node.output.extent)
            operator.deferred = reader.applies_batch_norm = on_load
            reader.borrows = (Loan(operator, "coefficients"), Loan(operator, "gradient_sums")) if on_load else ()
        elif isinstance(reader, MaxPool) and 2 * reader.window <= 3 * reader.stride:
            operator.deferred = reader.applies_batch_norm = True
            reader.borrows = (Loan(operator, "coefficients"),)
    return graph


def mask_gradient_on_store(graph: Graph) -> Graph:
    """Let a convolution mask the gradient that it stores by the ReLU that was merged into what made its input.

    That is where the algorithm of the input gradient has an epilogue; it takes the sums of the bias's gradient, too.
    """
    consumers = graph.consumers()
    for node in graph.nodes:
        operator, readers = node.operator, consumers[node.output]
        if not isinstance(operator, WeightedSum) or not operator.relu or len(readers) != 1:
            continue
        reader = readers[0].operator
        if isinstance(reader, Convolution):
            operator.keeps_gradient_sums = reader.masks_gradient = True
            reader.borrows = (Loan(operator, "gradient_sums"),)
    return graph


def _loads_each_value_once(operator: Convolution, x: Extent) -> bool:
    """Tell whether, about, or at no cost: for a batch of the usual size, which matters little to what is cheapest."""
    is_pointwise = operator.kernel == 1 and operator.padding == 0
    algorithms = choose_algorithms(operator.shape(USUAL_IMAGES, x), operator.wanted_algorithm)
    return is_pointwise or isinstance(operator, Depthwise) or set(algorithms) == {Winograd.name}


def _merge_with_relu(graph: Graph, takes_relu: Callable[[Operator], bool]) -> Graph:
    """Merge each node whose operator can have a `relu`, which is set, with the ReLU that alone reads it."""
    consumers = graph.consumers()
    merged, used = {}, set()
    for node in graph.nodes:
        readers = consumers[node.output]
        if takes_relu(node.operator) and len(readers) == 1 and isinstance(readers[0].operator, ReLU):
            assert isinstance(node.operator, BatchNorm | WeightedSum)
            node.operator.relu = True
            merged[node] = Node(node.operator, node.inputs, readers[0].output)
            used.add(readers[0])
    return _rebuilt(graph, merged, used)


def _rebuilt(graph: Graph, merged: Mapping[Node, Node], used: Collection[Node]) -> Graph:
    """Return a graph with other nodes in the places of those that others were merged with, which are left out."""
    return graph.rewritten(merged.get(node, node) for node in graph.nodes if node not in used)


def _is_plain_batch_norm(node: Node) -> bool:
    return isinstance(node.operator, BatchNorm) and not node.operator.add and not node.operator.relu


DEFAULT_PASSES = (
    fuse_batch_norm_add,
    fuse_batch_norm_relu,
    fuse_relu_max_pool,
    fuse_convolution_relu,
    collect_statistics,
    apply_batch_norm_on_load,
    mask_gradient_on_store,
)
