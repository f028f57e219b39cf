"""Routing as arithmetic: a request, a view of the instances and prices in; a decision that explains itself out."""
