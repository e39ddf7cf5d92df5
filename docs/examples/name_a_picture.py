"""Name a picture with ONNX Runtime, without PyTorch: python docs/examples/name_a_picture.py exit.onnx PICTURE"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["reflexarc"])
seen, margin = about["input"], (1 - about["input"]["crop"]) / 2
how = Image.Resampling[seen["interpolation"].upper()]
picture = ImageOps.fit(Image.open(sys.argv[2]).convert("RGB"), (seen["size"], seen["size"]), how, margin)
probabilities, confidence, unknown = session.run(None, {"frames": np.asarray(picture)[None]})
name = "unknown" if unknown[0] else about["classes"][probabilities[0].argmax()]
print(f"{name} {confidence[0]:.0%}")
