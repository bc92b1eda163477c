"""All attacks, from small grammars: file kinds x faults, flags x values, states x damage."""

import json
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from maskworks.command_line.allowed import expected
from maskworks.command_line.table import settings_of
from maskworks.packages import NETWORKS
from tests.attacks.attack import REFUSED, TAKEN, Attack, reading, write
from tests.attacks.checkpoints import checkpoints
from tests.attacks.damage import NO_TEXT, beside, damaged, documents, png, text_bomb
from tests.attacks.good import DOCUMENTS, FORMATS, OWN

EITHER = (REFUSED, TAKEN)
SHARED = ("--data.", "--optimizer.", "--schedule.")
VALUES = ("0", "-1", "nan", "inf", "1e308", "9223372036854775808", "", "text")


def attacks() -> list[Attack]:
    return [*pictures(), *annotations(), *own_data(), *checkpoints(), *settings(), *runs(), *words(), *flags()]


def pictures() -> Iterator[Attack]:
    for kind in FORMATS:
        name = f"picture.{kind}"
        yield Attack(f"{name} is good", reading("image", name), beside(""), (TAKEN,))
        yield from damaged(name, reading("image", name), 16)
    for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (0, 0), (1, 0), (10_001, 10_000)):
        make = write("a.png", png(width, height))
        yield Attack(f"a PNG that claims {width} x {height}", reading("image", "a.png"), make, (REFUSED,))
    yield Attack("a PNG with a text bomb", reading("image", "a.png"), write("a.png", png(8, 8, text_bomb())))
    yield from damaged("panoptic/s.png", reading("ids", "panoptic/s.png"))
    for name in ("", "a\nb.png", "\udcff.png", "a" * 300 + ".png", "-.png", "missing.png", "hf:a", "~/a.png"):
        yield Attack(f"a picture called {name!r}", reading("image", name), beside(""), (REFUSED,))


def annotations() -> Iterator[Attack]:
    for reader, (name, content) in DOCUMENTS.items():
        words = reading(reader, *(("instances.json", name, "segm") if reader == "results" else (name,)))
        yield Attack(f"{reader} {name} is good", words, beside(""), (TAKEN,))
        yield from damaged(name, words, 10, NO_TEXT)
        for number, (what, make) in enumerate(documents(name, content)):
            if number % 2 and reader != "coco":
                continue  # the others read as it does
            yield Attack(f"{reader} {what}", words, beside(name, make))
    for fault, content in coco_faults().items():
        make = beside("instances.json", partial(_dumped, content))
        yield Attack(f"coco with {fault}", reading("coco", "instances.json"), make)


def coco_faults() -> dict[str, Any]:
    good: dict[str, Any] = DOCUMENTS["coco"][1]
    first = good["annotations"][0]

    def having(**changes: Any) -> dict[str, Any]:
        return good | {"annotations": [first | changes, *good["annotations"][1:]]}

    def image(**changes: Any) -> dict[str, Any]:
        return good | {"images": [good["images"][0] | changes, *good["images"][1:]]}

    rle = {"an RLE of 10^10 pixels": [[100_000, 100_000], [10**10]], "an RLE too long": [[24, 32], [10**9]]}
    rle |= {"an RLE of many ones": [[24, 32], [1] * 10**6], "an RLE text bomb": [[24, 32], "o" * 10**7]}
    rle |= {"an RLE below 0": [[24, 32], [-5, 773]], "an RLE of sizes below 0": [[-24, -32], [768]]}
    found = {name: having(segmentation={"size": size, "counts": counts}) for name, (size, counts) in rle.items()}
    found["10^6 categories"] = lambda: good | {"categories": [{"id": n, "name": f"c{n}"} for n in range(1, 10**6)]}
    found["10^6 corners"] = having(segmentation=[[1.0, 2.0, 3.0] * 10**6])
    found["a corner far away"] = having(segmentation=[[1e9, 1e9, -1e9, 1e9, 0, -1e9]])
    found["an image of 10^10 pixels"] = image(width=100_000, height=100_000)
    found["two equal images"] = good | {"images": good["images"] * 2}
    found["two equal annotations"] = good | {"annotations": good["annotations"] * 2}
    found["two equal categories"] = good | {"categories": good["categories"] * 2}
    found["nothing in it"] = {"images": [], "annotations": [], "categories": []}
    names = ("../../../etc/passwd", "/dev/zero", "a\0.png", "\ud800.png", "", ".", "a" * 5000)
    return found | {f"a file {name[:20]!r}": image(file_name=name) for name in names}


def _dumped(content: Any, folder: Path, good: Path) -> None:
    """When it is carried out: most of what is listed isn't."""
    write("instances.json", json.dumps(content() if callable(content) else content))(folder, good)


def own_data() -> Iterator[Attack]:
    texts = {
        "yolo": ("data.yaml", "train/labels/a.txt"),
        "labelme": ("a.json",),
        "voc": ("Annotations/a.xml", "SegmentationObject/a.png"),
        "imagefolder": ("metadata.jsonl",),
        "beside": ("annotations.json",),
        "8 bit": ("masks/a.png",),
        "32 bit TIFF": ("masks/a.tiff",),
    }
    for kind in OWN:
        yield Attack(f"--data {kind} is good", reading("data", f"own/{kind}"), beside(f"own/{kind}"))
    for kind, names in texts.items():
        for name in names:
            yield from damaged(f"own/{kind}/{name}", reading("data", f"own/{kind}"), 12, NO_TEXT)
    entity = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
    )
    for name, content in {
        "voc/Annotations/a.xml": (entity + "]><a>&j;</a>", entity.replace(" ", "\n") + "]><a>&j;</a>"),
        "yolo/data.yaml": YAMLS,
        "yolo/train/labels/a.txt": ("0 1e308 0 1 1", "nan nan nan nan nan", "0 " * 10**6, "\0", "9" * 10**6, "0"),
        "labelme/a.json": ('{"shapes": [], "imagePath": "/dev/zero"}', '{"shapes": [], "imagePath": "\\u0000"}'),
        "imagefolder/metadata.jsonl": ('{"file_name": "\\ud800"}', '{"file_name": "a\\u0000.png"}', "[" * 10**5),
    }.items():
        for number, text in enumerate(content):
            make = beside(f"own/{name}", write(f"own/{name}", text))
            yield Attack(f"--data {name} {number}", reading("data", f"own/{name.partition('/')[0]}"), make)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)
