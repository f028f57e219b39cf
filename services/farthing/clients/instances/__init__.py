"""Inference instances as the router sees them: a pure view, a breaker, and the pool that keeps both up to date."""
