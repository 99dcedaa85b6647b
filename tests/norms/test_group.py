"""Where group normalization is not defined, and that it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmark.errors import UserError
from benchmark.norms.factory import SectionNorms


def test_groups_that_do_not_divide_are_the_users_error():
    norms = SectionNorms("projector", {"norm": "gn", "groups": 8})
    with pytest.raises(UserError, match=r"projector.*12 channels.*groups 8 do not divide 12"):
        norms.layer("vector", 12)


@pytest.mark.parametrize("shape", ["vector", "tokens"])
def test_groups_of_one_channel_are_refused_where_they_leave_nothing(shape):
    norms = SectionNorms("decoder", {"norm": "gn", "groups": 8})
    with pytest.raises(UserError, match=r"decoder.*8 groups of one channel"):
        norms.layer(shape, 8)


def test_groups_of_one_channel_in_a_map_are_instance_norm():
    layer = SectionNorms("backbone", {"norm": "gn", "groups": 8}).layer("map", 8)
    x = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), F.instance_norm(x))


def test_a_token_is_normalized_alone():
    layer = SectionNorms("backbone", {"norm": "gn", "groups": 2}).layer("tokens", 8)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 1:] += 7 * torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x)[:, 0], layer(other)[:, 0])
