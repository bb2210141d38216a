"""The form of the notebooks: parameters, sections, exercises and figures, which each of them must have."""

import ast
import re
import typing

import nbformat
import pytest

from fustal import ROOT
from fustal.params import STAGE_PARAMS, Params, SharedParams
from fustal.runs.chain import CHAIN

NOTEBOOKS = {stage.name: ROOT / "notebooks" / stage.notebook for stage in CHAIN.values()}
OTHERS = ("00_the_task", "06_ablations", "extra_from_video", "extra_own_data")
NOTEBOOKS |= {name: ROOT / "notebooks" / f"{name}.ipynb" for name in OTHERS}
ORDER = sorted(path.name for path in NOTEBOOKS.values())
WORDS = {"extra_own_data": (1500, 2500), "extra_from_video": (1500, 2500)}
"""Least and most words of text; 2,000 to 3,500 for a chapter."""
COLUMNS = 84
"""JupyterLab cuts longer lines of code at its usual width."""
KINDS = {"Predict", "Modify", "Extend"}
SOURCES = r"\]\((?:https?://(?:arxiv|doi|www\.jstor|openaccess|crcv|proceedings)[^)]+)\)"


@pytest.fixture(params=NOTEBOOKS, ids=[path.name for path in NOTEBOOKS.values()])
def stage(request):
    return request.param


@pytest.fixture
def notebook(stage):
    return nbformat.read(NOTEBOOKS[stage], as_version=4)


