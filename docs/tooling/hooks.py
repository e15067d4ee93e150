"""What the site adds to docs/: the pages of the API, the repository's files that a page links to, search from disk, and
indices set as such.

The sources are read, never imported: the site builds without JAX.
"""

import ast
import json
import posixpath
import re
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
SEARCH = "assets/javascripts/search_from_disk.js"
STYLE = "assets/stylesheets/site.css"
BELOW = "---\nsearch:\n  boost: 0.3\n---\n\n"  # the API is found below pages that are written to be read
UNLISTED = "---\nsearch:\n  exclude: true\n---\n\n"
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
# As the sources write them: κ_1, κ_{1,j}, x_t, |s|^{p−2}, κ^Δ. Names of programs have more than one letter.
BELOW_LINE = re.compile(
    r"(?<![A-Za-z0-9_^])([^\W\d_]\u0302?|∫)"
    r"_(?:\{([^{}]+)\}|(min|max|(?<=[Α-ω]_)[a-z]+|\d+(?:\.\d+)?|[^\W\d_]|∅)(?![A-Za-z0-9_{]))"
)
ABOVE_LINE = re.compile(r"(?<=[\w|)\]}²])\^(?:\{([^{}]+)\}|(Δ|\d+))")
LITERAL = {"code", "pre", "script", "style", "svg"}
PICTURES = {".png", ".jpg", ".svg"}


