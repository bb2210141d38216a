"""Where the notebooks can be opened in a browser: Binder and Colab, in the README, on the site and in `open.md`.

The address of the repository is set here, and only here. `make launch` writes it everywhere.
"""

from fustal import ROOT
from fustal.tools.sweeps.tables import insert

REPOSITORY = ""
"""Address of the repository, such as https://github.com/OWNER/NAME; empty: not known yet."""

BRANCH = "main"
FIRST = "notebooks/00_the_task.ipynb"
BINDER = "https://mybinder.org"
COLAB = "https://colab.research.google.com"
PAGES = (ROOT / "README.md", ROOT / "docs" / "open.md")


def badges(repository: str = REPOSITORY) -> str:
    """Markdown: buttons that open the first notebook in Binder and in Colab.

    >>> badges("https://github.com/a/b").count("](https://")
    4
    >>> badges("")[:64]
    'Binder and Colab: no address of the repository is known yet. Set'
    """
    if not repository:
        return (
            "Binder and Colab: no address of the repository is known yet. "
            "Set `REPOSITORY` in `docs/launch.py`, then `make launch`."
        )
    name = repository.removeprefix("https://github.com/")
    binder = f"{BINDER}/v2/gh/{name}/{BRANCH}?urlpath=lab/tree/{FIRST}"
    colab = f"{COLAB}/github/{name}/blob/{BRANCH}/{FIRST}"
    return (
        f"[![Open in Binder]({BINDER}/badge_logo.svg)]({binder}) "
        f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({colab})"
    )


def colab_cell(repository: str = REPOSITORY) -> str:
    """Markdown: the first cell of a notebook in Colab, which installs this repository there.

    >>> print(colab_cell("https://github.com/a/b"))
    ```
    !git clone --quiet --depth 1 https://github.com/a/b.git fustal
    %pip install --quiet --editable ./fustal
    ```
    """
    address = repository or "ADDRESS"
    lines = (f"!git clone --quiet --depth 1 {address}.git fustal", "%pip install --quiet --editable ./fustal")
    return "\n".join(("```", *lines, "```"))


def theme_options(repository: str = REPOSITORY) -> dict[str, object]:
    """Options of the site's theme: buttons on each page that open it in Binder or Colab."""
    if not repository:
        return {}
    buttons = {"binderhub_url": BINDER, "colab_url": COLAB, "notebook_interface": "jupyterlab"}
    return {
        "repository_url": repository,
        "repository_branch": BRANCH,
        "path_to_docs": "docs",
        "use_repository_button": True,
        "launch_buttons": buttons,
    }


def main() -> None:
    """Writes the buttons and the cell between the markers of the pages."""
    for page in PAGES:
        insert(badges(), page, "launch")
    insert(colab_cell(), PAGES[1], "colab")


if __name__ == "__main__":
    main()
