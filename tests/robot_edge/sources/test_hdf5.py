from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from broker.errors import SourceError
from robot_edge.sources.about import command_line, look_at, sources_at, told
from robot_edge.sources.encoded import encode_jpeg
from robot_edge.sources.frames import Frame
from robot_edge.sources.opening import open_source
from robot_edge.sources.settings import SourceOptions

LENGTH = 4


def pictures(first: int, length: int = LENGTH) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pictures of 8 x 6 pixels; each is of a grey one higher."""
    return np.broadcast_to(np.arange(first, first + length, dtype=np.uint8)[:, None, None, None], (length, 6, 8, 3))


@pytest.fixture(name="robomimic")
def _robomimic(tmp_path: Path) -> Path:
    """A file by robomimic's layout: eleven demonstrations of four steps, of greys 4 * n and on, with masks."""
    path = tmp_path / "lift.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 44
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1})
        for number in range(11):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = LENGTH
            for group in ("obs", "next_obs"):
                demo.create_dataset(f"{group}/agentview_image", data=pictures(4 * number))
                demo.create_dataset(
                    f"{group}/robot0_eye_in_hand_image", data=pictures(100 + number), compression="gzip"
                )
            demo.create_dataset("obs/robot0_eef_pos", data=np.zeros((LENGTH, 3)))
            demo.create_dataset("actions", data=np.zeros((LENGTH, 7)))
            demo.create_dataset("dones", data=np.array([0, 0, 0, 1]))
            demo.create_dataset("rewards", data=np.zeros(LENGTH))
        file.create_dataset("mask/train", data=np.array([b"demo_0", b"demo_10"]))
        file.create_dataset("mask/valid", data=np.array([b"demo_1"]))
    return path


@pytest.fixture(name="aloha")
def _aloha(tmp_path: Path) -> Path:
    """A folder by ALOHA's layout: a file for each episode, pictures as JPEG behind which zeros fill the row."""
    folder = tmp_path / "aloha"
    folder.mkdir()
    for number in (2, 10):
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file.attrs["sim"] = False
            file.attrs["compress"] = True
            file.attrs["task"] = "open the lid" if number == 2 else "close the lid"
            images = file.create_group("observations/images")
            jpegs = [encode_jpeg(one, 95, dense=True) for one in pictures(10 * number)]
            longest = max(map(len, jpegs))
            rows = np.stack([np.frombuffer(one.ljust(longest, b"\0"), np.uint8) for one in jpegs])
            images.create_dataset("cam_high", data=rows, chunks=(1, longest))
            wrist = images.create_dataset("cam_wrist", (LENGTH,), dtype=h5py.vlen_dtype(np.uint8))
            for row, one in enumerate(jpegs):
                wrist[row] = np.frombuffer(one, np.uint8)
            file.create_dataset("observations/qpos", data=np.zeros((LENGTH, 14)))
            file.create_dataset("compress_len", data=np.array([list(map(len, jpegs))] * 2))
            file.create_dataset("subtask", data=np.array([b"reach", b"reach", b"hold", b""]))
    return folder


def frames(path: Path, *, epochs: int = 1, seek: int = 0, **options: Any) -> list[Frame]:
    with closing(open_source(f"hdf5:{path}", SourceOptions(**options), epochs=epochs)) as source:
        source.seek(seek)
        return list(iter(source.next, None))


def greys(shown: list[Frame]) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in shown]


