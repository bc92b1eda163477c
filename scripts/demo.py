"""A web page that shows the models at work: python scripts/demo.py [CHECKPOINTS or their folders...]

Choose a package and a checkpoint, upload a photograph (for GLIP also say what to look for), and see and download what
was found. It needs one library more: pip install 'gradio>=6,<7'. Only this computer can open the page, unless --host
says otherwise.
"""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import nn

from common.data.images import read_image
from common.errors import UserError, needing
from common.ops import masks as rle
from common.results import Instances, Panoptic, Result
from common.run import distributed
from maskworks import own_data
from maskworks.command_line import program
from maskworks.packages import NETWORKS
from maskworks.published.names import local_file, package_in
from maskworks.report.details import readable_scale
from refinemask_psg.psg.results import SceneGraph

Json = dict[str, Any]
LONGEST_PROMPT = 2000  # characters


@dataclass
class Demo:
    """A web page that shows the models at work."""

    weights: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"), Path())
    """Checkpoints of ours that the page offers, or folders with some (and, for runs, folders in those)."""
    host: str = "127.0.0.1"
    """Who may open the page: 127.0.0.1 only this computer, 0.0.0.0 everybody who can reach it."""
    port: int = 7860
    """The page's port; 0: the first free one from 7860. Its address is printed."""
    max_megabytes: float = 20.0
    """Larger uploads are refused."""
    max_megapixels: float = 50.0
    """Larger photographs are refused before they are decoded."""
    threshold: float = 0.3
    """Objects with a lower score are not drawn; the JSON file holds all."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    detector: str = ""
    """Weights of torchvision's keypointrcnn_resnet50_fpn: Pose2Seg needs people's joints, and this finds them."""
    vocabulary: Annotated[str, tyro.conf.arg(name="text.vocabulary")] = ""
    """Another vocabulary for GLIP than the checkpoint's: its file or folder."""


@dataclass
class Studio:
    """What the page does, without the page: checkpoints on offer, one model in memory, an answer to an upload."""

    options: Demo
    offered: dict[str, list[str]]  # package -> checkpoints
    folder: Path  # what was found is written here
    loaded: tuple[str, nn.Module] | None = None
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # one photograph at a time

    def answer(self, weights: str, upload: str | None, prompt: str) -> tuple[Path, Path, str]:
        """A picture with what was found, a JSON file with all of it, and a line that says how much it is."""
        if not any(weights in files for files in self.offered.values()):
            raise UserError("choose a checkpoint from the list")
        image = read_upload(upload, self.options)
        with self.lock:
            model = self.load(weights)
            package = next(package for package, files in self.offered.items() if weights in files)
            result = ask(package, model, image, prompt, self.options)
            self.count += 1
            name = f"{self.count:04}"
        drawing, content = self.folder / f"{name}.png", self.folder / f"{name}.json"
        result.draw(image, self.options.threshold, scale=readable_scale(image)).save(drawing)
        name = Path(upload or "").name
        content.write_text(json.dumps(as_json(result, getattr(model, "category_ids", ()), name)), encoding="utf-8")
        return drawing, content, summary(result, self.options.threshold)

    def load(self, weights: str) -> nn.Module:
        """The model of a checkpoint; the one before is forgotten first, so that two are never in memory."""
        if self.loaded and self.loaded[0] == weights:
            return self.loaded[1]
        self.loaded = None
        model: nn.Module = own_data.as_trained(import_module(package_of(Path(weights))).load(Path(weights)))
        if self.options.vocabulary:
            model.config.text.vocabulary = self.options.vocabulary  # type: ignore[union-attr]
        self.loaded = (weights, model.to(distributed.choose_device(self.options.device)))
        return self.loaded[1]


def main() -> None:
    options = tyro.cli(Demo, prog="demo.py", description=__doc__)
    with needing("the page", "'gradio>=6,<7'"):
        import gradio  # noqa: F401
    with tempfile.TemporaryDirectory(prefix="maskworks-demo-") as folder:
        studio = Studio(options, find_weights(options.weights), Path(folder))
        serve(studio)


def find_weights(places: Sequence[Path]) -> dict[str, list[str]]:
    """The checkpoints at these places, by package; other safetensors files are left out."""
    found: dict[str, list[str]] = {}
    for place in map(local_file, places):
        if not place.exists() and place not in Demo.weights:
            raise UserError(f"{place}: no such checkpoint or folder; check the path")
        nested = "**/*.safetensors" if place.resolve() != Path.cwd() else "*.safetensors"
        for path in [place] if place.is_file() else sorted(place.glob(nested)):
            package = package_of(path)
            if package and str(path) not in found.setdefault(package, []):
                found[package].append(str(path))
    if not found:
        looked = ", ".join(str(place.resolve()) for place in places)
        raise UserError(f"no checkpoint of ours in {looked}; train one (make demo), or convert a published one")
    return {package: found[package] for package in NETWORKS if package in found}


def package_of(path: Path) -> str:
    """The package that a checkpoint belongs to, from the file's head; empty if it is none of ours."""
    package = package_in(path)
    return package if package in NETWORKS else ""


def read_upload(upload: str | None, options: Demo) -> NDArray[np.uint8]:
    if not upload:
        raise UserError("upload a photograph first")
    path = Path(upload)
    megabytes = path.stat().st_size / 1e6
    if megabytes > options.max_megabytes:
        raise UserError(f"{path.name}: {megabytes:.1f} MB, the limit is {options.max_megabytes:g} MB")
    try:
        return read_image(path, int(options.max_megapixels * 1e6))
    except UserError as error:
        raise UserError(str(error).replace(f"{path}", path.name)) from error  # where it lies is nobody's concern


