"""Doorway of `python -m testbed.predict FILE`, the same as `testbed predict FILE`. Defines nothing that others import."""

import sys

from testbed.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
