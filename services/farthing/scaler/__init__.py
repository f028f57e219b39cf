"""Plans replicas from forecasts, load and prices. Holds its contract (farthing.api.scaler.v1) and no service yet."""
