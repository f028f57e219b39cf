"""Every span, attribute, event and metric name, once. `gen_ai.*` is frozen here because the convention still moves."""

from __future__ import annotations

from typing import Final

# -- Span kinds ------------------------------------------------------------------------------
KIND_INTERNAL: Final = "internal"
KIND_SERVER: Final = "server"
KIND_CLIENT: Final = "client"

# -- RPC (OpenTelemetry semantic conventions 1.44) -------------------------------------------
RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS_CODE: Final = "rpc.response.status_code"
SERVER_ADDRESS: Final = "server.address"

# -- HTTP ------------------------------------------------------------------------------------
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"

# -- Generation (only on the leaf inference span; parents carry no usage, or sums would double) --
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
# Proposed upstream, not merged: the cost shape of open-telemetry/semantic-conventions-genai.
GEN_AI_USAGE_COST_AMOUNT: Final = "gen_ai.usage.cost.amount"
GEN_AI_USAGE_COST_CURRENCY: Final = "gen_ai.usage.cost.currency"
GEN_AI_USAGE_COST_SOURCE: Final = "gen_ai.usage.cost.source"
GEN_AI_OPERATION_CHAT: Final = "chat"
GEN_AI_OPERATION_TEXT_COMPLETION: Final = "text_completion"
PROVIDER_FARTHING: Final = "farthing"
PROPOSED_UPSTREAM: Final = frozenset(
    {GEN_AI_USAGE_COST_AMOUNT, GEN_AI_USAGE_COST_CURRENCY, GEN_AI_USAGE_COST_SOURCE}
)

# -- Ours ------------------------------------------------------------------------------------
COST_NANO_USD: Final = "farthing.cost.nano_usd"
COST_LINE_PREFIX: Final = "farthing.cost.line."  # + the cost kind, lower case, + ".nano_usd"
COST_PRICE_VERSION: Final = "farthing.cost.price_version"
COST_CHARGE_ID: Final = "farthing.cost.charge_id"
COST_ESTIMATED: Final = "farthing.cost.estimated"
COST_UNBILLED_NANO_USD: Final = "farthing.cost.unbilled_nano_usd"
COST_WASTE: Final = "farthing.cost.waste"
ENERGY_UJ: Final = "farthing.energy.uj"
COMPUTE_US: Final = "farthing.compute.us"
QUEUE_US: Final = "farthing.queue.us"
REQUEST_ID: Final = "farthing.request.id"
TASK: Final = "farthing.request.task"
ORGANISATION_ID: Final = "farthing.organisation.id"
COST_CENTRE_ID: Final = "farthing.cost_centre.id"
TEAM_ID: Final = "farthing.team.id"
KEY_ID: Final = "farthing.key.id"
REGION: Final = "farthing.region"
TIER: Final = "farthing.tier"
INSTANCE_ID: Final = "farthing.instance.id"
CACHE_OUTCOME: Final = "farthing.cache.outcome"
HOLD_NANO_USD: Final = "farthing.hold.nano_usd"
DECISION_ID: Final = "farthing.decision.id"
DECISION_POLICY: Final = "farthing.decision.policy"
DECISION_REASON: Final = "farthing.decision.reason"
DECISION_MODEL: Final = "farthing.decision.model"
DECISION_ESTIMATED_NANO_USD: Final = "farthing.decision.estimated_nano_usd"
DECISION_REJECTED: Final = "farthing.decision.rejected"  # JSON list of the losers with reasons

# -- Names that other readers look for -------------------------------------------------------
LANGFUSE_COST_DETAILS: Final = "langfuse.observation.cost_details"
LLM_COST_TOTAL: Final = "llm.cost.total"
LLM_TOKEN_COUNT_PROMPT: Final = "llm.token_count.prompt"
LLM_TOKEN_COUNT_COMPLETION: Final = "llm.token_count.completion"
MLFLOW_LLM_COST: Final = "mlflow.llm.cost"

# -- Span events -----------------------------------------------------------------------------
EVENT_DECISION: Final = "farthing.decision"
EVENT_FIRST_TOKEN: Final = "farthing.first_token"
EVENT_FAILOVER: Final = "farthing.failover"

