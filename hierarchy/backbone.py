"""A classifier of torchvision or timm without its last layer, fitted to the size of the robot's images."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any, Literal
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.transforms import InterpolationMode

from broker.errors import ConfigError, DownloadFailed, ReflexarcError
from broker.program.machine import machine_error
from hierarchy.input_spec import InputSpec
from hierarchy.strided import view_strided
from hierarchy.timm_networks import Leaves, build_timm, is_timm, timm_input
from hierarchy.weights_file import fit_weights, read_weights

# Up to this many pixels a side, the stride of an ImageNet stem throws away what little the image shows:
# 32 x 32 would reach ResNet-18's first stage as 8 x 8 and its last as 1 x 1.
SMALL_IMAGE = 64

# Random ones; those of the network's authors; a state dict of torchvision or timm.
Weights = Literal["none", "default"] | Path


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network from images to features; heads are put on top of it.

    name: as torchvision calls it, or timm:NAME.
    image_size: pixels a side of the images it was fitted to.
    module: (N, 3, image_size, image_size) -> (N, features), in training mode.
    spec: what its weights want their input to look like.
    leaves: modules and functions that the tracer takes for one operation each.
    """

    name: str
    image_size: int
    module: nn.Module
    features: int
    spec: InputSpec = field(default_factory=InputSpec)
    leaves: Leaves = ((), ())


def build_backbone(name: str, *, image_size: int, weights: Weights) -> Backbone:
    """Build any classifier of torchvision or timm without its final layer.

    weights "none" draws them from torch's global generator, so a seed repeats them; "default" takes the pretrained ones
    from the library's download folder, or downloads them there; a path is that of a state dict.

    For images up to SMALL_IMAGE the first convolution loses its stride and all but the centre of a large
    kernel, and VGG its hidden linear layers. The max-pool behind a ResNet's stem stays: it makes every later
    layer four times cheaper.

    Raises ConfigError for an unknown name, a size the network cannot take, and weights that cannot be had or do not
    fit.
    """
    leaves: Leaves = ((), ())
    if is_timm(name):
        network = build_timm(name, image_size=image_size, weights=weights)
        module, spec, leaves = network.module, network.spec, network.leaves
    else:
        _check_known(name)
        module = _transformer(name, image_size, weights) if name.startswith("vit_") else _model(name, weights)
        spec = input_spec(name, image_size)
    if image_size <= SMALL_IMAGE:
        _fit_small_images(module, pretrained=weights != "none")
    if not is_timm(name):
        _replace(module, _last_layer_name(module), nn.Identity())
    view_strided(module)
    features = _count_features(name, module, image_size)
    return Backbone(name=name, image_size=image_size, module=module, features=features, spec=spec, leaves=leaves)


def input_spec(name: str, image_size: int = SMALL_IMAGE + 1) -> InputSpec:
    """Return what a backbone wants its input to look like, with whatever weights. Raises ConfigError for no backbone.

    Pictures of up to SMALL_IMAGE pixels are as torchvision's older networks want theirs: no weights are for them.
    """
    if is_timm(name):
        return timm_input(name)
    _check_known(name)
    if image_size <= SMALL_IMAGE:
        return InputSpec()
    given = models.get_model_weights(name).DEFAULT.transforms()
    return InputSpec(
        size=given.crop_size[0],
        mean=tuple(given.mean),
        deviation=tuple(given.std),
        interpolation="bicubic" if given.interpolation == InterpolationMode.BICUBIC else "bilinear",
        crop=given.crop_size[0] / given.resize_size[0],
    )


def _check_known(name: str) -> None:
    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=4)
        meant = f"; did you mean {' or '.join(close)}?" if close else "."
        raise ConfigError(
            f"unknown backbone {name!r}{meant} See all {len(known)} with: python -c "
            '"import torchvision.models as m; print(*m.list_models(module=m))"'
        )


def _model(name: str, weights: Weights) -> nn.Module:
    options: Mapping[str, Any] = {}
    if name in ("googlenet", "inception_v3") and weights != "default":
        # Auxiliary classifiers would return a tuple in training mode only; without an explicit init_weights
        # torchvision warns that its default will change.
        options = {"aux_logits": False, "init_weights": True}
    module = _pretrained(name) if weights == "default" else models.get_model(name, weights=None, **options)
    if isinstance(weights, Path):
        fit_weights(module, read_weights(weights), classifier=_last_layer_name(module), path=weights)
    if name == "inception_v3":
        module.aux_logits, module.AuxLogits = False, None
    return module


