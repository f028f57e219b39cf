"""The batching engine: requests become rows of a scheduler, a backend computes them step by step."""
