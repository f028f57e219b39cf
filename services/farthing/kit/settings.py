"""Settings: read once from FARTHING_* variables into frozen dataclasses; a name nobody knows is an error."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from farthing.kit.errors import FarthingError

PREFIX = "FARTHING_"

_S = TypeVar("_S")
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class SettingsError(FarthingError):
    """A variable is wrong. The message names it, its value and the fix."""

    def __init__(self, message: str, *, env: str) -> None:
        super().__init__(message, reason="INVALID_SETTING", metadata={"env": env})


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What the documentation says of one setting."""

    env: str
    type_name: str
    default: str
    unit: str
    doc: str
    secret: bool


def setting(default: Any, *, env: str, doc: str, unit: str = "", secret: bool = False) -> Any:
    """Declare a dataclass field that is read from `env` (with the FARTHING_ prefix)."""
    if not env.startswith(PREFIX):
        raise ValueError(f"{env}: settings are named {PREFIX}…")
    return dataclasses.field(
        default=default,
        metadata={"env": env, "doc": doc, "unit": unit, "secret": secret},
        repr=not secret,
    )


def load(cls: type[_S], environ: Mapping[str, str], *, also_known: Iterable[str] = ()) -> _S:
    """Build `cls` from `environ`. SettingsError on a bad value or an unknown FARTHING_* name.

    `also_known` lists names that belong to other parts started from the same environment.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    known = {field.metadata["env"] for field in _declared(cls)} | set(also_known)
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            raise SettingsError(
                f"{name} is not a setting of this service; unset it or see "
                f"docs/reference/settings.md{_near(name, known)}",
                env=name,
            )
    for field in _declared(cls):
        env = field.metadata["env"]
        text = environ.get(env, "")
        if text != "":
            values[field.name] = _convert(
                env, text, hints[field.name], secret=field.metadata["secret"]
            )
    return cls(**values)


def describe(cls: type[Any]) -> list[SettingInfo]:
    """List the settings of `cls` in order of declaration, for documentation and tests."""
    hints = typing.get_type_hints(cls)
    return [
        SettingInfo(
            env=field.metadata["env"],
            type_name=_type_name(hints[field.name]),
            default="" if field.default is None else _show(field.default),
            unit=field.metadata["unit"],
            doc=field.metadata["doc"],
            secret=field.metadata["secret"],
        )
        for field in _declared(cls)
    ]


def _declared(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if "env" in field.metadata]


def _convert(env: str, text: str, hint: Any, *, secret: bool) -> Any:
    shown = "(secret)" if secret else repr(text)
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    try:
        if hint is bool:
            lowered = text.lower()
            if lowered not in _TRUE | _FALSE:
                raise ValueError("write true or false")
            return lowered in _TRUE
        if hint is int:
            return _parse_int(text)
        if hint is float:
            return _parse_float(text)
        if hint is Path:
            return Path(text).expanduser()
        if typing.get_origin(hint) is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(
            f"{env}={shown} is not a valid {_type_name(hint)}: {error}", env=env
        ) from None
    return text


def _parse_int(text: str) -> int:
    try:
        return int(text.replace("_", ""))
    except ValueError:
        raise ValueError("write a whole number such as 1000") from None


def _parse_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("write a number such as 0.5")
    return value


def _type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(
            _type_name(part) for part in typing.get_args(hint) if part is not type(None)
        )
    if typing.get_origin(hint) is tuple:
        return "comma-separated list"
    return {
        "str": "text",
        "int": "integer",
        "float": "number",
        "bool": "true or false",
        "Path": "path",
    }.get(getattr(hint, "__name__", str(hint)), str(hint))


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)


def _near(name: str, known: set[str]) -> str:
    import difflib

    match = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; did you mean {match[0]}?" if match else ""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What every service can be told. Each service's settings inherit these and set its own port."""

    host: str = setting("127.0.0.1", env="FARTHING_HOST", doc="Address to listen on.")
    port: int = setting(0, env="FARTHING_PORT", doc="gRPC port (HTTP for the gateway).")
    metrics_port: int = setting(
        0,
        env="FARTHING_METRICS_PORT",
        doc="Prometheus port; 0 takes 9400 + the service port's last two digits, -1 is off.",
    )
    advertise_address: str = setting(
        "",
        env="FARTHING_ADVERTISE_ADDRESS",
        doc="host:port that others reach this service at; empty for host and port above.",
    )
    unix_socket: Path | None = setting(
        None,
        env="FARTHING_UNIX_SOCKET",
        doc="Socket file to serve on as well; neighbours on this machine take it. Not with mutual TLS.",
    )
    region: str = setting(
        "local",
        env="FARTHING_REGION",
        doc="Region this process stands in: its Consul datacenter.",
    )
    instance_id: str = setting(
        "", env="FARTHING_INSTANCE_ID", doc="Id in discovery; empty for service-host-port."
    )
    data_dir: Path = setting(
        Path("~/.local/share/farthing"),
        env="FARTHING_DATA_DIR",
        doc="Directory for databases, outboxes and saved views.",
    )
    log_level: str = setting(
        "info", env="FARTHING_LOG_LEVEL", doc="debug, info, warning or error."
    )
    log_format: str = setting(
        "json", env="FARTHING_LOG_FORMAT", doc="json, or text for people."
    )
    consul_url: str = setting(
        "",
        env="FARTHING_CONSUL_URL",
        doc="Consul agent's HTTP address; empty for the registry file.",
    )
    consul_token: str = setting(
        "", env="FARTHING_CONSUL_TOKEN", doc="Consul ACL token.", secret=True
    )
    registry_file: Path | None = setting(
        None,
        env="FARTHING_REGISTRY_FILE",
        doc="Static registry used without Consul; see docs/how-to/run-without-consul.md.",
    )
    documents_dir: Path | None = setting(
        None,
        env="FARTHING_DOCUMENTS_DIR",
        doc="Directory of configuration documents used without Consul.",
    )
    otlp_endpoint: str = setting(
        "",
        env="FARTHING_OTLP_ENDPOINT",
        doc="OTLP/gRPC receiver for spans, e.g. http://127.0.0.1:4317; empty turns tracing off.",
    )
    trace_sample_ratio: float = setting(
        1.0,
        env="FARTHING_TRACE_SAMPLE_RATIO",
        doc="Share of new traces that are recorded, 0..1.",
        unit="ratio",
    )
    drain_ms: int = setting(
        10_000,
        env="FARTHING_DRAIN_MS",
        doc="Longest wait for open requests at shutdown.",
        unit="ms",
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
        doc="PEM bundle that peers' certificates must chain to.",
    )

    def resolve_metrics_port(self) -> int:
        """The Prometheus port, or -1 when it is off."""
        return self.metrics_port or 9400 + self.port % 100

    def resolve_instance_id(self, service: str) -> str:
        """The id in discovery."""
        return self.instance_id or f"{service}-{self.host}-{self.port}"

    def resolve_address(self) -> str:
        """host:port that others use."""
        return self.advertise_address or f"{self.host}:{self.port}"

    def resolve_data_dir(self, service: str) -> Path:
        """The service's own directory; made if it is missing. SettingsError if it cannot be."""
        path = self.data_dir.expanduser() / service
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"FARTHING_DATA_DIR={str(self.data_dir)!r}: {path} cannot be made: {error.strerror}",
                env="FARTHING_DATA_DIR",
            ) from None
        return path
