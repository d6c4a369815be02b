"""Process settings leave what the user has set alone."""

import os

import pytest

from shotstream.process import tune_cpu


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    tune_cpu()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"


def test_the_cache_of_kernels_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")  # the allocator of the test process stays as it is
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    tune_cpu()
    assert int(os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY")) > 1024
