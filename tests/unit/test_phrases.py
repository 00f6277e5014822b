"""Texts read as plain English.

The test looks for phrases that read like a translation, in every text of the project: strings,
docstrings and comments of the package, templates, and documents. It looks for phrases and not for
single words: "behind nginx" is English, "goes on behind a record" is not. Run
``python -m tests.unit.test_phrases`` to list them.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")

#: Each phrase, as a regular expression over text with single spaces, and what to write instead.
PHRASES = {
    r"(is|are|was|were|be) (not )?taken( (?!from|away|down|out|offline|as|by)|[.;,])": "accepted",
    r"is taken by another": "already used",
    r"taken for (a|an|the)\b": "mistaken for, treated as",
    r"go(es)? on\b(?! (call|hold|strike))": "continue",
    r"went on\b": "continued",
    r"behind (it|this|that|which|one|its|sigterm|ctrl)\b": "after",
    r"behind the (url|last|newline|job|\?)": "after",
    r"behind a (record|line|full|claim|start)\b": "after",
    r"(is|are|was|were|be|been|stays?|goes|known to be) away\b": "unreachable, unavailable",
    r"take the # away": "remove the #",
    r"stands? (there|in|on|beside|at)\b": "is, appears",
    r"has to stand": "must be",
    r"(?<!there )(is|are) no (urls?|roles?|texts?|names?|times?|numbers?)\b": "is not a",
    r"(?<!there )(is|are) no (options?|objects?|proof|receiver)\b": "is not a",
    r"(is|are|be|was|were|been) told\b": "is notified, is reported",
    r"(told|tells?|telling|hears?) of\b": "reports, describes",
    r"whom? to tell": "who is notified",
    r"nobody of\b": "none of",
    r"used up\b": "out of retries",
    r"whoever\b": "anyone who, the user who",
    r"in vain\b": "without success",
    r"(is|are) at fault\b": "is wrong",
    r"all (the )?faults\b": "all errors",
    r"(is|are) (not )?well\b": "healthy, available",
    r"(send|take|follow|give) it as it is\b": "uncompressed, unchanged",
    r"has to say about": "reports about",
    r"(is|are) (not )?answered here": "supported",
    r"(may|can|could|is|are|to) be had\b": "available",
    r"(is|are) given nothing\b": "gets no executions",
    r"(is|are) in order\b": "consistent",
    r"from which on\b": "after which",
    r"count(s|ed)? up\b": "increments",
    r"\bs are over\b": "have passed",
    r"(told|tell|known|say) by whom": "who",
    r"as many as it may": "the most it may",
    r"holds? (a|an|no|half) (slash|nul|line break|control|character|user|blank|of)": "contains",
    r"exclude each other": "cannot be used together",
    r"(is|are) believed\b": "trusted",
    r"\ba text\b(?! (file|frame|editor|node|area|field|stream|index))": "a string, text",
    r"\b(a blank|by blanks)\b": "a space, by spaces",
    r"no longer ours": "owned by another instance",
    r"(cannot|can|could not) be told\b": "is not known",
    r"(has|have) nothing to lose": "cannot lose",
    r"again and again": "repeatedly",
    r"(lie|lies|lay) beside": "next to",
    r"out there\b": "elsewhere",
    r"is over once": "ends when",
    r"so (many|often) (seconds|times) (after|on)": "for this many seconds",
    r"look(ed)? at before": "checked first",
    r"a name without a colon": "a user name without a colon",
    r"(does|do) not end by (itself|themselves)": "runs until it is stopped",
    r"of what it is made": "what it consists of",
    r"(made|makes?) void\b": "invalidates",
    r"(passed|passes) over\b": "skipped, ignored",
    r"(seen|known) to be (gone|over)\b": "has ended",
    r"(the|a) wait broke\b|wait for a run broke": "failed",
    r"(broke|breaks) in the middle": "failed part-way",
    r"what (it|they) (is|are) asked\b": "the request",
    r"nearest one is": "did you mean",
    r"such as it is\b": "as is",
    r"farms? (of the configuration )?takes? (a|the|its|task|no|all)\b": "matches",
    r"whose time has (not )?come": "due",
    r"in whatever way": "however",
    r"that nobody speaks": "unknown",
}
PATTERNS = {re.compile(rf"\b{phrase}", re.IGNORECASE): better for phrase, better in PHRASES.items()}


ANY = re.compile("|".join(rf"\b(?:{phrase})" for phrase in PHRASES), re.IGNORECASE)
"""Found in a text that has any of the phrases; one search is faster than one for each phrase."""


class Text(NamedTuple):
    path: str
    line: int
    text: str


class Offence(NamedTuple):
    path: str
    line: int
    phrase: str
    excerpt: str
    better: str


def texts() -> Iterator[Text]:
    """Every text of the repository that people read."""
    packages = ("fastlane", "client/fastlane_client")
    for path in sorted(file for name in packages for file in (ROOT / name).rglob("*.py")):
        name, source = str(path.relative_to(ROOT)), path.read_text()
        for line, text in [*_strings(source), *_comments(source)]:
            yield Text(name, line, text)
    # Not all of the checkout: .venv, build and .run are in it.
    pages = [*(ROOT / "templates").rglob("*.html"), *(ROOT / "static").rglob("*.js")]
    for path in [*(ROOT / name for name in DOCUMENTS), *(ROOT / "docs").rglob("*.md"), *pages]:
        if path.is_file():
            # The glossary ends with a table of what not to write.
            content = path.read_text().partition("## Words to avoid")[0]
            yield from _paragraphs(str(path.relative_to(ROOT)), content)


def _strings(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of every string of a module; a value in an f-string becomes ``{}``."""
    tree = ast.parse(source)
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inside = {part for node in joined for part in node.values}
    for string in joined:
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in string.values]
        yield string.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        if node in inside or not isinstance(node, ast.Constant):
            continue
        if isinstance(node.value, str):
            yield node.lineno, node.value


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of every block of comments."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [
        (token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT
    ]
    for _, block in groupby(enumerate(comments), lambda item: item[1][0] - item[0]):
        lines = [comment for _, comment in block]
        yield lines[0][0], " ".join(text.lstrip("#: ") for _, text in lines)


