"""Doorway of `python -m testbed.prepare RECIPE`, the same as `testbed prepare RECIPE`."""

import sys

from testbed.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
