"""Weights in a file that another program wrote: read without running what is in it, and fitted to a network."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from broker.errors import ConfigError
from broker.program.machine import machine_error

SAFETENSORS = ".safetensors"
# Where training programs put a state dict into a larger file, the averaged weights first.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
# What torch.nn.parallel and Lightning put in front of each name.
PREFIXES = ("module.", "model.")
# A counter of BatchNorm's, which older files lack and no prediction depends on.
COUNTER = "num_batches_tracked"
# Names that an error lists of each kind.
LISTED = 6

log = logging.getLogger(__name__)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name. Raises ConfigError where there is none, and MachineError."""
    try:
        found = load_file(path) if path.suffix == SAFETENSORS else torch.load(path, "cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        if ours := machine_error(error):
            raise ours from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"--weights {path} cannot be read ({reason}): give a state dict of torchvision or timm, as torch.save or "
            "safetensors write it"
        ) from error
    state = _state_dict(found)
    if not state:
        raise ConfigError(f"--weights {path} holds no tensors by name: give a state dict of torchvision or timm")
    return state


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
    digest = hashlib.sha256()
    for name, one in sorted(module.state_dict().items()):
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
    left = [name for name in given if name not in needed] if missing else []
    found = [
        _listed(missing, "tensors are missing"),
        _listed(other, "have another shape"),
        _listed(left, "tensors that the network has not"),
    ]
    return "; ".join(filter(None, found))


def _listed(names: list[str], what: str) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > LISTED else ""
    return f"{len(names)} {what} ({', '.join(names[:LISTED])}{more})"


def _is_below(name: str, layer: str) -> bool:
    return name.startswith(layer + ".")
