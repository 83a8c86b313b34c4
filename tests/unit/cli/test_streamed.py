"""Addresses that come bit by bit: what is read of them, and how many are in flight."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.cli import streamed
from ops.cli.streamed import lines_of, verify_streamed
from schemas.vocabulary import Depth


async def read(*pieces: bytes) -> list[str]:
    """The lines of a pipe into which these are written one after the other."""
    reading, writing = os.pipe()
    try:
        found: list[str] = []
        source = lines_of(reading, "utf-8-sig")
        for piece in pieces:
            os.write(writing, piece)
        os.close(writing)
        async for lines in source:
            found += lines
        return found
    finally:
        os.close(reading)


async def test_lines_of_a_pipe() -> None:
    assert await read(b"\xef\xbb\xbfa@x\r\n\n  \nb@x\rc@x\n\xff@x") == ["a@x", "b@x", "c@x", "\\xff@x"]
    assert await read() == []


async def test_a_line_without_an_end_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "READ_BYTES", 10)
    found = await read(b"x" * 95 + b"\ny")
    assert "".join(found) == "x" * 95 + "y"
    assert max(map(len, found)) <= 20


async def test_a_device_that_is_always_ready_is_read_at_once() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    assert [lines async for lines in lines_of(null, "utf-8")] == []
    os.close(null)


class Verifying:
    """Answers an address when told so; counts how many it holds."""

    def __init__(self, slow: Iterable[str] = ()) -> None:
        self.held = self.most = 0
        self.slow = set(slow)
        self.go = asyncio.Event()

    async def verify(self, addresses: list[str], depth: Depth, *, window: int) -> AsyncGenerator[Any, None]:
        assert window == len(addresses)
        self.held += len(addresses)
        self.most = max(self.most, self.held)
        for index, text in enumerate(addresses):
            await (self.go.wait() if text in self.slow else asyncio.sleep(0))
            self.held -= 1
            yield index, text, None


async def of(pieces: Iterable[list[str]]) -> AsyncIterator[list[str]]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


async def verified(verifying: Verifying, pieces: Iterable[list[str]], window: int) -> list[tuple[int, str]]:
    told: list[tuple[int, str]] = []
    await verify_streamed(
        cast(Any, verifying),
        of(pieces),
        Depth.SYNTAX,
        window=window,
        say=lambda index, text, _: told.append((index, text)),
    )
    return told


@given(st.lists(st.integers(1, 30), max_size=8), st.integers(1, 40))
def test_each_address_is_told_of_once_in_a_bounded_window(sizes: list[int], window: int) -> None:
    async def check() -> None:
        numbers = iter(range(sum(sizes)))
        pieces = [[str(next(numbers)) for _ in range(size)] for size in sizes]
        verifying = Verifying()
        told = await verified(verifying, pieces, window)
        assert sorted(told) == sorted((number, str(number)) for number in range(sum(sizes)))
        assert verifying.most <= window

    asyncio.run(check())


async def test_a_slow_address_holds_up_nobody() -> None:
    verifying = Verifying(slow=["slow"])
    told: list[str] = []
    pieces = of([["slow"], ["a"], ["b"], ["c"]])
    running = asyncio.create_task(
        verify_streamed(
            cast(Any, verifying), pieces, Depth.SYNTAX, window=2, say=lambda _index, text, _finding: told.append(text)
        )
    )
    for _ in range(50):
        await asyncio.sleep(0)
    assert told == ["a", "b", "c"]
    verifying.go.set()
    await running
    assert told[-1] == "slow"


async def test_the_first_error_is_the_one_that_is_raised() -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await verify_streamed(cast(Any, Verifying()), of([["a"], ["b"]]), Depth.SYNTAX, window=1, say=broken)
