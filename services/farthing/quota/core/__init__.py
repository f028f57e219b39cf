"""The rules of quota as pure values and functions: what time it is and which ids are new, they are told."""
