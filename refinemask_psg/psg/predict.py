"""What predict.py offers beside drawings: the PSG challenge's submission."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.data.images import list_images, read_image
from common.errors import UserError
from common.run.distributed import choose_device
from common.run.runlog import Bar
from maskworks.prediction.command import Predict, predict_one
from maskworks.prediction.number_format import fastest
from refinemask_psg.network import RefineMask
from refinemask_psg.psg.files import read_test
from refinemask_psg.psg.results import SceneGraph
from refinemask_psg.psg.submission import SubmissionWriter
from refinemask_psg.psg.submission_check import COUNTED


@dataclass
class PredictScenes(Predict):
    """Find the objects in photographs and videos; with relations, scene graphs."""

    submission: str = ""
    """Write the PSG challenge's submission into this folder instead of drawings."""
    annotations: str = ""
    """psg_val_test.json: the submission has its images in its order, from the folder that is named as IMAGES."""


def submit(model: RefineMask, options: PredictScenes) -> None:
    """relation.json, panseg/ and the zip; every image must be there."""
    if model.scene_graph is None:
        raise UserError(f"--submission: {options.weights} finds no relations; name a checkpoint of a psg variant")
    paths = images_to_submit(options)
    device = choose_device(options.device)
    model = model.to(device).to(memory_format=torch.channels_last)
    precision = fastest(device) if options.precision == "auto" else options.precision
    writer = SubmissionWriter(Path(options.submission))
    with Bar("predicting", len(paths)) as bar:
        for path in paths:
            image = read_image(path, int(options.max_megapixels * 1e6))
            graph = predict_one(model, image, precision)
            assert isinstance(graph, SceneGraph)
            writer.add(replace(graph, relations=graph.relations[:COUNTED]))
            bar.advance()
    print(f"submission: {writer.finish().resolve()}")


def images_to_submit(options: PredictScenes) -> list[Path]:
    if not options.annotations:
        return list_images(options.images)[: options.limit or None]
    folder = Path(*options.images[:1])
    if len(options.images) != 1 or not folder.is_dir():
        raise UserError(f"--annotations {options.annotations}: name the one folder that its file names start from")
    names = [entry.file_name for entry in read_test(Path(options.annotations))]
    return [folder / name for name in names][: options.limit or None]
