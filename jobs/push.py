"""`raycap push`, as a script for `ray job submit -- python jobs/push.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["push", *sys.argv[1:]])
