"""The entry of one rank: python -m jetmae.rank RUN_DIR.

First of all the rank becomes that of the run's own code (launch/run_code.py), if it is not yet.

Importing torch and DeepSpeed takes seconds in which a signal may come, or storage hang. So this is in place before:
signal handlers, the watchdog, and the choice of devices, which DeepSpeed makes when it is imported. Then comes run.py.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

import yaml

from jetmae.errors import JetmaeError, exit_with_one_line, leave_at_once
from jetmae.launch.run_code import enter_own_code
from jetmae.run_folder import RunFolder
from jetmae.runtime.liveness.phases import enter_phase
from jetmae.runtime.liveness.rank_report import reporting_failure
from jetmae.runtime.liveness.watchdog import start_watchdog
from jetmae.runtime.preemption import StopRequest


def main() -> int:
    """Train or go on training, then evaluate. Exit code 0: complete. 75: stopped, everything saved."""
    folder = RunFolder(Path(sys.argv[1]))
    try:
        enter_own_code(folder)
    except JetmaeError:
        enter_phase("code")
        with reporting_failure(folder.logs):
            raise
    stop_request = StopRequest()
    stop_request.install()
    start_watchdog(folder.logs)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.compiled))  # so that the next start compiles nothing
    if is_for_cpus(folder):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from jetmae.run import train  # only now: see above

    return train(folder, stop_request)


def is_for_cpus(folder: RunFolder) -> bool:
    """Whether GPUs are to be left alone. A configuration that cannot be read is refused later."""
    with suppress(OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return bool(yaml.safe_load(folder.config.read_text(encoding="utf-8"))["engine"]["device"] == "cpu")
    return False


if __name__ == "__main__":
    exit_with_one_line(main, leave=leave_at_once)
