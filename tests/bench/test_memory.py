import json

import pytest

from shotstream import cli
from shotstream.bench.models import WAN_TINY


@pytest.mark.slow
def test_the_command_prints_every_combination(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "memory", "--model", WAN_TINY, "--size", "32x48"])
    assert not end.value.code
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["computed"] is True
    assert sum(name.endswith("card_gib") for name in document) == 6
    assert document["bfloat16_auto_card_gib"] == 8
    assert document["bfloat16_lowest_gb"] < document["bfloat16_low_gb"] < document["bfloat16_auto_gb"]
