"""What operators and orchestrators ask a worker over HTTP: `/metrics`, `/health/live`, `/health/ready`."""

import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from ops.cli.errors import UserError


@asynccontextmanager
async def serve(
    host: str, port: int, *, registry: CollectorRegistry, live: Callable[[], bool], ready: Callable[[], bool]
) -> AsyncIterator[str]:
    """Serve while the context lasts; gives the address, ``http://HOST:PORT``. Port 0 takes a free one.

    ``live`` and ``ready`` are asked on the worker's own event loop: a loop that doesn't turn doesn't answer, and
    that is what a liveness probe's time limit finds.

    Raises:
        UserError: the port is taken, or the host isn't this machine's.
    """
    runner = web.AppRunner(_application(registry, live, ready), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UserError(
                f"metrics can't be served at {host}:{port} ({error.strerror or error}): choose another --metrics-port"
            ) from None
        yield f"http://{host}:{cast(tuple[str, int], runner.addresses[0])[1]}"
    finally:
        await runner.cleanup()


def is_ready(port: int) -> bool:
    """Whether a worker of this machine says so; false where none answers within two seconds."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _application(registry: CollectorRegistry, live: Callable[[], bool], ready: Callable[[], bool]) -> web.Application:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def liveness(_: web.Request) -> web.Response:
        return _state(live(), "live", "dead")

    async def readiness(_: web.Request) -> web.Response:
        return _state(ready(), "ready", "not ready")

    app = web.Application()
    app.add_routes(
        [web.get("/metrics", metrics), web.get("/health/live", liveness), web.get("/health/ready", readiness)]
    )
    return app


def _state(good: bool, yes: str, no: str) -> web.Response:
    return web.Response(text=f"{yes if good else no}\n", status=200 if good else 503)
