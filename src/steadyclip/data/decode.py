"""From the bytes of an image to an upright RGB image, or to one sentence that says why not."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from steadyclip.core.errors import DataError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
"""File names that count as images when a folder is listed."""


FULL_SIZE = "full size"
"""In the ``info`` of an image that was decoded at a part of its size: its whole (width, height)."""
MAX_PIXELS = 100_000_000
"""Images with more are not decoded: they would take 300 MB and more."""
MAX_RATIO = 100
"""Nor are images whose longer side is more times the shorter: scaled to the size of a model, they would be huge."""


class UnreadableImage(DataError):
    """A image that is there but cannot be decoded (or has gone). ``key`` and ``reason`` say which and why."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.key, self.reason)


# what Pillow logs of odd files goes to those who ask for it, and not to standard error
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's remarks on odd but readable files: what matters is whether the image can be decoded.

    Entered once around a pool of threads, never inside them: the warning filters belong to the whole process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(data: bytes, key: str, *, verify_only: bool = False, enough: float | None = None) -> Image.Image:
    """The upright RGB image in ``data``: first frame, EXIF orientation applied, transparency laid on white.

    Args:
        data: the encoded file.
        key: what to call the image in errors.
        verify_only: only find out whether it can be read: JPEG is decoded whole, but at an eighth of its size.
        enough: pixels a side, as the geometric mean of both, that JPEG may be decoded at; None takes all there are. The
            size of the whole image is then in ``info[FULL_SIZE]``.

    Raises:
        UnreadableImage: no bytes, not an image, truncated or corrupt, or too large to decode safely.
    """
    if not data:
        raise UnreadableImage(key, "the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(image, key)
            full = image.size
            if verify_only:
                image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
            elif enough is not None and (share := enough / math.sqrt(image.width * image.height)) < 1:
                image.draft(image.mode, (math.ceil(share * image.width), math.ceil(share * image.height)))
            image.load()
            upright = to_rgb(image if verify_only else _upright(image))
            if upright.width * upright.height < full[0] * full[1]:
                turned = (upright.width > upright.height) != (full[0] > full[1])
                upright.info[FULL_SIZE] = full[::-1] if turned else full
            return upright
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(key, "not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(key, f"too many pixels to decode safely ({error})") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(key, f"broken image ({reason})") from None


def check_size(image: Image.Image, key: str) -> None:
    """Raises UnreadableImage by what the header of an image says, before its pixels take memory."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(key, f"too many pixels to decode safely ({width} x {height}, at most {MAX_PIXELS:,})")
    if max(width, height) > MAX_RATIO * max(1, min(width, height)):
        raise UnreadableImage(key, f"its sides are too unlike ({width} x {height}, at most {MAX_RATIO} to 1)")


def pixels_of(data: bytes) -> int:
    """Pixels of an image by its header, without decoding it; 0 where there is no header that can be read."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except Image.DecompressionBombError:  # above Pillow's own limit, which depends on the number alone
        return 2 * (Image.MAX_IMAGE_PIXELS or 0) + 1
    except Exception:  # ``decode`` says why
        return 0


def highest_level(data: bytes) -> int | None:
    """The highest gray level of a 16-bit image; None for others, which are not decoded, and for what cannot be read."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        check_size(image, "")
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
            return int(np.asarray(image).max())
    return None


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` in mode RGB; transparent parts become white, 16-bit and float pixels are scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    # a palette of RGBA that no file had is read as transformers reads it: without its transparency
    if image.has_transparency_data and (image.mode != "P" or "transparency" in image.info):
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        page.alpha_composite(rgba)
        return page.convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF says nothing against the pixels
        return image


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Gray levels (H, W) as uint8: 16-bit by its full range; others kept if they fit 0..255, else stretched."""
    gray_HW = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode.startswith("I;16") or image.format == "PNG":
        gray_HW = gray_HW / 257.0
    elif gray_HW.min() < 0 or gray_HW.max() > 255 or (image.mode == "F" and gray_HW.max() <= 1):
        low, high = gray_HW.min(), gray_HW.max()
        gray_HW = (gray_HW - low) * (255.0 / max(high - low, 1e-12))
    return np.round(gray_HW).clip(0, 255).astype(np.uint8)
