"""What a run has to remember besides weights and optimizer."""

from dataclasses import dataclass, field


@dataclass
class TrainState:
    """Everything else is a function of `step`: epoch, data order, masks, learning rate."""

    step: int = 0
    best_score: float | None = None
    best_step: int | None = None
    validations_without_gain: int = 0
    finished_early: bool = False
    validation_due: bool = False  # of this step, because a stop request came first
    skipped_steps: list[int] = field(default_factory=list)  # whose loss or gradient was not finite

    def record_score(self, score: float) -> bool:
        """Take note of a validation score, higher is better; True if it is the best so far."""
        if self.best_score is None or score > self.best_score:
            self.best_score, self.best_step, self.validations_without_gain = score, self.step, 0
            return True
        self.validations_without_gain += 1
        return False
