"""One image or array of any kind as a tensor: pictures by their mode, arrays by their layout, byte order and type.

Every way images come in (arrays, data sets, files, what is given to ``denoise``) goes through here, so that a palette, an
alpha channel, 16 bits or channels that come last mean the same everywhere, or are refused with the fix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x")
"""Where an item that is a dictionary keeps its image; the first that is there."""


class DataError(ValueError):
    """The data cannot be used as they are; the message names the value and the fix."""


def native_tensor(array: np.ndarray, what: str = "the images") -> Tensor:
    """The array as a tensor: any strides and byte order, ``longdouble`` as float64; shares memory where it can.

    Raises:
        DataError: the array holds something else than numbers.
    """
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except TypeError as error:
        raise DataError(f"{what} must be numbers, uint8 or floating, got {array.dtype} {array.shape}") from error


def check_dtype(dtype: torch.dtype, what: str = "images") -> None:
    """Raise DataError unless uint8 or floating."""
    if dtype != torch.uint8 and not dtype.is_floating_point:
        raise DataError(
            f"{what} must be uint8 or floating, got {dtype}: convert them (uint8 is divided by 255; integers of other sizes "
            "and masks: divide by the value that stands for white)"
        )


def check_layout(shape: Sequence[int], what: str = "images") -> None:
    """Raise DataError where the last of ``(..., channels, height, width)`` looks like the channels.

    That is a last side of 1, 3 or 4 where the place of the channels holds more than 4, or the same as the height.
    """
    if len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 4:
        raise DataError(
            f"{what} of shape {tuple(shape)} look like one colour picture with its channels last: give x.transpose(2, 0, 1)[None] "
            "of an array, x.permute(2, 0, 1)[None] of a tensor"
        )
    if len(shape) != 4:
        return
    channels, height, width = shape[1:]
    if width in (1, 3, 4) and (channels > 4 or channels == height > max(1, width)):
        raise DataError(
            f"{what} of shape {tuple(shape)} have their channels last: give (n, channels, height, width), np.moveaxis(x, -1, 1) of an "
            f"array, x.permute(0, 3, 1, 2) of a tensor (if they really have {channels} channels: ImageSet(tensor))"
        )


def _divided(picture: Image.Image, white: float, name: str) -> np.ndarray:
    """A grey picture of numbers up to ``white`` as float32 in [0, 1]."""
    pixels = np.asarray(picture, dtype=np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    # A grey picture of 8 bits turned into 32-bit integers (mode I) keeps its 0 to 255, and would be read as black.
    if low < 0 or high > white or 0 < high <= (255 if picture.mode == "I" else 1):
        raise DataError(
            f"{name} has mode {picture.mode!r}, in which {white:g} is white, but holds {low:g} to {high:g}: give np.asarray(picture), "
            "whose own range is kept"
        )
    return (pixels / white).astype(np.float32)


def opaque(picture: Image.Image) -> Image.Image:
    """A transparent picture laid on white, ``L`` or ``RGB``; others as they are."""
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode not in ("LA", "PA", "RGBA", "RGBa") and "transparency" not in picture.info:
        return picture
    grey, picture = picture.mode in ("L", "LA"), picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("L" if grey else "RGB")


def picture_array(picture: Image.Image, name: str = "the picture") -> np.ndarray:
    """A PIL picture as ``(channels, height, width)``: 1 channel if its mode is grey, else 3.

    uint8 for modes of 8 bits and for palettes and masks (``1``, ``L``, ``P``, ``RGB``, ``CMYK``, ``YCbCr``, ``HSV``);
    float32 in [0, 1] for 16 bits (``I;16``, ``I``: 65535 is white) and for ``F`` (Pillow's own convention: 255 is white).  A
    transparent picture is laid on white.

    Raises:
        DataError: numbers that the mode's convention has no place for, or a mode that Pillow cannot convert.
    """
    mode = picture.mode
    if mode.startswith("I"):
        return _divided(picture, 65535.0, name)[None]
    if mode == "F":
        return _divided(picture, 255.0, name)[None]
    picture = opaque(picture)
    grey = picture.mode in ("1", "L")
    try:
        pixels = np.asarray(picture.convert("L" if grey else "RGB"))
    except ValueError as error:
        raise DataError(f"{name} has mode {mode!r}, which Pillow cannot turn into RGB: convert it first") from error
    return pixels[None] if grey else np.moveaxis(pixels, -1, 0)


def item_tensor(item: Any, name: str = "the image", first: bool = False) -> Tensor:
    """One image ``(channels, height, width)`` from an item of a data set.

    Args:
        item: a tensor or PIL picture; an array ``(h, w)``, ``(h, w, c)`` with up to four channels or no more than either side, or else
            ``(c, h, w)``; a tuple ``(image, ...)``; or a dictionary with one of :data:`IMAGE_KEYS`.
        name: of the item, for messages.
        first: arrays have their channels first.

    Raises:
        DataError: no image, or one with its channels last where they are expected first.
    """
    if isinstance(item, tuple | list) and len(item) > 0 and not np.isscalar(item[0]):
        item = item[0]
    if isinstance(item, Mapping):
        keys = [key for key in IMAGE_KEYS if key in item] or (list(item) if len(item) == 1 else [])
        if not keys:
            raise DataError(f"{name} is a dictionary of {', '.join(map(str, item))}: name its image {IMAGE_KEYS[0]!r}")
        item = item[keys[0]]
    if isinstance(item, Image.Image):
        return native_tensor(picture_array(item, name), name)
    if isinstance(item, Tensor):
        out = item.detach().cpu()
    else:
        array = np.asarray(item)
        if array.ndim == 3 and not first and (array.shape[-1] <= 4 or 4 < array.shape[-1] <= min(array.shape[:2])):
            array = np.moveaxis(array, -1, 0)  # images outside torch have their channels last
        out = native_tensor(array, name)
    if out.ndim not in (2, 3):
        raise DataError(f"{name} has shape {tuple(out.shape)}: expected (height, width) or (channels, height, width)")
    if out.ndim == 3:
        check_layout((1, *out.shape), f"{name} and its like")
    return out if out.ndim == 3 else out[None]
