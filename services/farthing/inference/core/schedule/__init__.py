"""Iteration-level scheduling, pure: which sequences compute which tokens in the next step, and in which slots."""
