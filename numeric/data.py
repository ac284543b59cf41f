"""The door to the data: image sets, what makes one of anything, and MNIST.

Rooms: one picture or array (:mod:`numeric.pixels`), sets read in batches (:mod:`numeric.imageset`), what can be read
(:mod:`numeric.sources`), MNIST's files (:mod:`numeric.mnist`); photographs are in :mod:`numeric.pictures`.
"""

from numeric.imageset import ImageSet, LazyImages
from numeric.mnist import DATA_VARIABLE, FallbackDataWarning, default_root, load_mnist, pixels_to_idx, read_idx
from numeric.pixels import DataError
from numeric.sources import as_image_set

__all__ = [
    "DATA_VARIABLE",
    "DataError",
    "FallbackDataWarning",
    "ImageSet",
    "LazyImages",
    "as_image_set",
    "default_root",
    "load_mnist",
    "pixels_to_idx",
    "read_idx",
]
