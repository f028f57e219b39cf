"""Settings of both tiers' engines: who waits for how long, how long a step may take, when an engine counts as lost."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.inference.batch.admission import AdmissionRules
from farthing.inference.core.schedule.budget import StepTargets
from farthing.inference.core.schedule.scheduler import Rules
from farthing.inference.process.remote import Patience
from farthing.inference.process.rules import EngineRules
from farthing.inference.store_settings import StoreSettings
from farthing.kit.settings import SettingsError, setting


@dataclass(frozen=True, slots=True)
class EngineSettings(StoreSettings):
    """What edge and cloud have in common."""

    queue_capacity: int = setting(
        256, env="FARTHING_ENGINE_QUEUE", doc="Requests that may wait; more are refused."
    )
    queue_aging_ms: int = setting(
        5_000,
        env="FARTHING_ENGINE_QUEUE_AGING_MS",
        doc="Waiting time that lifts a request by one priority class.",
        unit="ms",
    )
    queue_timeout_ms: int = setting(
        60_000,
        env="FARTHING_ENGINE_QUEUE_TIMEOUT_MS",
        doc="Longest wait for a request's first step; it is refused then. 0 for no end.",
        unit="ms",
    )
    interactive_step_ms: int = setting(
        50,
        env="FARTHING_ENGINE_INTERACTIVE_STEP_MS",
        doc="How long prompts may make a step while interactive requests generate: their time per token. Steps of "
        "worse classes take a third of it at most where such requests came within 5 s.",
        unit="ms",
    )
    standard_step_ms: int = setting(
        100,
        env="FARTHING_ENGINE_STANDARD_STEP_MS",
        doc="The same while standard requests generate, and no interactive ones.",
        unit="ms",
    )
    batch_step_ms: int = setting(
        1_000,
        env="FARTHING_ENGINE_BATCH_STEP_MS",
        doc="The same while only batch requests generate.",
        unit="ms",
    )
    saved_token_capacity: int = setting(
        65_536,
        env="FARTHING_ENGINE_SAVED_TOKENS",
        doc="Tokens of paused requests whose keys and values are kept in host memory; others are computed again.",
        unit="tokens",
    )
    draft_token_count: int = setting(
        0,
        env="FARTHING_ENGINE_DRAFT_TOKENS",
        doc="Most tokens guessed ahead from the text itself and checked in one step; 0 guesses nothing.",
        unit="tokens",
    )
    models_bytes: int = setting(
        0,
        env="FARTHING_ENGINE_MODELS_BYTES",
        doc="Most memory of all loaded models together, by estimate; idle ones go for a new one. 0 for no limit.",
        unit="bytes",
    )
    retire_timeout_ms: int = setting(
        600_000,
        env="FARTHING_ENGINE_RETIRE_TIMEOUT_MS",
        doc="How long requests may go on with a model that was unloaded or swapped out.",
        unit="ms",
    )
    load_timeout_ms: int = setting(
        120_000,
        env="FARTHING_ENGINE_LOAD_TIMEOUT_MS",
        doc="Longest load of the model until the engine counts as hanging.",
        unit="ms",
    )
    step_timeout_ms: int = setting(
        60_000,
        env="FARTHING_ENGINE_STEP_TIMEOUT_MS",
        doc="Longest step until the engine counts as hanging and is started again.",
        unit="ms",
    )
    silence_timeout_ms: int = setting(
        5_000,
        env="FARTHING_ENGINE_SILENCE_TIMEOUT_MS",
        doc="Longest silence of the engine's process until it counts as lost and is started again.",
        unit="ms",
    )

    def check_engine(self) -> None:
        """Raises SettingsError naming what is out of range."""
        for value, least, env in (
            (self.queue_capacity, 1, "FARTHING_ENGINE_QUEUE"),
            (self.queue_aging_ms, 1, "FARTHING_ENGINE_QUEUE_AGING_MS"),
            (self.queue_timeout_ms, 0, "FARTHING_ENGINE_QUEUE_TIMEOUT_MS"),
            (self.interactive_step_ms, 1, "FARTHING_ENGINE_INTERACTIVE_STEP_MS"),
            (self.standard_step_ms, 1, "FARTHING_ENGINE_STANDARD_STEP_MS"),
            (self.batch_step_ms, 1, "FARTHING_ENGINE_BATCH_STEP_MS"),
            (self.saved_token_capacity, 0, "FARTHING_ENGINE_SAVED_TOKENS"),
            (self.draft_token_count, 0, "FARTHING_ENGINE_DRAFT_TOKENS"),
            (self.models_bytes, 0, "FARTHING_ENGINE_MODELS_BYTES"),
            (self.retire_timeout_ms, 0, "FARTHING_ENGINE_RETIRE_TIMEOUT_MS"),
            (self.load_timeout_ms, 1, "FARTHING_ENGINE_LOAD_TIMEOUT_MS"),
            (self.step_timeout_ms, 1, "FARTHING_ENGINE_STEP_TIMEOUT_MS"),
            (self.silence_timeout_ms, 1_000, "FARTHING_ENGINE_SILENCE_TIMEOUT_MS"),
        ):
            if value < least:
                raise SettingsError(
                    f"{env}={value} is too small; use {least} or more.", env=env
                )

    def rules(self) -> EngineRules:
        """How the engine schedules and admits."""
        targets = StepTargets(
            interactive_us=self.interactive_step_ms * 1_000,
            standard_us=self.standard_step_ms * 1_000,
            batch_us=self.batch_step_ms * 1_000,
        )
        return EngineRules(
            Rules(
                queue_capacity=self.queue_capacity,
                aging_us=self.queue_aging_ms * 1_000,
                save_token_capacity=self.saved_token_capacity,
                targets=targets,
            ),
            AdmissionRules(self.draft_token_count, self.queue_timeout_ms * 1_000),
        )

    def patience(self) -> Patience:
        """When the engine counts as lost."""
        return Patience(
            start_s=self.load_timeout_ms / 1_000,
            silence_s=self.silence_timeout_ms / 1_000,
            step_s=self.step_timeout_ms / 1_000,
        )
