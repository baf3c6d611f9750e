"""One command a file: its arguments, its help, and a call into the stage that does the work."""
