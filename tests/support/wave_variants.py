"""Two utterances in every form that is accepted, and forms that are refused."""

import numpy as np
import torch

SAMPLES = 4000
SHORTER = 3000
WAVE = np.random.default_rng(0).integers(-20_000, 20_000, (2, SAMPLES)).astype(np.int16)
FLOATS = WAVE.astype(np.float32) / 32768
TENSOR = torch.from_numpy(FLOATS)
LENGTHS = torch.tensor([SAMPLES, SHORTER])

EQUAL = {
    "float64": (TENSOR.double(), LENGTHS),
    "int16": (torch.from_numpy(WAVE), LENGTHS),
    "int32": (torch.from_numpy(WAVE.astype(np.int32) << 16), LENGTHS),
    "numpy": (FLOATS, LENGTHS.numpy()),
    "numpy float64, read alone": (np.broadcast_to(FLOATS.astype(np.float64), (2, SAMPLES)), [SAMPLES, SHORTER]),
    "numpy int16, big-endian": (WAVE.astype(">i2"), LENGTHS.numpy().astype(">i4")),
    "numpy int32, backwards in memory": ((WAVE.astype(np.int32) << 16)[:, ::-1].copy()[:, ::-1], (SAMPLES, SHORTER)),
    "lists": (FLOATS.tolist(), [SAMPLES, SHORTER]),
    "lengths int32": (TENSOR, LENGTHS.int()),
    "lengths uint16": (TENSOR, LENGTHS.numpy().astype(np.uint16)),
    "lengths in whole floats": (TENSOR, LENGTHS.float()),
    "lengths as numpy's scalars": (FLOATS, [np.int64(SAMPLES), np.float32(SHORTER)]),
    "noise beyond the lengths": (torch.where(torch.arange(SAMPLES) < LENGTHS[:, None], TENSOR, torch.nan), LENGTHS),
    "with gradients": (TENSOR.clone().requires_grad_(), LENGTHS),
}
ROUNDED = {"float16": (TENSOR.half(), LENGTHS), "bfloat16": (TENSOR.bfloat16(), LENGTHS)}
ALONE = {
    "[S]": (FLOATS[0], None),
    "[S] of int16": (torch.from_numpy(WAVE[0]), [SAMPLES]),
    "[S] and a number": (TENSOR[0], SAMPLES),
}
BROKEN = FLOATS.copy()
BROKEN[1, 5] = np.nan
REFUSED = {
    "uint8": (WAVE.astype(np.uint8), None, "expected floating point, int16 or int32; found uint8"),
    "int64": (WAVE.tolist(), None, "found int64"),
    "complex": (TENSOR.to(torch.complex64), None, "found complex64"),
    "bool": (FLOATS > 0, None, "found bool"),
    "text": ("speech.wav", None, r"expected \[B, S\]"),
    "ragged": ([FLOATS[0], FLOATS[1, :5]], None, "wave: expected one array of numbers; found list"),
    "channels": (FLOATS[:, None], None, r"one channel, B above 0; found \[2, 1, 4000\]"),
    "a number": (0.5, None, r"found \[\]"),
    "no batch": (FLOATS[:0], None, r"found \[0, 4000\]"),
    "no samples": (FLOATS[:, :0], None, "a wave of 0 samples"),
    "a few samples": (FLOATS[:, :9], None, "a wave of 9 samples; one frame needs"),
    "nan": (BROKEN, None, "holds NaN or infinity"),
    "infinity": (np.where(FLOATS > 0.5, np.inf, FLOATS), None, "holds NaN or infinity"),
    "beyond": (FLOATS, [SAMPLES, SAMPLES + 1], "lengths: 4001 samples, but wave holds 4000"),
    "short": (FLOATS, [SAMPLES, 9], "a wave of 9 samples"),
    "zero": (FLOATS, [SAMPLES, 0], "found 0"),
    "negative": (TENSOR, torch.tensor([SAMPLES, -5]), "above 0; found -5"),
    "relative": (TENSOR, torch.tensor([1.0, 0.75]), "found 1; multiply relative lengths"),
    "halves": (FLOATS, [SAMPLES, 2000.5], "found 2000.5"),
    "lengths not finite": (FLOATS, [SAMPLES, np.nan], "found nan"),
    "one length": (FLOATS, [SAMPLES], r"expected \[2\], one for each utterance; found \[1\]"),
    "a column of lengths": (FLOATS, [[SAMPLES], [SHORTER]], r"found \[2, 1\]"),
    "lengths as booleans": (FLOATS, [True, True], "found bool"),
    "lengths as text": (FLOATS, ["4000", "3000"], "found str"),
}
