"""Mutual TLS from three files, the same for servers and channels; without them, plain text on loopback only."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Read the three files, or None when none is set. SettingsError if only some are set or one cannot be read."""
    named = {
        "FARTHING_TLS_CERT_FILE": settings.tls_cert_file,
        "FARTHING_TLS_KEY_FILE": settings.tls_key_file,
        "FARTHING_TLS_CA_FILE": settings.tls_ca_file,
    }
    if not any(named.values()):
        return None
    contents = []
    for env, path in named.items():
        if path is None:
            raise SettingsError(
                f"{env} is missing: mutual TLS needs certificate, key and authority", env=env
            )
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"{env}={path}: {error.strerror}", env=env) from None
    return TlsFiles(*contents)
