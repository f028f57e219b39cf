"""Opens the HTTP ports of the ledger process."""

from __future__ import annotations

import ssl

from aiohttp import web

from farthing.kit.errors import Unavailable

_SHUTDOWN_S = 5.0


async def listen(
    application: web.Application,
    host: str,
    port: int,
    *,
    env: str,
    tls: ssl.SSLContext | None = None,
) -> tuple[web.AppRunner, int]:
    """Serves an application; returns what stops it and the port, which is chosen when `port` is 0.

    Unavailable when the port is taken; `env` is the setting to change then.
    """
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError as error:
        await runner.cleanup()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}; stop the other process or set {env}",
            reason="PORT_TAKEN",
            metadata={"address": f"{host}:{port}", "env": env},
        ) from error
    bound: int = runner.addresses[0][1]
    return runner, bound
