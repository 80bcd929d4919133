from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from steadyclip.data import read_image
from steadyclip.data.decode import UnreadableImage, decode


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(data: bytes, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = decode(data, "x")
    assert image.mode == "RGB"
    return image.getpixel(at)


def test_exif_orientation_turns_the_picture():
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the top of the scene is the right edge
    upright = decode(encoded(image, exif=exif), "x")
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white(mode: str):
    assert pixel(encoded(Image.new(mode, (2, 2)))) == (255, 255, 255)


def test_half_transparent_black_becomes_gray():
    assert pixel(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))) == (127, 127, 127)


def test_transparent_palette_and_color_key_become_white():
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(encoded(palette)) == (10, 20, 30)
    assert pixel(encoded(palette, transparency=1)) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_keeps_its_levels(kind: str):
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(levels), kind), "x")
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0, 100, 200], [0, 100, 200]), ([-50, 0, 205], [0, 50, 255])],
)
def test_float_gray_is_kept_or_stretched(values: list[float], expected: list[int]):
    image = decode(encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF"), "x")
    assert [image.getpixel((x, 0))[1] for x in range(3)] == expected


def test_cmyk_gray_and_bilevel():
    red, green, blue = pixel(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red > 240
    assert max(green, blue) < 15
    assert pixel(encoded(Image.new("L", (2, 2), 77))) == (77, 77, 77)
    assert pixel(encoded(Image.new("1", (2, 2), 1))) == (255, 255, 255)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    assert pixel(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)


def photo() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), "JPEG")


@pytest.mark.parametrize("verify_only", [False, True])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"<html>not found</html>", "not an image"),
        (photo()[:-400], "truncated"),
        (encoded(Image.new("RGB", (64, 64), "red"))[:60], "broken image"),
    ],
)
def test_broken_files_say_why(data: bytes, reason: str, verify_only: bool):
    with pytest.raises(UnreadableImage, match=f"^a/b.jpg: .*{reason}") as caught:
        decode(data, "a/b.jpg", verify_only=verify_only)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verify_only", [False, True])
def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch, verify_only: bool):
    data = encoded(Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode(data, "bomb.png", verify_only=verify_only)


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "why")))
    assert (error.key, error.reason, str(error)) == ("a.jpg", "why", "a.jpg: why")


def test_read_image(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(encoded(Image.new("L", (3, 2), 9)))
    assert read_image(path).getpixel((2, 1)) == (9, 9, 9)
    with pytest.raises(UnreadableImage, match="no such file"):
        read_image(tmp_path / "two.png")
