"""Doorway of `python -m testbed.predict`, the same as `testbed predict`. Defines nothing that others import."""

import sys

from testbed.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
