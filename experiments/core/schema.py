"""The composed config is checked here before anything is computed: no unknown key, no impossible value.

Keys that every experiment shares are fields of ``BaseConfig``, those of all that train are fields of ``RunConfig``; an
experiment's module holds a subclass named ``Config`` that adds its own. A section with a ``_target_`` is a ``Target``:
its keys and types are checked against the signature of what it names, and values without ``_partial_`` are made once,
so that the library's own ranges speak before the first computation.
"""

import importlib
import importlib.util
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from experiments.core.catalogue import choose_an_experiment
from experiments.core.errors import UserError, one_line
from experiments.core.words import expanded
from plap_jax.directions import Directions
from plap_jax.typing import shown

Scale = Literal["smoke", "cpu", "full"]
PLAIN = (int, float, str, bool, NoneType)
HYDRA_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_")
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Section(BaseModel):
    """Base of every section: unknown keys, numbers as text, NaN and infinity are refused."""

    model_config = STRICT


class Target(RootModel[dict[str, Any]]):
    """A section that says what to make: ``_target_`` and its keyword arguments."""

    @model_validator(mode="after")
    def _names_a_target(self) -> "Target":
        if not isinstance(self.root.get("_target_"), str):
            raise ValueError("must hold _target_, the import path of what is to be made")
        return self

    @property
    def spec(self) -> dict[str, Any]:
        """The section as plain data, for a cache key."""
        return self.root

    @property
    def is_partial(self) -> bool:
        """Whether more arguments are needed than the config can hold (a key, a shape)."""
        return bool(self.root.get("_partial_", False))

    def make(self, *args: Any, **kwargs: Any) -> Any:
        """The object; ``args`` and ``kwargs`` complete a section marked ``_partial_: true``."""
        return instantiate({**self.root, "_partial_": True}, _convert_="all")(*args, **kwargs)


class Flux(Section):
    """How κ_p is estimated."""

    p: float = Field(ge=1, description="below 1 the operator is unbounded where the score vanishes")
    n_samples: int = Field(ge=1, description="directions per ball")
    directions: Directions = Field(description="kind of random directions")
    radius: Annotated[float, Field(gt=0)] | None = Field(description="null: the noise shell σ√d")


class BaseConfig(Section):
    """What every experiment's config holds."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="lower case, digits and _, names the run directory")
    experiment: str = Field(description="module with Config and run")
    objective: str = Field(description="the metric that a sweeper sees")
    headline: list[str] = Field(description="patterns of the metrics that are shown in the terminal and in sweeps")
    figures: str | None = Field(description="module under experiments.figures with draw, or null")
    seed: int = Field(ge=0, lt=2**31, description="seed of all randomness")
    scale: Scale = Field(description="size of the run: a trial, a processor, an accelerator")
    scales: dict[Scale, dict[str, Any]]
    cache_dir: str = Field(min_length=1, description="folder in which finished stages are kept")
    tracking: Target = Field(description="where metrics and figures are logged")
    flux: Flux
    model: Target = Field(description="the network")

    @field_validator("figures")
    @classmethod
    def _is_a_module(cls, figures: str | None) -> str | None:
        try:
            found = figures is None or importlib.util.find_spec(figures) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise ValueError("must be a module that can be imported, or null")
        return figures

    @field_validator("scales")
    @classmethod
    def _same_keys(cls, scales: dict[Scale, dict[str, Any]]) -> dict[Scale, dict[str, Any]]:
        if set(scales) != set(get_args(Scale)) or len({tuple(sorted(s)) for s in scales.values()}) != 1:
            raise ValueError("must hold smoke, cpu and full, each with the same keys")
        return scales


class RunConfig(BaseConfig):
    """What the config of an experiment that trains networks holds."""

    diffusion: Target = Field(description="noise schedule")
    prediction: Literal["eps", "x0", "v", "flow", "edm"] = Field(description="what the network predicts")
    train: Target = Field(description="how networks are trained")
    data: Target = Field(description="the data set")


def checked_as(key: str, value: Any, check: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``check(*args)``, whose complaint "argument=value: what is allowed" is told under the key of the config."""
    try:
        return check(*args, **kwargs)
    except ValueError as error:
        raise ValueError(f"{key}={value}: {str(error).partition(': ')[2]}") from error


def check(config: DictConfig) -> tuple[BaseConfig, ModuleType]:
    """The config as its experiment's model, and the experiment's module.

    Raises:
        UserError: the first problem, as one line ``key=value: what is allowed``.
    """
    if OmegaConf.is_missing(config, "name") or "experiment" not in config:
        raise UserError(choose_an_experiment())
    if config.scale not in get_args(Scale):  # before interpolation, which would only miss an entry of `scales`
        raise UserError(f"scale={config.scale}: must be one of {', '.join(get_args(Scale))}")
    values = expanded(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    module = _experiment(values["experiment"])
    checked = _validate(module.Config, values, ())
    for path, target in _targets(checked, ()):
        if path != ("tracking",):  # a tracker may fail, and must not fail the run
            _check_target(target, path)
    return checked, module


def _experiment(path: Any) -> ModuleType:
    try:
        module = importlib.import_module(str(path))
    except ModuleNotFoundError as error:
        if error.name is None or not str(path).startswith(error.name):
            raise
        raise UserError(f"experiment={path}: must be a module that can be imported") from error
    if not hasattr(module, "Config") or not hasattr(module, "run"):
        raise UserError(f"experiment={path}: must be a module that holds Config and run")
    return module


def _validate(model: type[BaseModel], values: Any, path: tuple[str, ...]) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error.errors(include_url=False)[0], model, path)) from None


