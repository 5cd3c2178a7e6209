"""The target that the settings ask for."""

from jetmae.config import Reconstruct
from jetmae.tasks.targets.pixels import PixelTarget
from jetmae.tasks.targets.sums import SumsTarget
from jetmae.tasks.targets.target import Target
from jetmae.tasks.task import TaskContext


def make_target(settings: Reconstruct, context: TaskContext, hidden_fraction: float | None) -> Target:
    """`hidden_fraction` of what is asked counts on average; None: all of it, as with the seed's masks."""
    patch_pixels, device = context.patch_size**2, context.world.device
    if settings.targets is None and hidden_fraction is None:
        return PixelTarget(settings, context.images, patch_pixels, device)
    return SumsTarget(
        {str(name): weight for name, weight in (settings.targets or {"pixels": 1.0}).items()},
        spaces=context.spaces,
        images=context.images,
        patch_pixels=patch_pixels,
        hidden_fraction=hidden_fraction or 1.0,
    )
