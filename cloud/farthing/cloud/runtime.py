"""Loads ONNX Runtime, the only place that does, and opens sessions on the best device that really works."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from farthing.cloud.attention import choose_attention
from farthing.kit.errors import FailedPrecondition, InvalidArgument

Device = Literal["cuda", "cpu"]

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# Severity "fatal": the library's own complaints about absent CUDA libraries come as one line of ours instead.
_SILENT = 4


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session and where it runs. `why_not_cuda` is empty on CUDA and when only the CPU was asked for."""

    runtime: Any
    session: Any
    device: Device
    device_name: str
    why_not_cuda: str


def load_runtime() -> Any:
    """The onnxruntime module. FailedPrecondition tells the pip line when it is not installed."""
    # The wheels carry an uploader of usage data that is on by default; it reads this when it is loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise FailedPrecondition(
            f"the cloud tier needs ONNX Runtime ({error}): pip install 'farthing[cloud]'",
            reason="EXTRA_MISSING",
            metadata={"extra": "cloud"},
        ) from None
    onnxruntime.set_default_logger_severity(_SILENT)
    return onnxruntime


def open_session(
    graph: Path | bytes,
    *,
    wish: Literal["auto", "cuda", "cpu"],
    thread_count: int,
    weights_folder: Path | None = None,
    records_graphs: bool = False,
) -> OpenedSession:
    """Opens a graph on CUDA when a session comes up there, else on the CPU; `cuda` refuses the CPU.

    Whether CUDA works is known only from a session: the library lists the provider wherever it was built in.
    `thread_count` 0 takes every core this process may use. A graph given as bytes finds its weights in
    `weights_folder`; `records_graphs` lets runs be recorded as CUDA graphs. InvalidArgument when the graph cannot
    be read.
    """
    runtime = load_runtime()
    options = quiet_options(runtime, thread_count, weights_folder)
    source = graph if isinstance(graph, bytes) else os.fspath(graph)
    why_not = ""
    if wish != "cpu":
        session, why_not = _try_cuda(runtime, source, options, records_graphs)
        if session is not None:
            return OpenedSession(runtime, session, "cuda", _cuda_name(), "")
        if wish == "cuda":
            raise FailedPrecondition(
                f"a GPU is required and CUDA does not work here: {why_not}; install an NVIDIA driver and CUDA 13 "
                "libraries, or allow the CPU (FARTHING_CLOUD_REQUIRE_GPU, FARTHING_CLOUD_DEVICE)",
                reason="GPU_REQUIRED",
                metadata={"finding": why_not},
            )
    choose_attention(runtime, lambda: quiet_options(runtime, 1))
    try:
        session = runtime.InferenceSession(source, options, providers=[_CPU])
    except (
        Exception
    ) as error:  # the library raises its own classes, all straight from Exception
        name = os.fspath(weights_folder or "the graph") if isinstance(source, bytes) else source
        raise InvalidArgument(
            f"{name} cannot be opened: {error}; fetch or export it again",
            field="model",
            reason="MODEL_CORRUPT",
            metadata={"path": name},
        ) from error
    return OpenedSession(runtime, session, "cpu", _cpu_name(), why_not)


def quiet_options(runtime: Any, thread_count: int, weights_folder: Path | None = None) -> Any:
    """Options of every session: so many threads (0: one per usable core), none of which spin, and no log lines."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = thread_count or _usable_core_count()
    options.inter_op_num_threads = 1
    # Threads that spin while they wait starve whatever else runs on the machine: measured, see docs/performance.md.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = _SILENT
    if weights_folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", os.fspath(weights_folder)
        )
    return options


def _usable_core_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _try_cuda(
    runtime: Any, source: str | bytes, options: Any, records_graphs: bool
) -> tuple[Any, str]:
    if _CUDA not in runtime.get_available_providers():
        return None, "this build of ONNX Runtime has no CUDA"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        # Finds CUDA libraries that came as Python packages; says on stdout what it misses.
        runtime.preload_dlls()
    chosen = {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}
    if records_graphs:
        chosen["enable_cuda_graph"] = "1"
    try:
        session = runtime.InferenceSession(
            source, options, providers=[(_CUDA, chosen), _CPU], enable_fallback=0
        )
    except (
        Exception
    ) as error:  # the library raises its own classes, all straight from Exception
        return None, str(error).splitlines()[0]
    if session.get_providers()[0] != _CUDA:
        missing = [line for line in said.getvalue().splitlines() if "Failed" in line]
        return None, missing[0] if missing else "no session came up on it"
    return session, ""


def _cuda_name() -> str:
    name = ctypes.create_string_buffer(256)
    device = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        failed = (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(device), 0)
            or driver.cuDeviceGetName(name, len(name), device)
        )
    except OSError:
        failed = 1
    return "CUDA device 0" if failed else name.value.decode(errors="replace")


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
