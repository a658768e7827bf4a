"""How an operation chooses its form: by the experiment's settings and by the platform.

A form is any differentiable function that takes what the reference takes; it may carry its own
gradient (`jax.custom_vjp`). Platforms without a form of their own differentiate the reference.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, Literal, ParamSpec, Self, TypeVar, overload

import jax

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class OperationSettings:
    """What forms may depend on; static, so that nothing global is read while tracing."""

    choice: Literal["auto", "reference"] = "auto"
    """auto takes the fastest form of each platform; reference takes the reference everywhere."""
    precision: str | None = None
    """`jax_default_matmul_precision` when the experiment was built."""
    devices: int = 1
    """Size of the mesh that the program runs on."""


class Operation(Generic[P, R]):
    """An operation as a class attribute of `Operations`: reading it there gives its chosen form."""

    def __init__(
        self,
        reference: Callable[P, R],
        default: Callable[..., R],
        platforms: Mapping[str, Callable[..., R]],
    ):
        self.reference = reference
        self._default, self._platforms = default, platforms

    @overload
    def __get__(self, chosen: None, owner: type) -> Self: ...
    @overload
    def __get__(self, chosen: OperationSettings, owner: type) -> Callable[P, R]: ...
    def __get__(self, chosen: OperationSettings | None, owner: type) -> Self | Callable[P, R]:
        if chosen is None:
            return self
        if chosen.choice == "reference":
            return self.reference
        return functools.partial(self._call, chosen)

    def _call(self, chosen: OperationSettings, *arrays: Any, **options: Any) -> R:
        def bind(form: Callable[..., R]) -> Callable[..., R]:
            known = {name: getattr(chosen, name) for name in _settings_of(form)}
            return functools.partial(form, **options, **known)

        default = bind(self._default)
        if not self._platforms:
            return default(*arrays)
        platforms = {name: bind(form) for name, form in self._platforms.items()}
        return _on_each_platform(default, platforms)(*arrays)


@functools.cache
def _settings_of(form: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names of the settings that are keywords of a form."""
    taken = inspect.signature(form).parameters
    return tuple(each.name for each in fields(OperationSettings) if each.name in taken)


def _on_each_platform(
    default: Callable[..., R], platforms: Mapping[str, Callable[..., R]]
) -> Callable[..., R]:
    """Returns a function whose value and gradient have the form of the platform they run on.

    For the gradient it keeps only its arguments, because the forms would keep different things. A
    form whose gradient needs more computes it again.
    """

    def forward(*arrays: Any) -> R:
        return jax.lax.platform_dependent(*arrays, default=default, **platforms)

    def pull_back(form: Callable[..., R]) -> Callable[..., tuple[Any, ...]]:
        return lambda arrays, g: jax.vjp(form, *arrays)[1](g)

    def backward(arrays: tuple[Any, ...], g: Any) -> tuple[Any, ...]:
        forms = {name: pull_back(form) for name, form in platforms.items()}
        return jax.lax.platform_dependent(arrays, g, default=pull_back(default), **forms)

    operation = jax.custom_vjp(forward)
    operation.defvjp(lambda *arrays: (forward(*arrays), arrays), backward)
    return operation


def dispatch(
    reference: Callable[P, R],
    *,
    default: Callable[..., R] | None = None,
    cpu: Callable[..., R] | None = None,
    cuda: Callable[..., R] | None = None,
    tpu: Callable[..., R] | None = None,
) -> Operation[P, R]:
    """Returns the operation that is defined by its reference and has these faster forms.

    Arrays are passed by position, static options by keyword. The form is chosen while lowering, so
    that compiling for another platform gives that platform's form. `default` is for all platforms
    without a form of their own (the reference if it is None). A form may take fields of
    `OperationSettings` as keywords.
    """
    given = {"cpu": cpu, "cuda": cuda, "tpu": tpu}
    platforms = {name: form for name, form in given.items() if form is not None}
    return Operation(reference, default or reference, platforms)
