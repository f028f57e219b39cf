"""Names in the budget tree: which are valid, and the chain of nodes above a key."""

from __future__ import annotations

import re

from farthing.kit.errors import InvalidArgument

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}")
_DEPTH = {"organisation": 1, "cost_centre": 2, "team": 3, "key": 1}

Chain = tuple[str, str, str, str]


def require_id(value: str, *, field: str) -> str:
    """Return `value` if it may be a part of a node's name, else InvalidArgument."""
    if not _ID.fullmatch(value):
        raise InvalidArgument(
            f"{field} {value[:80]!r}: use 1 to 63 letters, digits, '_', '-' or '.', "
            "the first a letter or digit",
            field=field,
        )
    return value


def require_node(name: str, *, field: str) -> str:
    """Return `name` if it is a well-formed node name, else InvalidArgument."""
    kind, _, path = name.partition(":")
    parts = path.split("/")
    if kind not in _DEPTH or len(parts) != _DEPTH[kind] or not all(map(_ID.fullmatch, parts)):
        raise InvalidArgument(
            f"{field} {name[:200]!r}: write organisation:<id>, cost_centre:<organisation>/<id>, "
            "team:<organisation>/<cost centre>/<id> or key:<key id>",
            field=field,
        )
    return name


def chain_of(key_id: str, organisation_id: str, cost_centre_id: str, team_id: str) -> Chain:
    """The nodes whose budgets bind a key, nearest first: key, team, cost centre, organisation."""
    centre = f"{organisation_id}/{cost_centre_id}"
    return (
        f"key:{key_id}",
        f"team:{centre}/{team_id}",
        f"cost_centre:{centre}",
        f"organisation:{organisation_id}",
    )
