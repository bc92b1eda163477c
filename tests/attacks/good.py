"""Files that nothing is wrong with, of every kind that is read; attacks damage copies of them."""

import json
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image

import solov2
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from common.run.resume import State, save_state
from maskworks import exported
from maskworks.command_line.yaml_files import to_yaml
from maskworks.report.details import RunDetails, write
from tests.common.coco_example import HEIGHT, WIDTH
from tests.faults.test_fuzz_checkpoints import CONTENT
from tests.faults.test_fuzz_documents import captions, detections, instances, panoptic
from tests.maskworks.own_data_formats import CLASSED, UNCLASSED
from tests.refinemask_psg.test_psg_files import entry, psg
from tests.refinemask_psg.test_psg_files import write as write_psg

DOCUMENTS: dict[str, tuple[str, Any]] = {  # reader -> its file and that one's content
    "coco": ("instances.json", instances()),
    "captions": ("captions.json", captions()),
    "panoptic": ("panoptic.json", panoptic()),
    "psg": ("psg.json", psg(entry(7), entry(8), test=[8])),
    "joints": ("instances.json", instances()),
    "results": ("results.json", detections()),
}
FORMATS = ("png", "jpg", "bmp", "webp", "tif", "ppm", "deep.png", "deep.tif", "grey.pgm", "palette.png", "clear.png")
CHECKPOINTS = ("model.safetensors", "zip.pth", "old.pth", "plain.pkl", "arrays.npz")
OWN = {**CLASSED, **UNCLASSED}


def make(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    for name in ("images/a.png", "images/deep/b.png", "images/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
    kinds = {"deep": Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "grey": picture.convert("L")}
    kinds |= {"palette": picture.convert("P"), "clear": picture.convert("RGBA")}
    for name in FORMATS:
        kinds.get(name.partition(".")[0], picture).save(folder / f"picture.{name}")
    numbers = np.full((HEIGHT, WIDTH, 3), (2, 0, 0), np.uint8)
    numbers[:8, :5, 0] = 1
    write_psg(folder, DOCUMENTS["psg"][1], "psg.json")
    (folder / "panoptic").mkdir(exist_ok=True)
    Image.fromarray(numbers).save(folder / "panoptic/s.png")
    for name, content in DOCUMENTS.values():
        (folder / name).write_text(json.dumps(content))
    for name, made in OWN.items():
        made(folder / "own" / name)
    checkpoints(folder)


def checkpoints(folder: Path) -> None:
    config = deepcopy(solov2.VARIANTS["shapes"])
    config.model.fpn_channels = config.model.tower_channels = config.model.mask_channels = 32
    config.test.long_side = config.test.short_side = 64
    config.model.tower_depth = 1
    model = solov2.SOLOv2(config, ("cat", "dog"))
    content = Checkpoint("solov2", to_dict(config), ("cat", "dog"), (1, 2), model.state_dict())
    save(folder / "model.safetensors", content)
    torch.save(CONTENT, folder / "zip.pth")
    torch.save(CONTENT, folder / "old.pth", _use_new_zipfile_serialization=False)
    (folder / "plain.pkl").write_bytes(pickle.dumps({"blobs": {"a": torch.zeros(3).numpy(), "b": np.zeros((2, 3))}}))
    np.savez(folder / "arrays.npz", a=np.zeros(3), b=np.zeros((2, 2)))
    optimizer = {"state": {"0": {"step": 1, "average": torch.zeros(2)}}, "param_groups": []}
    save_state(folder / "last.state", State(1, 0.0, {}, {}, {"weight": torch.zeros(2)}, None, optimizer, {}))
    log = [json.dumps({"step": step, "epoch": 0, "loss": 1.0}) for step in (1, 2, 3)]
    (folder / "log.jsonl").write_text("\n".join(log) + "\n")
    (folder / "metrics.json").write_text(json.dumps({"segm": {"AP": 0.5}, "bbox": {"AP": 0.25}}))
    (folder / "config.yaml").write_text(to_yaml(config))
    write(folder, RunDetails("a run", 0.3, per_class={"AP": {"cat": 0.5}}))
    (folder / "classes.txt").write_text("cat\ndog\n")
    (folder / "vocabulary.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", ".", "a"]))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["scores"])],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(made, exported.words("solov2", config, ("cat", "dog"), (1, 2)))
    onnx.save(made, folder / "model.onnx")
