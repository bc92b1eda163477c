"""How sharp two models' masks are: mask AP at each overlap, and their boundaries' AP, side by side.

python scripts/mask_edges.py runs/maskrcnn/shapes/eval-* runs/refinemask_psg/shapes/eval-* [--annotations FILE]

Each folder holds the predictions.json that eval.py wrote. The boundary AP (arXiv 2103.16562) is the AP where two masks
overlap by no more than their boundaries do: pixels within 2 % of the image's diagonal from the edge.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskworks import shapes

SHOWN = (0.5, 0.75, 0.8, 0.85, 0.9, 0.95)
WIDTH = 0.02  # of the image's diagonal


class BoundaryEvaluation(COCOeval):  # type: ignore[misc]
    """COCO's evaluation, with the overlap of masks limited by that of their boundaries."""

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803 (pycocotools calls it)
        overlaps = super().computeIoU(imgId, catId)
        found = sorted(self._dts[imgId, catId], key=lambda entry: -entry["score"])[: self.params.maxDets[-1]]
        truth = self._gts[imgId, catId]
        if len(overlaps) == 0:
            return overlaps
        edges = [[boundary(entry["segmentation"]) for entry in entries] for entries in (found, truth)]
        crowd = [int(entry["iscrowd"]) for entry in truth]
        return np.minimum(overlaps, coco_mask.iou(edges[0], edges[1], crowd))


def boundary(rle: Any) -> Any:
    """The part of a mask that is near its edge; the photograph's border is an edge, too."""
    mask: NDArray[np.uint8] = coco_mask.decode(rle)
    width = max(1, round(WIDTH * float(np.hypot(*mask.shape))))
    padded = np.pad(mask, 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return coco_mask.encode(np.asfortranarray(mask - inner))


def scores(truth: COCO, found: COCO, evaluation: type[COCOeval]) -> list[float]:
    """AP over all overlaps, then at those shown."""
    evaluated = evaluation(truth, found, "segm")
    evaluated.evaluate()
    evaluated.accumulate()
    precision = evaluated.eval["precision"][:, :, :, 0, 2]  # [overlap, recall, class]
    at = [int(np.argmin(np.abs(evaluated.params.iouThrs - overlap))) for overlap in SHOWN]
    return [float(part[part > -1].mean()) for part in (precision, *(precision[index] for index in at))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a predictions.json")
    parser.add_argument("--annotations", type=Path, help="default: the built-in validation set")
    options = parser.parse_args()
    truth = COCO(str(options.annotations or shapes.ensure("val").instances))
    for annotation in truth.anns.values():
        annotation["segmentation"] = truth.annToRLE(annotation)
    print(f"{'':44}{'AP':>7}" + "".join(f"{f'AP{100 * overlap:.0f}':>7}" for overlap in SHOWN))
    for run in options.runs:
        found = truth.loadRes(json.loads((run / "predictions.json").read_text()))
        for kind, evaluation in (("masks", COCOeval), ("boundaries", BoundaryEvaluation)):
            values = "".join(f"{value:7.3f}" for value in scores(truth, found, evaluation))
            print(f"{f'{run} {kind}':44}{values}")


if __name__ == "__main__":
    main()
