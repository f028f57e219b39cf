"""The engine in a process of its own: a crash, a hang or a leak in a native library ends there, and not the service."""
