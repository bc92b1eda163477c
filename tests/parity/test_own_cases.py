"""Cases of our own with other numbers of images, names, chunks and stages than the given ones have.

What is expected is computed by our own code, from the same inputs under the names of the given cases and for each
photograph alone. So these cases prove that a spec is read rightly, not that the numbers are the original's.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskworks.shapes.scenes import draw_scene
from tests.given import given_folder
from tests.parity.case import Array, Case, read_case, write_case
from tests.parity.runner import find_system, run_case

COMMITTED = Path(__file__).parent / "cases"
SEED = 1
TRAINED = r"loss/.+|match/.+|train/.+|target.+|assign.+|positive_map"
SLOW = [pytest.mark.slow]


@dataclass(frozen=True)
class Own:
    """A case with the network and settings of a given one, on scenes of the built-in data set."""

    base: str
    wrong: str  # the output that is made wrong
    outputs: str = TRAINED  # pattern of those that it has
    photographs: tuple[str, ...] = ()  # further ones
    pattern: str = "{0}/{1}"  # of their outputs' names
    images: int = 1  # that are learned from
    settings: Mapping[str, Any] = field(default_factory=dict)  # that are other, by path
    spec: Mapping[str, Any] = field(default_factory=dict)  # what else the spec states
    renamed: Mapping[str, str] = field(default_factory=dict)  # what has another name than in the given cases
    left_out: str = "nothing"  # inputs
    quick: bool = False


YOLACT = {"max_size": 138, "priors/relative_to": 138, "nms/max_num_detections": 10}
REFINEMASK = {"preprocess/img_scale_long_short": [128, 96], "test_cfg/rcnn/max_per_img": 5}
MASKRCNN = {"INPUT/MIN_SIZE_TEST": 64, "MODEL.ROI_HEADS/DETECTIONS_PER_IMG": 5}
SMALL: dict[str, dict[str, Any]] = {  # settings that make a case quick
    "solov2/mmdet3_light_r18": {"resize": [128, 96]},
    "yolact/resnet50_550": YOLACT,
    "yolact/darknet53_550": YOLACT,
    "yolact/mmdet3_r50": {"resize": [138, 138]},
    "glip/glip_a_tiny_o365": {"min_size_test": 64, "max_size_test": 128},
    "glip/mmdet3_glip_a_tiny": {"resize": [64, 128]},
    "glip/losses_a_tiny": {"min_size_train": 64},
    "upsnet/resnet50_coco": {"test_short_side": 64, "max_side": 128, "test/rpn_post_nms_top_n": 50},
    "refinemask/refine_cbv2_swin_tiny_cascade_last": REFINEMASK,
    "refinemask/refinemask_r50_1x": REFINEMASK,
    "maskrcnn/r50_fpn": MASKRCNN,
    "maskrcnn/r50_c4": MASKRCNN,
    "maskrcnn/mmdet3_r50_fpn": {"resize": [128, 96]},
    "pose2seg/coco_occ": {"size_input": 64, "size_feature": 16, "size_align": 16, "size_output": 16},
}
THREE = {"image": "image_9", "image2": "image_4", "image3": "image_5"}
OTHER_NUMBERS = {f"gt_{kind}{number}": f"gt_{kind}/{number + 1}" for kind in ("boxes", "masks") for number in range(3)}

OWN = {
    "solov2 learns from one image, stored by itself": Own(
        "solov2/light_r18_448_shapes", "loss/loss_ins", left_out="image", renamed={"train_image": "train_image_0"}
    ),
    "solov2 learns from three": Own(
        "solov2/light_r18_448_shapes", "target/cate_2_0", images=3, left_out="image", quick=True
    ),
    "solov2 sees three photographs": Own(
        "solov2/mmdet3_light_r18", "image_7/fpn4", "scores|fpn4", ("image_2", "image_7"), "{1}/{0}"
    ),
    "yolact learns from one image": Own("yolact/resnet50_550", "match/conf_t", TRAINED + "|p7"),
    "yolact learns from three, otherwise numbered, in the spec's order": Own(
        "yolact/darknet53_550",
        "loss/M",
        images=3,
        spec={"train_batch": "in/image_9, in/image_4 and in/image_5"},
        renamed=THREE | OTHER_NUMBERS,
        quick=True,
    ),
    "yolact sees two photographs": Own("yolact/mmdet3_r50", "fpn4/image2", "fpn4|scores", ("image2",)),
    "glip asks in two chunks": Own(
        "glip/glip_a_tiny_o365",
        "head/token_logits/p6/chunk1",
        "(text/hidden|head/token_logits/p6|det/.+)(/chunk.)?",
        settings={"chunked_evaluation": 40},
        left_out="input_ids|attention_mask",
    ),
    "glip sees a photograph by another name": Own(
        "glip/mmdet3_glip_a_tiny", "tower4", "fpn4|tower4", renamed={"image": "photo"}, quick=True
    ),
    "glip learns from one image": Own("glip/losses_a_tiny", "assign0/labels"),
    "upsnet sees three photographs": Own(
        "upsnet/resnet50_coco", "fpn/p6/image/2", "fpn/p6|semantic/argmax|final/pan_2ch", ("image/1", "image/2")
    ),
    "upsnet sees a photograph by another name": Own(
        "upsnet/resnet50_coco", "final/semantic", "fpn/p6|final/.+", renamed={"image": "street"}, quick=True
    ),
    "upsnet's trunk sees two photographs": Own(
        "upsnet/efficientnet_b0", "c5/second", "c5", ("second",), spec={"images": ["image", "second"]}
    ),
    "refinemask learns from two images with a cascade": Own(
        "refinemask/refine_cbv2_swin_tiny_cascade_last", "train/sampled_boxes11", images=2
    ),
    "refinemask learns from three": Own(
        "refinemask/refinemask_r50_1x", "train/stage_target3@bits", images=3, quick=True
    ),
    "the semantic head learns from one crop": Own(
        "refinemask/psg_semantic_u2", "loss/ce_d0", settings={"train_batch": "p2[:, :, 6:22, 10:30]"}, quick=True
    ),
    "maskrcnn learns from one image and sees none": Own(
        "maskrcnn/r50_fpn", "train/box_labels/0", left_out="image", quick=True
    ),
    "maskrcnn learns from three": Own("maskrcnn/r50_c4", "train/rpn_pos/2", images=3, left_out="image"),
    "maskrcnn sees two photographs": Own("maskrcnn/mmdet3_r50_fpn", "fpn4/image2", "fpn4|labels", ("image2",)),
    "psg learns from one image": Own("psg/relation_head_mlp", "loss/loss_relationship", quick=True),
    "psg learns from three": Own("psg/relation_head_mlp", "train/entity_embedding", images=3, quick=True),
    "psg only sees": Own("psg/relation_head", "infer/triplets", "infer/.+", left_out="train_.+|gt_.+", quick=True),
    "pose2seg sees one image, without a number": Own(
        "pose2seg/coco_occ",
        "masks",
        "masks.*|logits|loss/.+",
        renamed={f"{name}/0": name for name in ("image", "keypoints", "gt_masks", "masks")},
    ),
    "pose2seg learns from the last of two": Own(
        "pose2seg/coco_occ", "train/target", images=2, spec={"train_images": [1]}, left_out="gt_masks/0"
    ),
    "pose2seg learns from none": Own(
        "pose2seg/coco_occ", "masks/1", "masks.*|logits", images=2, spec={"train_images": []}, quick=True
    ),
}


@cache
def base_case(name: str) -> Case:
    """Committed, or else given."""
    folder = COMMITTED / name
    return read_case(folder if folder.is_dir() else given_folder("MASKWORKS_PARITY", name))


def plain_case(own: Own, folder: Path) -> Case:
    """The case as the given ones are, without outputs."""
    base = base_case(own.base)
    system, settings = find_system(base.system), deepcopy(base.spec["settings"])
    if hasattr(system, "on_scene"):
        entries, inputs = system.on_scene(base, SEED, own.images)
    elif "train_metas" in settings:
        entries, inputs = repeated(base, settings, [0, 1, 0][: own.images])
    else:
        entries, inputs = {}, {"image": draw_scene(SEED, "val", 0).image}
    inputs = {name: value for name, value in inputs.items() if not re.fullmatch(own.left_out, name)}
    if base.name == "psg_semantic_u2":  # its scenes have two crops
        inputs["train_label"] = inputs["train_label"][-own.images :]
    for path, value in (SMALL.get(own.base, {}) | dict(own.settings)).items():
        *tables, name = path.split("/")
        table = settings
        for each in tables:
            table = table[each]
        assert name in table
        table[name] = value
    stated = {key: value for key, value in base.spec.items() if key not in OF_ITS_INPUTS}
    spec = stated | {"case": folder.name, "settings": settings, "inputs": entries, "outputs": {}}
    constants = {name: value for name, value in base.arrays.items() if name.startswith("const/")}
    return Case(folder, spec, constants | {f"in/{name}": value for name, value in inputs.items()})


OF_ITS_INPUTS = ("chunks", "train_batch", "train_images", "captions", "gt_polygons", "gradient_spread", "sample_limit")


def repeated(base: Case, settings: dict[str, Any], images: list[int]) -> tuple[dict[str, Any], dict[str, Array]]:
    """A scene graph case that learns from its images in another number: their entries and inputs."""
    settings["train_metas"] = [settings["train_metas"][image] for image in images]
    names = {name: name for name in base.inputs if "/" not in name}
    for name in [name.removesuffix("/0") for name in base.inputs if name.endswith("/0")]:
        names |= {f"{name}/{number}": f"{name}/{image}" for number, image in enumerate(images)}
    inputs = {name: base.inputs[theirs] for name, theirs in names.items()}
    inputs |= {name: inputs[name][images] for name in ("train_feature", "gt_semantic_seg")}
    return {name: base.spec["inputs"][theirs] for name, theirs in names.items()}, inputs


def outputs_of(own: Own, case: Case) -> dict[str, Array]:
    computed = find_system(case.system).compute(case, "cpu")
    chosen = {name: value for name, value in computed.items() if re.fullmatch(own.outputs, name)}
    return {name: value for name, value in chosen.items() if find_system(case.system).rule(case, name) is not None}


def write_own_case(own: Own, folder: Path) -> list[str]:
    """The case with one wrong output; all outputs' names."""
    plain = plain_case(own, folder)
    outputs = outputs_of(own, plain)
    arrays = {name: value for name, value in plain.arrays.items() if not name.startswith("in/")}
    for name, value in plain.inputs.items():
        unstacked = value[0] if name in own.renamed and value.ndim == 4 else value
        arrays[f"in/{own.renamed.get(name, name)}"] = unstacked
    for number, photograph in enumerate(own.photographs, start=1):
        image = {f"in/{photograph}": draw_scene(SEED, "val", number).image}
        constants = {name: value for name, value in plain.arrays.items() if name.startswith("const/")}
        alone = replace(plain, arrays=constants | {"in/image": image[f"in/{photograph}"]})
        outputs |= {own.pattern.format(name, photograph): value for name, value in outputs_of(own, alone).items()}
        arrays |= image
    entries = {own.renamed.get(name, name): entry for name, entry in plain.spec["inputs"].items()}
    outputs = {own.renamed.get(name, name): value for name, value in outputs.items()}
    arrays |= {f"out/{name}": wrong(value) if name == own.wrong else value for name, value in outputs.items()}
    write_case(folder, plain.spec | {"inputs": entries} | dict(own.spec), arrays)
    return list(outputs)


def wrong(values: Array) -> Array:
    return ~values if values.dtype in (np.uint8, np.bool_) else values + values.dtype.type(1)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if own.quick else SLOW) for name, own in OWN.items()])
def test_a_case_with_other_counts_runs_and_only_its_wrong_output_fails(name: str, tmp_path: Path) -> None:
    names = write_own_case(OWN[name], tmp_path / "own")
    lines, _ = run_case(read_case(tmp_path / "own"))
    assert {line.name for line in lines if not line.name.startswith("in/")} == set(names)
    assert len(names) > 1
    assert [(line.name, line.remark) for line in lines if not line.passed] == [(OWN[name].wrong, "")]
