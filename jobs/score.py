"""`raycap score`, as a script for `ray job submit -- python jobs/score.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
