import ast
from pathlib import Path

import pytest

import tospike

ROOT = Path(tospike.__file__).parent
ORDER = [
    "errors",
    "files",
    "processes",
    "progress",
    "relative_adam",
    "pictures",
    "graph",
    "neurons",
    "history",
    "run",
    "parts",
    "methods",
    "tasks",
    "data",
    "check",
    "calibrate",
    "prepare",
    "refine",
    "differentiable",
    "descend",
    "convert",
    "archive",
    "error_terms",
    "diagnosis",
    "diagnose",
    "result",
    "evaluate",
    "play",
    "energy",
    "testing",
    "export",
    "loop",
    "train",
    "trainable",
    "tune",
    "zoo",
    "report",
    "bench",
    "cli",
]
FILES = sorted(ROOT.rglob("*.py"))


def imports(tree):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tospike."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "tospike":
            yield from (name.name for name in node.names if name.name in ORDER)
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("tospike."))
        yield from imports(node)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_file(file):
    text = file.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    layer = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if layer not in ("__init__", "__main__"):
        assert [name for name in imports(tree) if ORDER.index(name) > ORDER.index(layer)] == []
    public = [
        n
        for n in ast.walk(tree)
        if isinstance(n, (ast.FunctionDef, ast.ClassDef))
        and n
        in [
            *tree.body,
            *(m for c in tree.body if isinstance(c, ast.ClassDef) and not c.name.startswith("_") for m in c.body),
        ]
    ]
    assert [n.name for n in public if not n.name.startswith("_") and not ast.get_docstring(n)] == []
