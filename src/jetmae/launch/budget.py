"""How many starts a run may have without progress. Standard library only."""

from jetmae.records.attempts import AttemptLine, EndLine, StartLine

STARTS_WITHOUT_PROGRESS = 3
FREE = ("preempted", "node_failure")  # causes that cost nothing of the budget


def starts_without_progress(lines: list[AttemptLine]) -> int:
    """How many of the newest starts ended without a new committed step. Ends that are free do not count."""
    committed_at_start = {line.attempt: line.committed_step for line in lines if isinstance(line, StartLine)}
    fruitless = 0
    for end in reversed([line for line in lines if isinstance(line, EndLine)]):
        if (end.last_committed_step or 0) > (committed_at_start.get(end.attempt, end.resumed_step) or 0):
            break
        fruitless += end.cause not in FREE
    return fruitless
