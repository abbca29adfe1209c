"""Configuration files and the environment."""

import json

import pytest

import tokenprune as tp
from tokenprune.config import load_config
from tokenprune.errors import BudgetError, ConfigError, TokenPruneError, UnknownNameError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("TOKENPRUNE_CONFIG", "TOKENPRUNE_TOKENIZER", "TOKENPRUNE_PIPELINES", "TOKENPRUNE_SERVER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "tokenprune.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


FULL = """
tokenizer: smollm2-135m
pipelines:
  default:
    pruners: [htmlrag-bm25, {name: bm25-sentences, keep_ratio: 0.3, kinds: [text]}]
    budget: {max_tokens: 1024}
  strict:
    pruners:
      - random
server: {min_document_tokens: 200}
"""


def test_full_file(write):
    config = load_config(write(FULL))
    assert list(config.pipelines) == ["default", "strict"]
    assert config.server == {"min_document_tokens": 200}
    default = config.build()
    assert [p.name for p in default.pruners] == ["htmlrag-bm25", "bm25-sentences"]
    assert default.pruners[0].kinds == ("html",)
    assert default.pruners[1].kinds == ("text",)
    assert default.pruners[1].selector.ratio == 0.3
    assert default.budget == tp.Budget(max_tokens=1024)
    assert config.build("strict").budget == tp.Budget()
    assert config.build("strict") is config.build("strict")


def test_output(write):
    """Of a method in the file, and of a whole pipeline: its last method for HTML writes it."""
    chain = "pipelines: {chain: {pruners: [{name: clean-html, output: markdown}, htmlrag-bm25, {name: none, kinds: [text]}]}}"
    config = load_config(write(chain))
    forms = [type(p.renderer).__name__ for p in config.build("chain").pruners]
    assert forms == ["Markdown", "SameForm", "SameForm"]
    text = config.build("chain", "text")
    # A page that became Markdown reaches no other method for pages.
    assert [type(p.renderer).__name__ for p in text.pruners] == ["PlainText", "SameForm", "SameForm"]
    assert text.pruners[0].scorer is config.build("chain").pruners[0].scorer
    assert config.build("chain", "text") is text
    assert config.build("none", "markdown").prune("", ["<h1>A</h1><p>b</p>"]).documents[0].text == "# A\n\nb"
    with pytest.raises(ConfigError, match="unknown output 'pdf'; known outputs: same, html, text, markdown"):
        config.build("chain", "pdf")
    with pytest.raises(ConfigError, match="unknown output 'pdf'"):
        load_config(write("pruners: [{name: random, output: pdf}]"))


@pytest.mark.parametrize("output", ["html", "markdown", "text"])
def test_what_is_kept_does_not_depend_on_the_output(output, write):
    """A page that a method wrote as Markdown because it was asked to is pruned by none for texts behind it."""
    config = load_config(write("pruners: [htmlrag-bm25, {name: bm25-sentences, kinds: [text, chat]}]"))
    page = "<h1>Towers</h1>" + "<p>It opened in spring. The tower is in Paris. Tickets are sold out.</p>" * 9
    documents = [tp.Document(page, id="p"), tp.Document("The tower is in Paris. It rains. " * 9, id="t")]
    for budget in (None, tp.Budget(60), tp.Budget(2000)):
        as_is, other = (
            pipeline.prune("Where is the tower?", documents, budget)
            for pipeline in (config.build(), config.build(output=output))
        )
        assert as_is.documents[1] == other.documents[1] or budget is not None
        stages = [{u.stage for u in r.receipts[0].units} for r in (as_is, other)]
        assert stages[0] == stages[1] <= {"htmlrag-bm25", "none"}


def test_an_output_of_a_page_that_became_text(write):
    """HTML that is asked for is written by the method that would have made a text of it."""
    config = load_config(write("pruners: [{name: clean-html, output: markdown}, bm25-sentences]"))
    page = "<p>The tower is in Paris.</p><p>It rains.</p>"
    result = config.build(output="html").prune("Where is the tower?", [page], tp.Budget(90))
    assert result.documents[0].text == page


def test_a_default_pipeline_given_twice(write):
    twice = "pruners: [none]\npipelines: {default: {pruners: [random]}}"
    with pytest.raises(ConfigError, match="'pruners' is the default pipeline, and 'pipelines' has one too"):
        load_config(write(twice))
    with pytest.raises(ConfigError, match="'budget' goes with 'pruners'"):
        load_config(write("budget: {max_tokens: 5}"))


def test_single_pipeline(write):
    config = load_config(
        write(
            "pruners: bm25-sentences\n".replace("bm25-sentences", "[bm25-sentences]")
            + "budget: {keep_ratio: 0.5}\n"
        )
    )
    assert [p.name for p in config.build().pruners] == ["bm25-sentences"]
    assert config.build().budget == tp.Budget(keep_ratio=0.5)


def test_single_pipeline_beside_others(write):
    config = load_config(write("pruners: [none]\npipelines: {other: {pruners: [random]}}\n"))
    assert [p.name for p in config.build().pruners] == ["none"]
    assert [p.name for p in config.build("other").pruners] == ["random"]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}", "server: {a: 1}"])
