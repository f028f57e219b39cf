"""Keeps one registration alive on the local agent, through agent restarts and lost state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from farthing.kit.discovery.consul import ConsulClient, ConsulRefused
from farthing.kit.discovery.registry import Registration
from farthing.kit.discovery.view import retry_after_s
from farthing.kit.errors import FarthingError, InvalidArgument, Unavailable

_log = logging.getLogger(__name__)

_CHECK_INTERVAL_S = 1.0
_TTL_S = 3.0
_LOOK_EVERY_S = 2.0
_FAILURES_BEFORE_CRITICAL = 2  # absorbs one slow answer of a busy instance


class RegistrationKeeper:
    """Announces at once, then looks every 2 s whether the agent still knows."""

    def __init__(
        self, client: ConsulClient, registration: Registration, *, jitter: Callable[[], float]
    ) -> None:
        self._client = client
        self._registration = registration
        self._jitter = jitter
        self._announced = False
        self._failures_field = True

    async def announce(self) -> None:
        """Register now.

        InvalidArgument when Consul finds the registration itself wrong, Unavailable or ConsulRefused otherwise.
        """
        try:
            await self._put()
        except ConsulRefused as error:
            # Agents before 1.11 refuse fields they do not know.
            if error.status != 400:
                raise
            if not (self._failures_field and "failures" in error.body.lower()):
                raise InvalidArgument(
                    f"registration {self._registration.id}: {error.message}",
                    field="registration",
                ) from error
            self._failures_field = False
            await self._put()
        self._announced = True

    async def keep(self) -> None:
        """Run for ever: announce again whenever the agent lost the registration; send heartbeats for ttl checks."""
        errors = 0
        while True:
            try:
                await self._look()
                errors = 0
                delay_s = _TTL_S / 3 if self._registration.check == "ttl" else _LOOK_EVERY_S
            except FarthingError as error:
                errors += 1
                if errors == 1:
                    _log.warning(
                        "%s cannot be kept registered: %s", self._registration.id, error
                    )
                delay_s = retry_after_s(errors, self._jitter())
            await asyncio.sleep(delay_s)

    async def withdraw(self) -> None:
        """Deregister; an agent that cannot be reached is logged."""
        try:
            await self._client.put(
                f"/v1/agent/service/deregister/{quote(self._registration.id, safe='')}"
            )
        except (Unavailable, ConsulRefused) as error:
            _log.warning("%s was not deregistered: %s", self._registration.id, error)

    async def _look(self) -> None:
        service_id = quote(self._registration.id, safe="")
        if self._announced:
            answer = await self._client.get(f"/v1/agent/service/{service_id}")
            if not answer.found:
                _log.warning("the agent lost %s; registering it again", self._registration.id)
                self._announced = False
        if not self._announced:
            await self.announce()
            _log.info("registered %s", self._registration.id)
        if self._registration.check == "ttl":
            await self._client.put(f"/v1/agent/check/pass/service:{service_id}")

    async def _put(self) -> None:
        await self._client.put(
            "/v1/agent/service/register",
            encode_registration(self._registration, failures_field=self._failures_field),
        )


def encode_registration(registration: Registration, *, failures_field: bool) -> dict[str, Any]:
    """The body Consul wants. InvalidArgument when the address is not host:port."""
    host, _, port = registration.address.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidArgument(
            f"address {registration.address!r} is not host:port", field="registration.address"
        )
    check: dict[str, Any] = {
        # The port listens already, so the instance is of use from now on and not one interval later.
        "Status": "passing",
        "DeregisterCriticalServiceAfter": "10m",
    }
    if registration.check == "ttl":
        check["TTL"] = f"{_TTL_S:g}s"
    else:
        check |= {"Interval": f"{_CHECK_INTERVAL_S:g}s", "Timeout": "1s"}
        if registration.check == "http":
            check["HTTP"] = registration.http_check_url
        else:
            check |= {"GRPC": registration.address, "GRPCUseTLS": registration.check_tls}
        if failures_field:
            check["FailuresBeforeCritical"] = _FAILURES_BEFORE_CRITICAL
    return {
        "Name": registration.service,
        "ID": registration.id,
        "Address": host.strip("[]"),
        "Port": int(port),
        "Meta": {
            **registration.meta,
            "region": registration.region,
            "zone": registration.zone,
        },
        "Check": check,
    }
