"""Where everything waits: what a worker tells of its tasks and threads when somebody asks, for one that seems stuck.

Names of tasks, files, lines and functions; no values, since those may be addresses or secrets.
"""

import asyncio
import gc
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

DEEPEST = 50
"""Frames of one task that are told at most."""


def tell_on_signal() -> None:
    """From now on SIGUSR2 writes the stacks to standard error. To be called in a running loop of the main thread."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, lambda: print(stacks(), file=sys.stderr, flush=True))


def stacks() -> str:
    """A line for each task, of whatever thread's loop, and one for each thread, from the outermost call inwards."""
    # asyncio tells of the tasks of one loop alone, and Faust's consumer has a loop of its own.
    found = [each for each in gc.get_objects() if isinstance(each, asyncio.Task)]
    tasks = sorted((task for task in found if not task.done()), key=lambda task: task.get_name())
    lines = [f"task {task.get_name()}: {' > '.join(_awaited(task.get_coro()))}" for task in tasks]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        calls = [_place(each) for each, _ in traceback.walk_stack(frame)][:DEEPEST]
        lines.append(f"thread {names.get(ident, ident)}: {' > '.join(reversed(calls))}")
    return "\n".join(lines)


def _awaited(waits: Any) -> Iterator[str]:
    """A coroutine, what it awaits, what that awaits, and so on."""
    for _ in range(DEEPEST):
        frame = next((found for name in _FRAMES if (found := getattr(waits, name, None)) is not None), None)
        if frame is None:
            yield type(waits).__name__
            return
        yield _place(frame)
        waits = next((found for name in _WAITS if (found := getattr(waits, name, None)) is not None), None)


_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_WAITS = ("cr_await", "gi_yieldfrom", "ag_await")


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}"
