"""What a fresh suite needs before its first request: keys, a demo tenant with a budget, prices and policies."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.cli.connection import call
from farthing.cli.settings import KEY_PREFIX, read_env_file
from farthing.cli.up.layout import Layout
from farthing.kit.discovery.consul import ConsulClient
from farthing.kit.discovery.consul_documents import ConsulDocuments
from farthing.kit.errors import InvalidArgument
from farthing.kit.money import NANO_PER_USD
from farthing.kit.rpc.channel import open_channel

DEMO_ORGANISATION = "demo"
_DEMO_BUDGET_NANO_USD = 5 * NANO_PER_USD
_SECRET_BYTES = 24  # 32 characters in URL-safe base 64


@dataclass(frozen=True, slots=True)
class Keys:
    """The administrator's key, and the demo tenant's."""

    admin: str
    tenant: str


def remember_keys(layout: Layout) -> Keys:
    """The keys of an earlier run, with a new administrator's key when there is none; the tenant's may be ""."""
    saved = read_env_file(layout.env_file if layout.env_file.is_file() else None)
    admin = saved.get("FARTHING_ADMIN_KEY", "")
    if not admin.startswith(KEY_PREFIX):
        admin = KEY_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    return Keys(admin, saved.get("OPENAI_API_KEY", ""))


def write_env_file(layout: Layout, keys: Keys) -> None:
    """Write addresses and keys as NAME=value lines, for the owner alone."""
    lines = {
        "OPENAI_BASE_URL": f"http://{layout.address('gateway')}/v1",
        "OPENAI_API_KEY": keys.tenant,
        "FARTHING_ROUTER_ADDRESS": layout.address("router"),
        "FARTHING_QUOTA_ADDRESS": layout.address("quota"),
        "FARTHING_LEDGER_ADDRESS": layout.address("ledger"),
        "FARTHING_CONSOLE_URL": f"http://{layout.address('console')}",
        "FARTHING_ADMIN_KEY": keys.admin,
    }
    layout.state.mkdir(parents=True, exist_ok=True)
    temporary = layout.env_file.with_name("env.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in lines.items())
    temporary.replace(layout.env_file)


async def seed_documents(assets: Path, consul_url: str) -> list[str]:
    """Put every document of demo/ (prices/…, policies/…) into one datacenter's Consul. Returns their keys."""
    documents = ConsulDocuments(ConsulClient(consul_url))
    keys = []
    try:
        for key, content in read_documents(assets / "demo").items():
            await documents.put(key, content)
            keys.append(key)
    finally:
        await documents.close()
    return keys


def read_documents(folder: Path) -> Mapping[str, object]:
    """The documents of a folder by key, <kind>/<name>. InvalidArgument names a file that is not JSON."""
    found: dict[str, object] = {}
    for path in sorted(folder.glob("*/*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidArgument(f"{path} is not JSON: {error}", field=str(path)) from None
        found[f"{path.parent.name}/{path.stem}"] = content
    return found


async def ensure_tenant(layout: Layout, keys: Keys) -> Keys:
    """The keys with one for the demo tenant that works; a new one comes with a budget of 5 USD."""
    address = layout.address("quota")
    channel = open_channel(address)
    stub = quota_pb2_grpc.QuotaServiceStub(channel)
    try:
        if keys.tenant and await _is_known(stub, keys, address):
            return keys
        created = await call(
            stub.CreateKey,
            quota_pb2.CreateKeyRequest(
                name="made by farthing up",
                organisation_id=DEMO_ORGANISATION,
                cost_centre_id="trial",
                team_id="laptop",
                default_policy="demo",
            ),
            key=keys.admin,
            address=address,
        )
        await call(
            stub.SetBudget,
            quota_pb2.SetBudgetRequest(
                node=f"organisation:{DEMO_ORGANISATION}",
                limits=quota_pb2.Limits(
                    budget_nano_usd=_DEMO_BUDGET_NANO_USD,
                    period=quota_pb2.BUDGET_PERIOD_MONTH,
                ),
            ),
            key=keys.admin,
            address=address,
        )
        return Keys(keys.admin, created.secret)
    finally:
        await channel.close()


async def _is_known(
    stub: quota_pb2_grpc.QuotaServiceAsyncStub, keys: Keys, address: str
) -> bool:
    digest = hashlib.sha256(keys.tenant.encode()).digest()
    answer = await call(
        stub.Authenticate,
        quota_pb2.AuthenticateRequest(key_digest=digest),
        key=keys.admin,
        address=address,
    )
    return answer.HasField("principal")
