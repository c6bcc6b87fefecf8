"""From bytes to a batch: gather, random crop, horizontal flip and normalize in one pass."""

from cnnzoo.kernels.compile import kernel, worker


@worker
def _shift_flip_row(x, left, flip, table, y):
    """y[w] = table[x[w + left]], with 0 for x outside of its row; written from right to left when `flip`."""
    width = len(x)
    for w in range(width):
        source = w + left
        value = x[source] if 0 <= source < width else 0
        y[width - 1 - w if flip else w] = table[value]


@kernel("void(u1[::1], i8[::1], i8[::1], i8[::1], u1[::1], T[::1], i8, i8, i8, T[::1])")
def crop_flip_normalize(images, indices, top, left, flip, table, channels, height, width, y):
    """Gather pictures, shift them within a border of zeros, mirror some, and look up each pixel's normalized value.

    Serial: it may run in a thread that prepares batches while parallel kernels run in another.

    Parameters
    ----------
    images : uint8, flat [N, channels, height, width]
    indices : int64[n]
        Pictures to take, in the order of the output; 0 <= index < N.
    top, left : int64[n]
        Where the crop begins, in pixels from the picture's upper left corner; negative begins in the border. Zero
        and zero take the picture as it is.
    flip : uint8[n]
        Not zero: the crop is mirrored left to right.
    table : T, flat [channels, 256]
        What each byte becomes. A pixel of the border is a byte of 0.
    y : T, flat [n, channels, height, width]
        Overwritten.
    """
    plane = height * width
    for i in range(len(indices)):
        for c in range(channels):
            first = (indices[i] * channels + c) * plane
            values = table[c * 256 : (c + 1) * 256]
            for h in range(height):
                out = (i * channels + c) * plane + h * width
                row = y[out : out + width]
                source = h + top[i]
                if 0 <= source < height:
                    x = images[first + source * width : first + (source + 1) * width]
                    _shift_flip_row(x, left[i], flip[i] != 0, values, row)
                else:
                    row[:] = values[0]
