"""`python -m raycap` is the command line."""

from raycap.cli import main

main()