def test_defaults(text, write):
    config = load_config(write(text))
    assert list(config.pipelines) == ["default"]
    assert config.tokenizer == "smollm2-135m"
    assert config.build().pruners
    assert {"html", "text"} <= {kind for p in config.build().pruners for kind in p.kinds}


def test_a_method_is_a_pipeline_of_its_own(write):
    config = load_config(write("pruners: [none]"))
    assert [p.name for p in config.build("htmlrag-bm25").pruners] == ["htmlrag-bm25"]


def test_unknown_pipeline_lists_pipelines_and_methods(write):
    with pytest.raises(
        UnknownNameError, match=r"unknown pipeline or method 'nonesuch'.*bm25-sentences.*strict"
    ):
        load_config(write(FULL)).build("nonesuch")


def test_environment_overrides_the_file(write, monkeypatch, tmp_path):
    path = write("tokenizer: smollm2-135m\npipelines: {a: {pruners: [none]}}\n")
    monkeypatch.setenv("TOKENPRUNE_TOKENIZER", "minilm-l6")
    monkeypatch.setenv(
        "TOKENPRUNE_PIPELINES", json.dumps({"a": {"pruners": ["random"]}, "b": {"pruners": ["none"]}})
    )
    config = load_config(path)
    assert config.tokenizer == "minilm-l6"
    assert [p.name for p in config.build("a").pruners] == ["random"]
    assert config.build("b").tokenizer == "minilm-l6"
    assert load_config(path, tokenizer="smollm2-135m").build("b").tokenizer == "smollm2-135m"


def test_environment_names_the_file(write, monkeypatch):
    monkeypatch.setenv("TOKENPRUNE_CONFIG", write("pruners: [random]"))
    assert [p.name for p in load_config().build().pruners] == ["random"]
    assert [p.name for p in tp.Pipeline.from_config().pruners] == ["random"]
    monkeypatch.setenv("TOKENPRUNE_CONFIG", "")
    assert list(load_config().pipelines) == ["default"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipelnes: {}", "unknown key pipelnes; known keys: tokenizer, pipelines, server, pruners, budget"),
        ("- a\n- b", "must hold a mapping"),
        ("just words", "must hold a mapping"),
        ("a: [", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("pipelines: {}\npipelines: {}", "'pipelines' stands twice"),
        ("pipelines: 3", "pipelines: "),
        ("pipelines: {a: {pruners: []}}", "pipelines.a.pruners: "),
        ("pipelines: {a: {}}", "pipelines.a.pruners: "),
        ("pipelines: {a: {pruners: none}}", "pipelines.a.pruners: "),
        ("pipelines: {a: {pruners: [3]}}", r"pipelines.a.pruners"),
        ("pipelines: {a: {pruners: [none], budgt: 3}}", "pipelines.a.budgt: "),
        ("pipelines: {a: {pruners: [none], budget: {max_tokens: many}}}", "pipelines.a.budget.max_tokens: "),
        ("pipelines: {a: {pruners: [none], budget: {tokens: 1}}}", "pipelines.a.budget.tokens: "),
        ("pipelines: {a: {pruners: [{keep_ratio: 0.1}]}}", r"pipelines.a.pruners.*name"),
        ("tokenizer: [a]", "tokenizer: "),
        ("server: 3", "server: "),
        ("pruners: [{name: bm25-sentences, keep_ration: 1}]", "keep_ration: .*its options: threshold=None"),
        ("pruners: [{name: bm25-sentences, kinds: [html, pdf]}]", "cannot take pdf; it takes html, text"),
        ("pruners: [{name: random, threshold: 0.1, top_k: 1}]", "only one of threshold, keep_ratio"),
        # values of a wrong type or form
        ("pruners: [{name: random, keep_ratio: much}]", "random"),
        ("pruners: [{name: random, top_k: [1]}]", "random"),
        ("pruners: [{name: htmlrag-bm25, max_words: many}]", "htmlrag-bm25"),
        ("pruners: [{name: bm25-sentences, kinds: 3}]", "kinds"),
        # two forms at once, one of them wrong
        ("pruners: [none]\npipelines: 3", "pipelines"),
        ("1: a", "unknown key 1"),
        ("1: a\nb: c", "unknown key"),
        ("budget: {max_tokens: 3}", "budget"),
        (b"tokenizer: \xff\xfe", "tokenprune.yaml"),
    ],
)  # fmt: skip
def test_errors(text, message, write):
    with pytest.raises(ConfigError, match=message):
        load_config(write(text))


