"""Faults by the thousand, against the real code.

python -m tests.chaos kill --data data/sample    two ranks, killed at named places and at random times
python -m tests.chaos crash-states               every state that a power failure can leave a run in
python -m tests.chaos corruption                 checkpoints whose bytes have changed on the disk
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.tally import Tally

SHOWN_VIOLATIONS = 20


def main() -> int:
    arguments = _parse()
    return arguments.action(arguments)


def kill(arguments: argparse.Namespace) -> int:
    from tests.chaos.kills import strike

    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="jetmae-chaos-"))
    toll = strike(folder, arguments.data.resolve(), kills=arguments.kills, seed=arguments.seed)
    print(toll, f"the runs are in {folder}", sep="\n")
    return 1 if toll.violations else 0


def crash_states(arguments: argparse.Namespace) -> int:
    from tests.chaos.crash_states import explore

    return _tell(explore(arguments.seed, cuts=arguments.cuts))


def corruption(arguments: argparse.Namespace) -> int:
    from tests.chaos.corruption import corrupt

    return _tell(corrupt(arguments.seed))


def _tell(tally: "Tally") -> int:
    print(tally, *tally.violations[:SHOWN_VIOLATIONS], sep="\n")
    return 1 if tally.violations else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(required=True)
    strike = actions.add_parser("kill", help="two ranks, killed at named places and at random times")
    strike.set_defaults(action=kill)
    strike.add_argument("--data", type=Path, required=True, help="a converted dataset, to pretrain on")
    strike.add_argument("--folder", type=Path, help="where the runs go; default: a new temporary folder, which stays")
    strike.add_argument("--kills", type=int, default=40)
    strike.add_argument("--seed", type=int, default=0)
    crash = actions.add_parser("crash-states", help="every state that a power failure can leave a run in")
    crash.set_defaults(action=crash_states)
    crash.add_argument("--cuts", type=int, help="kinds of operations after which a life is cut off first; default: all")
    crash.add_argument("--seed", type=int, default=0)
    corrupt = actions.add_parser("corruption", help="checkpoints whose bytes have changed on the disk")
    corrupt.set_defaults(action=corruption)
    corrupt.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
