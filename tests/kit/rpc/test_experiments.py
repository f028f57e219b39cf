"""Services choose gRPC's pollers before the library is loaded, and it knows what they name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from farthing.kit.rpc.experiments import EXPERIMENTS

SERVICES = ("cache", "cloud", "edge", "gateway", "ledger", "quota", "router")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_chooses_before_it_loads_grpc(service: str) -> None:
    code = (
        f"import sys, farthing.{service}.__main__\n"
        "loaded = list(sys.modules)\n"
        "print(loaded.index('farthing.kit.rpc.experiments') < loaded.index('grpc'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize(("names", "known"), [(EXPERIMENTS, True), ("-no_such_thing", False)])
def test_the_library_knows_the_names(names: str, known: bool) -> None:
    code = "import grpc; grpc.insecure_channel('127.0.0.1:1').close()"
    environ = {"GRPC_EXPERIMENTS": names, "GRPC_VERBOSITY": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert ("Unknown experiment" not in done.stderr) is known