def test_demonstrations_of_robomimic_are_shown_one_after_the_other(robomimic: Path) -> None:
    shown = frames(robomimic, camera="agentview_image")
    assert greys(shown) == list(range(44))
    assert {frame.label for frame in shown} == {"Lift"}
    assert {frame.image.shape for frame in shown} == {(6, 8, 3)}
    assert [frame.scene for frame in shown] == [number // LENGTH for number in range(44)]
    assert greys(frames(robomimic, camera="robot0_eye_in_hand_image"))[4:8] == [101, 102, 103, 104]
    assert greys(frames(robomimic, camera="agentview_image", epochs=2, seek=50)) == list(range(6, 44))


def test_masks_are_its_parts(robomimic: Path) -> None:
    assert greys(frames(robomimic / "train", camera="agentview_image")) == [0, 1, 2, 3, 40, 41, 42, 43]
    with pytest.raises(SourceError, match=r"no mask 'test'; it has train, valid"):
        frames(robomimic / "test", camera="agentview_image")
    parts = sources_at(str(robomimic))
    assert parts == [f"hdf5:{robomimic}/train", f"hdf5:{robomimic}/valid"]
    found = [look_at(part, SourceOptions()) for part in parts]
    assert command_line(found) == (
        f"robot-edge run --source {parts[0]} --held-out {parts[1]} --camera agentview_image --robot r1"
    )
    text = "\n".join(told(found[0]))
    for line in ("8 frames", "8 x 6", "agentview_image, robot0_eye_in_hand_image", "Lift: 8", "dones, total"):
        assert line in text


def test_a_value_of_each_frame_may_be_the_class(robomimic: Path) -> None:
    shown = frames(robomimic, camera="agentview_image", label_field="dones")
    assert Counter(frame.label for frame in shown) == {"0": 33, "1": 11}


@pytest.mark.parametrize("camera", ["cam_high", "cam_wrist"])
def test_episodes_of_aloha_are_shown_in_their_order(aloha: Path, camera: str) -> None:
    shown = frames(aloha, camera=camera)
    assert greys(shown) == [20, 21, 22, 23, 100, 101, 102, 103]
    assert [frame.label for frame in shown] == ["open the lid"] * 4 + ["close the lid"] * 4
    assert {frame.image.shape for frame in shown} == {(6, 8, 3)}
    assert [frame.label for frame in frames(aloha / "episode_2.hdf5", camera=camera, label_field="subtask")] == [
        "reach",
        "reach",
        "hold",
        None,
    ]


def test_cameras_and_fields_that_are_not_there_are_listed(robomimic: Path, aloha: Path) -> None:
    with pytest.raises(SourceError, match=r"2 cameras: choose one with --camera: cam_high, cam_wrist"):
        frames(aloha)
    with pytest.raises(SourceError, match=r"no field 'lid': --label-field is one of .*task"):
        frames(aloha, camera="cam_high", label_field="lid")
    with pytest.raises(SourceError, match=r"no camera 'front'"):
        frames(robomimic, camera="front")


def test_deep_and_grey_pictures_are_brought_to_eight_bits(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        depth = np.linspace(500, 3000, 48, dtype=np.uint16).reshape(1, 6, 8, 1)
        file["data/demo_0/obs/front_depth"] = depth
        file["data/demo_0/label"] = np.array([7])
    (frame,) = frames(tmp_path)
    assert frame.label == "7"
    assert frame.image.shape == (6, 8, 3)
    assert np.ptp(frame.image) > 200


def test_a_half_written_file_is_left_out_and_the_others_are_shown(aloha: Path) -> None:
    file = aloha / "episode_2.hdf5"
    file.write_bytes(file.read_bytes()[:-2000])
    with closing(open_source(f"hdf5:{aloha}", SourceOptions(camera="cam_high"))) as source:
        assert greys(list(iter(source.next, None))) == [100, 101, 102, 103]
        (left_out,) = source.left_out
    assert left_out.count == 1
    assert "episode_2.hdf5: " in left_out.example
    assert "cut off" in left_out.example
    with pytest.raises(SourceError, match=r"no episode that can be read: episode_2.hdf5: "):
        frames(file)


def test_damaged_pictures_and_bad_labels_are_counted(aloha: Path) -> None:
    with h5py.File(aloha / "episode_2.hdf5", "r+") as file:
        file["observations/images/cam_high"][1] = 0
        file["subtask"][0] = b"\xff"
        del file["compress_len"]
    with closing(open_source(f"hdf5:{aloha}", SourceOptions(camera="cam_high"))) as source:
        assert greys(list(iter(source.next, None))) == [20, 22, 23, 100, 101, 102, 103]
        assert source.skipped == 1
    options = SourceOptions(camera="cam_high", label_field="subtask")
    with closing(open_source(f"hdf5:{aloha / 'episode_2.hdf5'}", options)) as source:
        assert [frame.label for frame in iter(source.next, None)] == [None, "hold", None]
        assert [one.kind for one in source.left_out] == ["labels that no class can have"]
    assert {frame.label for frame in frames(aloha, camera="cam_high", label_field="sim")} == {"false"}


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"no hdf5")
    with pytest.raises(SourceError, match=r"no episode that can be read: a.hdf5: .*signature"):
        frames(tmp_path / "a.hdf5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"has no .hdf5 file"):
        frames(tmp_path / "empty")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["actions"] = np.zeros((4, 7))
    with pytest.raises(SourceError, match=r"has no cameras"):
        frames(tmp_path / "b.hdf5")


def test_what_a_damaged_file_says_of_itself_is_bounded(aloha: Path) -> None:
    with h5py.File(aloha / "episode_3.hdf5", "w") as file:
        file.create_dataset("observations/images/cam_high", (2_000_000, 6, 8, 3), np.uint8, chunks=(1, 6, 8, 3))
    with h5py.File(aloha / "episode_4.hdf5", "w") as file:
        file.create_dataset(
            "observations/images/cam_high", (400, 2**10, 2**10, 3), np.uint8, chunks=(400, 2**10, 2**10, 3)
        )
    fifth = aloha / "episode_5.hdf5"
    with h5py.File(fifth, "w") as file:
        file["data/demo_Z/obs/cam_high"] = pictures(0)
    fifth.write_bytes(fifth.read_bytes().replace(b"demo_Z", b"demo_\xff"))
    with closing(open_source(f"hdf5:{aloha}", SourceOptions(camera="cam_high"))) as source:
        assert greys(list(iter(source.next, None))) == [20, 21, 22, 23, 100, 101, 102, 103]
        assert [one.kind for one in source.left_out] == [
            "files that cannot be read",
            "episodes that are too long",
            "episodes that take too much memory",
        ]
