"""The words for a request's wishes, as people write them on the command line, in the gateway's bodies and in files."""

from __future__ import annotations

from collections.abc import Mapping

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2

PRIVACY_CLASSES: Mapping[str, common_pb2.PrivacyClass] = {
    "edge_only": common_pb2.PRIVACY_CLASS_EDGE_ONLY,
    "region": common_pb2.PRIVACY_CLASS_REGION,
    "any": common_pb2.PRIVACY_CLASS_ANY,
}
PRIORITIES: Mapping[str, common_pb2.Priority] = {
    "interactive": common_pb2.PRIORITY_INTERACTIVE,
    "standard": common_pb2.PRIORITY_STANDARD,
    "batch": common_pb2.PRIORITY_BATCH,
}
CACHE_MODES: Mapping[str, router_pb2.CacheMode] = {
    "off": router_pb2.CACHE_MODE_OFF,
    "read": router_pb2.CACHE_MODE_READ,
    "read_write": router_pb2.CACHE_MODE_READ_WRITE,
}
