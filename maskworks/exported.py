"""A model in a file that export.py wrote, of any format: what it says of itself, and a `predict` like PyTorch's."""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from common.errors import UserError, needing
from common.results import Instances
from common.run.checkpoint import fitting_together, require_file
from common.run.configuration import from_dict, to_dict
from common.run.model import Source
from common.run.prediction_batches import as_picture, one_or_many
from maskworks import __version__, compiled, onnx_export, openvino_export
from maskworks.packages import EXPORTED, NETWORKS
from maskworks.prediction.command import Predict


def words(
    package: str,
    config: Any,
    class_names: Sequence[str] = (),
    category_ids: Sequence[int] = (),
    size: Sequence[int] | None = None,
) -> dict[str, str]:
    """What a file is to say of itself, JSON where it isn't a word; `size` where the graph takes one size only."""
    test = to_dict(config.test)
    lists = {
        "class_names": class_names,
        "category_ids": category_ids,
        "size": size,  # rows, columns
        "thresholds": {name: value for name, value in test.items() if "threshold" in name},
        "config": to_dict(config),
    }
    variant = str(getattr(config, "variant", ""))
    plain = {"package": package, "variant": variant, "version": __version__, "channels": "rgb"}
    return plain | {name: json.dumps(value) for name, value in lists.items()}


def words_in(file: Path) -> dict[str, str]:
    """What a file says of itself; nothing where it isn't of ours."""
    if file.suffix in (".pt2", ".xml"):
        require_file(file)
        return compiled.words_in(file) if file.suffix == ".pt2" else openvino_export.words_in(file)
    with needing(f"{file}: reading it", "onnx onnxruntime"):
        import onnx
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected an ONNX file")
    require_file(file)
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # onnx lets its parser's own kinds through
        raise UserError(f"{file}: not a whole ONNX file; was it copied to the end?") from error
    return {entry.key: entry.value for entry in model.metadata_props}


class Known(msgspec.Struct):
    """What is needed of what a file says."""

    config: dict[str, Any]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    size: tuple[int, int] | None


class Exported(nn.Module):
    """Predicts with a file as the model does that it was made of; on the processor, in the file's own precision.

    The module itself is there without memory for its weights: it knows how pictures are scaled.
    """

    def __init__(self, file: Path, said: dict[str, str]):
        super().__init__()
        self.package = said.get("package", "")
        if self.package not in NETWORKS:  # a file doesn't say which modules are imported
            raise UserError(f"{file}: of {self.package or 'no package'}; there are {', '.join(NETWORKS)}")
        package = import_module(self.package)
        self.program = import_module(f"{self.package}.export")
        if not hasattr(self.program, "result"):
            raise UserError(f"{file}: of {self.package}, whose exported files are not run here; name the checkpoint")
        try:
            known = msgspec.convert({name: json.loads(said[name]) for name in Known.__struct_fields__}, Known)
        except (KeyError, ValueError, RecursionError) as error:
            raise UserError(f"{file}: what it says beside the graph is broken ({error}); export it again") from error
        self.config = from_dict(package.Config, known.config, str(file))
        self.class_names, self.category_ids, self.size = known.class_names, known.category_ids, known.size
        self.scene_graph = None  # which RefineMask's predict.py asks for, and which isn't exported
        with torch.device("meta"), fitting_together(str(file)):
            network = getattr(package, NETWORKS[self.package])
            self.scaling = (network(self.config, self.class_names, self.category_ids),)  # no part: `to` would move it
        self.session, self.outputs = session_of(file)
        self.nothing = nn.Parameter(torch.zeros(0))  # commands ask where a model's parameters are
        if self.size and min(self.size) < (most := self.config.test.long_side):
            print(f"{file}: photographs are made to fit into its {self.size[0]} x {self.size[1]}; the model had {most}")

    @one_or_many
    @torch.inference_mode()
    def predict(self, images: Sequence[Source]) -> list[Instances]:
        return [self._find(image) for image in images]

    def _find(self, source: Source) -> Instances:
        picture = as_picture(source)
        inputs, resized = self.program.graph_inputs(self.scaling[0], picture, self.size)
        try:
            answers = self.session.run(None, {name: value.numpy() for name, value in inputs.items()})
            outputs: dict[str, Tensor] = dict(zip(self.outputs, map(torch.from_numpy, answers), strict=True))
            found: Instances = self.program.result(self.scaling[0], outputs, resized, picture.shape[:2])
        except Exception as error:  # onnxruntime's own kinds, and answers that are of another graph
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"its graph doesn't answer as one of {self.package} ({reason}); export it again") from error
        found.image = Path(source) if isinstance(source, str | Path) else picture
        return found


def opened(options: Predict) -> Any:
    """The model of an exported file of ours; None where --weights names none."""
    if Path(options.weights).suffix not in EXPORTED:
        return None
    if options.device not in ("auto", "cpu") or options.precision not in ("auto", "fp32"):
        asked = f"--device {options.device} --precision {options.precision}"
        raise UserError(f"{options.weights}: runs on the processor, as exported; leave out {asked}")
    options.device, options.precision = "cpu", "fp32"
    return load(Path(options.weights), options.trust)


def session_of(file: Path) -> tuple[Any, list[str]]:
    """What runs a file, and the names of its outputs."""
    if file.suffix in (".pt2", ".xml"):
        program = compiled.Compiled(file) if file.suffix == ".pt2" else openvino_export.OpenVINO(file)
        return program, program.outputs
    try:
        session = onnx_export.session_of(file)
    except UserError:
        raise
    except Exception as error:  # of its own many kinds
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: its graph is not run ({reason}); was it copied to the end?") from error
    return session, [output.name for output in session.get_outputs()]


def load(file: Path, trust: bool = False) -> Exported:
    """A .pt2 file only where its maker is trusted: it is a program, and can do whatever this user can."""
    if file.suffix == ".pt2" and not trust:
        raise UserError(f"{file}: a compiled program, which can do whatever you can; if you trust its maker: --trust")
    if "config" not in (said := words_in(file)):
        raise UserError(f"{file}: no file of export.py, or of an early one: it doesn't say what it is; export it again")
    return Exported(file, said).eval()
