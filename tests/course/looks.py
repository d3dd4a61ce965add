"""What can be asked of any figure and any color: is it an image with words, can it be read?"""

import base64

import numpy as np
import pytest

PNG = b"\x89PNG\r\n\x1a\n"


def size(picture):
    """Width and height of the image, from its header."""
    return tuple(int.from_bytes(picture.png[at : at + 4], "big") for at in (16, 20))


def check(picture):
    """A real image, twice as fine as the page, that fits on it and has its sentence."""
    assert picture.png.startswith(PNG)
    assert size(picture)[0] == pytest.approx(2 * picture.width, abs=2)
    assert picture.width <= 1000
    data, metadata = picture._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == picture.png
    assert data["text/plain"] == repr(picture) == metadata["image/png"]["alt"] == picture.alt
    assert picture.alt.endswith(".")
    return picture.alt


def luminance(color):
    """Relative luminance of the web content accessibility guidelines."""
    values = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(a, b):
    """From 1 to 21; they ask for 4.5 between text and its ground."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def without_green_cones(color):
    """sRGB as people with deuteranopia see it (Viénot, Brettel and Mollon 1999)."""
    linear = (np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255) ** 2.2
    matrix = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]
    return 255 * np.clip(np.array(matrix) @ linear, 0, 1) ** (1 / 2.2)
