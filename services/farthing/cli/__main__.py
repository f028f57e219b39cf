"""`python -m farthing.cli`: the same as the `farthing` command."""

from __future__ import annotations

from farthing.cli.app import main

if __name__ == "__main__":
    main()
