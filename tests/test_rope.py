"""Rotations: there and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from game_agent.model.rope import Rope
from game_agent.model.spec import RopeSpec


@given(st.lists(st.integers(-20000, 20000), max_size=6))
def test_a_rotation_back_undoes_the_one_forth(positions: list[int]) -> None:
    rope = Rope(RopeSpec("default", 10000.0, 8, {}))
    forth = np.array(positions, np.int64)
    cos, sin = rope.rotation(forth)
    back_cos, back_sin = rope.rotation(-forth)
    assert cos.shape == sin.shape == (len(positions), 4)
    np.testing.assert_array_equal(cos, back_cos)
    np.testing.assert_array_equal(sin, -back_sin)
    angles = forth[:, None] * rope.inv_freq
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-6)
