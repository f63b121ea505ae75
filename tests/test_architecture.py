"""The rooms import downward only, and every file keeps to the shape that the style asks for.

The table below is the one that README.md draws. It is read against an ``ast.walk`` of every module,
so that imports inside functions and under TYPE_CHECKING count as much as those at the top.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "geproxy"

MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 60

# What each room may import of geproxy. A name stands for the module or package and all inside it.
WORDS = ("errors", "terms", "streams", "seams", "hostname", "nat64")
PROTOCOL_ROOM = (*WORDS, "crypto", "wire", "net")
ROOMS: dict[str, tuple[str, ...]] = {
    "__init__": (),
    "terms": (),
    "streams": ("terms",),
    "seams": ("terms", "streams"),
    "errors": ("terms",),
    "hostname": ("errors", "terms"),
    "nat64": ("terms",),
    "crypto": ("crypto", "errors"),
    "wire": ("wire", *WORDS, "crypto"),
    "config": ("config", *WORDS, "crypto"),
    "observe": ("observe", *WORDS),
    "state": ("state", *WORDS),
    "net": ("net", *WORDS, "crypto", "wire"),
    # The master's rooms share this one with the workers, so it stays what needs no event loop.
    "net.sockopt": (),
    "policy": ("policy", *WORDS, "config", "crypto.password"),
    "inbound": ("inbound", *PROTOCOL_ROOM),
    "outbound": ("outbound", *PROTOCOL_ROOM),
    "relay": ("relay", *WORDS, "net", "observe.counters"),
    "ending": ("net", "observe", *WORDS),
    "session": ("ending", "relay", "net", "observe", *WORDS),
    "site": (
        *("crypto", "wire", "config", "observe", "state", "net", "policy", "inbound", "outbound"),
        *("relay", "session", *WORDS),
    ),
    "process": (
        *("process", *WORDS, "VERSION", "config", "observe.log", "state.shared", "net.sockopt"),
    ),
    "process.logfiles": ("process", "config", "observe", *WORDS),
    "process.logwriter": ("process", "config", "observe", *WORDS),
    "datagram_session": ("ending", "session", "relay", "net", "observe", *WORDS),
    "process.slots": (
        *("process", "site", "ending", "datagram_session", "config", "net", "relay", *WORDS),
    ),
    "process.shared": ("config", "state.shared", "net.ownways"),
    "process.obedience": ("process", "net", *WORDS),
    "process.pulse": ("process", "site", "net"),
    "process.worker": (
        *("process", "site", "ending", "session", "config", "observe", "net", "state", *WORDS),
    ),
    "commands": ("commands", "config", "crypto", "process", "errors"),
    "cli": ("VERSION", "commands", "config", "process", "errors"),
}

# Names that are inside what the table allows, and are not allowed all the same.
EXCEPT: dict[str, tuple[str, ...]] = {
    "process": ("process.worker",),  # its main comes as a callable
    "commands": ("process.worker",),  # none of them serves
}

# What each room may import from outside the standard library.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "hostname": ("idna",),
    "crypto": ("cryptography", "Crypto", "blake3"),
    "wire.http": ("h11",),
    "net": ("gevent", "greenlet"),
    "process": ("setproctitle",),
    "process.logwriter": ("setproctitle",),
    "process.pulse": ("setproctitle",),
    "commands.sharing": ("segno",),
    "cli": ("docopt",),
}

SIBLINGS = ("inbound", "policy", "outbound", "relay")

# wire/ turns bytes into messages: it does not move them, wait, choose, or tell.
NOT_IN_WIRE = frozenset(
    ("socket", "socketserver", "select", "selectors", "ssl", "asyncio", "threading", "subprocess")
    + ("time", "datetime", "os", "io", "random", "secrets", "logging", "syslog", "sys")
)

FORBIDDEN_NAMES = ("utils", "util", "common", "base", "helpers", "misc")


def modules() -> list[str]:
    """Every module by its dotted name below geproxy; a package's own is NAME.__init__."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths]


MODULES = modules()