def flat_root():
    """Names of ``plap_jax.__all__``."""
    for node in ast.parse((ROOT / "plap_jax" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError("plap_jax/__init__.py: must assign __all__")


def submodules():
    """Public modules and packages right under ``plap_jax``."""
    here = ROOT / "plap_jax"
    names = [p.stem for p in here.glob("*.py")] + [p.parent.name for p in here.glob("*/__init__.py")]
    return sorted(name for name in names if not name.startswith("_"))


def api_pages():
    """Markdown of each page of the API, by its path in docs/."""
    names = "\n\n".join(f"::: plap_jax.{name}" for name in flat_root())
    intro = "# plap_jax\n\nEverything that is used daily: `from plap_jax import flux, Diffusion, audit_images, …`.\n\n"
    pages = {"api/plap_jax.md": BELOW + intro + names + "\n"}
    for name in submodules():
        body = f"{BELOW}# plap_jax.{name}\n\n::: plap_jax.{name}\n    options:\n      show_root_heading: false\n"
        inner = sorted(
            ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for path in (ROOT / "plap_jax" / name).rglob("*.py")
            if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)
        )
        pages[f"api/{name}.md"] = body + "".join(f"\n::: {module}\n" for module in inner)
    return pages


def on_config(config):
    """Pages of the API at the end of the menu; the script of search before the theme's own."""
    config.extra["polyfills"] = [SEARCH]
    config.extra_css.append(STYLE)
    reference = next(part["Reference"] for part in config.nav if "Reference" in part)
    reference.append({"plap_jax": "api/plap_jax.md"})
    reference.append({"Submodules": [{f"plap_jax.{name}": f"api/{name}.md"} for name in submodules()]})
    return config


def on_files(files, config):
    """Add pages of the API, a style sheet, and what the pages link to outside docs/."""
    files.append(File.generated(config, STYLE, abs_src_path=str(Path(__file__).parent / "site.css")))
    for path, text in api_pages().items():
        files.append(File.generated(config, path, content=text))
    queue = [(file.src_uri, file.content_string) for file in files.documentation_pages() if "api/" not in file.src_uri]
    while queue:
        page, text = queue.pop()
        for target in outside(page, text):
            uri = place(target)
            if files.get_file_from_path(uri) is not None:
                continue
            if target.suffix in PICTURES:
                files.append(File.generated(config, uri, abs_src_path=str(target)))
                continue
            content = shown(target)
            files.append(File.generated(config, uri, content=content))
            queue.append((uri, content))
    return files


@event_priority(-100)  # when the search plugin has written its index
def on_post_build(config):
    """Index and worker of the search as scripts, the only files that a page from disk may load."""
    site = Path(config.site_dir)
    index = (site / "search" / "search_index.json").read_text()
    (site / "search" / "search_index.js").write_text(f"var __index = {index};\n")
    (worker,) = (site / "assets" / "javascripts" / "workers").glob("search.*.js")
    source = re.sub(r"//# sourceMappingURL=.*", "", worker.read_text())
    script = (Path(__file__).parent / "search_from_disk.js").read_text()
    (site / SEARCH).write_text(script.replace("__SOURCE__", json.dumps(source)))


@event_priority(-100)  # when the search plugin has read the page as it is written
def on_page_context(context, page, **_):
    """Indices below and exponents above the line, in the page and in its table of contents."""
    page.content = typeset(page.content)
    entries = list(page.toc)
    while entries:
        entry = entries.pop()
        entry.title = typeset(entry.title)
        entries.extend(entry.children)


def typeset(html):
    """HTML whose text, outside code, has ``<sub>`` and ``<sup>`` for ``_`` and ``^`` of formulas."""
    parts, inside = re.split(r"(<[^>]+>)", html), []
    for at, part in enumerate(parts):
        tag = re.match(r"<(/?)(\w+)", part) if at % 2 else None
        if tag and tag[2] in LITERAL:
            inside = inside[:-1] if tag[1] else [*inside, tag[2]]
        elif at % 2 == 0 and not inside:
            parts[at] = with_indices(part)
    return "".join(parts)


def with_indices(text):
    """Text with its indices and exponents as HTML, also indices of indices."""
    text = ABOVE_LINE.sub(lambda m: f"<sup>{with_indices(m[1] or m[2])}</sup>", text)
    return BELOW_LINE.sub(lambda m: f"{m[1]}<sub>{with_indices(m[2] or m[3])}</sub>", text)


def on_page_markdown(markdown, page, **_):
    """Send links that leave docs/ to the copies of what they name."""
    return relink(page.file.src_uri, markdown)


def source_of(page):
    """Path in the repository of what a page shows; relative links in it start there."""
    if not page.startswith("files/"):
        return f"docs/{page}"
    name = page.removeprefix("files/")
    return name if (ROOT / name).exists() else name.removesuffix(".md")


def outside(page, text):
    """Files and folders of the repository, outside docs/, that a page links to."""
    if page.startswith("api/"):
        return
    for match in LINK.finditer(text):
        target = (ROOT / source_of(page)).parent.joinpath(match[1]).resolve()
        if target.exists() and target.is_relative_to(ROOT) and not target.is_relative_to(ROOT / "docs"):
            yield target


def place(target):
    """Where the copy of a file or folder of the repository stands in docs/."""
    name = target.relative_to(ROOT).as_posix()
    return f"files/{name}" if target.suffix in {*PICTURES, ".md"} else f"files/{name}.md"


def shown(target):
    """A page with a file, or with all files of a folder; Markdown as itself."""
    name = target.relative_to(ROOT).as_posix()
    if target.suffix == ".md":
        return target.read_text()
    paths = sorted(p for p in target.iterdir() if p.suffix in {".py", ".yaml"}) if target.is_dir() else [target]
    parts = [f"{UNLISTED}# {name}\n"]  # code would be most of what a search finds
    for path in paths:
        title = f"\n## {path.name}\n" if target.is_dir() else ""
        parts.append(f"{title}\n````{path.suffix.lstrip('.')}\n{path.read_text()}````\n")
    return "".join(parts)


def relink(page, text):
    """The page's Markdown with every link into the repository led to where the site has it."""
    if page.startswith("api/"):
        return text
    here = posixpath.dirname(page) or "."

    def led(match):
        target = (ROOT / source_of(page)).parent.joinpath(match[1]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return match[0]
        docs = ROOT / "docs"
        if target == docs / "decisions":
            uri = "decisions/index.md"
        else:
            uri = target.relative_to(docs).as_posix() if target.is_relative_to(docs) else place(target)
        return f"]({posixpath.relpath(uri, here)}{match[2] or ''})"

    return LINK.sub(led, text)
