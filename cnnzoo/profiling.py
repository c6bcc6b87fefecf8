"""The ledger of a step as people and programs read it; the commands and benchmarks that take --profile print it."""

from collections.abc import Sequence
from typing import Any

from cnnzoo.command import align
from cnnzoo.graph.ledger import Ledger, Row
from cnnzoo.machine import Limits, measure_limits

SHOWN_ROWS = 10


def describe_ledger(ledger: Ledger, shown: int = SHOWN_ROWS) -> list[str]:
    """Return the lines of a table: the `shown` longest rows, what the others make up, and totals.

    The machine's limits are measured, which takes a second.
    """
    limits = measure_limits()
    rows = ledger.rows(limits.least_seconds)
    table = [["layer", "kind", "pass", "ms", "GFLOP/s", "GB/s", "of limit", "bound by"]]
    table += [[r.work.name, r.work.kind, r.work.direction, *_numbers([r]), _bound(r, limits)] for r in rows[:shown]]
    if rows[shown:]:
        table.append([f"{len(rows) - shown} more", "", "", *_numbers(rows[shown:]), ""])
    for direction in dict.fromkeys(r.work.direction for r in rows):
        part = [r for r in rows if r.work.direction == direction]
        table.append([f"all of {direction}", "", "", *_numbers(part), ""])
    table.append(["all", "", "", *_numbers(rows), ""])
    return [
        *align(table, left=3),
        f"limits, measured: {limits.operations_per_second / 1e9:.0f} GFLOP/s, "
        f"{limits.bytes_per_second / 1e9:.1f} GB/s; counted: the direct method's operations, each array moved once",
    ]


def ledger_to_plain(ledger: Ledger) -> dict[str, Any]:
    """Return all rows, the longest first, and the machine's limits as plain values for JSON."""
    limits = measure_limits()
    return {
        "operations_per_second": limits.operations_per_second,
        "bytes_per_second": limits.bytes_per_second,
        "rows": [
            {
                "layer": r.work.name,
                "kind": r.work.kind,
                "pass": r.work.direction,
                "seconds": r.seconds,
                "operations": r.work.operations,
                "bytes": r.work.moved,
                "share_of_limit": r.share,
                "bound_by": _bound(r, limits),
            }
            for r in ledger.rows(limits.least_seconds)
        ],
    }


def _numbers(rows: Sequence[Row]) -> list[str]:
    seconds = sum(r.seconds for r in rows)
    operations, moved = sum(r.work.operations for r in rows), sum(r.work.moved for r in rows)
    return [
        f"{seconds * 1e3:.2f}",
        f"{operations / seconds / 1e9:.0f}" if operations else "-",
        f"{moved / seconds / 1e9:.1f}",
        f"{sum(r.least_seconds for r in rows) / seconds:.0%}",
    ]


def _bound(row: Row, limits: Limits) -> str:
    computing = row.work.operations / limits.operations_per_second > row.work.moved / limits.bytes_per_second
    return "arithmetic" if computing else "memory"
