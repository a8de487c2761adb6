"""A recipe: the config of a whole run, composed of its parts' own configs."""

from importlib import resources
from pathlib import Path

from pydantic import Field, model_validator

from isogloss.build import plan_model
from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import NAME
from isogloss.config.base import Config, UserError
from isogloss.config.load import Overrides, load_config
from isogloss.config.paths import UserPath, expand
from isogloss.config.problems import did_you_mean
from isogloss.config.span import steps_of
from isogloss.data.opening import DataConfig
from isogloss.data.synthetic.corpus import SyntheticCorpus
from isogloss.data.synthetic.task import SyntheticConfig
from isogloss.data.tokenizers.config import BPEConfig, SymbolsConfig, TokenizerConfig
from isogloss.data.tokenizers.loading import build_tokenizer
from isogloss.init.schemes import LinguaConfig, SchemeConfig
from isogloss.models.protocol import LanguageModel
from isogloss.models.registry import ModelConfig
from isogloss.optim.groups import AdamWConfig
from isogloss.parallel.float8 import check_float8
from isogloss.parallel.mesh import Axes, ParallelConfig, Stretch, check_axes, find_axes
from isogloss.train.loop import TrainConfig
from isogloss.train.trackers import TrackersConfig
from isogloss.train.watch import WatchConfig

DEFAULT = "stdlib-small"
PYTHON_PROMPTS = ("def ", "class ")


class Recipe(Config):
    """One complete run."""

    name: str = Field(max_length=100, pattern=r"^\w[\w.-]*$")
    """The run's name and the name of its folder: letters, digits, and after the first also dots and dashes."""
    runs_dir: UserPath = Path("runs")
    """Where runs' folders stand."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Governs everything random: initial weights, the order of the data, samples."""
    data: DataConfig
    """The text."""
    tokenizer: TokenizerConfig
    """How text becomes tokens."""
    model: ModelConfig
    """The model."""
    init: SchemeConfig = LinguaConfig(embedding_std=1.0)
    """The scale that every weight starts from; a type that is named has its own defaults."""
    optim: AdamWConfig = AdamWConfig()
    """The optimizer and its schedule."""
    train: TrainConfig
    """How long, how much at a time, and on what."""
    parallel: ParallelConfig = ParallelConfig()
    """How several ranks share the work."""
    watch: WatchConfig = WatchConfig()
    """What is shown and measured on the way."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When checkpoints are written and which are kept."""
    trackers: TrackersConfig = TrackersConfig()
    """Where else metrics go."""

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if (warmup := self.in_steps().optim.schedule.warmup) >= self.train.steps:
            raise ValueError(
                f"optim.schedule.warmup ({warmup}) must be below train.steps ({self.train.steps}): "
                "the learning rate would never reach its peak; set optim.schedule.warmup to fewer steps, or to a share "
                "of them such as 0.1"
            )
        generated, symbols = isinstance(self.data, SyntheticConfig), isinstance(self.tokenizer, SymbolsConfig)
        if generated and not symbols:
            raise ValueError(
                f"data.type {self.data.type} is generated, so there is no text for a tokenizer of type "
                f"{self.tokenizer.type}; set tokenizer.type to symbols"
            )
        if symbols and not generated:
            raise ValueError(
                f"tokenizer.type symbols is for generated data, which data.type {self.data.type} is not; set "
                "tokenizer.type to bytes, bpe or file"
            )
        self.init.rules(self._any_vocabulary())  # a scheme may be for some models only
        for stage in self.train.seq_len_warmup:
            if self.data.seq_len % stage.divisor:
                raise ValueError(
                    f"train.seq_len_warmup: data.seq_len ({self.data.seq_len}) cannot be cut into {stage.divisor} "
                    "equal rows; choose a divisor of it"
                )
        return self

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.runs_dir / self.name

    def in_steps(self) -> "Recipe":
        """The same with all warm-ups as numbers of steps, where they are shares of ``train.steps``."""
        schedule = self.optim.schedule
        warmup = steps_of(schedule.warmup, schedule.span(self.train.steps) or self.train.steps)
        schedule = schedule.model_copy(update={"warmup": warmup})
        optim = self.optim.model_copy(update={"schedule": schedule})
        return self.model_copy(update={"optim": optim, "train": self.train.in_steps()})

    def with_prompts(self) -> "Recipe":
        """The same with the prompts that Python's standard library has of its own, where it is the text."""
        if self.watch.prompts is not None or self.data.type != "python_stdlib":
            return self
        return self.model_copy(update={"watch": self.watch.model_copy(update={"prompts": PYTHON_PROMPTS})})

    @property
    def n_tokens(self) -> int:
        """Tokens that all steps read."""
        return self.train.plan().rows_before(self.train.steps) * self.data.seq_len

    def flops(self, model: LanguageModel) -> float:
        """Operations of all steps, whatever their batches and rows; of its model, with a vocabulary."""
        seq_len = self.data.seq_len
        return sum(
            float(model.flops_per_token(seq_len // divisor)) * n_steps * n_rows * seq_len
            for n_steps, n_rows, divisor in self.train.plan().pieces(0, self.train.steps)
        )

    def axes(self, n_ranks: int) -> Axes:
        """How so many ranks share the run.

        Raises:
            UserError: they cannot; every reason is listed.
        """
        axes, plan = find_axes(self.parallel, n_ranks), self.train.plan()
        spike, first, stretches = self.train.spike, 1, list[Stretch]()
        # A run that goes back passes over batches, at most all of them each time.
        last = self.train.steps * (1 if spike is None else 1 + spike.max_rewinds)
        for n_steps, n_rows, divisor in plan.pieces(0, last):
            when = f" while warming up, from step {first} on" if (n_rows, divisor) != (plan.batch_size, 1) else ""
            stretches.append(Stretch(self.data.seq_len // divisor, n_rows, when))
            first += n_steps
        check_axes(axes, self.model, stretches)
        return axes

    def check_float8(self, axes: Axes, device: str | None = None) -> None:
        """Whether projections can be multiplied in float8, where the recipe asks for it.

        Args:
            axes: of the run.
            device: where it is to run here, ``cpu`` or ``cuda``; ``None`` if not here.

        Raises:
            UserError: they cannot; every reason is listed.
        """
        if self.train.float8 != "off":
            check_float8(
                self.train.float8,
                plan_model(self._any_vocabulary(), self.init).model,
                precision=self.train.precision,
                n_positions=self.data.seq_len // axes.context,
                n_tensor=axes.tensor,
                device=device,
            )

    def _any_vocabulary(self) -> ModelConfig:
        """The model, with a vocabulary of one where it follows from the tokenizer."""
        return self.model.model_copy(update={"vocab_size": self.model.vocab_size or 1})

    def with_vocabulary(self, n_tokens: int) -> "Recipe":
        """The recipe with the model's vocabulary settled for a tokenizer of ``n_tokens`` ids.

        Raises:
            UserError: the model's vocabulary is too small for them.
        """
        asked = self.model.vocab_size
        if asked is not None and asked < n_tokens:
            raise UserError(
                f"model.vocab_size is {asked}, but the tokenizer has {n_tokens} tokens; "
                f"set model.vocab_size to {n_tokens} or more, or leave it out"
            )
        model = self.model.model_copy(update={"vocab_size": asked or n_tokens})
        return self.model_copy(update={"model": model})

    def with_planned_vocabulary(self) -> "Recipe":
        """The recipe with a vocabulary, of the size asked of the tokenizer where that decides; no text is read."""
        if self.model.vocab_size is not None:
            return self
        match self.data, self.tokenizer:
            case SyntheticConfig() as data, _:
                n_tokens = SyntheticCorpus(data).tokenizer.n_tokens
            case _, BPEConfig() as tokenizer:
                n_tokens = tokenizer.vocab_size
            case _, tokenizer:
                n_tokens = build_tokenizer(tokenizer, tuple).n_tokens
        return self.with_vocabulary(n_tokens)


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that comes with the package."""
    folder = Path(str(resources.files("isogloss"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name: str | Path = DEFAULT, overrides: Overrides = ()) -> Recipe:
    """A shipped recipe by name, a YAML file or a run's folder by path, with overrides (``a.b=c``).

    A run's folder, or the recipe.yaml in it, is the run in that folder, wherever it was begun and under which name:
    ``name`` and ``runs_dir`` follow the folder, unless overrides name another run.

    Raises:
        UserError: there is no such recipe, or something in it is wrong.
    """
    shipped, name = shipped_recipes(), str(name)
    given = expand(name)
    if name in shipped:
        if is_run_folder(given):
            raise UserError(
                f"{name} is a shipped recipe, and here also a run's folder; write ./{name} for the run, or start the "
                "shipped recipe from another folder"
            )
        return load_config(Recipe, shipped[name], overrides)
    if NAME.fullmatch(given.name) and given.is_dir() and is_run_folder(given.parent.parent):
        run = given.parent.parent
        raise UserError(f"{given} is a checkpoint of {run}; give {run}, which goes on from its newest one")
    path = given / "recipe.yaml" if (given / "recipe.yaml").is_file() else given
    if not path.exists():
        hint = did_you_mean(name, shipped) or f"; shipped recipes: {', '.join(shipped)}"
        raise UserError(f"{name}: no such recipe or file{hint}")
    if path.name != "recipe.yaml" or not is_run_folder(path.parent):
        return load_config(Recipe, path, overrides)
    folder = path.parent
    if folder.is_symlink() or folder.name in ("", ".."):
        folder = folder.resolve()
    return load_config(Recipe, path, overrides, replaced={"name": folder.name, "runs_dir": str(folder.parent)})


def is_run_folder(path: Path) -> bool:
    """Whether a run was begun in a folder; a folder with nothing but a recipe.yaml is none."""
    traces = ("machine.json", "checkpoints", "metrics.jsonl")
    return (path / "recipe.yaml").is_file() and any((path / trace).exists() for trace in traces)