# -- Resource --------------------------------------------------------------------------------
SERVICE_NAME: Final = "service.name"
SERVICE_NAMESPACE: Final = "service.namespace"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
CLOUD_REGION: Final = "cloud.region"
NAMESPACE_FARTHING: Final = "farthing"
SCOPE: Final = "farthing.kit.telemetry"

# -- Metrics (Prometheus spelling) -----------------------------------------------------------
METRIC_CALL_DURATION: Final = "rpc_server_call_duration_seconds"
METRIC_CALLS_IN_FLIGHT: Final = "farthing_rpc_server_in_flight"
METRIC_HTTP_DURATION: Final = "http_server_request_duration_seconds"
METRIC_HTTP_IN_FLIGHT: Final = "http_server_active_requests"
METRIC_SPANS_RECORDED: Final = "farthing_spans_recorded"
METRIC_SPANS_DROPPED: Final = "farthing_spans_dropped"
METRIC_BUILD_INFO: Final = "farthing_build"
METRIC_CACHE_ENTRIES: Final = "farthing_cache_entries"
METRIC_CACHE_SIZE: Final = "farthing_cache_size_bytes"
METRIC_CACHE_HITS: Final = "farthing_cache_hits"
METRIC_CACHE_MISSES: Final = "farthing_cache_misses"
METRIC_CACHE_EVICTIONS: Final = "farthing_cache_evictions"
METRIC_CACHE_EXPIRATIONS: Final = "farthing_cache_expirations"
METRIC_CACHE_SAVED: Final = "farthing_cache_saved_nano_usd"
METRIC_INFERENCE_REQUESTS: Final = "farthing_inference_requests"
METRIC_INFERENCE_TOKENS: Final = "farthing_inference_tokens"
METRIC_INFERENCE_COMPUTE: Final = "farthing_inference_compute_seconds"
METRIC_INFERENCE_ENERGY: Final = "farthing_inference_energy_joules"
METRIC_INFERENCE_RUNNING: Final = "farthing_inference_running"
METRIC_INFERENCE_QUEUED: Final = "farthing_inference_queued"
METRIC_INFERENCE_KV_TOKENS: Final = "farthing_inference_kv_tokens"
METRIC_INFERENCE_CACHED_TOKENS: Final = "farthing_inference_cached_tokens"
METRIC_INFERENCE_BUSY: Final = "farthing_inference_busy_seconds"
METRIC_INFERENCE_STEPS: Final = "farthing_inference_steps"
METRIC_INFERENCE_PAUSES: Final = "farthing_inference_pauses"
METRIC_INFERENCE_LOST_STEPS: Final = "farthing_inference_lost_steps"
METRIC_INFERENCE_RESTARTS: Final = "farthing_inference_engine_restarts"
METRIC_LEDGER_CHARGES: Final = "farthing_ledger_charges"  # by outcome
METRIC_LEDGER_SPANS: Final = "farthing_ledger_spans"  # by outcome
METRIC_LEDGER_SPANS_WAITING: Final = "farthing_ledger_spans_waiting"
METRIC_QUOTA_GRANTED: Final = "farthing_quota_granted"
METRIC_QUOTA_DENIED: Final = "farthing_quota_denied"
METRIC_QUOTA_SETTLED: Final = "farthing_quota_settled"
METRIC_QUOTA_EXPIRED: Final = "farthing_quota_expired"
METRIC_QUOTA_UNFUNDED: Final = "farthing_quota_unfunded_nano_usd"
METRIC_ROUTER_ANSWERS: Final = "farthing_router_answers"
METRIC_ROUTER_COST: Final = "farthing_router_cost_nano_usd"
METRIC_ROUTER_FAILOVERS: Final = "farthing_router_failovers"
METRIC_ROUTER_INSTANCES: Final = "farthing_router_instances"
METRIC_ROUTER_VIEW_AGE: Final = "farthing_router_view_age_seconds"
METRIC_OUTBOX_DEPTH: Final = "farthing_outbox_depth"
METRIC_OUTBOX_OLDEST_AGE: Final = "farthing_outbox_oldest_age_seconds"
METRIC_OUTBOX_DELIVERED: Final = "farthing_outbox_delivered"
METRIC_OUTBOX_REFUSED: Final = "farthing_outbox_refused"
METRIC_OUTBOX_RETRIES: Final = "farthing_outbox_retries"
