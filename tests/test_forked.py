"""A forked process behaves as the process of `subprocess.Popen` that it stands for."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.forked import Forked, run, run_together

pytestmark = pytest.mark.slow

TELLS = """
import os, sys
print(os.getcwd(), os.environ.get("WORD"), sys.argv[1:])
sys.stderr.write("oh\\n")
sys.exit(7)
"""


def test_it_has_its_folder_environment_arguments_pipes_and_exit_code(tmp_path: Path) -> None:
    done = run(["-c", TELLS, "a", tmp_path], cwd=tmp_path, env={**os.environ, "WORD": "w"})
    expected = f"{tmp_path} w {['a', str(tmp_path)]}\n"
    assert (done.returncode, done.stdout, done.stderr) == (7, expected, "oh\n")
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(__name__, len(sys.argv))")
    assert run([script, "b"]).stdout == "__main__ 2\n"
    assert run(["-m", "shotstream.cli", "--version"]).returncode == 0
    failed = run(["-c", "raise ValueError('why')"])
    assert failed.returncode == 1 and "ValueError: why" in failed.stderr


def test_it_is_a_process_that_signals_reach() -> None:
    waits = ["-c", "import time; print('begun', flush=True); time.sleep(600)"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = Forked(waits, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert process.poll() is None and os.getsid(process.pid) == process.pid
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(30) == process.returncode == -number
        process.kill()  # nothing, as it has ended
        assert process.communicate() == ("", "")


def test_several_know_of_each_other_and_end_with_the_first_that_fails() -> None:
    told = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])"
    assert sorted(run_together(2, ["-c", told]).stdout.splitlines()) == ["0 2", "1 2"]
    fails = "import os, sys, time; sys.exit(9) if os.environ['RANK'] == '1' else time.sleep(600)"
    began = time.monotonic()
    assert run_together(2, ["-c", fails]).returncode == 9
    assert time.monotonic() - began < 60
