"""The rows in the order of the table. A new one is a module with NAME and measure, and its line."""

from benchmarks.measure import Row
from benchmarks.rows import (
    accept,
    cli,
    idle,
    instances,
    lateness,
    lists,
    log_search,
    log_storage,
    log_viewers,
    pages,
    scheduled,
    throughput,
    ticks,
    waits,
)

ROWS: tuple[Row, ...] = (
    idle,
    cli,
    throughput,
    accept,
    log_storage,
    log_viewers,
    log_search,
    lists,
    pages,
    waits,
    scheduled,
    lateness,
    ticks,
    instances,
)
