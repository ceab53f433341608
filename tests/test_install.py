"""What the base install brings is enough to import tospike: the tests' own environment has much more."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Imports all modules but those that are compiled, as if nothing else were installed.
PROGRAM = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder
from packaging.utils import canonicalize_name

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden} else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *args, **kwargs):
        return (one for one in super().find_distributions(*args, **kwargs) if canonicalize_name(one.name) in {base})

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import tospike
for module in pkgutil.walk_packages(tospike.__path__, "tospike."):
    if not module.name.endswith(("kernels", "__main__")):
        importlib.import_module(module.name)
        print(module.name)
"""


def brought_by(name, found):
    """Collect the distributions that come with one, itself included."""
    name = canonicalize_name(name)
    try:
        wanted = requires(name) or [] if name not in found else []
    except PackageNotFoundError:  # for other machines
        return found
    found.add(name)
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            brought_by(requirement.name, found)
            for extra in requirement.extras:
                for more in map(Requirement, requires(requirement.name) or []):
                    if more.marker is not None and more.marker.evaluate({"extra": extra}):
                        brought_by(more.name, found)
    return found


def test_every_module_imports_without_optional_packages():
    base = brought_by("tospike", set())
    assert {"torch", "torchmetrics", "jsonargparse"} <= base
    hidden = {
        module for module, names in packages_distributions().items() if not {canonicalize_name(n) for n in names} & base
    }
    if "torchvision" not in hidden:
        pytest.fail("the base install brings torchvision, so this test tests nothing")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(hidden=hidden, base=base)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tospike.tasks.detection" in done.stdout.split()
