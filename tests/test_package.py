"""What is installed: the public names, the types, and what it imports."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from importlib.resources import files
from pathlib import Path

import pytest

import roomhub

PUBLIC = {
    "CloseReason",
    "Hub",
    "Limits",
    "Message",
    "MessageRefused",
    "Position",
    "Runtime",
    "Statistics",
    "application_close_reason",
}
DEPENDENCIES = {"anyio", "h11", "typing_extensions", "wsproto"}
MODULES = sorted(module.name for module in pkgutil.walk_packages(roomhub.__path__, "roomhub."))
OF_EXTRAS = {"roomhub.jwt": "jwt", "roomhub.jwt_keys": "jwt"}
"""Modules that need an extra, by name."""

IMPORT_ALL = """
import importlib, json, sys

allowed = set(json.loads(sys.argv[1]))

class Fence:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"not a dependency: {name}", name=name)

before = set(sys.modules)
sys.meta_path.insert(0, Fence())
for name in sys.argv[2:]:
    importlib.import_module(name)
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def normalized(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0].replace("-", "_").lower()


def closure(names: set[str]) -> set[str]:
    """The import names of these and of all that they need. Here each is that of its distribution."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            try:
                needed = requires(name.replace("_", "-")) or []
            except PackageNotFoundError:
                continue  # for another Python
            found.add(name)
            todo += [normalized(text) for text in needed if "extra ==" not in text]
    return found


def imported(allowed: set[str], *modules: str) -> set[str]:
    """Import these in a fresh interpreter where nothing but the standard library and ``allowed`` can be."""
    arguments = [json.dumps(sorted(allowed)), *modules]
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", IMPORT_ALL, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout)) - set(sys.stdlib_module_names)


def test_the_public_names_are_these() -> None:
    names = {name for name in vars(roomhub) if not name.startswith("_")}
    modules = {name.split(".")[1] for name in MODULES}
    assert names - modules == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_says_what_it_is(name: str) -> None:
    assert (getattr(roomhub, name).__doc__ or "").strip()


@pytest.mark.parametrize("name", MODULES)
def test_each_module_has_what_it_lists(name: str) -> None:
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public)


def test_types_are_shipped_with_it() -> None:
    assert files("roomhub").joinpath("py.typed").is_file()


def test_the_requirements_are_four_and_the_extras_four() -> None:
    project = tomllib.loads(Path(__file__).parent.parent.joinpath("pyproject.toml").read_text())["project"]
    assert {normalized(text) for text in project["dependencies"]} == DEPENDENCIES
    extras = {
        extra: [normalized(text) for text in needed] for extra, needed in project["optional-dependencies"].items()
    }
    assert extras == {"uvloop": ["uvloop"], "trio": ["trio"], "precis": ["precis_i18n"], "jwt": ["joserfc"]}


def test_the_console_script_is_declared() -> None:
    (script,) = entry_points(group="console_scripts", name="roomhub")
    assert script.value == "roomhub.cli:main"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", version("roomhub"))


def test_every_module_can_be_imported_with_the_dependencies_alone() -> None:
    allowed = {"roomhub", *closure(DEPENDENCIES)}
    modules = [name for name in MODULES if name not in OF_EXTRAS]
    assert DEPENDENCIES <= imported(allowed, "roomhub", *modules) <= allowed


@pytest.mark.parametrize(("module", "extra"), OF_EXTRAS.items())
def test_a_module_of_an_extra_that_is_not_installed_says_what_to_install(module: str, extra: str) -> None:
    arguments = [json.dumps(sorted({"roomhub", *closure(DEPENDENCIES)})), module]
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_ALL, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'roomhub[{extra}]'")


def test_the_hub_and_its_runtime_need_no_websockets() -> None:
    allowed = {"roomhub", *closure({"anyio", "typing_extensions"})}
    assert imported(allowed, "roomhub", "roomhub.transports.memory", "roomhub.testing") <= allowed


def test_the_core_alone_needs_no_event_loop() -> None:
    core = [name for name in MODULES if name.startswith("roomhub.core.")]
    script = (
        "import sys, types, pathlib\n"
        # Without roomhub/__init__.py, which imports the runtime too.
        "package = types.ModuleType('roomhub'); package.__path__ = [sys.argv[1]]; sys.modules['roomhub'] = package\n"
        "[__import__(name) for name in sys.argv[2:]]\n"
        "sys.exit(bool({'anyio', 'asyncio', 'wsproto', 'h11', 'socket', 'logging'} & set(sys.modules)))\n"
    )
    arguments = [str(files("roomhub")), *core]
    done = subprocess.run([sys.executable, "-I", "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
