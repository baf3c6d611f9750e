"""`raycap document-frequency`, as a script for `ray job submit -- python jobs/document_frequency.py ...`."""

import sys

from raycap.cli import main

if __name__ == "__main__":
    main(["document-frequency", *sys.argv[1:]])
