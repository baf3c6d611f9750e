"""`raycap export`, as a script for `ray job submit -- python jobs/export.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
