"""Options of a step's runs, which can be made to end at once from another thread."""

from __future__ import annotations

from typing import Any

# With this number the library neither records a CUDA graph nor plays one.
_NO_GRAPH = "-1"


class StepOptions:
    """One set for plain runs, one for each run that is recorded as a CUDA graph."""

    def __init__(self, runtime: Any, *, records_graphs: bool) -> None:
        self._runtime, self._records_graphs = runtime, records_graphs
        self._terminated = False
        self._plain = self._make(_NO_GRAPH)
        self._decoding: dict[int, Any] = {}

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

    def decoding(self, run_number: int) -> Any:
        """For a run that always has the same shapes at the same addresses."""
        if not self._records_graphs:
            return self._plain
        if run_number not in self._decoding:
            self._decoding[run_number] = self._make(str(run_number))
        return self._decoding[run_number]

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
