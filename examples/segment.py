"""Colour the segments of an image: python examples/segment.py segformer.mlpackage street.jpg mask.png

The package: milbuild build nvidia/segformer-b0-finetuned-ade-512-512 segformer.mlpackage
"""

import json
import sys

import numpy as np
from PIL import Image, ImageColor

import milbuild

if len(sys.argv) != 4:
    sys.exit(__doc__)
package, path, target = sys.argv[1:]
model = milbuild.Model(package)
size = model.get_spec().description.input[0].type.imageType
image = Image.open(path).convert("RGB")
numbers = model.predict({"image": image.resize((size.width, size.height))})["classLabels"][0]
preview = json.loads(model.user_defined_metadata["com.apple.coreml.model.preview.params"])
colors = np.array([ImageColor.getrgb(color) for color in preview["colors"]], np.uint8)
mask = Image.fromarray(colors[numbers]).resize(image.size, Image.Resampling.NEAREST)
Image.blend(image, mask, 0.5).save(target)
print(", ".join(preview["labels"][number] for number in np.unique(numbers)))
