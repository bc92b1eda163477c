"""What the READMEs' commands name, made up: data sets in the published layouts, photographs, weights of full size.

`data` writes a folder with datasets/, and here/ with what lies where the reader is. `weights` makes a file by its name.
"""

import json
import pickle
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from transformers import BertConfig, BertModel

from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks import shapes
from maskworks.command_line.variants import configure
from maskworks.packages import NETWORKS
from maskworks.prediction.film import write_video
from maskworks.published.coco_classes import COCO_CATEGORY_IDS, COCO_CLASSES
from refinemask_psg.psg.config import PSG_PREDICATES
from refinemask_psg.u2net import U2Net
from tests.glip.test_convert import published as published_by_microsoft
from tests.maskrcnn.test_convert import published_by_benchmark, published_by_detectron
from tests.pose2seg.test_commands import ochuman
from tests.pose2seg.test_convert import published as published_by_pose2seg
from tests.refinemask_psg.test_convert import published_name as published_by_refinemask
from tests.solov2.test_convert import published_by_solo
from tests.upsnet.test_convert import published as published_by_upsnet
from tests.yolact.test_convert import published_by_dbolya
from upsnet.classes import COCO

Json = dict[str, Any]
IMAGES = 3  # in each split; commands are told to take fewer still
SCENES = 12  # of the built-in validation set, as the pictures in the pages show the first of them
SEED = 7  # its first images have people with joints, relations and phrases


# --- data


def data(folder: Path) -> None:
    """datasets/ as datasets/README.md has it after the downloads, and here/, where the reader's own files are."""
    splits: tuple[shapes.Split, ...] = ("train", "val")
    made: dict[str, shapes.ShapesFolder] = {}
    for split in splits:
        scenes = made[split] = shapes.ensure(split, seed=SEED, count=IMAGES, cache=folder)
        # what a command without data draws, in small
        default = shapes.ensure(split, seed=SEED, count=SCENES, cache=folder / "cache/maskworks")
        default.root.rename(default.root.with_name(f"{split}-seed0-{800 if split == 'train' else 200}"))
        coco(folder / "datasets/coco", split, scenes)
    own: Json = ochuman([{}] * 2502)  # the first 2500 are for validation
    for entry in own["images"]:
        entry["file_name"] = "0.jpg"
    write(folder / "datasets/ochuman/annotations/ochuman.json", own)
    picture(folder / "datasets/ochuman/images/0.jpg", 60, 80)
    for split in ("train", "val"):
        cityscapes(folder / "datasets/cityscapes", split)
    for split, name in (("train", "TR"), ("val", "TE")):
        duts = folder / f"datasets/duts/DUTS-{name}"
        saliency(made[split], duts / f"DUTS-{name}-Image", duts / f"DUTS-{name}-Mask")
    shutil.copytree(Path(__file__).resolve().parent.parent / "datasets/nuclei", folder / "datasets/nuclei")
    here(folder / "here", folder / "datasets", made)


def coco(root: Path, split: str, scenes: shapes.ShapesFolder) -> None:
    """The scenes as COCO has them: its folders, files, and classes in place of the drawn ones."""
    for year in (2014, 2017):
        shutil.copytree(scenes.images, root / f"{split}{year}")
    shutil.copytree(scenes.panoptic_folder, root / f"panoptic_{split}2017")
    shutil.copytree(scenes.panoptic_folder, root / f"annotations/panoptic_{split}2017")
    instances, panoptic = renamed(read(scenes.instances)), renamed(read(scenes.panoptic))
    names = ["train2014"] if split == "train" else ["valminusminival2014", "minival2014"]
    for name in (*names, f"{split}2017"):
        write(root / f"annotations/instances_{name}.json", instances)
    write(root / f"annotations/panoptic_{split}2017.json", panoptic)
    shutil.copy(scenes.keypoints, root / f"annotations/person_keypoints_{split}2017_pose2seg.json")


def renamed(content: Json) -> Json:
    """The same with COCO's categories; the drawn things and stuff become the first ones of it."""
    drawn = sorted(content["categories"], key=lambda entry: not entry.get("isthing", 1))
    things = sum(entry.get("isthing", 1) for entry in drawn)
    chosen = [*list(COCO.items())[:things], *list(COCO.items())[80 : 80 + len(drawn) - things]]
    ids = {entry["id"]: number for entry, (_, number) in zip(drawn, chosen, strict=True)}
    for entry in [info for one in content["annotations"] for info in one.get("segments_info", [one])]:
        entry["category_id"] = ids[entry["category_id"]]
    listed = list(COCO.items())[: None if things < len(drawn) else 80]
    content["categories"] = [
        {"id": number, "name": name, "isthing": int(place < 80)} for place, (name, number) in enumerate(listed)
    ]
    return content


