"""`raycap train`, as a script for `ray job submit -- python jobs/train.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
