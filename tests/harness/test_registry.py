"""Registries: lazy, collision-free, and helpful with a misspelt name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.data import DATASETS
from harness.errors import UserError
from harness.models import ARCHITECTURES
from harness.registry import METHODS, Registry


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[int]:
    package = tmp_path / "plugins_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first_one.py").write_text("ENTRY = 1\n")
    (package / "broken.py").write_text("raise RuntimeError('imported')\n")
    (package / "_helper.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("plugins_for_test")]:
        monkeypatch.delitem(sys.modules, name)
    return Registry("plugin", packages=["plugins_for_test"], attribute="ENTRY")


def test_every_file_of_a_package_is_an_entry_and_none_is_imported(plugins):
    assert plugins.names() == ["broken", "first-one"]
    assert "plugins_for_test.broken" not in sys.modules
    assert plugins.get("first-one") == 1


def test_a_misspelt_name_is_answered_with_the_nearest(plugins):
    with pytest.raises(UserError, match="unknown plugin 'first_on': did you mean first-one"):
        plugins.get("first_on")
    with pytest.raises(UserError, match="unknown plugin 'FIRST-ONE': did you mean first-one"):
        plugins.get("FIRST-ONE")
    with pytest.raises(UserError, match="known: broken, first-one"):
        plugins.get("qqq")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("raise RuntimeError('imported')\n", "RuntimeError: imported"),
        ("raise RuntimeError('first\\nsecond')\n", "RuntimeError: first"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("ENTRY = (\n", r"SyntaxError: .*broken\.py, line 1\)"),
        ("entry = 1\n", "AttributeError: module .* has no attribute 'ENTRY'"),
    ],
)
def test_a_broken_file_is_named_when_it_is_used(plugins, tmp_path, content, error):
    file = tmp_path / "plugins_for_test" / "broken.py"
    file.write_text(content)
    message = rf"plugin 'broken' cannot be loaded from {re.escape(str(file))} \({error}\): fix"
    with pytest.raises(UserError, match=message):
        plugins.get("broken")
    assert plugins.get("first-one") == 1
    loaded, broken = plugins.load_all()
    assert loaded == {"first-one": 1}
    assert re.match(message, broken["broken"])


def test_an_error_that_a_file_raises_itself_is_kept(plugins, tmp_path):
    (tmp_path / "plugins_for_test" / "broken.py").write_text(
        "from harness.errors import UserError\nraise UserError('install it')\n"
    )
    with pytest.raises(UserError, match=r"^install it$"):
        plugins.get("broken")


def test_a_call_of_exit_is_no_fault(plugins, tmp_path):
    (tmp_path / "plugins_for_test" / "broken.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(SystemExit):
        plugins.get("broken")


def test_a_second_entry_of_one_name_is_refused(plugins):
    with pytest.raises(UserError, match="plugin 'broken' exists already"):
        plugins.register("broken", "math:pi")
    plugins.register("pi", "math:pi")
    assert plugins.get("pi") == pytest.approx(3.14159, abs=1e-5)


def test_a_temporary_entry_is_gone_after_its_block(plugins):
    def fail() -> None:
        with plugins.temporarily("pi", "math:pi"):
            assert plugins.get("pi") == pytest.approx(3.14159, abs=1e-5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert plugins.names() == ["broken", "first-one"]


@pytest.mark.usefixtures("plugins")
def test_two_packages_with_one_name_are_refused(tmp_path):
    inner = tmp_path / "plugins_for_test" / "inner"
    inner.mkdir()
    for name in ("__init__", "broken"):
        (inner / f"{name}.py").touch()
    packages = ["plugins_for_test", "plugins_for_test.inner"]
    twice = Registry[int]("plugin", packages=packages, attribute="ENTRY")
    files = f"{inner.parent / 'broken.py'} and {inner / 'broken.py'}"
    message = re.escape(f"plugin 'broken' is defined twice, in {files}: rename or remove one")
    for use in (twice.names, twice.load_all, lambda: twice.get("first-one")):
        with pytest.raises(UserError, match=message):
            use()


@pytest.mark.parametrize(
    ("registry", "missing"),
    [(METHODS, "card, params, task"), (DATASETS, "info, load"), (ARCHITECTURES, "__call__")],
)
def test_an_entry_of_the_wrong_type_is_refused(registry, missing):
    message = rf"'pi' cannot be loaded from .* \(TypeError: pi is of type float, without {missing}"
    with registry.temporarily("pi", "math:pi"), pytest.raises(UserError, match=message):
        registry.get("pi")


def test_listing_methods_imports_none_of_them():
    code = (
        "import sys; from harness.registry import METHODS; names = METHODS.names(); "
        "assert {'kl', 'dkl', 'ikl', 'trades', 'vanilla'} <= set(names), names; "
        "print([m for m in sys.modules if m.startswith('methods.adversarial.')])"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert listed.stdout.strip() == "[]"
