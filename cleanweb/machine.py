"""What this machine offers: the device, the precision it really speeds up, and threads."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cleanweb.errors import MachineError


def choose_device(name: str) -> torch.device:
    """'auto' is CUDA, then Apple's MPS, then the CPU. Raises MachineError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise MachineError(f"There is no device {name!r} here. Found: {', '.join(there)}.") from error
    return torch.device(name)


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 where the hardware multiplies it faster than float32; otherwise nothing."""
    return torch.autocast(device.type, torch.bfloat16) if prefers_bf16(device) else contextlib.nullcontext()


def prefers_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_prefers_bf16()


@functools.cache
def cpu_prefers_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 at least a quarter faster than float32. Measured, in 20 ms: instructions for
    it say nothing (one AVX512-BF16 core took 1.7 times as long with them), and emulated it is slower still."""
    capable: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if not (capable.get("avx512_bf16") or capable.get("amx_bf16")):
        return False
    with one_thread(torch.device("cpu")):
        full, half = (_product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16))
    return half * 1.25 < full


def _product_seconds(dtype: torch.dtype) -> float:
    """The quickest of five products of two 512 × 512 matrices."""
    x = torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        x @ x
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch or Python raise where memory does not suffice, on a GPU or not."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def in_parts(predict: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor) -> tuple[Tensor, ...]:
    """predict(images), each (b, …), in halves of halves where memory does not suffice for all at once. For what sees
    every image alone, as a network in evaluation mode does. Raises MachineError where one is too much."""
    try:
        return predict(images)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if len(images) < 2:
            raise MachineError(f"Out of memory with a single image: {error}. Try a smaller --image-size.") from error
    parts = [in_parts(predict, half) for half in images.chunk(2)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


@contextlib.contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Only algorithms that give the same bits every time, if asked. On a CPU those here do so anyway."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if asked:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def cores() -> int:
    """CPU cores this process may use: its share of them, where torchrun has started several here."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """So many threads for torch on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Products of a few milliseconds on the CPU: threads that wait for each other cost more than they bring, and on a
    busy machine twenty times more."""
    return threads(1) if device.type == "cpu" else contextlib.nullcontext()
