"""Shapes of tensors are annotations of the public functions, and all tests check them at run time (pyproject.toml)."""

import ast

import pytest
import torch
from jaxtyping import TypeCheckError

from jetmae.model.classifier import Pooling
from jetmae.model.patches import patchify, take_patches
from tests.conftest import PROJECT

SOURCE = PROJECT / "src" / "jetmae"
DATA = ("batch", "pixels", "images", "augmentation", "patch_sums")
CHECKED = [
    *sorted((SOURCE / "model").glob("*.py")),
    *sorted((SOURCE / "data" / "observables").glob("*.py")),
    *(SOURCE / "data" / f"{name}.py" for name in DATA),
]


@pytest.mark.parametrize(
    "call",
    [
        lambda: patchify(torch.zeros(8, 25, 25), 5),
        lambda: patchify(torch.zeros(1, 8, 25, 25, dtype=torch.int64), 5),
        lambda: take_patches(torch.zeros(2, 25, 16), torch.zeros(3, 4, dtype=torch.int64)),
        lambda: Pooling("mean", grid=(5, 5), dim=16)(torch.zeros(2, 16), None),
    ],
    ids=["no batch", "whole numbers", "another batch", "no tokens"],
)
def test_a_wrong_shape_is_refused_where_it_enters(call):
    with pytest.raises(TypeCheckError):
        call()


def annotations(function: ast.FunctionDef) -> list[ast.expr]:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [found for found in (*(argument.annotation for argument in arguments), function.returns) if found]


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.name)
def test_no_public_function_leaves_a_shape_open(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    bare = [
        function.name
        for function in functions
        if not function.name.startswith("_") or function.name == "__call__"
        for annotation in annotations(function)
        if ast.unparse(annotation) in ("Tensor", "Tensor | None", "torch.Tensor")
    ]
    assert bare == []
