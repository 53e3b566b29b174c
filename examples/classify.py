"""Classify an image: python examples/classify.py vit.mlpackage cat.jpg

The package: milbuild build google/vit-base-patch16-224 vit.mlpackage
"""

import sys

from PIL import Image, ImageOps

import milbuild

if len(sys.argv) != 3:
    sys.exit(__doc__)
package, path = sys.argv[1:]
model = milbuild.Model(package)
size = model.get_spec().description.input[0].type.imageType
image = ImageOps.fit(Image.open(path).convert("RGB"), (size.width, size.height))
outputs = model.predict({"image": image})
label = outputs["classLabel"]
print(f"{label} ({outputs['probabilities'][label]:.1%})")
