"""Doorway of `python -m testbed.run FILE`, the same as `testbed run FILE`. Defines nothing that others import."""

import sys

from testbed.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
