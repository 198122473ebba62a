"""Doorway of `python -m testbed.sweep FILE`, the same as `testbed sweep FILE`. Defines nothing that others import."""

import sys

from testbed.cli import main

if __name__ == "__main__":
    main(["sweep", *sys.argv[1:]])
