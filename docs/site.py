"""What the site has beside the pages in this folder: the README and its like, the reference, sources, MathML.

mkdocs calls the functions named on_...; `make docs` builds the site.
"""

import ast
import html
import inspect
import io
import json
import os
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import typer
from math_core import LatexToMathML
from mkdocs.structure.files import File, Files
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import ddcli  # noqa: E402
from ddcli.cli import EXIT_CODES, app  # noqa: E402
from ddcli.config import Config  # noqa: E402

# files of the repository that are pages of the site
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)((?:#[^)\s]*)?\))")

# what a plug-in is made of, in the order it is met
PROTOCOLS = {
    "Noise": ["process.base.Process", "process.interpolating.Interpolating", "process.matrix.Generator"],
    "Vocabulary": ["process.base.Vocabulary"],
    "Schedules": ["schedule.Schedule"],
    "Samplers": ["sampler.base.Sampler", "sampler.base.Step", "sampler.ordered.Ordered"],
    "Networks": ["backbones.network.Network", "denoiser.Backbone", "denoiser.Denoiser"],
    "The loop": ["generate.generate"],
}
# what the keyword arguments of the methods of a model are
OPTIONS = ["sampling.samples", "filling.infill", "filling.Fill", "model.SamplerSettings", "evaluation.Bound"]


# -- pages --------------------------------------------------------------------------------------------------


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in this folder, and the sources that pages link to."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in ROOT_PAGES.items()}
    made |= {
        "reference/cli.md": command_reference(),
        "reference/settings.md": settings_reference(),
        "reference/python.md": python_reference(),
        "reference/protocols.md": protocol_reference(),
    }
    texts = made | {f.src_uri: f.content_string for f in files.documentation_pages()}
    for page, text in list(texts.items()):
        for path in linked(page, text):
            if path.is_file() and not path.is_relative_to(ROOT / "docs") and path.name not in ROOT_PAGES:
                made[source_page(path)] = source(path)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def home(page: str) -> Path:
    """The folder that links of a page start from."""
    return ROOT if page in ROOT_PAGES.values() else (ROOT / "docs" / page).parent


def linked(page: str, text: str) -> Iterator[Path]:
    """What a page links to in the repository."""
    for link in LINK.finditer(text):
        yield Path(os.path.normpath(home(page) / link[2]))


def source_page(path: Path) -> str:
    return f"source/{path.relative_to(ROOT)}.md"


def source(path: Path) -> str:
    """A page with a file of the repository."""
    language = {".py": "python", ".toml": "toml"}.get(path.suffix, "text")
    shown = path.read_text(encoding="utf-8").rstrip()
    name = path.relative_to(ROOT)
    return f"---\nsearch:\n  exclude: true\n---\n# {name}\n\n`````{language}\n{shown}\n`````\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to where the site has what the repository has."""
    uri = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        path = Path(os.path.normpath(home(uri) / link[2]))
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
        if name in ROOT_PAGES:
            target = ROOT_PAGES[name]
        elif name.startswith("docs/"):
            target = name.removeprefix("docs/")
        elif path.is_file():
            target = source_page(path)
        else:
            return link[0]
        return f"{link[1]}{os.path.relpath(target, Path(uri).parent)}{link[3]}"

    return LINK.sub(moved, markdown)


# -- tables and formulas ------------------------------------------------------------------------------------

CELL = re.compile(r"<td.*?</td>", re.S)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
MATHML = LatexToMathML()


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves. One that cannot be read ends the build.

    In tables a figure is not parted from its error.
    """

    def drawn(formula: re.Match[str]) -> str:
        display = formula[2] == "["
        mathml = MATHML.convert_with_local_state(html.unescape(formula[3]).strip(), displaystyle=display)
        return f'<div class="formula">{mathml}</div>' if display else mathml

    todo = list(page.toc)
    while todo:  # titles there are plain text
        entry = todo.pop()
        entry.title = re.sub(r"\\\((.*?)\\\)", r"\1", entry.title)
        todo += entry.children
    content = CELL.sub(lambda cell: cell[0].replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"), content)
    return FORMULA.sub(drawn, content)


# -- reference ----------------------------------------------------------------------------------------------


def command_reference() -> str:
    """Every command with its arguments and options, as the command line itself knows them."""
    group = typer.main.get_command(app)
    context = group.make_context("ddcli", [], resilient_parsing=True)
    lines = [
        "# Command line",
        "",
        "What `ddcli COMMAND --help` says. Text and JSON go to stdout, the conversation to stderr. "
        f"{' '.join(EXIT_CODES.split())} What is given by `--set` is in [settings](settings.md).",
    ]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.make_context(f"ddcli {name}", [], parent=context, resilient_parsing=True)
        first, *rest = [part.strip() for part in (command.help or "").split("\n\n")]
        usage = " ".join(command.collect_usage_pieces(inner))
        lines += ["", f"## ddcli {name}", "", _prose(first), "", "```text", f"ddcli {name} {usage}", "```"]
        for part in rest:
            example = re.match(r"(echo .*\| )?ddcli ", part)
            lines += ["", *(["```sh", part, "```"] if example else [_prose(part)])]
        lines += ["", "| argument or option | what it does |", "|---|---|"]
        for parameter in command.get_params(inner):
            record = parameter.get_help_record(inner)
            if record is not None:
                lines.append(f"| `{record[0]}` | {_prose(record[1])} |")
    return "\n".join(lines) + "\n"


def _prose(text: str) -> str:
    """Plain text as Markdown: what looks like markup is none."""
    return re.sub(r"([\[\]<>*_|])", r"\\\1", " ".join(text.replace("\b", "").split()))


def settings_reference() -> str:
    """Every setting of a training, what it is if nothing is said, and the comment beside it in the code."""
    lines = [
        "# Settings",
        "",
        "What a recipe may say, and `ddcli train --set SECTION.KEY=VALUE`. `ddcli train ... --dry-run` "
        "prints them all as a run would have them. No default: it is left out, or follows from others.",
    ]
    for section, field in Config.model_fields.items():
        kind = field.annotation
        told = comments_of(kind)
        lines += ["", f"## {section}", "", "| setting | default | |", "|---|---|---|"]
        for name, setting in kind.model_fields.items():
            usual = setting.get_default(call_default_factory=True)
            shown = "" if usual is None or usual is PydanticUndefined else f"`{json.dumps(usual)}`"
            lines.append(f"| `{section}.{name}` | {shown} | {_prose(told.get(name, ''))} |")
    return "\n".join(lines) + "\n"


def comments_of(kind: type) -> dict[str, str]:
    """The comment of each field of a class: behind it, or on the lines before it."""
    source = textwrap.dedent(inspect.getsource(kind))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found, lines = {}, source.splitlines()
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            said, line = [comments[line] for line in own if line in comments], node.lineno - 1
            while line in comments and lines[line - 1].lstrip().startswith("#"):
                said.insert(0, comments[line])
                line -= 1
            found[node.target.id] = " ".join(said)
    return found


def python_reference() -> str:
    """What `import ddcli` has, and what its methods take."""
    homes = ddcli._HOMES
    lines = [
        "# Python",
        "",
        "Every command has its twin. Names are loaded when they are first used, so that `import ddcli` costs "
        "nothing. Errors that a user can mend are `DdcliError`.",
    ]
    names = [f"{homes[name]}.{name}" for name in sorted(ddcli.__all__, key=str.lower)]
    lines += [f"\n::: ddcli.{name}" for name in names if not name.endswith("DiffusionTransformer")]
    lines += ["\n## Options of a model's methods", *map(deeper, OPTIONS)]
    return "\n".join(lines) + "\n"


def deeper(name: str) -> str:
    """What is known of a name, below a heading."""
    return f"\n::: ddcli.{name}\n    options:\n      heading_level: 3"


def protocol_reference() -> str:
    """What noise, samplers and networks have to answer."""
    lines = ["# Protocols", "", "What to write to plug something in: [how to](../how-to/plug-in.md)."]
    for title, names in PROTOCOLS.items():
        lines += ["", f"## {title}"]
        lines += map(deeper, names)
    return "\n".join(lines) + "\n"


class Examples(griffe.Extension):
    """Lines of docstrings that begin with >>> are code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = re.sub(r"((?:^>>> .*\n?)+)", r"```python\n\1\n```\n", obj.docstring.value, flags=re.M)
            obj.docstring.value = text
