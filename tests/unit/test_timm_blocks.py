"""The last block of a decoder computes what is asked for, and nothing else of it changes."""

import pytest
import torch
from torch import Tensor, nn

from jetmae.model.timm_blocks import last_block, transformer_block


def tokens(length: int = 12, dim: int = 16) -> Tensor:
    return torch.randn(3, length, dim, generator=torch.Generator().manual_seed(1), requires_grad=True)


def gradients(block: nn.Module, given: Tensor, output: Tensor) -> list[Tensor]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    return list(torch.autograd.grad((output * weights).sum(), [given, *block.parameters()]))


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("first", [0, 5, 11])
def test_the_last_tokens_are_those_of_the_whole_block_with_the_same_gradients(heads, first):
    block, given = last_block(16, heads, 4.0), tokens()
    whole, some = block(given)[:, first:], block(given, first=first)
    torch.testing.assert_close(some, whole)
    for one, other in zip(gradients(block, given, some), gradients(block, given, whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6 * float(other.abs().max()))


def test_it_is_the_usual_block_with_the_same_initial_weights():
    torch.manual_seed(0)
    usual = transformer_block(16, 4, 4.0)
    after_usual = torch.rand(1)
    torch.manual_seed(0)
    last = last_block(16, 4, 4.0)
    assert torch.equal(torch.rand(1), after_usual)  # no random number more was drawn
    assert list(last.state_dict()) == list(usual.state_dict())
    assert torch.equal(last(tokens()), usual(tokens()))


def test_what_is_not_asked_for_is_not_computed():
    block, given = last_block(16, 4, 4.0), tokens()
    seen: list[int] = []
    block.mlp.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    block(given, first=9)
    assert seen == [3]
