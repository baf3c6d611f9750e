"""METEOR 1.5 for English without Java, equal to the reference jar's as COCO evaluation runs it.

`Meteor.load().statistics(predictions, references)` takes PTB tokens; `JavaMeteor` asks the jar instead. The word lists
come from pycocoevalcap (the extra `raycap[coco]`) or a METEOR folder; raycap holds no copy of them.
"""

from __future__ import annotations

from raycap.metrics.meteor.scorer import JavaMeteor, Meteor
from raycap.metrics.meteor.sources import MeteorUnavailableError
from raycap.metrics.meteor.statistics import VERSION, MeteorStatistics

__all__ = ["VERSION", "JavaMeteor", "Meteor", "MeteorStatistics", "MeteorUnavailableError"]
