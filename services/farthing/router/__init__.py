"""Chooses model, tier, region and instance for each request, and settles what it cost."""
