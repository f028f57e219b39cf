"""`farthing models`: the model store of this machine and of others, and what the suite serves."""

from __future__ import annotations
