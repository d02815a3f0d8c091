"""Kernels of `batched_augment`: a layer of scaled parts, and colours with mirroring, each in one pass over the pixels.

Separate operations write and read each of a dozen intermediate arrays of four bytes a level. The whole numbers are the
same, and so are the bytes.
"""

# No annotations of kernel arguments but constexpr, which the compiler reads: the file cannot postpone their evaluation.

import triton
import triton.language as tl


@triton.jit
def tap_row(pixels_ptr, index, right_of, weight, channel, weight_bits: tl.constexpr, mask):
    """Return a channel between the pixels `index` and those `right_of` them, in 1 / 128 of a level."""
    place = pixels_ptr + index.to(tl.int64) * 3 + channel
    first = tl.load(place, mask=mask, other=0).to(tl.int32)
    second = tl.load(place + right_of * 3, mask=mask, other=0).to(tl.int32)
    return (first * ((1 << weight_bits) - weight) + second * weight) >> 4


@triton.jit
def scaled_kernel(
    pixels_ptr, out_ptr, parts_ptr, first_x_ptr, step_x_ptr, weight_x_ptr, first_y_ptr, step_y_ptr, weight_y_ptr,
    height, width,
    num_parts: tl.constexpr, columns: tl.constexpr, weight_bits: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write one row of a layer: the pixels of its last part there, or grey."""
    layer, y = tl.program_id(0) // height, tl.program_id(0) % height
    x = tl.program_id(1) * block + tl.arange(0, block)
    is_column = x < width
    index = tl.zeros([block], dtype=tl.int32)
    down = tl.zeros([block], dtype=tl.int32)
    right_of = tl.zeros([block], dtype=tl.int32)
    weight_x = tl.zeros([block], dtype=tl.int32)
    weight_y = tl.zeros([block], dtype=tl.int32)
    for part in tl.static_range(num_parts):
        place = layer * num_parts + part
        numbers = parts_ptr + place * columns
        start, part_width = tl.load(numbers).to(tl.int32), tl.load(numbers + 1).to(tl.int32)
        is_in = (x >= tl.load(numbers + 3)) & (x < tl.load(numbers + 4)) & is_column
        is_in = is_in & (y >= tl.load(numbers + 5)) & (y < tl.load(numbers + 6))
        of_x, of_y = place * width + x, place * height + y
        row = start + tl.load(first_y_ptr + of_y) * part_width
        index = tl.where(is_in, row + tl.load(first_x_ptr + of_x, mask=is_in, other=0), index)
        down = tl.where(is_in, tl.load(step_y_ptr + of_y) * part_width, down)
        right_of = tl.where(is_in, tl.load(step_x_ptr + of_x, mask=is_in, other=0), right_of)
        weight_x = tl.where(is_in, tl.load(weight_x_ptr + of_x, mask=is_in, other=0), weight_x)
        weight_y = tl.where(is_in, tl.load(weight_y_ptr + of_y), weight_y)
    out = out_ptr + (tl.program_id(0).to(tl.int64) * width + x) * 3
    for channel in tl.static_range(3):
        upper = tap_row(pixels_ptr, index, right_of, weight_x, channel, weight_bits, is_column)
        lower = tap_row(pixels_ptr, index + down, right_of, weight_x, channel, weight_bits, is_column)
        # Each row is cut off, their sum rounded.
        level = (((upper * ((1 << weight_bits) - weight_y)) >> 16) + ((lower * weight_y) >> 16) + 2) >> 2
        tl.store(out + channel, level.to(tl.uint8), mask=is_column)


@triton.jit
def scaled_share(product, table_bits: tl.constexpr):
    """Return `product`, in 1 / 2^table_bits, as a whole number."""
    return (product + (1 << (table_bits - 1))) >> table_bits


@triton.jit
def coloured_kernel(
    images_ptr, out_ptr, tables_ptr, flips_ptr, of_chroma_ptr, of_value_ptr, shares_ptr, height, width,
    changes: tl.constexpr, unit: tl.constexpr, table_bits: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write one row of an image as RGB, mirrored, and if `changes` with its hue, saturation and value changed."""
    image, y = tl.program_id(0) // height, tl.program_id(0) % height
    x = tl.program_id(1) * block + tl.arange(0, block)
    is_column = x < width
    from_y = tl.where(tl.load(flips_ptr + image * 2) != 0, height - 1 - y, y)
    from_x = tl.where(tl.load(flips_ptr + image * 2 + 1) != 0, width - 1 - x, x)
    place = images_ptr + ((image * height + from_y).to(tl.int64) * width + from_x) * 3
    blue = tl.load(place, mask=is_column, other=0).to(tl.int32)
    green = tl.load(place + 1, mask=is_column, other=0).to(tl.int32)
    red = tl.load(place + 2, mask=is_column, other=0).to(tl.int32)
    out = out_ptr + (tl.program_id(0).to(tl.int64) * width + x) * 3
    if changes:
        value = tl.maximum(tl.maximum(blue, green), red)
        chroma = value - tl.minimum(tl.minimum(blue, green), red)
        sector = tl.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
        sector = tl.where(value == red, green - blue, sector)
        hue = scaled_share(sector * tl.load(of_chroma_ptr + chroma), table_bits)
        hue = tl.where(hue < 0, hue + 180, hue)
        saturation = scaled_share(chroma * tl.load(of_value_ptr + value), table_bits)
        tables = tables_ptr + image * (256 * 3)
        hue = tl.load(tables + hue * 3).to(tl.int32)
        saturation = tl.load(tables + saturation * 3 + 1).to(tl.int32)
        of_unit = tl.load(tables + value * 3 + 2).to(tl.float32) * unit
        shares = shares_ptr + (hue * 256 + saturation) * 3
        for channel in tl.static_range(3):
            level = of_unit * tl.load(shares + channel) * 255.0
            tl.store(out + channel, level.to(tl.uint8), mask=is_column)
    else:
        tl.store(out, red.to(tl.uint8), mask=is_column)
        tl.store(out + 1, green.to(tl.uint8), mask=is_column)
        tl.store(out + 2, blue.to(tl.uint8), mask=is_column)
