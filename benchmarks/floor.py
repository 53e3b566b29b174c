"""The floor under a build: the same tensors read, cast and written by plain numpy, in pieces, and nothing else.

    python benchmarks/floor.py FOLDER OUT

What any program in numpy has to do that makes a float16 package of a float32 checkpoint. GPT-2's matrices stand in the file as
(in, out), and Core ML's `linear` takes (out, in): these are transposed on the way. The casts are numpy's own.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

PIECE = 1 << 18  # numbers that are cast together: 1 MiB of float32


def write(folder: Path, out: Path) -> None:
    with (folder / "model.safetensors").open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data = np.memmap(folder / "model.safetensors", np.uint8, "r", offset=8 + size)
    with out.open("wb") as file:
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            tensor = (
                data[first:last].view({"F32": np.float32, "F16": np.float16}[entry["dtype"]]).reshape(entry["shape"])
            )
            if tensor.ndim == 2 and ".c_" in name:
                step = max(1, PIECE // tensor.shape[0])
                for start in range(0, tensor.shape[1], step):
                    part = np.ascontiguousarray(tensor[:, start : start + step].T)
                    file.write(part.astype(np.float16).tobytes())
            else:
                flat = tensor.reshape(-1)
                for start in range(0, flat.size, PIECE):
                    file.write(flat[start : start + PIECE].astype(np.float16).tobytes())


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    started = time.process_time()
    write(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{time.process_time() - started:.2f} s of CPU")


if __name__ == "__main__":
    main()
