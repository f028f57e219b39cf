"""Replays traffic through the decision cores: what-if, total cost, return. Holds its place in the layers, no code yet."""
