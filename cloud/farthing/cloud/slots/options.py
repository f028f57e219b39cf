"""Options of a step's runs, which can be made to end at once from another thread."""

from __future__ import annotations

from typing import Any

from farthing.cloud.core.rows import Window

# With this number the library neither records a CUDA graph nor plays one.
_NO_GRAPH = "-1"


class StepOptions:
    """One set for plain runs, one for each window whose runs are recorded as a CUDA graph."""

    def __init__(self, runtime: Any, *, records_graphs: bool) -> None:
        self._runtime, self._records_graphs = runtime, records_graphs
        self._terminated = False
        self._plain = self._make(_NO_GRAPH)
        self._decoding: dict[Window, Any] = {}

    @property
    def terminated(self) -> bool:
        """Whether runs end at once."""
        return self._terminated

    @property
    def records_graphs(self) -> bool:
        """Whether steps of single tokens are recorded."""
        return self._records_graphs

    def plain(self) -> Any:
        """For prompts and chunks, whose shapes change."""
        return self._plain

    def decoding(self, window: Window) -> Any:
        """For single tokens in a window."""
        if not self._records_graphs:
            return self._plain
        if window not in self._decoding:
            self._decoding[window] = self._make(str(len(self._decoding) + 1))
        return self._decoding[window]

    def terminate(self) -> None:
        """Ends the run that is going on, and every later one."""
        self._terminated = True
        for options in (self._plain, *list(self._decoding.values())):
            options.terminate = True

    def _make(self, graph_id: str) -> Any:
        options = self._runtime.RunOptions()
        if self._records_graphs:
            options.add_run_config_entry("gpu_graph_id", graph_id)
        options.terminate = self._terminated
        return options
