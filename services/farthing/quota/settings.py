"""Every knob of the quota service."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.kit.durability import Synchronous, parse_synchronous
from farthing.kit.settings import ServiceSettings, SettingsError, setting
from farthing.quota.core.keys import MIN_CHOSEN_SECRET_CHARS


@dataclass(frozen=True, slots=True)
class QuotaSettings(ServiceSettings):
    """See ServiceSettings for what every service shares."""

    port: int = setting(50053, env="FARTHING_PORT", doc="gRPC port.")
    bootstrap_admin_key: str = setting(
        "",
        env="FARTHING_QUOTA_BOOTSTRAP_ADMIN_KEY",
        doc="Secret of an administrator's key made at the start if it does not exist.",
        secret=True,
    )
    synchronous: str = setting(
        "normal",
        env="FARTHING_QUOTA_SYNCHRONOUS",
        doc="normal survives the death of the process; full the loss of power too, for an fsync "
        "per group of calls.",
    )
    sweep_ms: int = setting(
        1_000,
        env="FARTHING_QUOTA_SWEEP_MS",
        doc="Time between two looks for expired holds; a reserve looks by itself.",
        unit="ms",
    )
    settled_retention_ms: int = setting(
        24 * 3_600_000,
        env="FARTHING_QUOTA_SETTLED_RETENTION_MS",
        doc="How long the id of a settled hold is remembered, so that a repeat is recognised.",
        unit="ms",
    )
    expired_retention_ms: int = setting(
        7 * 24 * 3_600_000,
        env="FARTHING_QUOTA_EXPIRED_RETENTION_MS",
        doc="How long a hold that nobody settled can still be settled; at least the one above.",
        unit="ms",
    )

    def resolve_synchronous(self) -> Synchronous:
        """The durability of a commit. SettingsError on an unknown word."""
        return parse_synchronous(self.synchronous, env="FARTHING_QUOTA_SYNCHRONOUS")

    def resolve_bootstrap_admin_key(self) -> str:
        """The secret, or "". SettingsError when it is too short to be one."""
        if 0 < len(self.bootstrap_admin_key) < MIN_CHOSEN_SECRET_CHARS:
            raise SettingsError(
                "FARTHING_QUOTA_BOOTSTRAP_ADMIN_KEY is shorter than "
                f"{MIN_CHOSEN_SECRET_CHARS} characters; use fk- and 32 random ones",
                env="FARTHING_QUOTA_BOOTSTRAP_ADMIN_KEY",
            )
        return self.bootstrap_admin_key
