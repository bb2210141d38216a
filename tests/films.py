"""Small rendered videos for tests; needs the extra `video`."""

import numpy as np

WIDTH, HEIGHT, SIDE = 160, 90, 20
SPEED = 15
"""Pixels per second at which a bright square moves from left to right."""


def film_of(path, seconds=4, rate=25, codec="libx264"):
    """Renders a video of a bright square that is `SPEED` * t pixels from the left at time t, with few key frames."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "60"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(round(seconds * rate)):
            picture = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
            left = round(SPEED * number / rate)
            picture[35:55, left : left + SIDE] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def left_of(picture):
    """Pixels from the left of the square in a picture of such a video."""
    return int((picture[HEIGHT // 2, :, 1] > 130).argmax())
