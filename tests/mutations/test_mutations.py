"""The patches of `make mutations` fit the code as it is: whether tests notice them takes minutes, and is not in CI."""

from __future__ import annotations

import re

import pytest

from tests.mutations.__main__ import ROOT, Mutation, applies, mutations


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.name)
def test_a_patch_fits_and_names_tests_that_there_are(mutation: Mutation) -> None:
    assert not applies(mutation, ROOT, only_look=True)
    for test in mutation.tests:
        path, _, function = test.partition("::")
        assert re.search(rf"^def {re.escape(function.partition('[')[0])}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_ten_mechanisms_at_least_are_proven() -> None:
    assert len(mutations()) >= 10
