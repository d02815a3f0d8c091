"""Kernels of `norm_silu`: batch normalisation with SiLU over the rows of a (rows, channels) matrix.

They are bound by memory. Forward reads the matrix twice and writes it once, where separate operations read it three
times and write it twice; backward recomputes what the forward pass would have kept. Sums are taken in two stages in a
fixed order, without atomic operations: the same input gives the same bits.
"""

# No annotations of kernel arguments but constexpr, which the compiler reads: the file cannot postpone their evaluation.

import triton
import triton.language as tl


@triton.jit
def sums_kernel(x_ptr, sums_ptr, rows, channels, rows_each, block_m: tl.constexpr, block_c: tl.constexpr):
    """Write sums and sums of squares of some rows, less the first row: small differences of large numbers are exact."""
    part, cols = tl.program_id(0), tl.program_id(1) * block_c + tl.arange(0, block_c)
    is_col = cols < channels
    first = tl.load(x_ptr + cols, mask=is_col, other=0.0).to(tl.float32)
    total = tl.zeros([block_m, block_c], dtype=tl.float32)
    squares = tl.zeros([block_m, block_c], dtype=tl.float32)
    for start in range(part * rows_each, tl.minimum((part + 1) * rows_each, rows), block_m):
        row = start + tl.arange(0, block_m)
        mask = (row < rows)[:, None] & is_col[None, :]
        x = tl.load(x_ptr + row.to(tl.int64)[:, None] * channels + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(mask, x - first[None, :], 0.0)
        total += centred
        squares += centred * centred
    out = sums_ptr + part * 2 * channels + cols
    tl.store(out, tl.sum(total, axis=0), mask=is_col)
    tl.store(out + channels, tl.sum(squares, axis=0), mask=is_col)


@triton.jit
def statistics_kernel(
    x_ptr, sums_ptr, mean_ptr, rstd_ptr, running_mean_ptr, running_var_ptr,
    rows, channels, parts, momentum, eps, max_parts: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Write mean and 1 / standard deviation of each channel from the sums, and update the running statistics."""
    cols = tl.program_id(0) * block_c + tl.arange(0, block_c)
    is_col = cols < channels
    part = tl.arange(0, max_parts)
    mask = (part < parts)[:, None] & is_col[None, :]
    place = sums_ptr + part[:, None] * 2 * channels + cols[None, :]
    offset = tl.sum(tl.load(place, mask=mask, other=0.0), axis=0) / rows
    variance = tl.sum(tl.load(place + channels, mask=mask, other=0.0), axis=0) / rows - offset * offset
    variance = tl.maximum(variance, 0.0)
    mean = tl.load(x_ptr + cols, mask=is_col, other=0.0).to(tl.float32) + offset
    tl.store(mean_ptr + cols, mean, mask=is_col)
    tl.store(rstd_ptr + cols, 1.0 / tl.sqrt(variance + eps), mask=is_col)
    running_mean = tl.load(running_mean_ptr + cols, mask=is_col, other=0.0)
    tl.store(running_mean_ptr + cols, running_mean + momentum * (mean - running_mean), mask=is_col)
    running_var = tl.load(running_var_ptr + cols, mask=is_col, other=0.0)
    unbiased = variance * (rows / (rows - 1.0))
    tl.store(running_var_ptr + cols, running_var + momentum * (unbiased - running_var), mask=is_col)


@triton.jit
def forward_kernel(
    x_ptr, out_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, rows, channels,
    block_m: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Write SiLU of the normalised matrix."""
    row = tl.program_id(0) * block_m + tl.arange(0, block_m)
    cols = tl.program_id(1) * block_c + tl.arange(0, block_c)
    is_col = cols < channels
    mask = (row < rows)[:, None] & is_col[None, :]
    scale = tl.load(rstd_ptr + cols, mask=is_col, other=0.0) * tl.load(weight_ptr + cols, mask=is_col, other=0.0)
    mean = tl.load(mean_ptr + cols, mask=is_col, other=0.0)
    bias = tl.load(bias_ptr + cols, mask=is_col, other=0.0)
    place = row.to(tl.int64)[:, None] * channels + cols[None, :]
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    z = (x - mean[None, :]) * scale[None, :] + bias[None, :]
    tl.store(out_ptr + place, (z * tl.sigmoid(z)).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def before_silu(x, grad, mean, rstd, weight, bias):
    """Return the gradient of what SiLU is applied to, and the normalised values."""
    normalised = (x - mean[None, :]) * rstd[None, :]
    z = normalised * weight[None, :] + bias[None, :]
    gate = tl.sigmoid(z)
    return grad * gate * (1.0 + z * (1.0 - gate)), normalised


@triton.jit
def gradient_sums_kernel(
    x_ptr, grad_ptr, sums_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, rows, channels, grad_stride, rows_each,
    block_m: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Write sums of the gradient before SiLU over some rows, and of its product with the normalised values."""
    part, cols = tl.program_id(0), tl.program_id(1) * block_c + tl.arange(0, block_c)
    is_col = cols < channels
    rstd = tl.load(rstd_ptr + cols, mask=is_col, other=0.0)
    mean = tl.load(mean_ptr + cols, mask=is_col, other=0.0)
    weight = tl.load(weight_ptr + cols, mask=is_col, other=0.0)
    bias = tl.load(bias_ptr + cols, mask=is_col, other=0.0)
    of_bias = tl.zeros([block_m, block_c], dtype=tl.float32)
    of_weight = tl.zeros([block_m, block_c], dtype=tl.float32)
    for start in range(part * rows_each, tl.minimum((part + 1) * rows_each, rows), block_m):
        row = start + tl.arange(0, block_m)
        mask = (row < rows)[:, None] & is_col[None, :]
        row = row.to(tl.int64)[:, None]
        x = tl.load(x_ptr + row * channels + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + row * grad_stride + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        grad, normalised = before_silu(x, grad, mean, rstd, weight, bias)
        of_bias += grad
        of_weight += grad * normalised
    out = sums_ptr + part * 2 * channels + cols
    tl.store(out, tl.sum(of_bias, axis=0), mask=is_col)
    tl.store(out + channels, tl.sum(of_weight, axis=0), mask=is_col)


@triton.jit
def total_kernel(sums_ptr, total_ptr, columns, parts, max_parts: tl.constexpr, block_c: tl.constexpr):
    """Write the sum of all parts: for each channel of the bias, then for each of the weight."""
    cols = tl.program_id(0) * block_c + tl.arange(0, block_c)
    part = tl.arange(0, max_parts)
    mask = (part < parts)[:, None] & (cols < columns)[None, :]
    sums = tl.load(sums_ptr + part[:, None] * columns + cols[None, :], mask=mask, other=0.0)
    tl.store(total_ptr + cols, tl.sum(sums, axis=0), mask=cols < columns)


@triton.jit
def backward_kernel(
    x_ptr, grad_ptr, out_ptr, total_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, rows, channels, grad_stride,
    block_m: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the matrix: w / s (g - mean g - n mean(g n)), g before SiLU and n normalised."""
    row = tl.program_id(0) * block_m + tl.arange(0, block_m)
    cols = tl.program_id(1) * block_c + tl.arange(0, block_c)
    is_col = cols < channels
    mask = (row < rows)[:, None] & is_col[None, :]
    rstd = tl.load(rstd_ptr + cols, mask=is_col, other=0.0)
    mean = tl.load(mean_ptr + cols, mask=is_col, other=0.0)
    weight = tl.load(weight_ptr + cols, mask=is_col, other=0.0)
    bias = tl.load(bias_ptr + cols, mask=is_col, other=0.0)
    of_bias = tl.load(total_ptr + cols, mask=is_col, other=0.0) / rows
    of_weight = tl.load(total_ptr + channels + cols, mask=is_col, other=0.0) / rows
    row = row.to(tl.int64)[:, None]
    place = row * channels + cols[None, :]
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * grad_stride + cols[None, :], mask=mask, other=0.0).to(tl.float32)
    grad, normalised = before_silu(x, grad, mean, rstd, weight, bias)
    grad = (weight * rstd)[None, :] * (grad - of_bias[None, :] - normalised * of_weight[None, :])
    tl.store(out_ptr + place, grad.to(out_ptr.dtype.element_ty), mask=mask)
