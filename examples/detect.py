"""Draw boxes around the objects of an image: python examples/detect.py yolos.mlpackage CHECKPOINT street.jpg boxes.png

The package: milbuild build CHECKPOINT yolos.mlpackage, with hustvl/yolos-tiny for CHECKPOINT
"""

import sys

from PIL import Image, ImageDraw
from transformers import AutoConfig

import milbuild

if len(sys.argv) != 5:
    sys.exit(__doc__)
package, checkpoint, path, target = sys.argv[1:]
model, labels = milbuild.Model(package), AutoConfig.from_pretrained(checkpoint).id2label
size = model.get_spec().description.input[0].type.imageType
image = Image.open(path).convert("RGB")
outputs = model.predict({"image": image.resize((size.width, size.height))})
draw, across, down = ImageDraw.Draw(image), image.width / size.width, image.height / size.height
for box, scores in zip(outputs["boxes"][0], outputs["scores"][0], strict=True):
    if scores.max() < 0.5:
        continue
    left, top, right, bottom = box * [across, down, across, down]
    text = f"{labels[int(scores.argmax())]} ({scores.max():.1%})"
    draw.rectangle((left, top, right, bottom), outline="red", width=2)
    draw.rectangle(draw.textbbox((left + 4, top + 4), text), fill="red")
    draw.text((left + 4, top + 4), text, "white")
    print(f"{text}: {left:.0f}, {top:.0f} to {right:.0f}, {bottom:.0f}")
image.save(target)
