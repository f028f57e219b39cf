"""`farthing up`: the whole suite in two regions on one machine, supervised."""
