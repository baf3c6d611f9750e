"""`raycap tune`, as a script for `ray job submit -- python jobs/tune.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
