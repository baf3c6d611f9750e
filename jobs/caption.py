"""`raycap caption`, as a script for `ray job submit -- python jobs/caption.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["caption", *sys.argv[1:]])
