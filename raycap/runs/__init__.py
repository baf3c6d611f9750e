"""What lies in a folder or URI of runs: listing, showing, comparing, choosing the best, pruning.

All of it from the manifests, on local disks and remote storage alike; comparing reads evaluations' captions too.
Trains and captions nothing, but for photos that no evaluation has captioned.
"""

from raycap.runs.best import choose_best
from raycap.runs.listing import Run, describe_runs, find_runs, readable_size, runs_table
from raycap.runs.pruning import Pruning, plan_pruning
from raycap.runs.showing import show

__all__ = [
    "Pruning",
    "Run",
    "choose_best",
    "describe_runs",
    "find_runs",
    "plan_pruning",
    "readable_size",
    "runs_table",
    "show",
]
