"""Training and validation: a part of the pictures is split off where nobody did it; both become COCO files."""

import hashlib
import json
import re
import shutil
from pathlib import Path

from common.errors import UserError
from common.files import user_cache, write_text
from common.run.settings import Images
from maskworks.own_data.coco_files import Part
from maskworks.own_data.coco_writing import Json


def split(part: Part, fraction: float, group_by: str) -> tuple[Part, Part]:
    """By a hash of each name (or of what `group_by` finds in it), so that pictures that are added move no other."""
    if not 0 < fraction < 1:
        raise UserError(f"--data.val-fraction {fraction}: expected a part of the pictures, above 0 and below 1")
    content = part.content()
    share = {entry["id"]: place(group(entry["file_name"], group_by)) for entry in content["images"]}
    if len(set(share.values())) < 2:
        what = f"--data.group-by {group_by!r} finds one group" if group_by else "there is one picture"
        raise UserError(
            f"{what}, from which no validation data can be split off; name some with --data.val.annotations"
        )
    limit = min(max(fraction, min(share.values())), sorted(set(share.values()))[-2])  # something on both sides
    chosen = {image for image, at in share.items() if at <= limit}
    train, val = (Part(part.folder, None, only(content, chosen, wanted), part.maps) for wanted in (False, True))
    return train, val


def split_scene_graphs(part: Part, fraction: float, group_by: str) -> tuple[Part, Part, str]:
    """PSG's file says itself what is for tests; where it doesn't, it gets what the hash chooses. And who chose."""
    hashed = f"{fraction:g} of the pictures validate, chosen by a hash of their names"
    content = part.content()
    if "data" not in content:  # prepared: a panoptic file with relations
        return *split(part, fraction, group_by), hashed
    if {entry["image_id"] for entry in content["data"]} & set(content.get("test_image_ids", ())):
        return part, part, "its test_image_ids validate"
    images = [{"id": entry["image_id"], "file_name": entry["file_name"]} for entry in content["data"]]
    _, val = split(Part(part.folder, None, {"images": images, "annotations": []}), fraction, group_by)
    made = content | {"test_image_ids": [entry["id"] for entry in val.content()["images"]]}
    return Part(part.folder, None, made), Part(part.folder, None, made), hashed


def group(name: str, group_by: str) -> str:
    if not group_by:
        return name
    try:
        found = re.search(group_by, name)
    except re.error as error:
        raise UserError(f"--data.group-by {group_by!r}: not a regular expression ({error})") from error
    if found is None:
        raise UserError(f"--data.group-by {group_by!r} finds nothing in {name!r}; expected something in every name")
    return (found[1] if found.re.groups else None) or found[0]


def place(name: str) -> float:
    """A number from 0 to 1 that follows from a name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def put_beside(place: Path, maps: Path) -> None:
    """Panoptic PNGs where they are looked for: a link to their folder, or a copy where none can be made."""
    if not maps.is_dir() or place.exists():
        return  # what isn't there is said by who reads it
    try:
        place.symlink_to(maps.resolve(), target_is_directory=True)
    except FileExistsError:
        return  # another process was faster
    except OSError:
        shutil.copytree(maps, place, dirs_exist_ok=True)


def only(content: Json, chosen: set[int], wanted: bool) -> Json:
    """The images that are chosen, or the others, with their annotations."""
    kept = {"images": "id", "annotations": "image_id"}
    parts = {key: [each for each in content[key] if (each[name] in chosen) == wanted] for key, name in kept.items()}
    return content | parts


def written(name: str, parts: dict[str, Part]) -> dict[str, Images]:
    """The settings that say where each part is; contents go into the cache, in a folder named by what they are."""
    texts = {key: json.dumps(part.made, ensure_ascii=False) for key, part in parts.items() if part.made is not None}
    maps = "".join(str(part.maps.resolve()) for part in parts.values() if part.maps)  # which the folder has links to
    digest = hashlib.sha256("".join([*texts.values(), maps]).encode()).hexdigest()[:12]
    folder = user_cache() / "own_data" / f"{name}-{digest}"
    found = {}
    for key, part in parts.items():
        file = part.file or folder / f"{key}.json"
        if part.file is None and not file.exists():
            write_text(file, texts[key])
        if part.file is None and part.maps is not None:
            put_beside(file.with_suffix(""), part.maps)
        found[key] = Images([str(part.folder.resolve())], [str(Path(file).resolve())])
    return found
