"""The ledger's rules as pure functions over values: charges, postings, spend and span trees."""

from __future__ import annotations
