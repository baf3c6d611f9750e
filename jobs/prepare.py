"""`raycap prepare`, as a script for `ray job submit -- python jobs/prepare.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
