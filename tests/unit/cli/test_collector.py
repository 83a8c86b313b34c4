"""What lives long is not looked at again, and the young seldom."""

import gc
from collections.abc import Iterator

import pytest

from ops.cli.collector import YOUNG, settle_collector


@pytest.fixture
def as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("as_before")
def test_all_that_is_loaded_is_frozen_and_the_young_are_looked_at_seldom() -> None:
    settle_collector()
    assert gc.get_freeze_count() > 1000
    assert gc.get_threshold()[0] == YOUNG
