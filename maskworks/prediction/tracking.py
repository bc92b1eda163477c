"""Numbers that a film's objects keep from frame to frame: ByteTrack, of `trackers`, where supervision's moved to."""

from collections.abc import Callable

import numpy as np
import torch

from common.errors import UserError, needing
from common.results import Instances, Result

Follow = Callable[[float, Result], None]  # gives a frame's objects, at its time in seconds, their numbers
SURE = 0.1  # above --threshold: what starts a number of its own; what scores less only goes on with one


def by_bytetrack(threshold: float) -> Follow:
    """For one film: boxes that overlap from frame to frame are one object, of whatever class.

    In the frame where an object is seen first it has none yet.
    """
    with needing("--track", "trackers"):
        from trackers import ByteTrackTracker
    from supervision import Detections  # which trackers brings

    sure = min(threshold + SURE, 1.0)
    tracker = ByteTrackTracker(
        track_activation_threshold=sure, high_conf_det_threshold=sure, minimum_consecutive_frames=1
    )

    def follow(seconds: float, result: Result) -> None:
        if not isinstance(result, Instances):
            raise UserError("--track: this model finds no single objects that could be followed; leave it out")
        found, places = result.numpy(), {"place": np.arange(len(result))}
        boxes, scores = found["boxes"].astype(np.float32), found["scores"].astype(np.float32)
        seen = tracker.update(Detections(boxes, None, scores, found["labels"], data=places), timestamp=seconds)
        numbers = np.full(len(result), -1)
        if len(seen):
            numbers[seen.data["place"]] = seen.tracker_id
        result.track_ids = torch.from_numpy(numbers)

    return follow