def psg(scenes: shapes.ShapesFolder, split: str) -> list[Json]:
    """The scene graphs' entries with PSG's classes and COCO's folders."""
    content = read(scenes.scene_graph)
    things = len(content["thing_classes"])
    for entry in content["data"]:
        entry["file_name"] = entry["file_name"].replace("images/", f"{split}2017/")
        entry["pan_seg_file_name"] = entry["pan_seg_file_name"].replace("panoptic/", f"panoptic_{split}2017/")
        for info in (*entry["segments_info"], *entry["annotations"]):
            info["category_id"] += 80 - things if info["category_id"] >= things else 0
    return list(content["data"])


def cityscapes(root: Path, split: str) -> None:
    numbers = np.full((128, 256), 7, np.uint16)  # road
    numbers[:32], numbers[32:64, :64], numbers[32:90, 64:120], numbers[32:64, 120:200] = 23, 26_000, 26_001, 24_000
    for number in range(IMAGES):
        labels = root / f"gtFine/{split}/ulm/{number}_gtFine_instanceIds.png"
        labels.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(labels), numbers)
        picture(root / f"leftImg8bit/{split}/ulm/{number}_leftImg8bit.png", 128, 256)


def saliency(scenes: shapes.ShapesFolder, images: Path, masks: Path) -> None:
    """Photographs, and a grey mask of each under its name."""
    shutil.copytree(scenes.images, images)
    masks.mkdir(parents=True)
    for path in images.iterdir():
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert grey is not None
        cv2.imwrite(str(masks / path.name), np.where(grey > 127, 255, 0).astype(np.uint8))


def here(folder: Path, datasets: Path, made: dict[str, shapes.ShapesFolder]) -> None:
    """The reader's own pictures and annotations, and copies of published ones under their names."""
    for name in ("street.jpg", "holiday/beach.jpg", "more/wood.png", "photographs/tower.jpg"):
        picture(folder / name, 90, 120)
    write_video(folder / "film.mp4", [np.full((90, 120, 3), grey, np.uint8) for grey in (50, 100)], 10)
    (folder / "coco").symlink_to(datasets / "coco")
    for name in ("val2017", "annotations/panoptic_val2017"):
        (folder / Path(name).name).symlink_to(datasets / "coco" / name)
    for path in (datasets / "coco/annotations").glob("*.json"):
        shutil.copy(path, folder)
    duts = datasets / "duts/DUTS-TE"
    for name in ("DUTS-TE-Image", "DUTS-TE-Mask"):
        (folder / name).symlink_to(duts / name)
    for split, scenes in made.items():
        saliency(scenes, folder / f"photos/{split}", folder / f"masks/{split}")
        shutil.copy(scenes.instances, folder / f"{split}.json")
        shutil.copy(scenes.keypoints, folder / f"{split}_people.json")
    (folder / "flickr30k").symlink_to(made["val"].images)
    shutil.copy(made["val"].captions, folder / "flickr_test.json")
    shutil.copytree(made["val"].images, folder / "ODinW/Aquarium/test")
    shutil.copy(made["val"].instances, folder / "ODinW/Aquarium/test/_annotations.coco.json")
    for path in made["val"].images.iterdir():
        shutil.copy(path, folder / "photos")
    shutil.copy(made["val"].instances, folder / "mine.json")
    found = [entry for entry in read(made["val"].keypoints)["annotations"] if entry["num_keypoints"] > 2]
    keys = ("image_id", "category_id", "keypoints")
    write(folder / "found.json", [{key: entry[key] for key in keys} | {"score": 0.9} for entry in found])
    people = read(made["val"].keypoints)
    names = ("street.jpg", "beach.jpg", "wood.png")
    people["images"] = [{"id": n, "file_name": name, "height": 90, "width": 120} for n, name in enumerate(names)]
    people["annotations"] = [found[0] | {"image_id": n, "id": n + 1} for n in range(len(names))]
    write(folder / "people.json", people)
    training, validation = (psg(made[split], split) for split in ("train", "val"))
    head = {"thing_classes": list(COCO)[:80], "stuff_classes": list(COCO)[80:], "predicate_classes": PSG_PREDICATES}
    head["test_image_ids"] = [entry["image_id"] for entry in validation]
    for name in ("psg.json", "psg_train_val.json"):
        write(folder / name, head | {"data": training + validation})
    write(folder / "psg_val_test.json", head | {"data": validation})
    own_data(folder)


