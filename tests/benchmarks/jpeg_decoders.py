"""python tests/benchmarks/jpeg_decoders.py DATA: the images of a data set prepared as jpeg, decoded by several
libraries on one core, in turn; medians of processor time, and whether the pixels are Pillow's.

Then what decoding the crop alone could save at most: entropy coding has no places to jump to, so that only the inverse
transform, the enlargement of the colours and their conversion shrink with the area. Decoding at an eighth of the size
costs the entropy decoding and little more. None of the libraries decodes a part of an image (jpeg_crop_scanline).
"""

import io
import sys
import time
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.io import decode_jpeg

from alexnet_repro.benchmark import medians
from alexnet_repro.data import PreparedData
from alexnet_repro.report.environment import machine
from data_prep.common.endings import run_and_exit

_CROP = 224


def main(folder: str) -> None:
    torch.set_num_threads(1)
    data = PreparedData(folder)
    reader = data.split("train")
    files = [reader.member(number) for number in range(min(300, len(reader)))]
    decoders: dict[str, Callable[[bytes], np.ndarray]] = {
        "Pillow": lambda file: np.asarray(Image.open(io.BytesIO(file))),
        "simplejpeg": simplejpeg.decode_jpeg,
        "torchvision": lambda file: decode_jpeg(torch.frombuffer(bytearray(file), dtype=torch.uint8)).numpy(),
        "simplejpeg, fastdct": lambda file: simplejpeg.decode_jpeg(file, fastdct=True),
        "simplejpeg, fastupsample": lambda file: simplejpeg.decode_jpeg(file, fastupsample=True),
        "simplejpeg at 1/8": lambda file: simplejpeg.decode_jpeg(file, min_height=1, min_width=1, min_factor=8),
    }
    try:
        import imagecodecs
    except ImportError:
        print("imagecodecs is not installed, and left out")
    else:
        decoders["imagecodecs"] = imagecodecs.jpeg8_decode
    pillow = [decoders["Pillow"](file) for file in files]

    def decode_all(decode: Callable[[bytes], np.ndarray]) -> Callable[[], object]:
        return lambda: [decode(file) for file in files] and None

    runs = {name: decode_all(decode) for name, decode in decoders.items()}
    seconds = medians(runs, 7, clock=time.process_time, warm_up=1)
    print("; ".join(f"{key}: {value}" for key, value in machine().items()))
    print(
        f"{len(files)} images of {data.image_size} pixels, {sum(map(len, files)) / len(files) / 1000:.0f} kB on average"
    )
    for name, spent in seconds.items():
        images = [decoders[name](file) for file in files]
        if name == "torchvision":
            images = [image.transpose(1, 2, 0) for image in images]
        same = sum(np.array_equal(a, b) for a, b in zip(images, pillow, strict=True))
        print(f"{name:<26}{1000 * spent / len(files):8.3f} ms an image; {same} of {len(files)} equal to Pillow's")
    whole, entropy = seconds["simplejpeg"], seconds["simplejpeg at 1/8"]
    saved = (1 - (_CROP / data.image_size) ** 2) * (whole - entropy) / whole
    print(f"decoding crops of {_CROP} pixels alone could save {100 * saved:.0f} % of simplejpeg's time at most")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run_and_exit(lambda: main(sys.argv[1]))
