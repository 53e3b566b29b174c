"""A picture with a mask of its parts: python examples/segment.py segformer.mlpackage street.jpg mask.png

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
picture = Image.open(path).convert("RGB")
numbers = model.predict({"image": picture.resize((size.width, size.height))})["classLabels"][0]
preview = json.loads(model.user_defined_metadata["com.apple.coreml.model.preview.params"])
colors = np.array([ImageColor.getrgb(color) for color in preview["colors"]], np.uint8)
mask = Image.fromarray(colors[numbers]).resize(picture.size, Image.Resampling.NEAREST)
Image.blend(picture, mask, 0.5).save(target)
print(", ".join(preview["labels"][number] for number in np.unique(numbers)))
