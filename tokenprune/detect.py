"""What a text is that nobody said anything about: HTML, or plain text.

Taken for HTML, a text loses its line ends, its attributes and whatever is not shown. So code and Markdown
that mention tags must not be: what counts are tags that structure a page, outside of quotation and code, in a
text that begins with markup or in whose other lines nothing looks like code.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Literal

_WINDOW = 20_000  # characters looked at: a page shows itself early, and detection must stay cheap
_PER_TAG = 400  # characters: with fewer tags a text is no page

_DOCTYPE = re.compile(r"\s*(?:<\?xml[^>]{0,200}\?>\s*)?<(?:!doctype\s+html|html[\s>])", re.I)
_PAGE_BEGINS = re.compile(r"^[ \t]*<(?:!doctype\s+html|html|head|body)[\s>]", re.I | re.M)
_PAGE_TAG = re.compile(
    r"</?(?:html|head|body|div|p|table|t[rdh]|ul|ol|li|h[1-6]|section|article|main|nav|header|footer|span|a|pre"
    r"|br|form|script|style|dl|d[td]|blockquote)(?:\s[^<>]{0,2000})?/?>",
    re.I,
)
# A text that begins with one of these is a fragment, also with no other tag: "<p>x".
_FRAGMENT = re.compile(
    r"\s*<(?:p|div|table|ul|ol|li|dl|h[1-6]|section|article|pre|blockquote|body)(?:\s[^<>]{0,2000})?>", re.I
)
_BEGINS_WITH_MARKUP = re.compile(r"\s*<[a-z!]", re.I)
# An HTML element that a page or a part of one may begin with; any other name is one of another kind of XML.
_HTML_FIRST = re.compile(
    r"\s*(?:<!--.*?-->\s*|<![^>]*>\s*)*+<(?:/|[a-z]+-|(?:a|abbr|address|article|aside|audio|b|base|big"
    r"|blockquote|body|br|button|canvas|caption|center|cite|code|dd|details|dialog|div|dl|dt|em|fieldset|figure"
    r"|font|footer|form|frameset|h[1-6]|head|header|hgroup|hr|html|i|iframe|img|input|label|li|link|main|map"
    r"|menu|meta|nav|noscript|object|ol|p|picture|pre|s|script|search|section|select|small|span|strong|style"
    r"|sub|sup|svg|table|tbody|td|template|textarea|tfoot|th|thead|time|title|tr|u|ul|video)[\s/>])",
    re.I | re.S,
)
# What says that a text is no page, however many tags it holds: other kinds of XML, templates of programs
# (PHP, Jinja, ERB, Blade, Go; components of Vue, Svelte and Angular), patches, numbered and searched lines,
# e-mails, logs, lists of what an agent may click, values in YAML, here-documents.
_OTHER_XML = re.compile(
    r"\s*<\?xml\b(?![^<]*(?:<![^<]*)*+<html\b)|<(?:xsl:|rss\b|[^<>]{1,300}\s(?:dtd-version|article-type)=)",
    re.I,
)
_TEMPLATE = re.compile(
    r"\{%[-+ ]|<\?(?:php\b|=)|<%[=@\- ]|\{\{-? ?(?:#|/|define\b|if\b|range\b|end\b)|\*ng(?:If|For)="
    r"|\s:for="
)
_PROGRAM = re.compile(
    r"^[ \t]*(?:<template(?:\s+lang=\S{1,20})?>"
    r"|<script(?:\s+(?:setup|lang=\S{1,20}))*>\s*(?:import|export|let)\b"
    r"|@(?:extends|section|foreach|if|include)\(|@@ -|[\w-]+:[ \t]*[|>][-+]?[ \t]*$)|<<-?['\"]?[A-Z]{3,}",
    re.I | re.M,
)
_LISTED = re.compile(
    r"^(?:[ \t]*\d+(?:\t|[ ]{0,2}[|│→])|[\w-]*[./][\w./-]*:\d+:|[-+][ \t]*<|[ \t]*\*?\[\d+\][ \t]*<"
    r"|[ \t]*\*[ \t]|(?:From|To|Cc|Bcc|Message-ID|Received|Return-Path|Delivered-To): "
    r"|\[?\d{4}-\d\d-\d\d[T ]\d\d:|\[?\d\d:\d\d:\d\d)",
    re.M,
)
_JSX = re.compile(r"<[a-z][^<>\"']{0,300}?\s[a-z-]{1,40}=\{", re.I)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*?(?:^[ \t]*(?:```|~~~)|\Z)", re.M | re.S)
_QUOTED = re.compile(r"`[^`\n]*`|\"[^\"\n]*\"|(?<!\w)'[^'\n]*'")
_NOT_SAID = re.compile(
    r"<(script|style|svg|pre|code|textarea)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.I | re.S
)
_ENTITY = re.compile(r"&#?\w{1,30};")
_CODE_LINE = re.compile(
    r"^[ \t]*(?:(?:async )?def \w+\(|class \w+[^\n]*[:{][ \t]*$|(?:from \S+ )?import [\w{*]|#include\b"
    r"|export (?:default|const|function|class|type|interface)\b|function\b[^\n(]*\("
    r"|(?:const|let|var) [^\n=]+="
    r"|(?:public|private|protected|static) [^\n({;]*[({;]|return\b[^\n(;]*[(;]|[})\]]+[;,]?[ \t]*$)"
    r"|(?:\w\(|\s=\s)[^\n]*;[ \t]*$|(?:\{|=>)[ \t]*$",
    re.M,
)
_MARKDOWN = re.compile(
    r"^(?:#{1,6} \S|```|~~~|\|?[ \t]*:?-{3,}:?[ \t]*\||\|[^\n]*\|[ \t]*$)|\]\((?:https?:|#|/|\./)", re.M
)
# Prose that names tags closes none and begins no line with one.
_USED = re.compile(r"</[a-z]|^[ \t]*<[a-z]|<br\s*/?>\s*<br", re.I | re.M)
_PAGE_ENDS = re.compile(r"</html\s*>", re.I)
_FEW = 2  # lines of code, or signs of Markdown

# Names of files that say what is in them; of others (.txt, .aspx, .php) the content decides.
_PAGES = frozenset((".html", ".htm", ".xhtml"))
_TEXTS = frozenset(
    ".md .markdown .rst .adoc .org .tex .py .pyi .ipynb .js .mjs .cjs .jsx .ts .tsx .vue .svelte .java .kt"
    " .scala .c .h .cc .cpp .hpp .cs .go .rs .rb .pl .lua .r .jl .swift .m .sh .bash .ps1 .sql .css .scss"
    " .json .jsonl .yaml .yml .toml .ini .csv .tsv .diff .patch .log".split()
)


def detect_kind(text: str) -> Literal["html", "text"]:
    """Tell HTML from plain text by a document type or structural tags near the start: one at it, or two.

    A page may stand behind some words about it. Code and Markdown that hold tags are text, also components of
    user interfaces; code blocks, code spans and quoted strings count for nothing where a text does not begin
    with markup.
    """
    if "<" not in text:
        return "text"
    window = text[:_WINDOW]
    said = _NOT_SAID.sub(r"<\1>", window)
    if _TEMPLATE.search(said):
        return "text"
    if _DOCTYPE.match(text):
        return "html"
    page = _PAGE_BEGINS.search(said)
    begins = _BEGINS_WITH_MARKUP.match(text)
    if _OTHER_XML.match(text) or _JSX.search(said) or (begins and not _HTML_FIRST.match(window)):
        return "text"
    if page is None and (_many(_MARKDOWN, said) or _PROGRAM.search(window)):
        return "text"
    said = _FENCE.sub("", said)
    if not begins:
        if _many(_LISTED, said) or not _USED.search(said):
            return "text"
        said = _ENTITY.sub("", _QUOTED.sub('""', said))
        page = _PAGE_BEGINS.search(said)
        if _many(_CODE_LINE, said if page is None else _around(said, page.start())):
            return "text"
    tags = sum(1 for _ in _PAGE_TAG.finditer(said))
    many = tags * _PER_TAG >= len(_QUOTED.sub('""', said).strip())
    fragment = _FRAGMENT.match(text) is not None
    closed = fragment and tags > 1 and text.rstrip().endswith(">")
    return "html" if page or closed or (many and (tags > 1 or fragment)) else "text"


def _around(text: str, page: int) -> str:
    """What stands before and behind a page."""
    ended = _PAGE_ENDS.search(text, page)
    return text[:page] + (text[ended.end() :] if ended else "")


def kind_of_file(name: str) -> Literal["html", "text"] | None:
    """What the name of a file says about its content; None where that has to be looked at."""
    suffix = PurePath(name).suffix.lower()
    return "html" if suffix in _PAGES else "text" if suffix in _TEXTS else None


def _many(sign: re.Pattern[str], text: str) -> bool:
    found = sign.finditer(text)
    return all(next(found, None) for _ in range(_FEW))
