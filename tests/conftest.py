"""What the whole suite shares: a Ctrl-C that ends it with pytest's own closing lines."""

from __future__ import annotations

import pytest
from _pytest.tmpdir import tmppath_result_key


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # Interrupted while fixtures are still being set up, pytest 9 has no outcome noted for the test, and
    # tmp_path's clean-up fails on that with an internal traceback in place of the summary.
    item.stash.setdefault(tmppath_result_key, {})
