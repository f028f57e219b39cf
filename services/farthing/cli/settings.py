"""Where the command finds the services, and the keys it shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from farthing.kit.settings import ServiceSettings, describe, load, setting

ENV_FILE = Path("build") / "run" / "env"
KEY_PREFIX = "fk-"
_ADDRESSES = ("FARTHING_ROUTER_ADDRESS", "FARTHING_QUOTA_ADDRESS", "FARTHING_LEDGER_ADDRESS")


@dataclass(frozen=True, slots=True)
class CliSettings:
    """What `farthing up` leaves in build/run/env is read from there when the environment does not say."""

    router_address: str = setting(
        "127.0.0.1:50051", env="FARTHING_ROUTER_ADDRESS", doc="Router, host:port."
    )
    quota_address: str = setting(
        "127.0.0.1:50053", env="FARTHING_QUOTA_ADDRESS", doc="Quota service, host:port."
    )
    ledger_address: str = setting(
        "127.0.0.1:50054", env="FARTHING_LEDGER_ADDRESS", doc="Ledger service, host:port."
    )
    console_url: str = setting(
        "http://127.0.0.1:8090", env="FARTHING_CONSOLE_URL", doc="Web console."
    )
    api_key: str = setting(
        "",
        env="FARTHING_API_KEY",
        doc="API key for requests; empty for OPENAI_API_KEY where that is one of ours (fk-…).",
        secret=True,
    )
    admin_key: str = setting(
        "",
        env="FARTHING_ADMIN_KEY",
        doc="Administrator's key for keys, budgets, status and spend.",
        secret=True,
    )
    data_dir: Path = setting(
        Path("~/.local/share/farthing"),
        env="FARTHING_DATA_DIR",
        doc="Where the model store is, below models/.",
    )
    model_sources: tuple[str, ...] = setting(
        (),
        env="FARTHING_MODEL_SOURCES",
        doc="Nodes to fetch models from, host:port, the first ones first; empty for those that discovery knows.",
    )
    model_store_limit_bytes: int = setting(
        0,
        env="FARTHING_MODEL_STORE_LIMIT_BYTES",
        doc="Most that stored models may take on disk; 0 for no limit.",
        unit="bytes",
    )
    model_fetch_bytes_per_s: int = setting(
        0,
        env="FARTHING_MODEL_FETCH_BYTES_PER_S",
        doc="Most of the link that fetching a model takes; 0 for no limit.",
        unit="bytes per second",
    )
    region: str = setting(
        "local", env="FARTHING_REGION", doc="Region of this machine: its nodes are asked first."
    )
    consul_url: str = setting(
        "",
        env="FARTHING_CONSUL_URL",
        doc="Consul agent's HTTP address, to find nodes with models; empty for the registry file.",
    )
    consul_token: str = setting(
        "", env="FARTHING_CONSUL_TOKEN", doc="Consul ACL token.", secret=True
    )
    registry_file: Path | None = setting(
        None, env="FARTHING_REGISTRY_FILE", doc="Static registry used without Consul."
    )
    tls_cert_file: Path | None = setting(
        None, env="FARTHING_TLS_CERT_FILE", doc="PEM certificate; turns mutual TLS on."
    )
    tls_key_file: Path | None = setting(
        None, env="FARTHING_TLS_KEY_FILE", doc="PEM key of the certificate."
    )
    tls_ca_file: Path | None = setting(
        None,
        env="FARTHING_TLS_CA_FILE",
        doc="PEM bundle that the services' certificates must chain to.",
    )

    def as_service_settings(self) -> ServiceSettings:
        """TLS files and discovery as the kit reads them."""
        return replace(
            ServiceSettings(),
            region=self.region,
            data_dir=self.data_dir,
            consul_url=self.consul_url,
            consul_token=self.consul_token,
            registry_file=self.registry_file,
            tls_cert_file=self.tls_cert_file,
            tls_key_file=self.tls_key_file,
            tls_ca_file=self.tls_ca_file,
        )


def read_settings(environ: Mapping[str, str], start: Path) -> CliSettings:
    """The settings from `environ`, and below it from build/run/env of `start` or the nearest folder above.

    SettingsError on a FARTHING_ name that no part of the suite knows.
    """
    saved = read_env_file(find_env_file(start))
    if any(environ.get(name, saved.get(name)) != saved.get(name) for name in _ADDRESSES):
        saved = {}  # another suite is meant: this one's keys are not for it
    merged = {**saved, **environ}
    own = {info.env for info in describe(CliSettings)}
    others: set[str] = set()
    if any(name.startswith("FARTHING_") and name not in own for name in environ):
        # Names of services are no mistakes here; their settings are imported only to tell.
        from farthing.cli.settings_catalogue import all_names

        others = all_names()
    settings = load(CliSettings, merged, also_known=others)
    openai_key = merged.get("OPENAI_API_KEY", "")
    if not settings.api_key and openai_key.startswith(KEY_PREFIX):
        settings = replace(settings, api_key=openai_key)
    return settings


def find_env_file(start: Path) -> Path | None:
    """What a running or earlier `farthing up` wrote, or None."""
    for folder in (start, *start.parents):
        if (folder / ENV_FILE).is_file():
            return folder / ENV_FILE
    return None


def read_env_file(path: Path | None) -> dict[str, str]:
    """NAME=value lines, as a shell reads them; {} without a file."""
    if path is None:
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}  # another user's: its keys are not for us
    pairs = (line.partition("=") for line in lines if "=" in line and line[:1] != "#")
    return {name.removeprefix("export ").strip(): value.strip() for name, _, value in pairs}
