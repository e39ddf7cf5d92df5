"""Writes and reads data sets with the lerobot package, in an environment that has it: this file imports nothing else.

python lerobot_peer.py write DIR CODEC   three episodes, two cameras, all kinds of labels; CODEC of a video, or `image`
python lerobot_peer.py copy DIR COPY     writes what the package reads of a set into another one
python lerobot_peer.py read DIR OUT.npz  what the package makes of a set: pictures, tasks and times of all frames
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

FPS, HEIGHT, WIDTH = 10, 48, 64
LENGTHS = (5, 4, 6)
CAMERAS = ("front", "wrist")
TASKS, SUBTASKS, PHASES = ("pick", "place"), ("reach", "close"), ("slow", "fast")


def picture(camera: int, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return what a camera sees in the n-th frame of a set: its number as brightness, and which camera as colour."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., camera] = 40 + 12 * number
    return image


def labels(episode: int, frame: int, number: int) -> dict[str, Any]:
    """Return what a frame is labelled with. The last episode has both tasks."""
    return {
        "task": TASKS[episode] if episode < 2 else TASKS[frame % 2],
        "subtask_index": frame // 2 % 2,
        "grasp": number % 3,
        "success": frame == LENGTHS[episode] - 1,
        "reward": float(frame % 2),
        "phase": PHASES[episode % 2],
    }


def write(root: Path, codec: str) -> None:
    import pandas as pd
    from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

    shape = (HEIGHT, WIDTH, 3)
    kind = "image" if codec == "image" else "video"
    names = ["height", "width", "channels"]
    features: dict[str, Any] = {
        f"observation.images.{name}": {"dtype": kind, "shape": shape, "names": names} for name in CAMERAS
    }
    for name, dtype in (("subtask_index", "int64"), ("grasp", "int64"), ("success", "bool"), ("reward", "float32")):
        features[name] = {"dtype": dtype, "shape": (1,), "names": None}
    features["phase"] = {"dtype": "string", "shape": (1,), "names": None}
    features["action"] = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    is_new = CODEBASE_VERSION == "v3.0"
    settings = {"vcodec": codec} if is_new and kind == "video" else {}
    data = LeRobotDataset.create("tests/small", FPS, features, root=root, use_videos=kind == "video", **settings)
    number = 0
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            seen = labels(episode, frame, number)
            values: dict[str, Any] = {
                **{f"observation.images.{name}": picture(place, number) for place, name in enumerate(CAMERAS)},
                "subtask_index": np.array([seen["subtask_index"]], np.int64),
                "grasp": np.array([seen["grasp"]], np.int64),
                "success": np.array([seen["success"]]),
                "reward": np.array([seen["reward"]], np.float32),
                "phase": seen["phase"],
                "action": np.zeros(2, np.float32),
            }
            if is_new:
                data.add_frame({**values, "task": seen["task"]})
            else:
                data.add_frame(values, task=seen["task"])
            number += 1
        data.save_episode()
    if is_new:
        data.finalize()
        subtasks = pd.DataFrame({"subtask_index": range(len(SUBTASKS))}, index=list(SUBTASKS))
        subtasks.to_parquet(root / "meta" / "subtasks.parquet")


def pixels_of(image: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return what the package gives as (3, height, width) from 0 to 1."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (image * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return pixels


def read(root: Path, out: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("tests/small", root=root, video_backend="pyav")
    camera = data.meta.camera_keys[0]
    items = [data[place] for place in range(len(data))]
    images = [pixels_of(item[camera].numpy()) for item in items]
    arrays: dict[str, Any] = {f"image{place}": image for place, image in enumerate(images)}
    np.savez(
        out,
        **arrays,
        tasks=np.array([item["task"] for item in items]),
        episodes=np.array([int(item["episode_index"]) for item in items]),
        times=np.array([float(item["timestamp"]) for item in items]),
    )


def copy(root: Path, out: Path) -> None:
    from lerobot.datasets.lerobot_dataset import DEFAULT_FEATURES, LeRobotDataset

    data = LeRobotDataset("tests/small", root=root)
    features = {name: one for name, one in data.features.items() if name not in DEFAULT_FEATURES}
    new = LeRobotDataset.create("tests/small", data.fps, features, root=out, use_videos=False)
    episode = 0
    for place in range(len(data)):
        item = data[place]
        if int(item["episode_index"]) != episode:
            new.save_episode()
            episode += 1
        values: dict[str, Any] = {"task": item["task"]}
        for name, feature in features.items():
            is_image, value = feature["dtype"] == "image", item[name].numpy()
            values[name] = pixels_of(value) if is_image else value.reshape(1).astype(feature["dtype"])
        new.add_frame(values)
    new.save_episode()
    new.finalize()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", root, codec]:
            write(Path(root), codec)
        case ["copy", root, out]:
            copy(Path(root), Path(out))
        case ["read", root, out]:
            read(Path(root), Path(out))
        case _:
            sys.exit(__doc__)
