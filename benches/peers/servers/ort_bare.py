"""Bare ONNX Runtime in this process: one row over and over, one JSON line. `ort_bare.py MODEL SHAPE SECONDS THREADS`"""

import json
import sys
import threading
import time

import numpy as np
import onnxruntime as ort

model, shape, seconds, n_threads = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
shape = [int(dim) for dim in shape.split(",")]
row = {"input": (np.arange(np.prod(shape)) % 255 / 255).astype("f").reshape(shape)}
warm = time.perf_counter() + seconds / 10
while time.perf_counter() < warm:
    session.run(["output"], row)
taken = [[] for _ in range(n_threads)]


def work(mine):
    begin = now = time.perf_counter()
    while now - begin < seconds:
        session.run(["output"], row)
        before, now = now, time.perf_counter()
        mine.append(now - before)


threads = [threading.Thread(target=work, args=[mine]) for mine in taken]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
all_us = np.concatenate(taken) * 1e6
p50, p99 = np.percentile(all_us, [50, 99])
latency = {"min": all_us.min(), "mean": all_us.mean(), "p50": p50, "p99": p99}
rows_per_s = sum(len(mine) / sum(mine) for mine in taken)
print(json.dumps({"latency_us": {name: float(value) for name, value in latency.items()}, "rows_per_s": rows_per_s}))
