"""The other program's side of peers.py, in its own process and environment: nothing of ours is imported here.

python _peer_side.py make CASE FILE PHOTOGRAPH       writes a network without training as its program would
python _peer_side.py answer CASE FILE                then each line of input is a request, and each answer a line
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

MMDETECTION = {
    "solov2 light_r18_448": "solov2/solov2-light_r18_fpn_ms-3x_coco.py",
    "solov2 r50_3x": "solov2/solov2_r50_fpn_ms-3x_coco.py",
    "yolact base": "yolact/yolact_r101_1xb8-55e_coco.py",
    "maskrcnn mmdet3_r50_fpn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
}
CLASSIFIERS = ("mask_head.conv_cls", "bbox_head.conv_cls", "bbox_head.fc_cls", "box_predictor.cls_score")
SPREAD = 1.5  # of a class's made-up answers over the photograph, which stand out as trained ones do
UNNAMED = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]  # ids that COCO leaves out and torchvision has outputs for
LARGER = 8.0  # of YOLACT's boxes, exp(0.2 * 8) = five times the side of the prior: as large as objects are
Found = list[dict[str, Any]]  # class, score, and RLE or box
Network = Any


def main(what: str, case: str, file: str, photograph: str = "") -> None:
    torch.set_num_threads(1)
    if what == "make":
        torch.manual_seed(0)
        model, forward = build(case, photograph)
        enliven(model, forward)
        torch.save({"state_dict": model.state_dict(), "meta": described(model)}, file)
    else:
        answer_requests(predictor(case, file))


def answer_requests(respond: Callable[[Any], Any]) -> None:
    """Each line of input is an argument in JSON; each line of output [answer, CPU seconds, peak of memory in MB]."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print isn't an answer
    for line in sys.stdin:
        begin = time.process_time()
        answer = respond(json.loads(line))
        seconds = time.process_time() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([answer, seconds, peak]), file=output, flush=True)


