"""The quota service: API keys, the budget tree and limits per minute; money is held first and settled after."""