def _paragraphs(name: str, content: str) -> Iterator[Text]:
    """The paragraphs of a document, and its tables row by row."""
    start, lines = 1, list[str]()
    for number, line in enumerate([*content.splitlines(), ""], start=1):
        if line.strip() and not line.startswith("|"):
            start = start if lines else number
            lines.append(line)
            continue
        if lines:
            yield Text(name, start, " ".join(lines))
            lines = []
        if line.strip():
            yield Text(name, number, line)


def offences() -> list[Offence]:
    """Every phrase that is found, in the order of the files."""
    found = []
    for path, line, text in texts():
        flat = " ".join(text.split())
        if not ANY.search(flat):
            continue
        for pattern, better in PATTERNS.items():
            for match in pattern.finditer(flat):
                excerpt = flat[max(0, match.start() - 40) : match.end() + 40]
                found.append(Offence(path, line, match.group(), excerpt, better))
    return found


def test_no_text_reads_like_a_translation() -> None:
    assert [
        f'{o.path}:{o.line}: "{o.phrase}" in "…{o.excerpt}…": {o.better}' for o in offences()
    ] == []


def test_phrases_are_found_in_strings_comments_and_documents() -> None:
    source = 'X = f"{a} is no URL"  # It goes on\n# behind it.\n"""Its host\n    is away."""\n'
    found = [text for _, text in [*_strings(source), *_comments(source)]]
    assert [
        [p.pattern for p in PATTERNS if p.search(" ".join(t.split()))] != [] for t in found
    ] == [True] * 3


def test_plain_english_is_left_alone() -> None:
    fine = ("Run it behind nginx.", "There is no URL.", "The snapshot is taken from one member.")
    assert [text for text in fine if any(pattern.search(text) for pattern in PATTERNS)] == []


if __name__ == "__main__":
    for name, group in groupby(offences(), key=lambda offence: offence.path):
        listed = list(group)
        print(f"## {name} ({len(listed)})")
        for o in listed:
            print(f'{o.line}: "{o.phrase}" ({o.better}): …{o.excerpt}…')
