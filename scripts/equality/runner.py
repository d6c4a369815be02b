"""A process of the checkout that is examined: runs commands and scripts of it, each in a child of its own.

It stands alone and names nothing of the code but its command, `shotstream.cli.main`, or that of its
experiments where they stand beside the package, `experiments.__main__.main`. What takes long to import is
imported once; a child then begins with it. Requests and answers are lines of JSON.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import runpy
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HEAVY = (
    "torch", "torch._dynamo", "numpy", "safetensors.torch", "einops", "jaxtyping", "av", "PIL.Image",
    "tokenizers", "rich.progress", "transformers.models.umt5.modeling_umt5",
)  # fmt: skip


# Named by its folder: another checkout's experiments may be found on the path as well.
ROOT = Path(os.environ["PYTHONPATH"])
COMMAND = "experiments.__main__" if (ROOT / "experiments" / "__main__.py").is_file() else "shotstream.cli"


def _serve_one(request: dict[str, Any]) -> None:
    """Ends the process."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, descriptor)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    code: object = 1
    try:
        sys.argv = ["shotstream", *request["argv"]]
        if request["script"]:
            runpy.run_path(request["script"], run_name="__main__")
            code = 0
        else:
            importlib.import_module(COMMAND).main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    """Answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    package = importlib.import_module("shotstream")
    for module in pkgutil.walk_packages(package.__path__, "shotstream."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    importlib.import_module(COMMAND)
    print(json.dumps({"package": str(Path(str(package.__file__)).parents[1])}), file=answers, flush=True)
    for line in sys.stdin:
        began_s = time.monotonic()
        child = os.fork()
        if not child:
            _serve_one(json.loads(line))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "took_s": time.monotonic() - began_s}), file=answers, flush=True)


main()
