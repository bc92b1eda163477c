"""The bytes of a stranger's checkpoint are read here and nothing in it is run: PyTorch, pickles, .npz, safetensors.

What a file asks for that is neither tensor, array nor plain data becomes a Placeholder, which knows the name of its
class and does nothing. Nothing is imported and nothing is called, whatever the file says.
"""

import datetime
import io
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from operator import index
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError
from common.run.checkpoint import FORMAT, load, read_tensors, require_file

USUAL = ("state_dict", "model", "model_state_dict", "weight", "blobs", "net", "network")  # the weights' keys, in order
WRAPPERS = ("module", "model", "net", "network", "student", "teacher")  # what training wraps a network into
MOST, DEEPEST = 10**7, 200  # plain things beside the weights
FEWEST = 2  # tensors in a set of weights: a lone one is a step counter or the like


class Placeholder(dict[Any, Any]):
    """Something that isn't data: what it was made of, its items and its attributes, and none of its behaviour."""

    origin = ""  # the module and name of its class
    args: list[Any]  # grows in place: a file may append to it once for each of its bytes

    def __new__(cls, *args: Any, **_: Any) -> Self:
        made = super().__new__(cls)
        made.args = list(args)
        return made

    def __init__(self, *args: Any, **_: Any) -> None:
        super().__init__(*(each for each in args[:1] if isinstance(each, dict)))

    def __setstate__(self, state: object) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # attributes, and those in slots
            self.update(part if isinstance(part, dict) else {})

    def __call__(self, *args: Any) -> "Placeholder":
        return Placeholder(self, *args)

    def append(self, item: object) -> None:
        self.args.append(item)

    add = append

    def extend(self, items: Iterable[object]) -> None:
        self.args.extend(items)

    def __hash__(self) -> int:  # type: ignore[override]  # it may be a key, or in a set
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Ordered(Placeholder):
    """An OrderedDict; the attributes that state dicts have, their versions, are none of the weights."""

    def __setstate__(self, state: object) -> None:
        pass


class Dtype:
    """What a pickled array's items are; numbers and text only, None for the rest, of which nothing is built."""

    def __init__(self, code: object, *_: object) -> None:
        known = re.fullmatch(r"[biufc]\d{1,2}|[SU]\d{1,6}", code if isinstance(code, str) else "")
        self.value: np.dtype[Any] | None = np.dtype(known[0]) if known else None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.value is not None:
            self.value = self.value.newbyteorder(state[1])


class Array:
    """A pickled array: NumPy's own way to fill one believes what the file says of sizes and references."""

    value: NDArray[Any] | None = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, kind, columns_first, content = state
        self.value = from_bytes(content, kind, shape, "F" if columns_first else "C")


def scalar(kind: Dtype, content: Any) -> Any:
    array = from_bytes(content, kind)
    return None if array is None else array[()]


def from_bytes(content: Any, kind: Dtype, shape: tuple[int, ...] = (), order: Any = "C") -> NDArray[Any] | None:
    if kind.value is None:
        return None
    if isinstance(content, str):  # as Python 2 wrote bytes
        content = content.encode("latin1")
    if min(map(index, shape), default=0) < 0:  # which reshape would take for "as many as there are"
        raise ValueError(f"an array {shape}")
    return np.frombuffer(content, kind.value).reshape(shape, order=order)


def tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """Of a storage that is in the file: PyTorch would enlarge one that is too small."""
    size, stride = tuple(map(index, size)), tuple(map(index, stride))
    reach = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and not (min(offset, *stride, 0) == 0 and reach < len(storage)):
        raise ValueError(f"a tensor {tuple(size)} of {len(storage)} numbers")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-any-return,no-untyped-call]


def encode(text: str, encoding: str = "utf-8") -> bytes:
    """How bytes are written in pickles that Python 2 can read."""
    return text.encode({"latin1": "latin1", "utf-8": "utf-8"}[encoding])


def reconstruct(kind: Any, _: object, state: object = None) -> Any:
    """How the oldest protocols make an object."""
    return kind(state) if isinstance(kind, type) and issubclass(kind, Placeholder) else Placeholder(kind)


def first(value: Any, *_: Any) -> Any:
    return value


def rebuilt(function: Callable[..., Any], _: object, args: tuple[Any, ...], *__: Any) -> Any:
    """A subclass of Tensor is as good as the tensor."""
    return function(*args)


