"""Rewritings of a graph that change how it runs and not what it computes.

Each takes a graph and returns one; operators that are merged are used up with the graph they came from.
"""

from cnnzoo.graph.operators.activation import ReLU
from cnnzoo.graph.operators.batch_norm import BatchNorm
from cnnzoo.graph.operators.convolution import Convolution
from cnnzoo.graph.operators.depthwise import Depthwise
from cnnzoo.graph.operators.elementwise import Add
from cnnzoo.graph.tensor import Graph, Node


def fuse_batch_norm_add(graph: Graph) -> Graph:
    """Merge a batch norm with the addition that alone reads it: one pass over memory instead of two.

    Where both terms are batch norms, the one that comes last is merged, and the other one is its residual. A batch norm
    that is added to its own input stays: one kernel cannot write and add to the same gradient.
    """
    producers = {node.output: node for node in graph.nodes}
    consumers = graph.consumers()
    merged: dict[Node, Node] = {}
    for node in graph.nodes:
        if not isinstance(node.operator, Add) or node.inputs[0] is node.inputs[1]:
            continue
        terms = [producers[x] for x in node.inputs if x in producers]
        terms = [t for t in terms if _is_plain_batch_norm(t) and consumers[t.output] == [node]]
        terms = [t for t in terms if t.inputs[0] not in node.inputs]
        if terms:
            merged[node] = max(terms, key=graph.nodes.index)
    used = set(merged.values())
    nodes = []
    for node in graph.nodes:
        if node in merged:
            term = merged[node]
            assert isinstance(term.operator, BatchNorm)
            term.operator.add = True
            residual = node.inputs[1] if node.inputs[0] is term.output else node.inputs[0]
            nodes.append(Node(term.operator, (*term.inputs, residual), node.output))
        elif node not in used:
            nodes.append(node)
    return graph.rewritten(nodes)


def fuse_batch_norm_relu(graph: Graph) -> Graph:
    """Merge a batch norm, with its addition if any, with the ReLU that alone reads it."""
    consumers = graph.consumers()
    outputs = {}
    for node in graph.nodes:
        readers = consumers[node.output]
        if isinstance(node.operator, BatchNorm) and len(readers) == 1 and isinstance(readers[0].operator, ReLU):
            outputs[node] = readers[0]
    used = set(outputs.values())
    nodes = []
    for node in graph.nodes:
        if node in outputs:
            assert isinstance(node.operator, BatchNorm)
            node.operator.relu = True
            nodes.append(Node(node.operator, node.inputs, outputs[node].output))
        elif node not in used:
            nodes.append(node)
    return graph.rewritten(nodes)


def collect_statistics(graph: Graph) -> Graph:
    """Let each convolution that a batch norm reads take the batch-norm sums of its output while it lies in cache."""
    producers = {node.output: node for node in graph.nodes}
    for node in graph.nodes:
        producer = producers.get(node.inputs[0])
        if isinstance(node.operator, BatchNorm) and producer and isinstance(producer.operator, Convolution):
            producer.operator.collects_statistics = True
            node.operator.borrows = ("statistics",)
    return graph


def apply_batch_norm_on_load(graph: Graph) -> Graph:
    """Let a 1x1 or depthwise convolution apply the batch norm + ReLU that it alone reads while it loads its input.

    The normalized tensor is then never written, read or kept for backward. Other kernels would normalize every value
    once a tap; a depthwise one does, but waits for memory.
    """
    consumers = graph.consumers()
    for node in graph.nodes:
        operator, readers = node.operator, consumers[node.output]
        if not isinstance(operator, BatchNorm) or not operator.relu or operator.add or len(readers) != 1:
            continue
        reader = readers[0].operator
        if isinstance(reader, Convolution) and (isinstance(reader, Depthwise) or _is_pointwise(reader)):
            operator.deferred = True
            reader.applies_batch_norm = True
            reader.borrows = ("coefficients",)
    return graph


def _is_pointwise(operator: Convolution) -> bool:
    return operator.kernel == 1 and operator.padding == 0


def _is_plain_batch_norm(node: Node) -> bool:
    return isinstance(node.operator, BatchNorm) and not node.operator.add and not node.operator.relu


DEFAULT_PASSES = (fuse_batch_norm_add, fuse_batch_norm_relu, collect_statistics, apply_batch_norm_on_load)
