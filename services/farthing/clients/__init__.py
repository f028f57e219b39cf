"""What the services use to reach each other: micro-batches, outboxes, quota, cache and inference clients."""