def ask(package: str, model: Any, image: NDArray[np.uint8], prompt: str, options: Demo) -> Result:
    """What a model finds; two packages want to know more than the photograph."""
    if package == "glip":
        return ask_glip(model, image, prompt)
    if package == "pose2seg":
        if not options.detector:
            raise UserError("Pose2Seg segments people from their joints: start the page with --detector FILE")
        from pose2seg.joints import Detector

        device = next(model.parameters()).device
        people = Detector(Path(options.detector), device, 0.7, 2.0)([image])[0]
        scores = None if people.scores is None else torch.from_numpy(people.scores)
        result: Result = model.predict([image], [people.joints], [scores])[0]
        return result
    answered: list[Result] = model.predict([image])
    return answered[0]


def ask_glip(model: Any, image: NDArray[np.uint8], prompt: str) -> Result:
    words = prompt.strip()
    if words.endswith(".txt"):  # would be read as a file's name
        words += "."
    if len(words) > LONGEST_PROMPT:
        raise UserError(f"the prompt has {len(words)} characters, the limit is {LONGEST_PROMPT}")
    result: Result = model.predict([image], words or None)[0]
    return result


def as_json(result: Result, category_ids: Sequence[int], name: str) -> Json:
    """A result in COCO's format: objects as annotations; segments as segments_info, each with its RLE."""
    panoptic = result.panoptic if isinstance(result, SceneGraph) else result
    names = panoptic.class_names
    ids = list(category_ids) if len(category_ids) == len(names) else list(range(1, len(names) + 1))
    height, width = panoptic.size
    found = panoptic.to_coco(1, ids) if isinstance(panoptic, Instances) else [segments(panoptic, ids)]
    if isinstance(result, SceneGraph):
        found[0]["relations"] = result.to_json()["relations"]
    return {
        "images": [{"id": 1, "file_name": name, "height": height, "width": width}],
        "categories": [{"id": number, "name": label} for number, label in zip(ids, names, strict=True)],
        "annotations": found,
    }


def segments(panoptic: Panoptic, ids: Sequence[int]) -> Json:
    entry = panoptic.to_coco(1, ids, "")
    for info in entry["segments_info"]:
        info["segmentation"] = rle.encode((panoptic.segments == info["id"])[None].cpu())[0]
    return {key: value for key, value in entry.items() if key != "file_name"}


def summary(result: Result, threshold: float) -> str:
    """How many of what, in a line."""
    if isinstance(result, Instances):
        labels = [result.class_names[i] for i in result.labels[result.scores >= threshold].tolist()]
    else:
        panoptic = result.panoptic if isinstance(result, SceneGraph) else result
        labels = [panoptic.class_names[info.label] for info in panoptic.infos if info.score >= threshold]
    counts = ", ".join(f"{labels.count(name)} {name}" for name in dict.fromkeys(labels))
    relations = f"; {len(result.relations)} relations" if isinstance(result, SceneGraph) else ""
    return (counts or f"nothing with a score of {threshold:g} or more") + relations


# --- the page


def serve(studio: Studio, wait: bool = True) -> Any:
    """Build the page with gradio and serve it; returns it, for who does not wait."""
    options = studio.options
    page = build(studio)
    try:
        page.launch(
            server_name=options.host,
            server_port=options.port or None,
            max_file_size=f"{max(1, round(options.max_megabytes * 1000))}kb",
            share=False,
            prevent_thread_lock=not wait,
            allowed_paths=[str(studio.folder)],
            quiet=not wait,
        )
    except OSError as error:
        raise UserError(f"port {options.port} of {options.host} is not to be had ({error}); try --port 7861") from error
    return page


def build(studio: Studio) -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nobody is told that it runs
    import gradio

    packages = list(studio.offered)
    first = studio.offered[packages[0]]
    with gradio.Blocks(title="maskworks", analytics_enabled=False) as page:
        gradio.Markdown("# maskworks")
        with gradio.Row():
            with gradio.Column(scale=1):
                package = gradio.Dropdown(packages, value=packages[0], label="package")
                weights = gradio.Dropdown(first, value=first[0], label="checkpoint")
                prompt = gradio.Textbox(
                    label="what to look for",
                    placeholder="person. bicycle. a man in a red shirt.",
                    visible=packages[0] == "glip",
                )
                photograph = gradio.File(file_types=["image"], label="photograph")
                button = gradio.Button("Find", variant="primary")
            with gradio.Column(scale=2):
                found = gradio.Textbox(label="found", elem_id="found", interactive=False)
                buttons = ["download", "fullscreen"]  # none that would send it elsewhere
                picture = gradio.Image(
                    type="filepath", format="png", show_label=False, interactive=False, buttons=buttons
                )
                files = gradio.File(file_count="multiple", label="download", interactive=False)

        def choose(name: str) -> tuple[Any, Any]:
            files = studio.offered.get(name, [])
            checkpoints = gradio.update(choices=files, value=files[0] if files else None)
            return checkpoints, gradio.update(visible=name == "glip")

        package.change(choose, package, [weights, prompt], api_visibility="private")
        button.click(
            shown(studio), [weights, photograph, prompt], [picture, files, found], api_name="find", concurrency_limit=1
        )
    return page


def shown(studio: Studio) -> Callable[[str, str | None, str], tuple[str | None, list[str] | None, str]]:
    """The studio's answer in the page's terms: a mistake is one line on it, and nothing else."""

    def answer(weights: str, upload: str | None, prompt: str) -> tuple[str | None, list[str] | None, str]:
        try:
            drawing, content, line = studio.answer(weights, upload, prompt or "")
        except UserError as error:
            return None, None, str(error)
        return str(drawing), [str(drawing), str(content)], line

    return answer


if __name__ == "__main__":
    program.run(main)
