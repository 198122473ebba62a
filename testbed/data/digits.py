"""1797 handwritten digits of 8 x 8 pixels that scikit-learn brings along, scaled up to as many patches as asked for.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), its test part.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from runtime.training.data import Data
from testbed.data import pictures
from testbed.data.pictures import Pictures
from testbed.data.wanted import Wanted
from testbed.inputs import BadInputs

CLASSES, SIDE, LEVELS = 10, 8, 16


def load(place: str, wanted: Wanted) -> Data:
    """Bicubic enlargements; a quarter of every class, the same for every seed, is held back. Raises BadInputs."""
    from PIL import Image
    from sklearn.datasets import load_digits

    size = pictures.size(wanted)
    if wanted.shape.result != "classes":
        raise BadInputs("the model has to tell classes apart: give one with 10 outputs")
    pictures.refuse_classes(CLASSES, wanted)
    if min(size) < SIDE:
        raise BadInputs(f"{wanted.tokens} patches make a picture of {size[0]} x {size[1]} pixels, a digit has 8 x 8")
    digits = load_digits()
    grey = np.rint(digits.images * (255 / LEVELS)).astype(np.uint8)

    def picture(i: int) -> Image.Image:
        return Image.fromarray(grey[i]).resize(size, Image.Resampling.BICUBIC)

    train, test = pictures.split(Pictures(digits.target.tolist(), picture))
    return pictures.data(f"digits (scikit-learn {version('scikit-learn')})", train, test, None, wanted)