def _markdown(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def _code(notebook, *, exercises=True):
    """The code cells without the parameters, and perhaps without exercises and solutions."""
    without = {"parameters"} if exercises else {"parameters", "exercise", "solution"}
    return [
        cell for cell in notebook.cells if cell.cell_type == "code" and not without & set(cell.metadata.get("tags", []))
    ]


def _parameters(notebook):
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


def test_is_a_valid_python3_notebook(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_parameters_are_folded(notebook):
    (cell,) = _parameters(notebook)
    assert cell.metadata.tags == ["parameters", "hide-input"]
    assert cell.metadata.jupyter.source_hidden


def test_parameters_agree_with_params(notebook, stage):
    (cell,) = _parameters(notebook)
    found = {}
    for line in cell.source.splitlines():
        name, kind, default, comment = re.fullmatch(r"(\w+): (\w+) = (.+?)  # (.+)", line).groups()
        found[name] = kind, eval(default, {}), comment
    if stage not in CHAIN:
        return  # no stage of a run: it has parameters of its own
    fields = SharedParams.model_fields | STAGE_PARAMS[stage].model_fields
    assert list(found) == list(fields)
    for name, (kind, default, comment) in found.items():
        expected = fields[name].annotation
        assert kind == ("str" if typing.get_origin(expected) is typing.Literal else expected.__name__), name
        assert (type(default).__name__, default) == (kind, Params.model_fields[name].default), name
        assert comment.startswith(fields[name].description), name


def test_no_cell_takes_the_name_of_a_parameter(notebook, stage):
    """Otherwise the cell that opens a stage could not run twice: it reads its parameters by their names."""
    (cell,) = _parameters(notebook)
    taken = {line.split(":")[0] for line in cell.source.splitlines()}
    if stage in CHAIN:
        taken |= set(Params.model_fields)
    for other in notebook.cells:
        if other.cell_type == "code" and other != cell:
            assert not assigned_names(other.source) & taken, other.source


def assigned_names(source):
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_only_exercises_follow_the_cell_that_finishes_a_stage(notebook, stage):
    """After an error in a later cell the stage would count as done."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    after = [i for i, cell in enumerate(code) if "stage.finish()" in cell.source]
    assert len(after) == (stage in CHAIN)
    for cell in code[after[0] + 1 :] if after else []:
        assert "skip-execution" in cell.metadata.tags, cell.source


def test_headings_are_in_order(notebook, stage):
    number = NOTEBOOKS[stage].name.split("_")[0].lstrip("0").title() or "0"
    lines = "\n".join(_markdown(notebook)).splitlines()
    headings = [line for line in lines if re.match(r"#+ ", line)]
    assert re.match(rf"# {number} · \S", headings[0])
    assert not any(heading.startswith("# ") for heading in headings[1:]), "one H1"
    titles = [heading.removeprefix("## ") for heading in headings if heading.startswith("## ")]
    sections = [title for title in titles if re.match(r"\d", title)]
    chapter = f"{number}." if number.isdigit() else ""
    assert [title.split()[0] for title in sections] == [f"{chapter}{i}" for i in range(1, len(sections) + 1)]
    assert titles == ["Parameters", *sections, "Checks", "What was written", "Exercises", "Recap"]
    lower = headings[headings.index("## Exercises") + 1 : headings.index("## Recap")]
    assert [heading.split()[0] for heading in lower] == ["###", "####"] * (len(lower) // 2), "no level skipped"
    assert len(headings) == 1 + len(titles) + len(lower)


def test_begins_with_learning_goals_and_requirements(notebook):
    first = _markdown(notebook)[0]
    assert "You will learn to" in first
    assert len(re.findall(r"^- [a-z]", first, re.M)) == 3
    assert "| needs | produces | cost" in first


def test_states_reading_time_and_prerequisites(notebook):
    first = _markdown(notebook)[0]
    assert re.search(r"\*\*Reading time:?\*\*:? about \d+ min", first), "words / 200, and time for the exercises"
    assert "exercises" in first
    assert re.search(r"\*\*Before you read:?\*\*", first)


def words_of(notebook):
    """The number of words of the text, without formulas, pictures and targets of links."""
    text = "\n".join(_markdown(notebook))
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$|!\[.*?\]\(.*?\)", " ", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return len(re.findall(r"\S*[^\W\d_]\S*", text))


def test_formulas_and_targets_of_links_are_no_words():
    cells = [
        nbformat.v4.new_markdown_cell("Two [words](https://arxiv.org/abs/x): $$a\n= b$$ ![alt text](p.png) $c$ 3 |")
    ]
    assert words_of(nbformat.v4.new_notebook(cells=cells)) == 2


def test_is_as_long_as_a_chapter(notebook, stage):
    least, most = WORDS.get(stage, (2000, 3500))
    assert least <= words_of(notebook) <= most


def test_cites_its_sources(notebook):
    assert len(set(re.findall(SOURCES, "\n".join(_markdown(notebook))))) >= 2


def test_figures_are_numbered_and_have_captions(notebook, stage):
    """A caption begins with its number: `**Figure 3.1.**`. It stands below a figure, or below a picture of a file."""
    number = NOTEBOOKS[stage].name.split("_")[0].lstrip("0") or "0"
    chapter = f"{number}." if number.isdigit() else r"(?:E\.)?"
    captions = re.findall(rf"^\*\*Figure {chapter}(\d+)\.\*\*", "\n".join(_markdown(notebook)), re.M)
    assert len(captions) >= 3
    assert [int(caption) for caption in captions] == list(range(1, len(captions) + 1))
    shown = False
    for cell in notebook.cells:
        if cell in _code(notebook, exercises=False) and re.search(r"\bviz\.(show|explore)\(", cell.source):
            shown = True
        elif cell.cell_type == "markdown":
            assert not shown or cell.source.startswith("**Figure "), cell.source
            for picture in re.finditer(r"^!\[.*$\n+(.*)$", cell.source, re.M):
                assert picture[1].startswith("**Figure "), picture[0]
            shown = False


def test_lines_of_code_are_seen_whole(notebook):
    for cell in _code(notebook):
        for line in cell.source.splitlines():
            assert len(line) <= COLUMNS, line


def test_exercises_have_solutions_that_fit(notebook):
    kinds = []
    for i, cell in enumerate(notebook.cells):
        exercise = re.match(r"### (\d) · (\w+)\n", cell.source)
        if exercise:
            stub, heading, solution = notebook.cells[i + 1 : i + 4]
            assert stub.metadata.tags == ["exercise", "skip-execution"], "papermill and nbclient skip them"
            assert solution.metadata.tags == ["solution", "skip-execution", "hide-cell"]
            assert heading.source == "#### Solution"
            # JupyterLab opens hidden outputs when it runs all cells, and leaves a folded heading as it is
            assert heading.metadata["jp-MarkdownHeadingCollapsed"]
            assert missing_from(solution.source, stub.source) == []
            assert last_call(stub.source).startswith("viz.check("), "the answer is checked"
            assert last_call(solution.source).startswith("viz.check(")
            kinds.append(exercise[2])
            assert int(exercise[1]) == len(kinds)
    assert 3 <= len(kinds) <= 5
    assert set(kinds) == KINDS
    stubs = [cell for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])]
    assert len(stubs) == len(kinds), "each stub has a text"


def last_call(source):
    """The last statement of a cell."""
    return ast.unparse(ast.parse(source).body[-1])


def missing_from(solution, stub):
    """Lines of a stub that its solution does not have in the same order; of a line "your turn" only the name counts."""
    beginnings = []
    for line in stub.splitlines():
        beginnings.append(line.split(" = ")[0] + " = " if "# your turn" in line else line)
    assert any(beginning.endswith(" = ") for beginning in beginnings), "the stub has a line to complete"
    missing = []
    left = iter(solution.splitlines())  # each search continues after the line that was found last
    for beginning in beginnings:
        if not any(line.startswith(beginning) for line in left):
            missing.append(beginning)
    return missing


def test_a_stub_that_does_not_fit_is_found():
    stub = "x = None  # your turn\nprint(x)"
    assert missing_from("y = 1\nx = y\nprint(x)\nassert x", stub) == []
    assert missing_from("y = 1\nprint(y)", stub) == ["x = ", "print(x)"]
    assert missing_from("print(x)\nx = 1", stub) == ["print(x)"]


def test_links_lead_to_notebooks(notebook):
    for target in re.findall(r"\]\((\w+\.ipynb)\)", "\n".join(_markdown(notebook))):
        assert (ROOT / "notebooks" / target).exists()


def questions_of(notebook):
    """The questions for self-check: a list at the end, numbered 1. or (1)."""
    recap = "\n".join(_markdown(notebook)).rpartition("## Recap")[2]
    return re.findall(r"^\d\. |\(\d\) (?=[A-Z])", recap, re.M)


def test_the_page_for_teachers_has_all_answers(notebook, stage):
    name = NOTEBOOKS[stage].name
    titles = {"extra_own_data": "Extra · Your own data", "extra_from_video": "Extra · From a video file"}
    title = titles.get(stage, f"{name.split('_')[0]} · ")
    page = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    section = page.split(f"\n### {title}")[1].split("\n## ")[0].split("\n### ")[0]
    questions, _, exercises = section.partition("\nExercises\n")
    assert len(re.findall(r"^\d\. ", questions, re.M)) == len(questions_of(notebook))
    stubs = [cell for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])]
    assert len(re.findall(r"^\d\. ", exercises, re.M)) == len(stubs)


def test_recap_has_summary_and_questions_and_leads_to_the_neighbours(notebook, stage):
    recap = "\n".join(_markdown(notebook)).rpartition("## Recap")[2]
    assert len(re.findall(r"^[-*] ", recap, re.M)) >= 3, "a summary as bullets"
    assert 3 <= len(questions_of(notebook)) <= 5, "questions to check oneself"
    place = ORDER.index(NOTEBOOKS[stage].name)
    for neighbour in [*ORDER[max(place - 1, 0) : place], *ORDER[place + 1 : place + 2]]:
        assert f"]({neighbour})" in recap


def test_every_image_has_alt_text(notebook):
    for text in _markdown(notebook):
        assert all(alt.strip() for alt in re.findall(r"!\[(.*?)\]\(", text))
        assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", text))
    shown = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "viz." in cell.source]
    assert shown, "a notebook has figures"
    for source in shown:
        assert "plt." not in source, "figures come from fustal.viz"
        assert "pyplot" not in source


def test_cells_are_short_and_without_stray_outputs(notebook):
    for cell in notebook.cells:
        if cell.cell_type != "code" or "parameters" in cell.metadata.get("tags", []):
            continue
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith(("import", "from"))]
        assert len(lines) <= 20, cell.source
        if "keep_output" not in cell.metadata.get("tags", []):
            assert not cell.outputs
            assert cell.execution_count is None
