"""`raycap evaluate`, as a script for `ray job submit -- python jobs/evaluate.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
