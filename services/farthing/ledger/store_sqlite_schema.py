"""The ledger's SQLite files: tables, versions and connections."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from farthing.kit.errors import FailedPrecondition

SCHEMA_VERSION = 1

# Money: every commit reaches the disk before the producer drops its copy.
LEDGER_SCHEMA = f"""
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE IF NOT EXISTS charges (
    charge_row INTEGER PRIMARY KEY,
    charge_id TEXT NOT NULL UNIQUE,
    content_hash BLOB NOT NULL,
    request_id TEXT NOT NULL,
    decision_id TEXT NOT NULL,
    hold_id TEXT NOT NULL,
    organisation_id TEXT NOT NULL,
    cost_centre_id TEXT NOT NULL,
    team_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    service TEXT NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    region TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    total_nano_usd INTEGER NOT NULL CHECK (typeof(total_nano_usd) = 'integer'),
    input_token_count INTEGER NOT NULL,
    output_token_count INTEGER NOT NULL,
    usage TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    waste TEXT NOT NULL,
    price_version TEXT NOT NULL,
    charge_time_ns INTEGER NOT NULL,
    task TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS charges_by_time ON charges (charge_time_ns, charge_id);
CREATE INDEX IF NOT EXISTS charges_by_organisation ON charges (organisation_id, charge_time_ns, charge_id);
CREATE INDEX IF NOT EXISTS charges_by_trace ON charges (trace_id, span_id) WHERE trace_id <> '';
CREATE INDEX IF NOT EXISTS charges_by_request ON charges (request_id);

CREATE TABLE IF NOT EXISTS charge_lines (
    charge_row INTEGER NOT NULL REFERENCES charges,
    line INTEGER NOT NULL,
    kind TEXT NOT NULL,
    unit TEXT NOT NULL,
    amount_nano_usd INTEGER NOT NULL,
    quantity INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    PRIMARY KEY (charge_row, line)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS accounts (
    account_row INTEGER PRIMARY KEY,
    account TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS postings (
    charge_row INTEGER NOT NULL REFERENCES charges,
    line INTEGER NOT NULL,
    account_row INTEGER NOT NULL REFERENCES accounts,
    debit_nano_usd INTEGER NOT NULL CHECK (debit_nano_usd >= 0),
    credit_nano_usd INTEGER NOT NULL CHECK (credit_nano_usd >= 0),
    PRIMARY KEY (charge_row, line)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER IF NOT EXISTS charges_stay BEFORE UPDATE ON charges
BEGIN SELECT RAISE(ABORT, 'charges are immutable'); END;
CREATE TRIGGER IF NOT EXISTS charges_are_kept BEFORE DELETE ON charges
BEGIN SELECT RAISE(ABORT, 'charges are immutable'); END;
CREATE TRIGGER IF NOT EXISTS postings_stay BEFORE UPDATE ON postings
BEGIN SELECT RAISE(ABORT, 'postings are immutable'); END;
CREATE TRIGGER IF NOT EXISTS postings_are_kept BEFORE DELETE ON postings
BEGIN SELECT RAISE(ABORT, 'postings are immutable'); END;

-- Without the type checks an int64 overflow would turn a sum into a float without a word.
CREATE TABLE IF NOT EXISTS spend_rollups (
    rollup_row INTEGER PRIMARY KEY,
    hour INTEGER NOT NULL,
    organisation_id TEXT NOT NULL,
    cost_centre_id TEXT NOT NULL,
    team_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    model TEXT NOT NULL,
    region TEXT NOT NULL,
    service TEXT NOT NULL,
    tier TEXT NOT NULL,
    task TEXT NOT NULL,
    total_nano_usd INTEGER NOT NULL CHECK (typeof(total_nano_usd) = 'integer'),
    charge_count INTEGER NOT NULL,
    input_token_count INTEGER NOT NULL CHECK (typeof(input_token_count) = 'integer'),
    output_token_count INTEGER NOT NULL CHECK (typeof(output_token_count) = 'integer'),
    waste_nano_usd INTEGER NOT NULL CHECK (typeof(waste_nano_usd) = 'integer'),
    unpriced_count INTEGER NOT NULL,
    UNIQUE (hour, organisation_id, cost_centre_id, team_id, key_id, model, region, service,
            tier, task)
) STRICT;
CREATE TABLE IF NOT EXISTS spend_rollup_lines (
    rollup_row INTEGER NOT NULL REFERENCES spend_rollups,
    kind TEXT NOT NULL,
    unit TEXT NOT NULL,
    amount_nano_usd INTEGER NOT NULL CHECK (typeof(amount_nano_usd) = 'integer'),
    quantity INTEGER NOT NULL CHECK (typeof(quantity) = 'integer'),
    estimated INTEGER NOT NULL,
    PRIMARY KEY (rollup_row, kind, unit)
) STRICT, WITHOUT ROWID;
"""

# Spans: a view that expires; in a file of its own so that its volume never slows money down.
SPANS_SCHEMA = f"""
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE IF NOT EXISTS spans (
    span_row INTEGER PRIMARY KEY,
    trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    parent_span_id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    service_name TEXT NOT NULL,
    region TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    status TEXT NOT NULL,
    attributes TEXT NOT NULL,
    events TEXT NOT NULL,
    organisation_id TEXT NOT NULL,
    cost_nano_usd INTEGER,
    token_count INTEGER NOT NULL,
    UNIQUE (trace_id, span_id)
) STRICT;
CREATE INDEX IF NOT EXISTS spans_by_end ON spans (end_ns);
CREATE INDEX IF NOT EXISTS spans_unpriced ON spans (start_ns) WHERE token_count > 0 AND cost_nano_usd IS NULL;
"""


def check_version(path: Path) -> None:
    """FailedPrecondition if a newer release wrote the file; a missing file is fine."""
    if not path.exists():
        return
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise FailedPrecondition(
            f"{path} has schema {version}, this release knows {SCHEMA_VERSION}; "
            "start the newer release or restore a backup",
            reason="SCHEMA_TOO_NEW",
            metadata={"path": str(path), "version": str(version)},
        )


def open_reader(ledger_path: Path, spans_path: Path) -> sqlite3.Connection:
    """Opens both files to read; the spans are schema `traces`."""
    connection = sqlite3.connect(
        f"{ledger_path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute(
        "ATTACH DATABASE ? AS traces", (f"{spans_path.absolute().as_uri()}?mode=ro",)
    )
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection
