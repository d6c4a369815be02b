"""What processes of `tests.forked` have imported when they begin: the package, and what it imports later."""

# ruff: noqa: F401

import importlib
import pkgutil

import av.error
import peft
import pytest
import rich.live
import rich.progress
import rich.table
import torch._dynamo
import torch._inductor.compile_fx
import torch.distributed.run
import torch.onnx
import torch.profiler

import shotstream

for module in pkgutil.walk_packages(shotstream.__path__, "shotstream."):
    # Kernels are functions of Triton or of its interpreter from their import on; a `__main__` would run.
    if not module.name.endswith(("_kernels", "_triton", "__main__")):
        importlib.import_module(module.name)