def _targets(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Target]]:
    if isinstance(value, Target):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _targets(getattr(value, name), (*path, name))
    elif isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _targets(item, (*path, str(name)))


def _check_target(target: Target, path: tuple[str, ...]) -> None:
    check_arguments(target.spec, path)
    if not target.is_partial:
        try:
            target.make()
        except Exception as error:
            line = one_line(error)
            if line is None:
                raise
            raise UserError(f"{'.'.join(path)}.{line}") from error


def check_arguments(spec: dict[str, Any], path: tuple[str, ...]) -> None:
    """Holds the keyword arguments of ``spec`` against the signature of its ``_target_``.

    Raises:
        UserError: the first that does not fit, as one line under the key ``path``.
    """
    try:
        target = pkgutil.resolve_name(spec["_target_"])
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{'.'.join(path)}._target_={spec['_target_']}: cannot be imported ({error})") from error
    arguments = {key: value for key, value in spec.items() if key not in HYDRA_KEYS}
    _validate(_signature_model(target), arguments, path)
    for name, value in arguments.items():
        if isinstance(value, dict) and "_target_" in value:
            check_arguments(value, (*path, name))


def _signature_model(target: Any) -> type[BaseModel]:
    """A model of the keyword arguments of ``target``; annotations that YAML cannot hold are left to the callee."""
    parameters = parameters_of(target)
    fields: dict[str, Any] = {
        f"argument_{p.name}": (p.annotation if _is_plain(p.annotation) else Any, Field(None, alias=p.name))
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    is_open = any(p.kind == p.VAR_KEYWORD for p in parameters)
    config = ConfigDict(STRICT, extra="allow" if is_open else "forbid")
    return create_model(getattr(target, "__name__", "Arguments"), __config__=config, **fields)


def parameters_of(target: Any) -> list[inspect.Parameter]:
    """Of a function, or of what makes a class; annotations as they are, where all of them can be evaluated."""
    is_class = inspect.isclass(target)  # the class itself may have the signature of its metaclass
    try:
        signature = inspect.signature(target.__init__ if is_class else target, eval_str=True)
    except NameError:  # annotations that are imported for type checkers alone
        signature = inspect.signature(target.__init__ if is_class else target)
    return list(signature.parameters.values())[is_class:]


def _is_plain(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, UnionType, list):
        return all(_is_plain(a) for a in get_args(annotation))
    return origin is Literal or annotation in PLAIN


ALLOWED = {
    "greater_than_equal": "must be >= {ge:g}",
    "greater_than": "must be > {gt:g}",
    "less_than_equal": "must be <= {le:g}",
    "less_than": "must be < {lt:g}",
    "literal_error": "must be one of {expected}",
    "finite_number": "must be a finite number",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a section of keys and values",
    "model_type": "must be a section of keys and values",
    "missing": "is missing",
}


def _explain(error: Any, model: type[BaseModel], path: tuple[str, ...]) -> str:
    """``flux.p=0.5: must be >= 1 (…)`` from one of pydantic's error records."""
    location = tuple(str(part) for part in error["loc"])
    key = ".".join((*path, *location))
    if error["type"] == "extra_forbidden":
        parent = _field(model, location[:-1])[0]
        known = sorted(field.alias or name for name, field in parent.model_fields.items()) if parent else []
        return f"{key}={_as_in_yaml(error['input'])}: unknown key; known here: {', '.join(known)}"
    template = ALLOWED.get(error["type"])
    allowed = template.format(**error.get("ctx", {})) if template else error["msg"].removeprefix("Value error, ")
    if not key or allowed.startswith(f"{key}."):
        return allowed  # a check of several keys together, which names them itself
    note = _field(model, location)[1]
    value = "" if error["type"] == "missing" else f"={_as_in_yaml(error['input'])}"
    return f"{key}{value}: {allowed}{f' ({note})' if note else ''}"


def _field(model: type[BaseModel] | None, location: tuple[str, ...]) -> tuple[type[BaseModel] | None, str | None]:
    """The model at ``location`` (if a model stands there) and the field's description."""
    note = None
    for name in location:
        field = model.model_fields.get(name) if model else None
        note = field.description if field else None
        candidates = (field.annotation, *get_args(field.annotation)) if field else ()
        model = next((c for c in candidates if inspect.isclass(c) and issubclass(c, BaseModel)), None)
    return model, note


def _as_in_yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{…}"
    return json.dumps(value) if value is None or isinstance(value, bool) else shown(value)