YAMLS = (BOMB, "{" * 10**5, "a: " * 1000, "!!python/object/apply:os.system [echo]", "names: &a [*a]", "- a", "1", "\0")
YAMLS += ("names: {0: " + "[" * 2000, "? [a]\n: b", "%YAML 9.9\n---\na: b", "a: 2001-99-99", "a: 0x" + "f" * 10**5)
YAMLS += ("names: {9999999999999999999999: a}\ntrain: .", "a: b\na: c", "\t", "a: *b")
YAMLS += ("train: .\nnames: [a]\npath: '\\0'",)
YAMLS += ("train: [1, 2]\nnames: [a]", "x: " + "a" * 3 * 10**6, "names: [" + "a, " * 10**5 + "]\ntrain: .", "<<: 1")


def settings() -> Iterator[Attack]:
    yield from damaged("config.yaml", reading("settings", "solov2", "--config", "config.yaml"), 40, NO_TEXT)
    own = ("model: []", "optimizer: {lr: []}", "model.grids: 1", "epochs: .nan", "run: \0")
    for number, text in enumerate((*YAMLS, *own)):
        make = write("a.yaml", text)
        yield Attack(f"--config {number}", reading("settings", "solov2", "--config", "a.yaml"), make, EITHER)
    yield from damaged("classes.txt", reading("classes", "classes.txt"), 4, NO_TEXT)
    yield from damaged("vocabulary.txt", reading("prompt", "vocabulary.txt", "a cat. dog."), 8, NO_TEXT)


def runs() -> Iterator[Attack]:
    yield from damaged("last.state", reading("state", "last.state"), 40, NO_TEXT)
    yield from damaged("log.jsonl", reading("log"), 12, NO_TEXT)
    yield Attack("a good report", ("maskworks.report", "."), beside(""), (TAKEN,), leaves="report.html")
    for name in ("log.jsonl", "metrics.json", "config.yaml"):
        yield from damaged(name, ("maskworks.report", "."), 12, NO_TEXT)
    for line in ("1", "{}", "[]", '{"step": "a"}', '{"step": null}', '{"step": 1e999}', "{" * 10**5, "9" * 10**5):
        make = beside("log.jsonl", write("log.jsonl", line + "\n"))
        yield Attack(f"a log of {line[:20]}", reading("log"), make)
        yield Attack(f"a report of a log of {line[:20]}", ("maskworks.report", "."), make)
    yield from damaged("model.onnx", reading("onnx", "model.onnx", "images/a.png"), 40, NO_TEXT)


def words() -> Iterator[Attack]:
    names = ("torchvision:nonsense", "torchvision:", "hf:", "hf:a", "hf:../..", "solov2:", "solov2:nonsense")
    names += ("https://example.invalid/a.pth", "file:///etc/passwd", "//a/b", "\udcff", "~", ".", "/dev/null", "")
    names += ("a.onnx", "a.safetensors", "a" * 5000, "C:\\a", "solov2:r50_3x ", "-", "/proc/self/mem")
    for name in names:
        for words in (("solov2.predict", "images"), ("solov2.eval",), ("solov2.export",), ("maskworks", "eval")):
            yield Attack(f"{words[0]} --weights {name[:30]!r}", (*words, f"--weights={name}"), beside(""), (REFUSED,))
    for text in ("", ".", "a. b. c.", "\udcff. a", "a" * 10**5, "a. " * 10**4, "coco", "x.txt", "classes.txt", "\t."):
        yield Attack(f"a prompt {text[:20]!r}", reading("prompt", "built-in", text), beside(""))
    for span in ("0:5", "5:0", "9:99", "-1:2", "a:b", "", "0:99999999999999999999"):
        yield Attack(f"a span {span!r}", reading("prompt", "built-in", "a red cat", span), beside(""))


def flags() -> Iterator[Attack]:
    """Every number of every package's settings; those that all packages share, once."""
    seen: set[str] = set()
    for package in (*NETWORKS, "refinemask_psg.u2net"):
        own = [setting for setting in settings_of(import_module(package).Config) if setting.flag.startswith("--")]
        for setting in own:
            kind, shared = expected(setting.kind), setting.flag.startswith(SHARED) or "." not in setting.flag
            if "number" not in kind or (shared and setting.flag in seen):
                continue
            seen.add(setting.flag)
            for value in VALUES if package == "solov2" else VALUES[1:6:2]:
                never = value in ("nan", "inf", "", "text") or ("whole" in kind and value.startswith(("1e", "9")))
                words = reading("settings", package, f"{setting.flag}={value}")
                endings = (REFUSED,) if never else EITHER
                yield Attack(f"{package} {setting.flag} {value}", words, beside(""), endings)
        for flag in ("threshold", "limit", "max-megapixels", "report-images", "overlap", "tile", "device", "precision"):
            for value in VALUES[::2] if package == "solov2" else VALUES[2:3]:
                words = (f"{package}.predict", "--weights", "none.safetensors", ".", f"--{flag}={value}")
                yield Attack(f"{package}.predict --{flag} {value}", words, beside(""), (REFUSED,))
