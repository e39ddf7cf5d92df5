from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import hierarchy.still
from broker.errors import Diverged
from broker.wire.quantize import dequantize
from hierarchy.backbone import build_backbone
from hierarchy.cloud import CloudSegment
from hierarchy.device import Compute
from hierarchy.edge import EdgeSegment, build_edge_segment, crossing_encoder, fastest_compute
from hierarchy.exit_rows import crossing_features
from hierarchy.exits import FeatureExit
from hierarchy.still import ENCODED_AT_ONCE, StillEncoder

SIZE = 32
CPU = torch.device("cpu")
PLAIN = Compute(device=CPU)


def segment() -> EdgeSegment:
    torch.manual_seed(0)
    made, _ = build_edge_segment(
        "mobilenet_v3_small", "features.3", image_size=SIZE, bits=4, bottleneck_channels=8, weights="none",
        freeze=("all",), exit_at="end",
    )  # fmt: skip
    return made


def encoder(made: EdgeSegment, compute: Compute) -> StillEncoder:
    assert isinstance(made.exit, FeatureExit)
    return StillEncoder(made.front, made.bottleneck, made.exit, compute)


def frames(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE), np.float32)


def test_folded_it_makes_the_same_of_one_frame_and_of_many() -> None:
    made, inputs = segment(), frames(ENCODED_AT_ONCE + 3)
    plain, folded = encoder(made, PLAIN).encode(inputs), encoder(made, Compute(device=CPU, folded=True))
    for some in (inputs[:1], inputs):
        found = folded.encode(some)
        assert np.allclose(found.features, plain.features[: len(some)], atol=0.02)
        assert found.crossing is not None
        assert plain.crossing is not None
        assert np.allclose(found.crossing, plain.crossing[: len(some)], atol=1e-3)


def test_a_way_that_computes_another_picture_s_features_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = hierarchy.still._placed

    def wrong(front: Any, bottleneck: Any, exit_: Any, way: Compute) -> StillEncoder:
        found = placed(front, bottleneck, exit_, way)
        if way != PLAIN:
            encode = found.encode
            monkeypatch.setattr(found, "encode", lambda inputs: encode(-inputs))
        return found

    monkeypatch.setattr(hierarchy.still, "_placed", wrong)
    monkeypatch.setattr(hierarchy.still, "WORTH_CHANGING", 1e9)
    assert fastest_compute(segment(), image_size=SIZE, batch=4, device=CPU) == PLAIN


def test_how_it_is_computed_outlasts_the_process() -> None:
    way = Compute(device=CPU, channels_last=True, folded=True)
    assert Compute.from_settings(CPU, way.settings) == way
    assert Compute.from_settings(CPU, PLAIN.settings) == PLAIN
    assert "folded" not in PLAIN.settings, "as older versions write it"


def test_weights_that_make_infinities_are_named_and_not_measured() -> None:
    made = segment()
    with torch.no_grad():
        next(made.front.parameters()).fill_(3e38)
    with pytest.raises(Diverged, match="other --weights"):
        fastest_compute(made, image_size=SIZE, batch=8, device=CPU)


@pytest.mark.parametrize(("bottleneck", "pool"), [(0, 0), (0, 2), (12, 0), (12, 2)])
def test_what_crossed_is_encoded_as_the_cloud_encodes_it(tmp_path: Path, bottleneck: int, pool: int) -> None:
    weights = tmp_path / "weights.pth"
    torch.manual_seed(1)
    torch.save(build_backbone("mobilenet_v3_small", image_size=96, weights="none").module.state_dict(), weights)
    made, split = build_edge_segment(
        "mobilenet_v3_small", "features.8", image_size=96, bits=4, bottleneck_channels=bottleneck, weights=weights,
        freeze=("all",), exit_at="end", pool=pool,
    )  # fmt: skip
    cloud = CloudSegment(split, weights=weights).eval()
    cloud.stands_still = True
    images = np.random.default_rng(0).standard_normal((3, 3, 96, 96), np.float32)
    crossed = dequantize(encoder(made.eval(), PLAIN).encode(images).quantized(split.bits))
    there = crossing_encoder(made, PLAIN)
    assert there is not None
    with torch.inference_mode():
        here = cloud.features(torch.from_numpy(crossed)).numpy()
    assert there.features == here.shape[1]
    np.testing.assert_allclose(there.encode(crossed), here, atol=0.02)


def test_an_exit_at_the_cut_looks_at_statistics_of_what_crosses() -> None:
    made, split = build_edge_segment(
        "mobilenet_v3_small", "features.3", image_size=SIZE, bits=4, bottleneck_channels=8, weights="none",
        freeze=("all",), exit_at="cut",
    )  # fmt: skip
    crossed = dequantize(encoder(made.eval(), PLAIN).encode(frames(3)).quantized(split.bits))
    there = crossing_encoder(made, PLAIN)
    assert there is not None
    assert there.encode(crossed).shape == (3, there.features)
    np.testing.assert_array_equal(there.encode(crossed), crossing_features(crossed))


def test_a_cloud_that_learns_its_way_out_of_the_bottleneck_fits_no_exit_at_the_end() -> None:
    assert crossing_encoder(segment(), PLAIN) is None