def path_of(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def tree_of(module: str) -> ast.Module:
    return parsed(path_of(module))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(module: str) -> str:
    """The narrowest row of ROOMS that *module* belongs to."""
    return max((room for room in ROOMS if within(module, room)), key=len)


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Each import: its line, and its full name, `from a import b` being a.b."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: an import relative to its package"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def faults(module: str) -> Iterator[str]:
    """What *module* imports and may not."""
    room = room_of(module)
    for line, name in imports(module):
        top, _, inside = name.partition(".")
        if top == "geproxy":
            allowed = any(within(inside, place) for place in ROOMS[room])
            allowed &= not any(within(inside, place) for place in EXCEPT.get(room, ()))
        elif top in sys.stdlib_module_names:
            allowed = not (within(module, "wire") and top in NOT_IN_WIRE)
        else:
            allowed = top in THIRD_PARTY.get(room, ()) + THIRD_PARTY.get(module, ())
        if not allowed:
            yield f"{path_of(module).relative_to(ROOT)}:{line} imports {name}"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def run_python(code: str) -> str:
    """Run *code* in a fresh interpreter; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    assert list(faults(module)) == []


def test_every_module_has_a_row_of_the_table() -> None:
    homeless = [name for name in MODULES if not any(within(name, room) for room in ROOMS)]
    assert homeless == []


def test_the_table_itself_keeps_siblings_apart() -> None:
    for room in SIBLINGS:
        others = [other for other in SIBLINGS if other != room]
        assert not any(within(place, other) for place in ROOMS[room] for other in others)


def test_the_table_itself_has_no_way_up() -> None:
    """A room that may import another is not to be imported by it, by whatever detour."""
    tops = {room: {place.split(".")[0] for place in ROOMS[room]} for room in ROOMS}
    for room in ROOMS:
        seen: set[str] = set()
        ahead = [top for top in tops[room] if top != room.split(".")[0]]
        while ahead:
            top = ahead.pop()
            if top not in seen:
                seen.add(top)
                ahead += tops.get(top, set()) - {top}
        assert room.split(".")[0] not in seen, f"{room} can be reached from itself by {seen}"


def test_gevent_is_touched_in_net_alone() -> None:
    touching = [
        f"{module}:{line}"
        for module in MODULES
        for line, name in imports(module)
        if name.split(".")[0] in ("gevent", "greenlet") and not within(module, "net")
    ]
    assert touching == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param("import gevent", 1, id="at the top"),
        pytest.param("def f():\n    import gevent.event", 1, id="inside a function"),
        pytest.param("if TYPE_CHECKING:\n    from gevent import Timeout", 1, id="for types alone"),
        pytest.param("from geproxy.net.stream import READ", 1, id="a room above"),
        pytest.param("from geproxy import net", 1, id="a room above, by the package's name"),
        pytest.param("import socket", 1, id="a socket where bytes are turned"),
        pytest.param("from geproxy.terms import Endpoint\nimport enum", 0, id="what is allowed"),
    ],
)
def test_the_reader_of_imports_sees(
    source: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "geproxy" / "wire").mkdir(parents=True)
    (tmp_path / "geproxy" / "wire" / "probe.py").write_text(source)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "geproxy")
    assert len(list(faults("wire.probe"))) == expected


def test_no_module_is_named_after_nothing() -> None:
    assert [name for name in MODULES if set(name.split(".")) & set(FORBIDDEN_NAMES)] == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.endswith("__init__")])
def test_a_package_file_holds_its_docstring_alone(module: str) -> None:
    docstring, *rest = tree_of(module).body
    assert isinstance(docstring, ast.Expr)
    if module == "__init__":
        version = rest.pop()
        assert isinstance(version, ast.Assign)
        assert ast.unparse(version.targets[0]) == "VERSION"
    assert rest == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short_enough_to_be_read_at_once(module: str) -> None:
    assert len(path_of(module).read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


@pytest.mark.parametrize("module", MODULES)
def test_a_function_is_short_enough_to_be_seen_at_once(module: str) -> None:
    too_long = []
    for node in functions(tree_of(module)):
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        assert node.end_lineno is not None
        if node.end_lineno - first + 1 > MAX_FUNCTION_LINES:
            too_long.append(node.name)
    assert too_long == []


@pytest.mark.parametrize("module", MODULES)
def test_what_is_public_says_what_it_is_for(module: str) -> None:
    tree = tree_of(module)
    assert ast.get_docstring(tree), "the module has no docstring"
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    public = [
        node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.slow
def test_the_command_line_starts_without_gevent() -> None:
    code = """
import sys, geproxy.cli

print([name for name in sys.modules if name.split(".")[0] in ("gevent", "greenlet")])
"""
    assert run_python(code) == "[]\n"


@pytest.mark.slow
def test_the_workers_modules_are_loaded_without_a_hub_or_a_thread() -> None:
    code = """
import os, threading
from gevent._hub_local import get_hub_if_exists
from geproxy.process import worker

worker.preload()
print(get_hub_if_exists(), threading.active_count(), len(os.listdir("/proc/self/task")))
"""
    assert run_python(code) == "None 1 1\n"
