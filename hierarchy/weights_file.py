"""Weights in a file that another program wrote: read without running what is in it, and fitted to a network."""

from __future__ import annotations

import hashlib
import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from broker.errors import ConfigError
from broker.program.machine import machine_error

# How files begin that torch.save writes, today and before version 1.6, and how long the length of a safetensors
# header is, behind which a brace follows.
ZIP, PICKLE, SAFETENSORS_LENGTH = b"PK", b"\x80", 8
# Memory for each byte of an archive at most; TorchScript compresses its code.
MOST_UNPACKED = 2
WANTED = "give a state dict of torchvision or timm, as torch.save or safetensors write it"
# Where training programs put a state dict into a larger file, the averaged weights first.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
# What torch.nn.parallel and Lightning put in front of each name.
PREFIXES = ("module.", "model.")
# A counter of BatchNorm's, which older files lack and no prediction depends on.
COUNTER = "num_batches_tracked"
# Names that an error lists of each kind.
LISTED = 6

log = logging.getLogger(__name__)


class UnknownFormat(Exception):
    """A file is none of those that hold weights. Says how it begins."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name. Raises ConfigError where there is none, and MachineError."""
    if path.exists() and not path.is_file():  # a named pipe would be waited for without end
        raise ConfigError(f"--weights {path} is no file; {WANTED}")
    try:
        found = _read(path)
    except Exception as error:  # torch's reader of pickles raises whatever a damaged one makes of its stack
        if ours := machine_error(error):
            raise ours from error
        raise ConfigError(f"--weights {path} cannot be read ({_reason(error)}); {WANTED}") from error
    state = _state_dict(found)
    if not state:
        raise ConfigError(f"--weights {path} holds no tensors by name; {WANTED}")
    return state


def _read(path: Path) -> object:
    """Return what a file holds, which is told by how it begins and not by its name. Raises whatever the readers do."""
    with path.open("rb") as file:
        begin = file.read(len(ZIP) + SAFETENSORS_LENGTH)
    if begin[SAFETENSORS_LENGTH:].startswith(b"{"):
        return load_file(path)
    if begin.startswith(ZIP):
        _check_unpacked(path)
    elif not begin.startswith(PICKLE):
        raise UnknownFormat(f"it begins with {begin[:16]!r}" if begin else "it is empty")
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old pickles and of TorchScript, in words for who calls torch.load
        return torch.load(file, "cpu", weights_only=True)


def _check_unpacked(path: Path) -> None:
    """Raise ValueError for an archive that would take far more memory than disk: torch.save compresses no tensor."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(one.file_size for one in archive.infolist())
    if unpacked > MOST_UNPACKED * size:
        raise ValueError(f"its {size / 1e6:,.1f} MB unpack to {unpacked / 1e6:,.1f} MB")


def _reason(error: Exception) -> str:
    """Return what to say of an error: none of torch's advice to let a file run what it likes."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnpicklingError) or "weights_only" in str(error):
        return "it is damaged, or holds a whole program or model and not its state_dict() alone"
    if isinstance(error, UnknownFormat | ValueError | SafetensorError) and str(error):
        return str(error).splitlines()[0]
    return "it is damaged or cut short"


def _state_dict(found: object) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        return {}
    inner = next((found[one] for one in WRAPPERS if isinstance(found.get(one), Mapping)), found)
    state = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def fit_weights(module: nn.Module, state: Mapping[str, Tensor], *, classifier: str, path: Path) -> None:
    """Put tensors into a network: by their names, or where no name is known, one after the other.

    classifier: name of the last layer, which may be of other classes or missing. path: of the file, for people.
    Raises ConfigError with a list of what does not fit.
    """
    own = {name: one for name, one in module.state_dict().items() if not name.endswith(COUNTER)}
    given = {name: one for name, one in state.items() if not name.endswith(COUNTER)}
    if not own.keys() & given.keys():
        given = _in_order(own, given, classifier)
    needed = {name: one for name, one in own.items() if not _is_below(name, classifier)}
    if problems := _problems(needed, given):
        raise ConfigError(f"--weights {path} does not fit the network: {problems}")
    if left := [name for name in given if name not in own and not _is_below(name, classifier)]:
        log.warning("--weights %s: %s", path, _listed(left, "tensors that the network has not"))
    module.load_state_dict({name: given[name] for name in needed}, strict=False)


def weights_digest(module: nn.Module) -> str:
    """Return 16 hexadecimal digits that tell a network's weights from others."""
    return tensors_digest(module.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the same of a state dict."""
    digest = hashlib.sha256()
    for name, one in sorted(tensors.items()):
        if not name.endswith(COUNTER):
            digest.update(name.encode())
            digest.update(one.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _in_order(own: Mapping[str, Tensor], given: Mapping[str, Tensor], classifier: str) -> dict[str, Tensor]:
    """Return the tensors under the network's names, where all follow one another in the same shapes."""
    pairs = list(zip(own.items(), given.values(), strict=False))
    alike = all(one.shape == other.shape or _is_below(name, classifier) for (name, one), other in pairs)
    if len(own) != len(given) or not alike:
        return dict(given)
    return {name: other for (name, _), other in pairs}


def _problems(needed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    missing = [name for name in needed if name not in given]
    other = [
        f"{name} {tuple(given[name].shape)} in place of {tuple(one.shape)}"
        for name, one in needed.items()
        if name in given and given[name].shape != one.shape
    ]
    unusable = [
        name
        for name, one in needed.items()
        if name in given and given[name].shape == one.shape and not _is_usable(given[name], one)
    ]
    left = [name for name in given if name not in needed] if missing else []
    found = [
        _listed(missing, "tensors are missing"),
        _listed(other, "have another shape"),
        _listed(unusable, "hold no plain finite numbers"),
        _listed(left, "tensors that the network has not"),
    ]
    return "; ".join(filter(None, found))


def _is_usable(given: Tensor, own: Tensor) -> bool:
    """Whether a tensor of the right shape holds plain numbers, all finite as the network keeps them."""
    if given.layout != torch.strided or given.is_meta or given.is_quantized or given.is_complex():
        return False
    if not own.is_floating_point():
        return True
    # Whole numbers and single bytes are codes whose scale is elsewhere.
    is_number = given.is_floating_point() and given.element_size() > 1
    return is_number and bool(torch.isfinite(given.to(own.dtype)).all())


def _listed(names: list[str], what: str) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > LISTED else ""
    return f"{len(names)} {what} ({', '.join(names[:LISTED])}{more})"


def _is_below(name: str, layer: str) -> bool:
    return name.startswith(layer + ".")
