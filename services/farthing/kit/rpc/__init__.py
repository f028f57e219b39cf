"""gRPC as every part of farthing speaks it: one server builder, one channel opener, one error table."""
