"""Our side of peers.py, in a process of its own; what is asked of it is as in _peer_side.py.

python _our_side.py calibrate CASE FILE PHOTOGRAPH NUMBER...    from a published file: FILE-NUMBER.pth and .safetensors
python _our_side.py answer CASE FILE                            photographs' paths -> what is found
python _our_side.py stages CASE FILE                            the same -> CPU seconds of each stage
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from _peer_side import answer_requests

from common.data.images import read_image
from common.run.checkpoint import Checkpoint, save
from maskworks.published.formats import read_published
from maskworks.published.whole_files import checkpoint_of, understand

# the bias that decides how much is found, and which of each so many classes is the background
BIAS: dict[str, tuple[str, int | None]] = {
    "solov2": ("mask_head.conv_cls.bias", None),
    "yolact": ("bbox_head.conv_cls.bias", -1),
    "maskrcnn mmdet3_r50_fpn": ("roi_head.bbox_head.fc_cls.bias", -1),
    "maskrcnn torchvision_r50_fpn": ("roi_heads.box_predictor.cls_score.bias", 0),
}
START, STEP, HALVINGS = -20.0, 2.0, 6  # of the search for the bias
Model = Any


def main(what: str, case: str, file: str, *more: str) -> None:
    torch.set_num_threads(1)
    if what == "calibrate":
        calibrate(case, Path(file), more[0], [int(number) for number in more[1:]])
        return
    model = import_module(case.partition(" ")[0]).load(file, device="cpu")
    if what == "answer":
        answer_requests(partial(predict, model, model.category_ids if "torchvision" in case else None))
    else:
        answer_requests(partial(stages, model))


def calibrate(case: str, file: Path, photograph: str, wanted: list[int]) -> None:
    """Raise the bias until about so many objects are found, for each number in rising order."""
    package, variant = case.split()
    name, background = BIAS.get(case) or BIAS[package]
    state, rest = read_published(file)
    classes = 81 if package == "yolact" else len(state[name])
    usual, raised = state[name].view(-1, classes), torch.ones(classes)
    if background is not None:
        raised.zero_()[background] = -1.0

    def converted(shift: float) -> Checkpoint:
        state[name] = (usual + shift * raised).flatten()
        return checkpoint_of(understand(package, file, state, rest, variant, "coco"))

    ours = file.with_suffix(".safetensors")
    save(ours, converted(START))
    model = import_module(package).load(ours, trainable=True, device="cpu")
    for part in (model.backbone, model.fpn):  # which the bias doesn't change
        part.forward = cache(part.forward)
    high = START
    for number in wanted:
        low = high
        while (found := count(model, converted(high), photograph)) < number:
            low, high = high, high + STEP
        for _ in range(HALVINGS):
            if abs(found - number) <= number // 10:
                break
            middle = (low + high) / 2
            found = count(model, converted(middle), photograph)
            low, high = (middle, high) if found < number else (low, middle)
        print(f"{case}: bias {high:+.2f} for {number}, found {found}", file=sys.stderr)
        target = file.with_name(f"{file.stem}-{number}.pth")
        save(target.with_suffix(".safetensors"), converted(high))
        torch.save({"state_dict": state} | rest, target)


def cache(forward: Callable[[Any], Any]) -> Callable[[Any], Any]:
    answers: list[Any] = []

    def once(inputs: Any) -> Any:
        answers[:] = answers or [forward(inputs)]
        return answers[0].copy() if isinstance(answers[0], dict) else answers[0]

    return once


def count(model: Model, checkpoint: Checkpoint, photograph: str) -> int:
    model.load_state_dict(dict(checkpoint.weights))
    return len(model.predict(photograph))


def predict(model: Model, ids: tuple[int, ...] | None, photograph: str) -> list[dict[str, Any]]:
    result = model.predict(photograph)
    labels, scores = result.labels.tolist(), result.scores.tolist()
    codes = result.rle() or [None] * len(labels)
    return [
        {"label": ids[label] if ids else label, "score": score, "rle": code}
        for label, score, code in zip(labels, scores, codes, strict=True)
    ]


def stages(model: Model, photograph: str) -> dict[str, float]:
    """CPU seconds of each stage of one photograph; the network is what goes on inside of the model and its parts."""
    spent: dict[str, float] = {}
    inside: list[float] = []  # when the modules began that are running now

    def begin(*_: object) -> None:
        inside.append(time.process_time())

    def end(*_: object) -> None:
        began = inside.pop()
        if not inside:
            spent["network"] = spent.get("network", 0.0) + time.process_time() - began

    def timed(stage: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            began = time.process_time()
            result = action(*arguments)
            spent[stage] = time.process_time() - began
            return result

        return run

    modules = (model, *model.children())
    hooks = [
        hook for each in modules for hook in (each.register_forward_pre_hook(begin), each.register_forward_hook(end))
    ]
    model.preprocess = timed("preprocess", type(model).preprocess.__get__(model))
    image = timed("decode", read_image)(Path(photograph))
    result = timed("post-process", model.predict)(image)
    spent["post-process"] -= spent["preprocess"] + spent["network"]
    timed("encode", result.rle)()
    for hook in hooks:
        hook.remove()
    return spent


if __name__ == "__main__":
    main(*sys.argv[1:])
