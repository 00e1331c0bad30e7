"""The scene that tests of distillation methods play in."""

import pytest

from tests.methods.distillation.scene import Scene, make_scene


@pytest.fixture
def scene() -> Scene:
    return make_scene()
