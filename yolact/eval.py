"""Score YOLACT, draw what it finds, or measure how fast it is.

python eval.py [--weights FILE] [--flags]    scores; metrics.json, predictions in COCO's format
python eval.py --image street.jpg:found.jpg  a photograph with what was found drawn onto it; without
                                             a second name, as below too, to one beside the first
python eval.py --images photographs:found    each photograph of a folder
python eval.py --video film.mp4:found.mp4    each frame, with the measured frames per second on it
python eval.py --benchmark                   milliseconds and frames per second of each stage
python eval.py --benchmark --help            the flags of the last four; --help alone: of the first
"""

import json
import sys
from pathlib import Path

import tyro

import yolact
from common.files import write_text
from common.run.distributed import choose_device, is_main
from maskworks import command_line, commands, own_data, shapes
from maskworks.command_line import program
from yolact.config import VARIANTS
from yolact.show import Show, show_image, show_images, show_video
from yolact.stages import benchmark


def main() -> None:
    options, others = tyro.cli(Show, prog="eval.py", return_unknown_args=True, add_help=False)
    if options.image or options.images or options.video or options.benchmark:
        show(command_line.read(Show, "eval.py") if others else options)  # says which flag it doesn't know, or helps
        return
    if {"-h", "--help"} & set(others):
        print(__doc__)
    score()


def show(options: Show) -> None:
    named = ["--weights", options.weights] if options.weights else []
    model, _ = commands.model_to_evaluate("yolact", VARIANTS, yolact.load, named)
    model = model.to(choose_device(options.device))
    if options.image:
        show_image(model, options)
    if options.images:
        show_images(model, options)
    if options.video:
        show_video(model, options)
    if options.benchmark:
        benchmark(model, options)


def score() -> None:
    model, config = commands.model_to_evaluate("yolact", VARIANTS, yolact.load)
    config.data = own_data.located(config.data, sys.argv[1:])
    dataset = commands.open_dataset(shapes.fill_in(config.data, "val"), "val", config.training)
    commands.refuse_other_classes(dataset, model.class_names)
    folder = commands.evaluate("yolact", config, model, dataset, own_data.scored_in_tiles(commands.INSTANCES))
    if is_main():
        write_result_files(folder)


def write_result_files(folder: Path) -> None:
    """COCO's result format apart for boxes and for masks, which in YOLACT++ have scores of their own."""
    boxes, masks = [], []
    for entry in json.loads((folder / "predictions.json").read_text(encoding="utf-8")):
        identity = {key: entry[key] for key in ("image_id", "category_id")}
        boxes.append(identity | {"bbox": [round(value, 1) for value in entry["bbox"]], "score": entry["score"]})
        mask_score = entry.get("mask_score", entry["score"])
        masks.append(identity | {"segmentation": entry["segmentation"], "score": mask_score})
    for name, entries in (("bbox_detections.json", boxes), ("mask_detections.json", masks)):
        write_text(folder / name, json.dumps(entries))
        print(f"written: {folder / name}")


if __name__ == "__main__":
    program.run(main)
