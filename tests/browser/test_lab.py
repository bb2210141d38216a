"""Every notebook in JupyterLab, in a real browser, as a reader uses it.

All cells run, down to the last one; figures are shown, a slider changes its figure, the folded solution of an exercise
is opened, and the exercise is filled in and checked.

Skipped without Chromium or Playwright; `make test` installs both where it is permitted. Screenshots are kept in
`outputs/screenshots`, or in the folder `FUSTAL_SCREENSHOTS`.
"""

import itertools
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from fustal import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="pip install '.[browser]'")
pytestmark = pytest.mark.usefixtures("browser")  # without it, nothing here is started

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
SCREENSHOTS = Path(os.environ.get("FUSTAL_SCREENSHOTS", ROOT / "outputs" / "screenshots"))
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # keep cells that are scrolled out of sight
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false"},
}
PATIENCE = 600
"""Maximum number of seconds for a notebook; on an idle machine those of the demo take a minute."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """URL of a JupyterLab with copies of the notebooks and its own folder of runs."""
    home = tmp_path_factory.mktemp("lab")
    for folder in ("notebooks", "docs/real"):
        shutil.copytree(ROOT / folder, home / folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = os.environ | {"FUSTAL_OUTPUTS": str(home / "outputs"), "JUPYTER_CONFIG_DIR": str(home / "config")}
    for name in ("FUSTAL_STATIC", "TQDM_DISABLE"):
        environment.pop(name, None)
    for plugin, setting in SETTINGS.items():
        file = home / "settings" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(setting), encoding="utf-8")
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    options = ["--no-browser", "--allow-root", f"--port={port}", f"--IdentityProvider.token={token}"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={home}"]
    with open(home / "log", "w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        url = f"http://127.0.0.1:{port}/lab/tree/notebooks/{{}}?token={token}&reset"
        try:
            wait_for(url.format(""), home / "log")
            yield url
        finally:
            server.terminate()


def wait_for(url, log):
    for _ in range(600):
        try:
            return urllib.request.urlopen(url, timeout=10).close()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_in_the_browser(lab, browser, name):
    page = browser.new_page(viewport={"width": 1200, "height": 1600})
    open_notebook(page, lab.format(name))
    run_all(page)
    sources = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    cells = page.locator(".jp-NotebookPanel .jp-Cell")
    try:
        assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
        assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
        for place, cell in enumerate(sources):
            if cell.cell_type == "code" and re.search(r"^viz\.(show|explore)\(", cell.source, re.M):
                check_figure(cells.nth(place))
        for place, cell in enumerate(sources):
            if "viz.explore(" in cell.source:
                check_control(cells.nth(place))
        for place, cell in enumerate(sources):
            if cell.cell_type == "markdown" and "](../docs/real/" in cell.source:
                check_figure(cells.nth(place))
        first = next(place for place, cell in enumerate(sources) if "exercise" in cell.metadata.get("tags", []))
        for place, cell in enumerate(sources):
            if "solution" in cell.metadata.get("tags", []):
                assert cells.nth(place).is_hidden(), "a solution that is shown before it is asked for"
        check_solution(cells.nth(first + 1), cells.nth(first + 2), sources[first + 2].source)
        check_exercise(page, cells.nth(first), sources[first + 2].source)
        cells.last.scroll_into_view_if_needed()
        assert cells.count() == len(sources)
        assert "Recap" in cells.last.inner_text()
    finally:
        keep_screenshots(page, Path(name).stem)
        page.close()


def open_notebook(page, url):
    """Waits for the kernel of the notebook; loads the page a second time if JupyterLab does not notice the kernel."""
    for last in (False, True):
        page.goto(url)
        try:
            return page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)
        except playwright.TimeoutError:
            if last:
                raise


def run_all(page):
    """Runs all cells and waits until the kernel is idle and no cell waits for it."""
    page.wait_for_timeout(1000)  # the notebook is connected to its kernel a little later
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    done = """() => {
        const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent);
        return prompts.length && !prompts.some(text => text.includes('*') || text === '[ ]:');
    }"""
    page.wait_for_function(done, timeout=1000 * PATIENCE)


def keep_screenshots(page, stem):
    """Screenshots of the whole notebook, from top to bottom."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for old in SCREENSHOTS.glob(f"{stem}_*.png"):
        old.unlink()
    panel = page.locator(".jp-NotebookPanel .jp-WindowedPanel-outer")
    bottom = "cell => cell.getBoundingClientRect().bottom - window.innerHeight"
    panel.evaluate("panel => panel.scrollTop = 0")
    for number in itertools.count():
        page.wait_for_timeout(500)
        page.screenshot(path=SCREENSHOTS / f"{stem}_{number:02d}.png")
        if page.locator(".jp-NotebookPanel .jp-Cell").last.evaluate(bottom) <= 0:
            return
        panel.evaluate("panel => panel.scrollTop += panel.clientHeight - 80")


def check_figure(cell):
    """The cell shows an image that has been drawn, with an alt text."""
    cell.scroll_into_view_if_needed()
    image = cell.locator("img").first
    image.wait_for(timeout=30_000)
    assert image.evaluate("image => image.complete && image.naturalWidth") > 100
    assert len(image.get_attribute("alt")) > 20


def check_control(cell):
    """The first control changes the figure."""
    cell.scroll_into_view_if_needed()
    image = cell.locator("img").first
    before = image.get_attribute("src")
    slider = cell.locator(".noUi-handle")
    if slider.count():
        slider.first.focus()
        value = float(slider.first.get_attribute("aria-valuenow"))
        maximum = float(slider.first.get_attribute("aria-valuemax"))
        slider.first.press("ArrowLeft" if value == maximum else "ArrowRight")
    else:
        picker = cell.locator("select").first
        picker.select_option(index=1)
    for _ in range(100):
        if image.get_attribute("src") != before:
            return
        time.sleep(0.1)
    raise AssertionError("the figure did not change")


def check_solution(heading, cell, source):
    """A solution is below a folded heading; a click on "1 cell hidden" shows it."""
    heading.scroll_into_view_if_needed()
    heading.locator(".jp-showHiddenCellsButton").click()
    shown = cell.locator(".cm-content")
    shown.wait_for(timeout=30_000)
    assert "".join(shown.inner_text().split()) == "".join(source.split())


def check_exercise(page, cell, solution):
    """The exercise has no right answer yet; with the lines of the solution it is right."""
    output = cell.locator(".jp-OutputArea")
    assert "Right." not in output.inner_text()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(solution)
    page.keyboard.press("Control+Enter")
    output.get_by_text("Right.").wait_for(timeout=1000 * PATIENCE)