def build(case: str, photograph: str) -> tuple[Network, Callable[[], object]]:
    """A network, and what sends a photograph through every norm of it."""
    import cv2

    pixels = torch.from_numpy(cv2.imread(photograph)[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    if case in MMDETECTION:
        model = of_mmdetection(case)
        inputs = (pixels - model.data_preprocessor.mean) / model.data_preprocessor.std
        return model, lambda: through_heads(model, inputs)
    model = of_torchvision()
    return model, lambda: model([pixels[0] / 255])


def through_heads(model: Network, inputs: torch.Tensor) -> None:
    """Without results: an untrained SOLOv2 would take each cell for an object."""
    features = model.extract_feat(inputs)
    if hasattr(model, "roi_head"):
        boxes = [torch.rand(500, 2) * 200, torch.rand(500, 2) * 200 + 250]
        regions = torch.cat([torch.zeros(500, 1), *boxes], dim=1)  # image, left, top, right, bottom
        pooled = model.roi_head.bbox_roi_extractor(features[:4], regions)
        model.roi_head.bbox_head(pooled)
    else:
        (model.mask_head if model.bbox_head is None else model.bbox_head)(features)


def of_mmdetection(case: str) -> Network:
    """Its compiled operators are in the full mmcv only: two are torchvision's here, the others refuse."""
    import torchvision

    class Extension(ModuleType):
        def __getattr__(self, name: str) -> Callable[..., object]:
            if name.startswith("__"):
                raise AttributeError(name)
            return partial(refuse, name)

    def roi_align(inputs: Any, regions: Any, out: Any, *_: Any, **settings: Any) -> None:
        side = settings["aligned_height"], settings["aligned_width"]
        more = settings["spatial_scale"], settings["sampling_ratio"], settings["aligned"]
        out.copy_(torchvision.ops.roi_align(inputs, regions, side, *more))

    extension: Any = Extension("mmcv._ext")
    extension.__spec__ = ModuleSpec("mmcv._ext", None)
    extension.nms = lambda boxes, scores, iou_threshold, offset: torchvision.ops.nms(boxes, scores, iou_threshold)
    extension.roi_align_forward = roi_align
    sys.modules["mmcv._ext"] = extension
    import mmdet
    from mmdet.apis import init_detector

    return init_detector(str(Path(mmdet.__file__).parent / ".mim/configs" / MMDETECTION[case]), None, device="cpu")


def refuse(name: str, *_: object, **__: object) -> None:
    raise NotImplementedError(f"mmcv._ext.{name}")


def of_torchvision() -> Network:
    """maskrcnn_resnet50_fpn as it is with its COCO weights: frozen norms whose epsilon is 0."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    model = MaskRCNN(resnet_fpn_backbone(backbone_name="resnet50", weights=None), 91).eval()
    for norm in norms(model):
        norm.eps = 0.0
    return model


def norms(model: Network) -> list[Any]:
    return [each for each in model.modules() if type(each).__name__ in ("BatchNorm2d", "FrozenBatchNorm2d")]


@torch.no_grad()
def enliven(model: Network, forward: Callable[[], object]) -> None:
    """Random weights whose answers differ: norms of this photograph's own statistics, and wider heads."""

    def fit(norm: Any, inputs: tuple[torch.Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))

    def stand_out(layer: Any, inputs: tuple[torch.Tensor], answers: torch.Tensor) -> torch.Tensor:
        hooks.pop().remove()  # of the levels that it looks at, the first decides
        flat = answers.movedim(1, -1).flatten(0, -2)  # [places, classes]
        factor = SPREAD / flat.std(dim=0).mean()
        layer.weight.mul_(factor)
        layer.bias.copy_(layer.bias * factor - flat.mean(dim=0) * factor)
        return layer(*inputs)

    for norm in norms(model):
        norm.register_forward_pre_hook(fit)
    hooks = [
        layer.register_forward_hook(stand_out) for name, layer in model.named_modules() if name.endswith(CLASSIFIERS)
    ]
    forward()
    for name, values in model.named_parameters():
        if name.endswith("box_predictor.cls_score.bias"):
            values[UNNAMED] = -100.0
        if type(model).__name__ == "YOLACT" and name.endswith("bbox_head.conv_reg.bias"):
            values.view(-1, 4)[:, 2:] = LARGER


def described(model: Network) -> dict[str, Any]:
    """What MMDetection writes beside the weights: its configuration, which our converter reads."""
    if not hasattr(model, "dataset_meta"):
        return {}
    return {"cfg": model.cfg.pretty_text, "dataset_meta": {"classes": model.dataset_meta["classes"]}}


def predictor(case: str, file: str) -> Callable[[str], Found]:
    """A photograph's path -> what the program finds in it, the masks as COCO RLE."""
    model = of_mmdetection(case) if case in MMDETECTION else of_torchvision()
    model.load_state_dict(torch.load(file, weights_only=False)["state_dict"])
    return partial(with_mmdetection if case in MMDETECTION else with_torchvision, model)


def with_mmdetection(model: Network, photograph: str) -> Found:
    from mmdet.apis import inference_detector

    found = inference_detector(model, photograph).pred_instances
    return encoded(found.labels, found.scores, found.masks.numpy())


@torch.inference_mode()
def with_torchvision(model: Network, photograph: str) -> Found:
    """As its page on instance segmentation shows it."""
    from torchvision.io import ImageReadMode, decode_image

    found = model([decode_image(photograph, ImageReadMode.RGB) / 255])[0]
    return encoded(found["labels"], found["scores"], (found["masks"][:, 0] > 0.5).numpy())


def encoded(labels: torch.Tensor, scores: torch.Tensor, masks: "np.ndarray[Any, Any]") -> Found:
    from pycocotools.mask import encode

    codes = [encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    counts = [{"size": code["size"], "counts": code["counts"].decode()} for code in codes]
    return [
        {"label": label, "score": score, "rle": code}
        for label, score, code in zip(labels.tolist(), scores.tolist(), counts, strict=True)
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
