"""Python's collector of cycles, for processes that hold ten thousands of dialogues and hardly ever make a cycle."""

import gc

YOUNG = 100_000
"""Allocations between looks at the young; with Python's 700, looking took a quarter of a verifying process's CPU."""


def settle_collector() -> None:
    """Call it when everything is loaded that lives as long as the process: that is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)
