"""The captioners: captioner.py over scheduler.py is plain Python, replica.py puts it into Serve."""
