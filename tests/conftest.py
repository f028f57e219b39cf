"""What the whole suite shares: a Ctrl-C that ends it with pytest's closing lines, and processes that start cleanly."""

from __future__ import annotations

import os

import farthing.kit.rpc.experiments  # noqa: F401  servers and clients of tests poll as services do

# isort: split
import pytest
from _pytest.tmpdir import tmppath_result_key

# Before anything imports gRPC: tests start processes while its threads run. Its fork handlers have nothing to do for
# programs that exec, and at times abort the new process before it does.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # Interrupted while fixtures are still being set up, pytest 9 has no outcome noted for the test, and
    # tmp_path's clean-up fails on that with an internal traceback in place of the summary.
    item.stash.setdefault(tmppath_result_key, {})
