"""Mutual TLS from three files, the same for servers and channels; without them, plain text on loopback only."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from farthing.kit.settings import ServiceSettings, SettingsError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM contents of a certificate, its key and the authority that peers must chain to."""

    certificate: bytes
    key: bytes
    authority: bytes

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that demand a client certificate."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.authority,
            require_client_auth=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials that present our certificate."""
        return grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)


def read_tls_files(settings: ServiceSettings) -> TlsFiles | None:
    """Read the three files, or None when none is set.

    SettingsError if only some are set, one cannot be used, or key and certificate do not belong together: gRPC itself
    would say of the first two no more than that it cannot listen.
    """
    named = {
        "FARTHING_TLS_CERT_FILE": settings.tls_cert_file,
        "FARTHING_TLS_KEY_FILE": settings.tls_key_file,
        "FARTHING_TLS_CA_FILE": settings.tls_ca_file,
    }
    if not any(named.values()):
        return None
    contents, paths = [], []
    for env, path in named.items():
        if path is None:
            raise SettingsError(
                f"{env} is missing: mutual TLS needs certificate, key and authority", env=env
            )
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"{env}={path}: {error.strerror}", env=env) from None
        paths.append(path)
    _check(*paths)
    return TlsFiles(*contents)


def _check(certificate: Path, key: Path, authority: Path) -> None:
    for env, path in (
        ("FARTHING_TLS_CERT_FILE", certificate),
        ("FARTHING_TLS_CA_FILE", authority),
    ):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except ssl.SSLError:
            raise SettingsError(f"{env}={path} holds no PEM certificate", env=env) from None
    try:
        # A password must come from somewhere, or OpenSSL asks the terminal for it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "")
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        raise SettingsError(
            f"FARTHING_TLS_KEY_FILE={key} "
            + (
                f"and FARTHING_TLS_CERT_FILE={certificate} do not belong together"
                if mismatch
                else "holds no PEM key that can be read without a password"
            ),
            env="FARTHING_TLS_KEY_FILE",
        ) from None
