"""What `jobs/benchmark.py` measures, a module a section; each gives rows of figures from one run."""