@pytest.mark.parametrize("text", ["pipelines:\n", "pruners: [none]\npipelines:\n"])
def test_null_pipelines_are_none_at_all(text, write):
    config = load_config(write(text))
    assert list(config.pipelines) == ["default"]
    assert (config.build().pruners[0].name == "none") == ("none" in text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pruners: [none]\nbudget: {max_tokens: -1}", "0 or more"),
        ("pruners: [none]\nbudget: {max_tokens: 1, keep_ratio: 0.5}", "not both"),
        ("pruners: [none]\nbudget: {keep_ratio: 2}", "between 0 and 1"),
        ("pruners: [{name: random, keep_ratio: 2}]", "between 0 and 1"),
    ],
)
def test_budget_errors(text, message, write):
    with pytest.raises(BudgetError, match=message):
        load_config(write(text))


def test_unknown_method_lists_the_names(write):
    with pytest.raises(
        UnknownNameError, match=r"unknown method 'nonesuch'; known names: .*bm25-sentences.*none"
    ):
        load_config(write("pruners: [nonesuch]"))


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_file_that_cannot_be_read(name, tmp_path):
    path = str(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot read the configuration") as caught:
        load_config(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("value", ["not json", "[1]", '{"a": {"pruners": []}}', '{"a": 3}'])
def test_environment_with_a_wrong_value(value, monkeypatch):
    monkeypatch.setenv("TOKENPRUNE_PIPELINES", value)
    with pytest.raises(TokenPruneError, match=r"(?i)pipelines"):
        load_config()


def test_yaml_cannot_run_code(write, tmp_path):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(write(f"tokenizer: !!python/object/apply:os.mkdir ['{tmp_path}/made']"))
    assert not (tmp_path / "made").exists()


@pytest.mark.models
def test_the_default_is_a_labeler_for_texts_and_hybrid_for_pages():
    pipeline = load_config().build()
    text = tp.Document(
        "The tower is in Paris. It was finished in 1889. " + "It is closed on Mondays. " * 9, id="t"
    )
    page = tp.Document(
        "<h1>Tower</h1><p>It was finished in 1889.<p>" + "<p>Tickets are sold out." * 9, id="p"
    )
    result = pipeline.prune("When was the tower finished?", [text, page], tp.Budget(60))
    assert [{u.stage for u in r.units} for r in result.receipts] == [{"provence"}, {"hybrid"}]
    assert all("1889" in d.text for d in result.documents)
    # A page that is written as Markdown is not pruned a second time.
    markdown = (
        load_config().build(output="markdown").prune("When was the tower finished?", [page], tp.Budget(30))
    )
    assert "hybrid" in {u.stage for u in markdown.receipts[0].units} <= {"hybrid"}


def test_without_its_models_the_default_is_lexical(monkeypatch):
    monkeypatch.setattr("tokenprune.config.find_spec", lambda name: None)
    assert [p.name for p in load_config().build().pruners] == ["bm25-sentences"]
