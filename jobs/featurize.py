"""`raycap featurize`, as a script for `ray job submit -- python jobs/featurize.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["featurize", *sys.argv[1:]])
