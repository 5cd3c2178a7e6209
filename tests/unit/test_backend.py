"""What of DeepSpeed can be checked without a GPU, where fp16 does not run.

The optimizers are stand-ins, their loss scales are DeepSpeed's own.
"""

from types import SimpleNamespace

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaleConfig

from jetmae.engine.backend import Backend

SCALE = {"init_scale": 2.0**16, "scale_window": 1000, "min_scale": 1.0, "delayed_shift": 1}


def config_of_stage_0() -> LossScaleConfig:
    return LossScaleConfig(
        low_precision_dtype=torch.float16, dynamic_loss_scale=True, static_loss_scale=1.0, dynamic_loss_args=SCALE
    )


def scaler_of_other_stages() -> DynamicLossScaler:
    return DynamicLossScaler(**SCALE, consecutive_hysteresis=False, raise_error_at_min_scale=True, dtype=torch.float16)


def half_precision_backend(stage: int) -> Backend:
    scaler = scaler_of_other_stages() if stage else config_of_stage_0()
    optimizer = SimpleNamespace(**{"loss_scaler" if stage else "loss_scale_config": scaler})
    backend = object.__new__(Backend)
    backend.dtype, backend.zero_stage = torch.float16, stage
    backend._engine = SimpleNamespace(optimizer=optimizer)
    backend._state = SimpleNamespace(optimizer_steps=7, restored=lambda steps: None)
    return backend


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_the_loss_scale_survives_a_resume(stage):
    first, second = half_precision_backend(stage), half_precision_backend(stage)
    first._scaler.cur_scale, first._scaler.cur_iter, first._scaler.last_overflow_iter = 1024.0, 30, 12
    second.restore(first.numbers())
    assert vars(second._scaler) == vars(first._scaler)
