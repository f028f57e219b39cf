"""Certificates of a test's own authority, made with the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from farthing.kit.settings import ServiceSettings

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made with the openssl program"
)


class Authority:
    """A certificate authority of its own, in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.certificate = directory / "ca.pem"
        self._key = directory / "ca.key"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", str(self._key), "-out", str(self.certificate), "-days", "2",
            "-subj", "/CN=farthing test authority",
        )  # fmt: skip

    def issue(self, name: str) -> ServiceSettings:
        """Settings of a service at 127.0.0.1 with a certificate of this authority."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        request = self._directory / f"{name}.csr"
        extensions = self._directory / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}",
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey",
            str(self._key), "-CAcreateserial", "-out", str(certificate), "-days", "2",
            "-extfile", str(extensions),
        )  # fmt: skip
        return ServiceSettings(
            tls_cert_file=certificate, tls_key_file=key, tls_ca_file=self.certificate
        )


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
