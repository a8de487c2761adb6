"""Loading recipes: files, overrides, messages; nothing but a config or a UserError comes out of any text."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field, PositiveInt, model_validator

from isogloss.config.base import Config, UserError
from isogloss.config.load import dump_config, load_config, with_overrides
from isogloss.config.problems import ConfigError


class Cosine(Config):
    type: Literal["cosine"] = "cosine"
    warmup: int = Field(100, ge=0)
    floor: float = 0.1


class Linear(Config):
    type: Literal["linear"] = "linear"
    warmup: int = Field(0, ge=0)
    end: float = 0.0


class Optim(Config):
    lr: float = Field(3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(1.0, allow_inf_nan=True)
    schedule: Annotated[Cosine | Linear, Field(discriminator="type")] = Cosine(warmup=7)


class Model(Config):
    d_model: int = 64
    n_heads: int = 4
    norm: Literal["pre", "post"] = "pre"
    window: PositiveInt | Literal["auto"] | None = "auto"

    @model_validator(mode="after")
    def _heads_divide(self):
        if self.n_heads < 1 or self.d_model % self.n_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must divide d_model ({self.d_model})")
        return self


class Source(Config):
    path: Path
    weight: float = 1.0


class Recipe(Config):
    name: str = "run"
    steps: int = 10
    compile: bool = False
    model: Model = Model()
    optim: Optim = Optim(clip=0.5)
    sources: list[Source] = Field(default_factory=list)
    limits: dict[str, int] = Field(default_factory=dict)
    ema: Model | None = None

    @model_validator(mode="after")
    def _name_is_not_forbidden(self):
        if self.name == "forbidden":
            raise ValueError("this name is taken")
        if self.steps == 13:
            raise ValueError(f"optim.lr ({self.optim.lr:g}) is too much for 13 steps")
        if self.steps == 17:
            raise ValueError("unlucky")
        if self.name == "plain":
            raise ValueError("no window is open")
        if self.name == "deep":
            raise ValueError("n_heads is too high")
        return self


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_and_load(text, *overrides):
        path = Path("recipe.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(Recipe, path, overrides)

    return write_and_load


@pytest.fixture
def errors(load):
    """The lines of the error that a text and overrides give."""

    def lines_of(text, *overrides):
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        assert [str(problem) for problem in caught.value.problems] == str(caught.value).splitlines()
        return str(caught.value).splitlines()

    return lines_of


def test_defaults_alone():
    assert load_config(Recipe, None) == Recipe()


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_is_the_defaults(load, text):
    assert load(text) == Recipe()


def test_reads_a_file(load):
    head = "name: a\nsteps: 1e5\nmodel: {window: 1e3}\noptim: {lr: 3e-4, betas: [1, 0]}\n"
    config = load(f"{head}sources:\n- {{path: x/y, weight: 2}}\n")
    expected = Recipe(
        name="a", steps=100_000, model=Model(window=1000), optim=Optim(lr=3e-4, betas=(1, 0)),
        sources=[Source(path=Path("x/y"), weight=2)],
    )  # fmt: skip
    assert config == expected
    assert type(config.steps) is int
    assert type(config.sources[0].weight) is float


@pytest.mark.campaign(16)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("name: 123", "name: must be text, got 123; put it in quotes"),
        ("steps: 1.5", "steps: must be a whole number, got 1.5"),
        ("steps: true", "steps: must be a whole number, got true"),
        ("steps: '6'", "steps: must be a whole number, got '6'; take the quotes off"),
        ("steps: 1_000", "steps: must be a whole number, got '1_000'; write it without underscores"),
        ("steps: .inf", "steps: must be a whole number, got .inf"),
        ("steps:", "steps: must be a whole number, got null"),
        ("steps: [1]", "steps: must be a whole number, got a list of 1 item"),
        ("stpes: 1", "stpes: unknown key; did you mean steps?"),
        ("lr: 1", "lr: unknown key; it belongs under optim"),
        ("floor: 1", "floor: unknown key; it belongs under optim.schedule with type: cosine"),
        ("compile: on", "compile: must be true or false, got 'on'; write true"),
        ("compile: 1", "compile: must be true or false, got 1"),
        ("model: 3", "model: must be a section (keys with values), got 3"),
        ("model: {norm: pst}", "model.norm: must be 'pre' or 'post', got 'pst'; did you mean post?"),
        ("model: {window: x}", "model.window: must be a whole number or 'auto', got 'x'"),
        ("model: {n_heads: six}", "model.n_heads: must be a whole number, got 'six'"),
        ("model: {steps: 1}", "model.steps: unknown key; it belongs at the top"),
        ("model: {d_model: 30}", "model: n_heads (4) must divide d_model (30)"),
        ("ema: {d_model: x}", "ema.d_model: must be a whole number, got 'x'"),
        ("optim: {lr: -1.5}", "optim.lr: must be greater than 0, got -1.5"),
        ("optim: {lr: abc}", "optim.lr: must be a number, got 'abc'"),
        ("optim: {betas: [1]}", "optim.betas.1: required, but not given"),
        ("optim: {betas: 1}", "optim.betas: must be a list, got 1"),
        ("optim: {schedule: {warmup: 1}}", "optim.schedule.type: required, but not given; one of cosine, linear"),
        (
            "optim: {schedule: {tpe: linear}}",
            "optim.schedule.type: required, but not given, unless tpe is meant to be it; one of cosine, linear",
        ),
        (
            "optim: {schedule: {type: cosin}}",
            "optim.schedule.type: must be one of cosine, linear, got 'cosin'; did you mean cosine?",
        ),
        ("optim: {schedule: {type: 3}}", "optim.schedule.type: must be one of cosine, linear, got 3"),
        ("optim: {schedule: {type: linear, warmup: -1}}", "optim.schedule.warmup: must be at least 0, got -1"),
        (
            "optim: {schedule: {type: linear, floor: 0}}",
            "optim.schedule.floor: unknown key; it belongs under optim.schedule with type: cosine",
        ),
        ("sources: [{weight: 1}]", "sources.0.path: required, but not given"),
        ("sources: [{path: a, weihgt: 1}]", "sources.0.weihgt: unknown key; did you mean weight?"),
        ("sources: {}", "sources: must be a list, got a section of 0 keys"),
        ("limits: {a: x}", "limits.a: must be a whole number, got 'x'"),
        ("steps: !!python/name:x y", "steps: the tag !!python/name:x is not supported; write the plain value"),
    ],
)  # fmt: skip
def test_messages_tell_where_what_and_what_to_do(errors, line, message):
    assert errors(f"# a comment\n\n{line}\n")[0] == f"recipe.yaml:3: {message}"


def test_a_problem_of_the_whole_config_shows_no_key(errors):
    assert errors("name: forbidden") == ["recipe.yaml:1: this name is taken"]


def test_all_problems_come_at_once(errors):
    text = "steps: x\nsteps: y\nmodel:\n  n_heads: six\n  d_modl: 3\nsources:\n- {}\n- {path: 3}\n"
    found = errors(text, "optim.lr=abc", "nonsense", "optim.schedule={type: linear, floor: 1}")
    assert sorted(found) == sorted([
        "recipe.yaml:2: steps: given twice; the first is on line 1",
        "recipe.yaml:2: steps: must be a whole number, got 'y'",
        "recipe.yaml:4: model.n_heads: must be a whole number, got 'six'",
        "recipe.yaml:5: model.d_modl: unknown key; did you mean d_model?",
        "recipe.yaml:7: sources.0.path: required, but not given",
        "recipe.yaml:8: sources.1.path: must be text, got 3; put it in quotes",
        "command line: optim.lr=abc: must be a number, got 'abc'",
        "command line: nonsense: an override is written key=value, such as train.steps=1000",
        "command line: optim.schedule={type: linear, floor: 1}: optim.schedule.floor: unknown key; "
        "it belongs under optim.schedule with type: cosine",
    ])  # fmt: skip


@pytest.mark.campaign(16)
@pytest.mark.parametrize(
    ("text", "overrides", "where", "sources"),
    [
        # What the message names, with what set it: the file's line, an override; a default was set by nobody.
        ("steps: 3\nmodel:\n  d_model: 32", ("model.n_heads=5", "model.norm=post"), "recipe.yaml:2: model: ",
         "n_heads (5) must divide d_model (32) "
         "(n_heads from command line: model.n_heads=5, d_model from recipe.yaml:3)"),
        ("steps: 3", ("model.norm=post", "model.n_heads=5"), "command line: model.norm=post: model: ",
         "n_heads (5) must divide d_model (64) (n_heads from command line: model.n_heads=5)"),
        ("model: {d_model: 30}", (), "recipe.yaml:1: model: ", "n_heads (4) must divide d_model (30)"),
        ("name: forbidden\nsteps: 7\n", ("compile=true",), "recipe.yaml:1: ", "this name is taken"),
        # From the top, further down, and where nothing is named: all overrides.
        ("steps: 13\nmodel: {d_model: 64}", ("optim.lr=1", "compile=true"), "recipe.yaml:1: ",
         "optim.lr (1) is too much for 13 steps (optim.lr from command line: optim.lr=1)"),
        ("steps: 17", ("model.window=3", "optim.clip=2"), "recipe.yaml:1: ",
         "unlucky (with command line: model.window=3, command line: optim.clip=2)"),
        ("name: plain\nsteps: 7", ("model.window=3", "optim.clip=2"), "recipe.yaml:1: ",
         "no window is open (with command line: model.window=3, command line: optim.clip=2)"),
        ("name: deep\nmodel: {d_model: 64}", ("model.n_heads=8", "optim.clip=2"), "recipe.yaml:1: ",
         "n_heads is too high (n_heads from command line: model.n_heads=8)"),
    ],
)  # fmt: skip
def test_a_refused_section_names_what_set_the_values_it_names(errors, text, overrides, where, sources):
    assert errors(text, *overrides) == [where + sources]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n", "recipe.yaml:1: a config is a section of keys with values, not a list of 1 item"),
        (b"\n\nnull\n", "recipe.yaml:3: a config is a section of keys with values, not null"),
        (b"a: 1\nname: \xff", "recipe.yaml:2: not UTF-8 (byte 0xff); save the file as UTF-8"),
        (b"a: 1\n---\nb: 1", "recipe.yaml:2: a second document begins here; a config is one document"),
        (b"#" * (1 << 21), "recipe.yaml: larger than 1048576 bytes; is it a recipe?"),
    ],
)
def test_refuses_files_that_are_no_recipes(load, content, message):
    with pytest.raises(UserError) as caught:
        load(content)
    assert str(caught.value) == message


def test_a_byte_order_mark_is_no_part_of_the_first_key(load):
    assert load(b"\xef\xbb\xbfname: a").name == "a"


def test_missing_files(tmp_path):
    (tmp_path / "small.yaml").touch()
    with pytest.raises(UserError, match=r"smal\.yaml: no such file; did you mean small\.yaml\?"):
        load_config(Recipe, tmp_path / "smal.yaml")
    with pytest.raises(UserError, match=r"no such file; the folder .*nowhere does not exist"):
        load_config(Recipe, tmp_path / "nowhere" / "a.yaml")
    with pytest.raises(UserError, match=r"a folder, where a YAML file is needed; it holds small\.yaml"):
        load_config(Recipe, tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        load_config(Recipe, tmp_path / ("x" * 5000))
    with pytest.raises(UserError, match="cannot be read"):
        load_config(Recipe, tmp_path / "a\0b")


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["steps=3"], {"steps": 3}),
        (["steps=3", "steps=4"], {"steps": 4}),
        (["name="], {"name": ""}),
        (["name=a: b"], {"name": "a: b"}),
        (["ema.d_model=8"], {"ema": Model(d_model=8)}),
        (["ema={d_model: 8}", "ema=null"], {"ema": None}),
        (["sources=[{path: a}]", "sources.0.weight=3"], {"sources": [Source(path=Path("a"), weight=3)]}),
        (["limits.a=1", "limits.b=2"], {"limits": {"a": 1, "b": 2}}),
        # Other defaults of the section's default instance stay.
        (["optim.lr=1"], {"optim": Optim(lr=1, clip=0.5)}),
        (["optim.schedule.floor=0"], {"optim": Optim(clip=0.5, schedule=Cosine(warmup=7, floor=0))}),
        # What a default said for one branch says nothing for another.
        (["optim.schedule.type=linear"], {"optim": Optim(clip=0.5, schedule=Linear())}),
        (["optim.schedule.type=linear", "optim.schedule.end=1"], {"optim": Optim(clip=0.5, schedule=Linear(end=1))}),
        (["optim.schedule.end=1", "optim.schedule.type=linear"], {"optim": Optim(clip=0.5, schedule=Linear(end=1))}),
        (["optim.schedule.type=linear", "optim.schedule.type=cosine"], {"optim": Optim(clip=0.5, schedule=Cosine())}),
        # Nor for its own branch, once that is named.
        (["optim.schedule.type=cosine"], {"optim": Optim(clip=0.5, schedule=Cosine())}),
        (["optim.schedule.type=cosine", "optim.schedule.floor=0"],
         {"optim": Optim(clip=0.5, schedule=Cosine(floor=0))}),
        (["optim.schedule.floor=0", "optim.schedule.type=cosine"],
         {"optim": Optim(clip=0.5, schedule=Cosine(floor=0))}),
        (["optim.schedule.warmup=3", "optim.schedule={type: linear}"], {"optim": Optim(clip=0.5, schedule=Linear())}),
        (["optim.schedule.warmup=3", "optim.schedule={type: cosine}", "optim.schedule.type=linear"],
         {"optim": Optim(clip=0.5, schedule=Linear())}),
    ],
)  # fmt: skip
def test_overrides_reach_into_defaults(overrides, changes):
    expected = Recipe(**changes)
    assert load_config(Recipe, None, overrides) == expected
    assert with_overrides(Recipe(), overrides) == expected


@pytest.mark.parametrize(
    "text",
    ["a: b", "a #b", "#a", "[red]", "[/INST] :b:", "{a}", "null", "true", "1e3", "007", "0x10", "~", "- a", "!!int 3",
     "*a", " a ", "&a", "😀", "né → 中", "a\nb", "a'b\"c", "%j", "$HOME", "\\u0041", "a=b", "\u2028x", "\x7f"],
)  # fmt: skip
def test_where_only_text_can_stand_an_override_is_taken_as_it_is(text):
    assert load_config(Recipe, None, [f"name={text}"]).name == text
    config = load_config(Recipe, None, ["sources=[{path: a}]", f"sources.0.path={text}"])
    assert config.sources == [Source(path=Path(text))]
    assert load_config(Recipe, None, [f"name={json.dumps(text)}"]).name == text
    if text.isprintable() and "'" not in text:
        assert load_config(Recipe, None, [f"name='{text}'"]).name == text


@pytest.mark.parametrize("text", ["😀", "a: b", "null", "'", '"', "[", "\x85\u2028\x7f", "1e3", "a\nb", " a "])
def test_a_given_value_goes_through_no_parser(text):
    config = load_config(Recipe, None, [("name", text), ("sources", [{"path": text}]), ("optim.lr", 0.5)])
    assert (config.name, config.sources, config.optim.lr) == (text, [Source(path=Path(text))], 0.5)


def test_a_given_value_is_held_to_the_type():
    with pytest.raises(ConfigError) as caught:
        load_config(Recipe, None, [("steps", "6"), ("name", "\udce9"), ("optim.lrr", 1)])
    assert [problem.path for problem in caught.value.problems] == ["name", "steps", "optim.lrr"]
    assert "command line: steps='6': must be a whole number, got '6'" in str(caught.value)


def test_an_override_gives_no_more_than_the_default_instance_was_given():
    assert load_config(Recipe, None, ["optim.lr=1"]).optim.model_fields_set == {"lr", "clip"}


def test_a_change_of_branch_keeps_what_the_file_said_and_the_new_branch_has(load):
    text = "optim: {schedule: {type: cosine, warmup: 30, floor: 0.2}}"
    assert load(text, "optim.schedule.type=linear").optim.schedule == Linear(warmup=30)
    assert load(text, "optim.schedule.type=cosine").optim.schedule == Cosine(warmup=30, floor=0.2)
    assert with_overrides(load(text), ["optim.schedule.type=linear"]).optim.schedule == Linear(warmup=30)


def test_an_override_is_never_dropped(errors):
    for order in (1, -1):
        overrides = ["optim.schedule.floor=0", "optim.schedule.type=linear"][::order]
        assert errors("", *overrides) == [
            "command line: optim.schedule.floor=0: unknown key; it belongs under optim.schedule with type: cosine"
        ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sources.1.weight=1", "sources is a list of 1 item, numbered from 0; 1 is none of them"),
        ("sources.path=1", "sources is a list of 1 item, numbered from 0; path is none of them"),
        ("steps.a=1", "steps is 3 (recipe.yaml:1), which holds no keys"),
        ("=1", "an override is written key=value, such as train.steps=1000"),
        ("a..b=1", "an override is written key=value, such as train.steps=1000"),
        ("steps=[1", "not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("steps=!!python/name:os.system", "must be a whole number, got '!!python/name:os.system'"),
        ("lr=1", "unknown key; it belongs under optim"),
        ("a." * 60 + "b=1", "a key of more than 50 parts"),
    ],
)
def test_overrides_that_lead_nowhere(errors, override, message):
    assert errors("steps: 3\nsources: [{path: a}]", override) == [f"command line: {override}: {message}"]


def test_overrides_do_not_change_the_config_they_start_from():
    config = Recipe(limits={"a": 1}, sources=[Source(path=Path("a"))])
    with_overrides(config, ["limits.a=2", "sources.0.weight=5"])
    assert config == Recipe(limits={"a": 1}, sources=[Source(path=Path("a"))])


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["on", "3e-4", "null", "1", "~"]
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
models = st.builds(
    Model, d_model=st.integers(1, 9).map(lambda n: 4 * n), n_heads=st.sampled_from([1, 2, 4]),
    norm=st.sampled_from(["pre", "post"]), window=st.none() | st.just("auto") | st.integers(1),
)  # fmt: skip
schedules = st.builds(Cosine, warmup=st.integers(0, 10**30), floor=numbers) | st.builds(Linear, end=numbers)
recipes = st.builds(
    Recipe, name=words, steps=st.integers(-(10**300), 10**300), compile=st.booleans(), model=models,
    optim=st.builds(
        Optim, lr=st.floats(0, 1e300, exclude_min=True), betas=st.tuples(numbers, numbers), schedule=schedules
    ),
    sources=st.lists(st.builds(Source, path=words.map(Path), weight=numbers), max_size=3),
    limits=st.dictionaries(words, st.integers(-(10**9), 10**9), max_size=3), ema=st.none() | models,
)  # fmt: skip


@settings(deadline=None)
@given(recipes)
def test_a_dumped_config_loads_back_equal(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_config(config), encoding="utf-8", newline="")
    assert load_config(Recipe, path) == config


def test_a_dump_is_whole_and_in_order():
    text = dump_config(Recipe(sources=[Source(path=Path("a/b"))]))
    assert text == (
        "name: run\nsteps: 10\ncompile: false\nmodel:\n  d_model: 64\n  n_heads: 4\n  norm: pre\n  window: auto\n"
        "optim:\n  lr: 0.0003\n  betas: [0.9, 0.95]\n  clip: 0.5\n"
        "  schedule:\n    type: cosine\n    warmup: 7\n    floor: 0.1\n"
        "sources:\n- path: a/b\n  weight: 1.0\nlimits: {}\nema: null\n"
    )


VALID = dump_config(Recipe(sources=[Source(path=Path("a")), Source(path=Path("b"))], limits={"a": 1}, ema=Model()))
JUNK = [
    "", "x", "1", "-1", "1.5", "1e400", "~", "true", "'", '"', "[", "]", "{", "}", ",", ":", ": ", "- ", "#", "&a ",
    "*a", "? ", "!!python/object/apply:os.system ", "!!int ", "!x ", "!!binary ", "%YAML 9.9\n", "---\n", "...\n",
    "\t", "\n", "\n  ", "|\n", ">", "\0", "\x85", "\ufeff", "é", r'"\ud800"', r'"\UFFFFFFFF"', "<<: ", "0x", "0o8",
    "9" * 400, ".nan", "type", "{{}: 1}", "[[]]: 1",
]  # fmt: skip
edits = st.lists(
    st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), st.sampled_from(JUNK) | st.text(max_size=3)),
    min_size=1, max_size=4,
)  # fmt: skip
line_edits = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from(["repeat", "drop", "move"])), max_size=2
)
some_overrides = st.lists(
    st.tuples(
        st.sampled_from(["optim", "schedule", "type", "lr", "sources", "0", "limits", "ema", "name"])
        | st.sampled_from(["x", "", "٣", "\ud800"]),
        st.sampled_from(["", ".schedule", ".type", ".0.path", ".a", ".schedule.type", ".schedule.floor.x"]),
        st.sampled_from(["=", "", "=linear", "=cosine", "={type: linear}", "=[1, {a: 2}]", "={a: &x [*x]}"])
        | st.sampled_from(["=\ud800", "=1e400", "=!!int x", "='", "={1: 2}", '="\\ud800"']),
    ).map("".join),
    max_size=3,
)  # fmt: skip


@pytest.mark.campaign(16)
@settings(deadline=None, max_examples=200)
@given(edits, line_edits, some_overrides)
@example([(0, 0, "[" * 3000)], [], [])
@example([], [], [".".join(["ema"] * 50) + "=" + "[" * 49 + "]" * 49])
def test_any_text_gives_a_config_or_a_user_error(tmp_path_factory, mutations, moves, overrides):
    text = VALID
    for start, length, junk in mutations:
        text = text[:start] + junk + text[start + length :]
    lines = text.splitlines(keepends=True)
    for source, target, move in moves:
        line = lines[source % len(lines)] if lines else ""
        if move != "repeat" and lines:
            del lines[source % len(lines)]
        if move != "drop":
            lines.insert(target, line)
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_text("".join(lines), encoding="utf-8", errors="surrogatepass", newline="")
    try:
        config = load_config(Recipe, path, overrides)
    except UserError:
        return
    # A right config: pydantic takes it apart and builds it again.
    assert Recipe.model_validate(config.model_dump()).name == config.name


def test_loading_needs_no_torch():
    code = "import sys, isogloss.config.load; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
