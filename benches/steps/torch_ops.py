"""What the operators of the small CNN cost in PyTorch, alone: see `ops.rs`, whose names and order these are."""

import json
import sys
import time

import torch
from torch.nn import functional as F

N_ROWS, N_RUNS = 64, 9


def timed(op, values, weights, by_values):
    least = [float("inf")] * 2
    for _ in range(N_RUNS):
        values = values.detach().requires_grad_(by_values)
        weights = weights.detach().requires_grad_()
        start = time.perf_counter()
        out = op(values, weights)
        least[0] = min(least[0], 1e3 * (time.perf_counter() - start))
        total = (out * out.detach()).sum()
        start = time.perf_counter()
        total.backward()
        least[1] = min(least[1], 1e3 * (time.perf_counter() - start))
    return least


def drawn(*shape):
    return torch.rand(shape) - 0.5


def main(threads):
    torch.set_num_threads(threads)
    torch.manual_seed(7)
    found = {}
    for name, (inputs, outputs, length, side), by_values in [
        ("convolution 5x5, 3 to 32 channels, 32x32", (3, 32, 32, 5), False),
        ("convolution 3x3, 32 to 64 channels, 16x16", (32, 64, 16, 3), True),
    ]:
        values, kernel = drawn(N_ROWS, inputs, length, length), drawn(outputs, inputs, side, side)
        found[name] = timed(lambda x, k, pad=side // 2: F.conv2d(x, k, padding=pad), values, kernel, by_values)
    values, one = drawn(N_ROWS, 32, 32, 32), drawn(1)
    found["pool 2x2, 32 channels, 32x32"] = timed(lambda x, _: F.max_pool2d(x, 2), values, one, True)
    found["ReLU, 32 channels, 32x32"] = timed(lambda x, _: F.relu(x), values, one, True)
    found["linear, 4096 to 128"] = timed(torch.matmul, drawn(N_ROWS, 4096), drawn(4096, 128), True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