# all that arrays, tensors and plain data need
MADE: dict[str, Callable[..., Any]] = {
    "numpy._core.multiarray._reconstruct": Array,
    "numpy._core.multiarray.scalar": scalar,
    "numpy._core.numeric._frombuffer": from_bytes,
    "numpy.dtype": Dtype,
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_parameter": first,
    "torch._utils._rebuild_parameter_with_state": first,
    "torch.nn.parameter.Parameter": first,
    "torch._tensor._rebuild_from_type_v2": rebuilt,
    "torch.storage._load_from_bytes": lambda content: read_torch(io.BytesIO(content)),
    "torch.Size": lambda sizes: tuple(map(index, sizes)),
    "copyreg._reconstructor": reconstruct,
    "_codecs.encode": encode,
}
KINDS: dict[str, type] = {
    "collections.OrderedDict": Ordered,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    **{f"datetime.{name}": getattr(datetime, name) for name in ("date", "datetime", "time", "timedelta", "timezone")},
}


RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # since Python 2


class Unpickler(pickle._Unpickler):
    """Makes data and placeholders only. PyTorch adds how it stores tensors.

    In Python, for tuples and sets are counted as they are made: as keys they are walked by their hash, while the file
    is read, and few bytes can hold a tuple twice in a tuple, that twice in another ... Nothing in C stops that.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.measured: dict[int, tuple[Any, int, int]] = {}  # itself, things in it as often as they are met, and depth
        self.met = 0

    def count(self, value: Any) -> None:
        """Refuse what is met too often, or too deep, by whoever walks all that was made or fetched again."""
        if not isinstance(value, tuple | set | frozenset):
            return
        known = self.measured.get(id(value))
        if known is None or isinstance(value, set):
            below = [self.measured[id(part)] for part in value if id(part) in self.measured]
            size = len(value) + sum(size for _, size, _ in below)
            known = self.measured[id(value)] = value, size, 1 + max((depth for *_, depth in below), default=0)
        self.met += known[1]
        require_few(self.met, known[2])

    def find_class(self, module: str, name: str) -> Any:
        module = RENAMED.get(module, module).replace("numpy.core", "numpy._core")
        full = f"{module}.{name}"
        if full in KINDS:
            return KINDS[full]
        if full in MADE:
            return partial(MADE[full])  # its own: a file may change the attributes of what it is given
        if module == "torch" and isinstance(value := getattr(torch, name, None), torch.dtype):
            return value
        if module == "torch" and name.endswith("Storage"):  # in the oldest format; elsewhere PyTorch looks them up
            dtype = torch.serialization.StorageType(name).dtype  # type: ignore[no-untyped-call]
            return SimpleNamespace(dtype=dtype, _dtype=dtype)
        return type(name, (Placeholder,), {"__module__": "<placeholder>", "origin": full})


def counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def load_and_count(unpickler: Any) -> None:
        load(unpickler)
        unpickler.count(unpickler.stack[-1])

    return load_and_count


MAKING = (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.FROZENSET, pickle.REDUCE, pickle.NEWOBJ)
FETCHING = (pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST, pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.DUP)
for code in (*MAKING, *FETCHING):
    Unpickler.dispatch[code[0]] = counted(Unpickler.dispatch[code[0]])


def unpickle(file: Any, **_: Any) -> Any:
    return Unpickler(file, encoding="latin1").load()


INERT = SimpleNamespace(__name__="inert", Unpickler=Unpickler, load=unpickle)  # in the place of the pickle module


def read_torch(file: Any, mapped: bool = False) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes whose source isn't there to compare
        return torch.load(
            file, map_location="cpu", pickle_module=INERT, weights_only=False, mmap=mapped, encoding="latin1"
        )


def read_file(path: Path) -> Any:
    """What a file holds, whatever its suffix; any kind of exception if it is broken."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if all(name.endswith(".npy") for name in names):
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError("a TorchScript program: save its state_dict() instead")
        return read_torch(path, mapped=True)
    with suppress(tarfile.ReadError), tarfile.open(path, "r:") as tar:  # not is_tarfile, which would decompress it
        members = list(tar)
        if not all(member.isfile() for member in members):
            raise ValueError("an archive with more than files in it")
        if members:  # PyTorch's before 0.2, which it unpacks
            return read_torch(path)
    with path.open("rb") as file:
        content = unpickle(file)
    return read_torch(path) if isinstance(content, int) else content  # PyTorch's older format begins with a number


