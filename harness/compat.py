"""Work-arounds for broken releases of dependencies.

Each is applied only if the installed release needs it, and ``active_shims`` lists the applied ones
for a result's provenance. A work-around that no supported release needs can be deleted.
"""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch

_active: dict[str, Any] = {}


def active_shims() -> list[str]:
    """The names of the work-arounds applied in this process, sorted."""
    return sorted(_active)


def import_torchvision(module: str = "torchvision") -> ModuleType:
    """Import a torchvision module even if its operators do not match the installed torch.

    torchvision 0.28.0 built for CUDA cannot load its library with a CPU build of torch. Its import
    then fails because it registers shapes for its operators ``nms`` and ``qnms``, which do not
    exist. Declaring them without an implementation makes the import work; classification networks
    do not call them. Can be deleted once torchvision can be imported with every build of torch, or
    publishes CPU builds where pip finds them.

    Raises:
        ImportError: torchvision is not installed, or is broken in another way.
    """
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)
    _active["torchvision-operators"] = library  # the declarations die with the library
    return importlib.import_module(module)


def import_timm() -> ModuleType:
    """Import ``timm``, which imports torchvision.

    Raises:
        ImportError: it is not installed.
    """
    import_torchvision()
    return importlib.import_module("timm")


def import_robustbench() -> ModuleType:
    """Import ``robustbench`` even if two modules that release 1.1.1 imports are missing.

    It imports ``pkg_resources``, which setuptools 82 removed, for one function, and ``autoattack``,
    which is published as ``pyautoattack``. Stand-ins replace them during the import. The zoo's
    models work; ``robustbench.benchmark`` does not, since ``pyautoattack`` has a different
    signature. Can be deleted once robustbench no longer imports ``pkg_resources`` (RobustBench
    issues 211 and 212, pull request 214) and imports ``pyautoattack``, which it requires.

    Raises:
        ImportError: it is not installed.
    """
    if "robustbench" in sys.modules:
        return sys.modules["robustbench"]
    import_timm()
    stand_ins = _robustbench_stand_ins()
    sys.modules.update(stand_ins)
    try:
        module = importlib.import_module("robustbench")
    finally:
        for name in stand_ins:
            del sys.modules[name]
    _active.update(
        {f"robustbench-{name}": each for name, each in stand_ins.items() if "." not in name}
    )
    return module


def _robustbench_stand_ins() -> dict[str, ModuleType]:
    """Stand-ins, by name, for modules that robustbench imports but that are not installed."""
    stand_ins = {}
    if importlib.util.find_spec("pkg_resources") is None:
        stand_ins["pkg_resources"] = _module("pkg_resources", resource_filename=_resource_filename)
    if importlib.util.find_spec("autoattack") is None:
        attack = importlib.import_module("pyautoattack").AutoAttack
        state = importlib.import_module("pyautoattack.state").EvaluationState
        stand_ins["autoattack"] = _module("autoattack", AutoAttack=attack)
        stand_ins["autoattack.state"] = _module("autoattack.state", EvaluationState=state)
    return stand_ins


def _module(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


def _resource_filename(module: str, resource: str) -> str:
    """The path of a file next to a module, as ``pkg_resources.resource_filename`` returns it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.parent:
        raise ModuleNotFoundError(f"no package contains {module}")
    return str(importlib.resources.files(spec.parent) / resource)