def own_data(folder: Path) -> None:
    """my/: photographs with labelme's files, a validation set in COCO's format, a data set in YOLO's."""
    for name in ("photographs", "yolo/images", "yolo/labels"):
        (folder / "my" / name).mkdir(parents=True)
    made = shapes.ensure("val", seed=5, count=4, cache=folder / "cache")
    (folder / "my/val").symlink_to(made.images)
    (folder / "my/val.json").symlink_to(made.instances)
    names = [category["name"] for category in json.loads(made.instances.read_text())["categories"]]
    (folder / "my/classes.txt").write_text("\n".join(names))
    for number in range(4):
        picture = np.random.RandomState(number).randint(0, 255, (64, 96, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"my/photographs/{number}.png"), picture)
        cv2.imwrite(str(folder / f"my/yolo/images/{number}.png"), picture)
        corners = [[10, 10], [60, 12], [30, 50]]
        drawn = [{"label": name, "points": corners, "shape_type": "polygon"} for name in names]
        content = {"shapes": drawn, "imagePath": f"{number}.png", "imageData": None}
        (folder / f"my/photographs/{number}.json").write_text(json.dumps(content))
        (folder / f"my/yolo/labels/{number}.txt").write_text("0 0.1 0.1 0.6 0.2 0.3 0.9\n")
    (folder / "my/yolo/data.yaml").write_text("train: images\nnames: [thing]\n")


def picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(0).randint(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (width, height)))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


# --- weights


OURS = {  # a converted checkpoint by its name in the READMEs: package, variant
    "light_r18.safetensors": ("solov2", "light_r18_448"),
    "solov2.safetensors": ("solov2", "light_r18_448"),
    "any.safetensors": ("solov2", "light_r18_448"),
    "FILE": ("solov2", "light_r18_448"),
    "light_r50.safetensors": ("solov2", "light_r50_448"),
    "base.safetensors": ("yolact", "base"),
    "yolact_plus_resnet50.safetensors": ("yolact", "plus_resnet50_550"),
    "r50_fpn.safetensors": ("maskrcnn", "r50_fpn_1x"),
    "r50.safetensors": ("upsnet", "resnet50_coco"),
    "resnet101_coco.safetensors": ("upsnet", "resnet101_cityscapes"),
    "pose2seg.safetensors": ("pose2seg", "coco_occ"),
    "glip_tiny.safetensors": ("glip", "glip_tiny"),
    "refinemask_r50.safetensors": ("refinemask_psg", "refinemask_r50_1x"),
    "mask_rcnn_cbv2_swin_tiny.safetensors": ("refinemask_psg", "mask_rcnn_cbv2_swin_tiny"),
    "cascade.safetensors": ("refinemask_psg", "refine_cbv2_swin_tiny_cascade_last"),
    "refine_cascade.safetensors": ("refinemask_psg", "refine_cbv2_swin_tiny_cascade_last"),
    "detector.safetensors": ("refinemask_psg", "psg"),
    "psg.safetensors": ("refinemask_psg", "psg"),
}
PUBLISHED: dict[str, tuple[str, str, Callable[[str], str]]] = {  # an original's: package, variant, names
    "CHECKPOINT.pth": ("solov2", "light_r18_448", published_by_solo),
    "SOLOv2_LIGHT_448_R18_3x.pth": ("solov2", "light_r18_448", published_by_solo),
    "yolact_im700_54_800000.pth": ("yolact", "im700", published_by_dbolya),
    "e2e_mask_rcnn_R_50_FPN_1x.pth": ("maskrcnn", "r50_fpn_1x", published_by_benchmark),
    "upsnet_resnet_50_coco_90000.pth": ("upsnet", "resnet50_coco", published_by_upsnet),
    "pose2seg_release.pkl": ("pose2seg", "coco_occ", published_by_pose2seg),
    "glip_tiny_model_o365_goldg_cc_sbu.pth": (
        "glip",
        "glip_tiny",
        lambda name: str(published_by_microsoft(name, fused=True)),  # type: ignore[no-untyped-call]
    ),
    "r50-refinemask-1x.pth": ("refinemask_psg", "refinemask_r50_1x", lambda name: published_by_refinemask(name, 1)),
}


