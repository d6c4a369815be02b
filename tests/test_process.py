"""Process settings leave what the user has set alone."""

import os

import pytest

from shotstream.process import number_from_torchrun, tune_cpu


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


@pytest.mark.parametrize(("given", "number"), [("0", 0), ("12", 12), (None, 5)])
def test_what_torchrun_tells_is_a_number(
    monkeypatch: pytest.MonkeyPatch, given: str | None, number: int
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if given is not None:
        monkeypatch.setenv("RANK", given)
    assert number_from_torchrun("RANK", 5) == number


@pytest.mark.parametrize("given", ["", "-1", "two", "1.5", "²"])
def test_what_torchrun_did_not_tell_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("RANK", given)
    with pytest.raises(ValueError, match=f"RANK is '{given}' in the environment; .*: unset it"):
        number_from_torchrun("RANK", 0)