def require_finite(content: Any) -> None:
    """Refuse what nobody could walk: few bytes can hold a tuple twice in a tuple, that twice in another ..."""
    measured: dict[int, tuple[int, int]] = {}  # of each container: things below it, as often as they are met, and depth
    stack = [content]
    while stack:
        value = stack[-1]
        state = list(vars(value).values()) if isinstance(value, Placeholder) else []
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        parts = [part for part in (*inside, *state) if isinstance(part, (dict, list, tuple, set, frozenset))]
        if id(value) not in measured:
            measured[id(value)] = 0, 0  # until it is known; what holds itself counts once
            stack += parts
            continue
        stack.pop()
        below = [measured[id(part)] for part in parts]
        measured[id(value)] = len(inside) + sum(size for size, _ in below), 1 + max((d for _, d in below), default=0)
        require_few(*measured[id(value)])


def require_few(things: int, depth: int) -> None:
    if things > MOST or depth > DEEPEST:
        raise ValueError(f"more than {MOST:,} things in it, or more than {DEEPEST} in one another")


def read_published(path: Path, key: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in somebody else's checkpoint under their own names, and the rest of the file.

    Of several sets of weights the usual one is taken, or that under `key`; which, is printed.
    """
    if path.suffix == ".safetensors":
        return unwrapped(read_tensors(path)[0], path, key), {}
    require_file(path)
    try:
        content = read_file(path)
        require_finite(content if isinstance(content, Mapping) else ())
    except Exception as error:  # many kinds are raised for a file that is broken
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not read, since it is broken or of no format known here ({reason})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: a {type(content).__name__}; expected a state dict, or one under 'state_dict'")
    sets = dict(weight_sets(content))
    chosen = choose(sets, key, path)
    state = unwrapped(sets[chosen], path, key)
    for name, value in state.items():
        if value.layout == torch.strided and value.nbytes > value.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} claims {tuple(value.shape)} numbers, but the file holds fewer")
    return state, {name: value for name, value in content.items() if name != chosen and not isinstance(value, Tensor)}


def read_checkpoint_or_published(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights in a file of ours or somebody else's, and the class names if it says them."""
    if path.suffix == ".safetensors" and read_tensors(path)[1].get("format") == FORMAT:
        found = load(path)
        return found.weights, found.class_names
    return read_published(path)[0], ()


def weight_sets(content: Mapping[Any, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The sets of weights in a file by their keys; "" is the file itself."""
    for key, value in (("", content), *content.items()):
        found = dict(tensors(value))
        if found and (len(found) >= FEWEST or key in USUAL or not key):
            yield str(key), found


def tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict, or of a whole pickled module, whose state is plain data."""
    if isinstance(value, Placeholder) and isinstance(modules := value.get("_modules"), Mapping):
        for own in ("_parameters", "_buffers"):
            yield from tensors(value.get(own), prefix)
        for name, module in modules.items():
            yield from tensors(module, f"{prefix}{name}.")
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if (found := tensor_in(each)) is not None:
                yield f"{prefix}{name}", found


def tensor_in(value: Any) -> Tensor | None:
    """A tensor or an array of numbers, one without dimensions too, in this machine's byte order."""
    if isinstance(value, Array):
        value = value.value
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
    return value.detach() if isinstance(value, Tensor) else None


def choose(sets: Mapping[str, Mapping[str, Tensor]], key: str, path: Path) -> str:
    """Which set of weights to take, and say so where there are several."""
    if not sets:
        raise UserError(f"{path}: no tensors in it; expected a state dict, or one under 'state_dict'")
    usual = next((name for name in USUAL if name in sets), max(sets, key=lambda name: len(sets[name])))
    inside = {name.partition(".")[0] for name in sets[usual]} & set(WRAPPERS)
    if key and key not in sets and key not in inside:
        raise UserError(f"{path}: no weights under {key!r}, but under {', '.join(filter(None, [*sets, *inside]))}")
    chosen = key if key in sets and key else usual
    others = [name for name in sets if name not in (chosen, "")]
    if others or chosen not in ("", *USUAL):
        print(
            f"{path}: weights under {chosen!r}"
            + (f"; the converter's --weights-key takes {', '.join(others)}" if others else "")
        )
    return chosen


def unwrapped(state: dict[str, Tensor], path: Path, key: str) -> dict[str, Tensor]:
    """Without what training wraps a network into; of a student and its teacher the student, or the one named."""
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    if any(name.startswith("module.") for name in state):  # beside it, averages count their steps
        state = {name.removeprefix("module."): v for name, v in state.items() if v.ndim or name.startswith("module.")}
    heads = {name.partition(".")[0] for name in state}
    if not heads <= set(WRAPPERS):
        return state
    chosen = key if key in heads else "student" if "student" in heads else min(heads)
    if len(heads) > 1:
        print(
            f"{path}: weights of {chosen!r}; the converter's --weights-key takes {', '.join(sorted(heads - {chosen}))}"
        )
    start = f"{chosen}."
    inner = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    return unwrapped(inner, path, key)