def weights(path: Path) -> None:
    """The file of that name, with random values."""
    from tests.test_starts import classifier  # which reads the READMEs itself

    torch.manual_seed(0)
    name = path.name
    if name in OURS:
        save_ours(path, *OURS[name])
    elif name in PUBLISHED:
        package, variant, theirs = PUBLISHED[name]
        state = network(package, variant, *classes_of(package, variant)).state_dict()
        torch.save({theirs(each): value for each, value in state.items()}, path)
    elif name == "model_final.pkl":
        state = network("maskrcnn", "r50_fpn_1x", COCO_CLASSES, COCO_CATEGORY_IDS).state_dict()
        kept = {each: value for each, value in state.items() if "running_" not in each}  # merged into the others there
        blobs = {published_by_detectron(published_by_benchmark(each)): value.numpy() for each, value in kept.items()}
        path.write_bytes(
            pickle.dumps({"blobs": blobs, "cfg": "TRAIN:\n  DATASETS: !!python/tuple\n  - coco_2014_train\n"})
        )
    elif name in ("u2net.pth", "u2netp.pth"):
        torch.save(U2Net(small=name == "u2netp.pth").state_dict(), path)
    elif name == "keypointrcnn.pth":
        model = torchvision.models.detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        torch.save(model.state_dict(), path)
    elif name.endswith(".pkl"):
        path.write_bytes(pickle.dumps({"blobs": {each: value.numpy() for each, value in classifier(name).items()}}))
    else:
        torch.save(classifier(name), path)


def of_a_default_run(path: Path, package: str) -> None:
    """The best weights of the run that `python train.py` leaves, here of an untrained network."""
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    if package == "u2net":
        module = import_module("refinemask_psg.u2net")
        config = module.VARIANTS["shapes"]
        model = U2Net(config.model.small, config)
        save(path, Checkpoint("u2net", to_dict(config), ("salient",), (1,), model.state_dict()))
    else:
        save_ours(path, package, "shapes")


def save_ours(path: Path, package: str, variant: str) -> None:
    names, ids = (tuple(COCO), tuple(COCO.values())) if "101_coco" in path.name else classes_of(package, variant)
    model = network(package, variant, names, ids)
    save(path, Checkpoint(package, to_dict(model.config), names, ids, model.state_dict()))


def network(package: str, variant: str, names: tuple[str, ...], ids: tuple[int, ...]) -> Any:
    config = configure(import_module(package).VARIANTS, [variant], prog="train.py")
    if package == "upsnet":
        config.model.things = 80 if names == tuple(COCO) else len(drawn("instances")[0])
    model = getattr(import_module(package), NETWORKS[package])(config, names, ids)
    for name, value in model.state_dict().items():
        if name.endswith("bn3.weight"):  # a residual network whose answers don't grow with its depth, as trained ones'
            value.fill_(0.3)
    return model


def classes_of(package: str, variant: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if package == "pose2seg":
        return ("person",), (1,)
    if variant.endswith("shapes"):
        return drawn("panoptic" if package == "upsnet" or variant.startswith("psg") else "instances")
    if variant.startswith("psg"):
        return tuple(COCO), tuple(range(1, 1 + len(COCO)))
    if package == "upsnet":
        return tuple(COCO), tuple(COCO.values())
    return COCO_CLASSES, COCO_CATEGORY_IDS


def drawn(kind: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The built-in data set's classes, things first."""
    from maskworks.shapes.scene_files import categories

    listed = sorted(categories(), key=lambda entry: not entry["isthing"])
    chosen = [entry for entry in listed if kind == "panoptic" or entry["isthing"]]
    return tuple(entry["name"] for entry in chosen), tuple(entry["id"] for entry in chosen)


# --- what a download would bring


def downloads(folder: Path) -> dict[str, str]:
    """Caches of torch and transformers that hold, made up, what a command names of theirs; as environment variables."""
    hub = folder / "torch/hub/checkpoints"
    hub.mkdir(parents=True)
    for name in ("resnet18", "resnet50", "swin_t"):
        url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
        torch.save(torchvision.models.get_model(name, weights=None).state_dict(), hub / url.rpartition("/")[2])
    bert = folder / "huggingface/hub/models--hfl--chinese-roberta-wwm-ext"
    BertModel(BertConfig(vocab_size=100)).save_pretrained(bert / "snapshots/0")
    (bert / "refs").mkdir()
    (bert / "refs/main").write_text("0")
    return {
        "TORCH_HOME": str(folder / "torch"),
        "HF_HOME": str(folder / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
