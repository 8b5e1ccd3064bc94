"""The notebook runs, from its own folder and from the repository's root, and is stored without output."""

from __future__ import annotations

from pathlib import Path

import pytest
from common import ROOT

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

NOTEBOOKS = sorted((ROOT / "examples" / "python").glob("*.ipynb"))


@pytest.mark.parametrize("folder", [ROOT, ROOT / "examples" / "python"], ids=["root", "own-folder"])
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(notebook: Path, folder: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(
        content, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    print(f"{notebook.name}: {len(outputs)} outputs of kinds {sorted(kinds)}")
    assert {"image/png", "text/html"} <= kinds


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_stored_without_output(notebook: Path) -> None:
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS
