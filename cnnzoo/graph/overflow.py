"""Which activation is too large for the type in which it waits for backward."""

from collections.abc import Callable

import numpy as np

from cnnzoo.graph.plan import Plan

LARGEST_FLOAT16 = 65_504
_BECOMES_INFINITE = 65_520


def find_overflow(plan: Plan, random_key: Callable[[str], int]) -> str | None:
    """Run the forward steps of a plan; return the first node whose output is finite until it is stored as float16.

    Returns
    -------
    str or None
        Its name; None where there is none, or where another output is not finite as it is.
    """
    layout, found = plan._layout, None
    for node, context in plan._run_forward(random_key):
        largest = np.abs(context.y.values).max()
        if not np.isfinite(largest):
            return None
        region = layout.sharing.region(node.output)
        is_stored = plan.storage == "float16" and region in layout.narrowed_values
        if found is None and is_stored and node.output not in region.overwritten and largest >= _BECOMES_INFINITE:
            found = node.name
    return found
