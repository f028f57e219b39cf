"""Finds, checks and tests the models that a service loads one after the other."""

from __future__ import annotations

from dataclasses import replace

from farthing.edge.engine import spawner
from farthing.edge.loading import find_model, make_plan
from farthing.edge.memory_need import check_memory
from farthing.edge.selftest import run_selftest
from farthing.edge.settings import EdgeSettings
from farthing.inference.residents import Prepared
from farthing.inference.store.contents import StoredModel
from farthing.inference.store.opening import hold_model


class Preparing:
    """An adapter is made for one model: those of the settings go with the name of the first one."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings
        self._first_name = settings.model_name

    def find(self) -> StoredModel:
        """The model to begin with."""
        stored = find_model(self._settings)
        self._first_name = self._first_name or stored.name
        return stored

    def prepare(self, stored: StoredModel, name: str) -> Prepared:
        """A model that was checked, and computed a few tokens in a process of its own. See residents.Prepare."""
        settings = replace(self._settings, model_name=name)
        if (name or stored.name) != self._first_name:
            settings = replace(settings, adapters=())
        plan = make_plan(settings, stored)
        held = hold_model(settings, plan.digest)
        try:
            run_selftest(plan, settings.selftest_timeout_ms)
            need_bytes = check_memory(plan).total_bytes
        except BaseException:
            held.release()
            raise
        return Prepared(
            plan.name,
            need_bytes,
            spawner(plan, settings.rules()),
            held.release,
            plan.card.canaries,
        )