def _pretrained(name: str) -> nn.Module:
    try:
        module: nn.Module = models.get_model(name, weights="DEFAULT", progress=False)
    except (OSError, EOFError, RuntimeError, HTTPException, UnpicklingError) as error:
        url = models.get_model_weights(name).DEFAULT.url
        file = PurePosixPath(urlparse(url).path).name
        kind: type[ReflexarcError] = ConfigError
        if isinstance(error, URLError | TimeoutError | HTTPException):
            kind = DownloadFailed
        elif ours := machine_error(error):
            kind = type(ours)
        raise kind(
            f"no pretrained weights for {name} ({error}). Download {url} on a machine with network and put "
            f"it here as {torch.hub.get_dir()}/checkpoints/{file} (if that file exists, it is damaged: "
            'replace it); or choose weights "none".'
        ) from error
    return module


def _transformer(name: str, image_size: int, weights: Weights) -> nn.Module:
    patch = int(name.rsplit("_", 1)[1])
    if image_size < patch or image_size % patch:
        below = max(image_size // patch, 1) * patch
        raise ConfigError(
            f"{name} cuts its image into patches of {patch} pixels and cannot take {image_size}; "
            f"{below} and {below + patch} would do, or any other multiple of {patch}"
        )
    if weights == "none":
        fresh: nn.Module = models.get_model(name, weights=None, image_size=image_size)
        return fresh
    if weights == "default":
        module = _pretrained(name)
    else:
        module = models.get_model(name, weights=None)
        fit_weights(module, read_weights(weights), classifier=_last_layer_name(module), path=weights)
    _resize_transformer(module, image_size, patch)
    return module


def _resize_transformer(module: Any, image_size: int, patch: int) -> None:
    """Interpolate the places of the patches, which is all that depends on the image's size.

    torchvision itself loads weights for their own size only.
    """
    state = interpolate_embeddings(image_size, patch, module.state_dict())
    module.encoder.pos_embedding = nn.Parameter(state["encoder.pos_embedding"])
    module.image_size = image_size


def _fit_small_images(module: nn.Module, *, pretrained: bool) -> None:
    if isinstance(module, models.VisionTransformer):
        return  # built for its image size, and its patches are fixed by its name
    if isinstance(module, models.VGG):
        # What reaches the classifier is 1 x 1 x 512 at 32 pixels: its two layers of 4,096 would spend 120 of
        # 135 million parameters on 512 values copied 49 times. One layer stays for the Identity to replace.
        module.avgpool = nn.AdaptiveAvgPool2d(1)
        module.classifier = module.classifier[-1]
    name, stem = next((n, m) for n, m in module.named_modules() if isinstance(m, nn.Conv2d))
    _replace(module, name, _small_stem(stem, pretrained=pretrained))


def _small_stem(stem: nn.Conv2d, *, pretrained: bool) -> nn.Conv2d:
    """Make it 3 x 3 with stride 1, or halve its patches (ConvNeXt, Swin)."""
    old = stem.kernel_size[0]
    if stem.kernel_size == stem.stride and old > 1:
        size, stride, padding = old // 2, old // 2, 0
    else:
        size, stride, padding = min(old, 3), 1, 1 if old > 3 else int(stem.padding[0])
    small = nn.Conv2d(
        stem.in_channels, stem.out_channels, size, stride=stride, padding=padding, bias=stem.bias is not None
    )
    start = (old - size) // 2
    with torch.no_grad():
        centre = stem.weight[:, :, start : start + size, start : start + size]
        # Fresh weights are drawn with a deviation of 1 / side of the kernel (Kaiming): keep that true.
        small.weight.copy_(centre if pretrained else centre * (old / size))
        if small.bias is not None and stem.bias is not None:
            small.bias.copy_(stem.bias)
    return small


def _last_layer_name(module: nn.Module) -> str:
    """Find the last linear layer; SqueezeNet has none and ends in a convolution."""
    layers: list[tuple[str, nn.Module]] = list(module.named_modules())
    linear = [name for name, layer in layers if isinstance(layer, nn.Linear)]
    return (linear or [name for name, layer in layers if isinstance(layer, nn.Conv2d)])[-1]


def _replace(module: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, by)


def _count_features(name: str, module: nn.Module, image_size: int) -> int:
    """Run one black image through it: also the proof that the network can take this size."""
    try:
        with torch.no_grad():
            features: Tensor = module.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError) as error:
        smallest = 1 if is_timm(name) else models.get_model_weights(name).DEFAULT.meta["min_size"][0]
        raise ConfigError(
            f"{name} cannot take images of {image_size} pixels a side ({error}); "
            f"{max(smallest, SMALL_IMAGE + 1)} would do"
        ) from error
    module.train()
    return features.shape[1]
