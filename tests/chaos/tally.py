"""What a suite of faults has tried, and what came of it."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    of_what: str
    tried: Counter = field(default_factory=Counter)  # by kind
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.tried.total()

    def __str__(self) -> str:
        kinds = [f"{count:9} {kind}" for kind, count in sorted(self.tried.items())]
        return "\n".join([*kinds, *self.notes, f"{self.total} {self.of_what}, {len(self.violations)} violations"])
