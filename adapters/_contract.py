"""What a variant is: a config, the shapes of its trainable tensors, an init, a forward.

A variant file `adapters/<name>.py` defines one `Config` subclass and one `Variant` subclass; the registry finds both by
importing every module of the package whose name has no leading underscore. Letters, here and in every variant file:
o, i = out and in features of the adapted layer, r = rank, k = rank inside the basis, *B = batch and sequence axes.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adapters._cache import Cache
from adapters._errors import AdapterError, problem
from adapters._fields import selection
from adapters._together import tensor_of
from adapters._weights import Layer

if TYPE_CHECKING:
    from adapters._calibration import Moments
    from adapters._together import ForwardPass

Shape = tuple[int, ...]
T = TypeVar("T")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class Scaling(StrEnum):
    """s in `s·BAx`: alpha/r (Hu et al. 2021) or alpha/√r (Kalajdzievski 2023, arXiv 2312.03732)."""

    standard = "standard"
    rslora = "rslora"


class Calibration(Enum):
    """Whether a variant, as configured, reads the second moment C = E[xxᵀ] of its layers' inputs."""

    unused = "unused"
    optional = "optional"
    required = "required"


def bounded(
    default: Any,
    *,
    lo: int | float | None = None,
    above: int | float | None = None,
    hi: int | float | None = None,
    multiple: int = 1,
) -> Any:
    """A config field with a range that `Config` checks: lo ≤ value ≤ hi, value > above, a multiple of `multiple`."""
    return field(default=default, metadata={"lo": lo, "above": above, "hi": hi, "multiple": multiple})


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every variant's config has.

    targets: preset name (`qv kv attn mlp all`, see `_targets`), or regexes matched with `re.search` on module names.
    roles: `reader` (d_in = hidden size), `writer` (d_out = hidden size), or None for both.
    layers: indices of the transformer layers to adapt (any iterable of ints), or None for all.
    dtype: of the trainable tensors; below float32 small steps are lost to rounding.
    """

    __no_type_check__: ClassVar[bool] = True  # jaxtyping's: `__post_init__` takes 16 for 16.0 and names for enums

    targets: Any = "qv"
    roles: str | None = None
    layers: Any = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        where = type(self).__name__
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _checked(where, f, getattr(self, f.name)))
        if self.dtype not in DTYPES:
            raise AdapterError(problem(where, "unknown dtype", got=self.dtype, expected=f"one of {', '.join(DTYPES)}"))
        if self.roles not in (None, "reader", "writer"):
            raise AdapterError(problem(where, "unknown roles", got=self.roles, expected="reader, writer or None"))


def _checked(where: str, f: dataclasses.Field[Any], value: Any) -> Any:
    """The value in canonical form: enums from their names, iterables as tuples; raises AdapterError out of range."""
    if isinstance(f.default, Enum):
        try:
            return type(f.default)(value)
        except ValueError:
            names = ", ".join(m.value for m in type(f.default))
            raise AdapterError(problem(where, f"unknown {f.name}", got=value, expected=f"one of {names}")) from None
    if isinstance(value, torch.dtype) and f.name == "dtype":
        return dtype_name(value)
    if f.name in ("targets", "layers"):
        return selection(where, f.name, value)
    if isinstance(f.default, bool) and type(value) is not bool:
        raise AdapterError(problem(where, f"{f.name} is not a boolean", got=value, expected="True or False"))
    if not f.metadata:
        return tuple(value) if isinstance(value, list) else value
    annotation = f.type if isinstance(f.type, str) else inspect.formatannotation(f.type)  # a string under __future__
    kind, optional = annotation.removesuffix(" | None"), annotation.endswith("| None")
    if value is None and optional:
        return value
    lo, above, hi = f.metadata["lo"], f.metadata["above"], f.metadata["hi"]
    number = "an integer" if kind == "int" else "a finite number"
    multiple = f.metadata["multiple"]
    limits = ((">=", lo), (">", above), ("<=", hi))
    bounds = [f"{sign} {limit:g}" for sign, limit in limits if limit is not None]
    bounds += [f"a multiple of {multiple}"] if multiple > 1 else []
    expected = " ".join([number, " and ".join(bounds)]).strip()
    is_number = type(value) is int or (kind == "float" and isinstance(value, float))
    is_number = is_number and (kind == "int" or abs(value) <= sys.float_info.max)  # false for NaN
    inside = (
        is_number and (lo is None or value >= lo) and (above is None or value > above) and (hi is None or value <= hi)
    ) and (multiple == 1 or value % multiple == 0)
    if not inside:
        raise AdapterError(problem(where, f"{f.name} out of range", got=value, expected=expected))
    return float(value) if kind == "float" else value


class Variant:
    """One adapter on one linear layer: a site. `attach` creates one per adapted layer, and the hooks call it.

    Trainable tensors are parameters `lora_*` of the layer, frozen ones buffers `basis_*`; both read as attributes of
    the variant (`self.lora_A`). Override `forward` to change the layer's output, `forward_input` to change its input.
    The hooks turn autocast off around both: dtypes are what the code says (`wide` for r-dimensional arithmetic).
    """

    Config: ClassVar[type[Config]]
    name: ClassVar[str] = ""  # the file's stem, set by the registry
    paper: ClassVar[str | None] = None  # arXiv number
    supports_quantized: ClassVar[bool] = True
    trains_base: ClassVar[bool] = False  # the one exception to "weights are never written"
    basis_fields: ClassVar[tuple[str, ...] | None] = None  # config fields its basis depends on; None: all of them
    basis_reads_weight: ClassVar[bool] = True  # False where the config alone gives it: it is the same on another base
    no_decay: ClassVar[frozenset[str]] = frozenset()  # scale-free tensors: decay would not pull them to identity
    lr_multipliers: ClassVar[Mapping[str, float]] = {}
    identity_atol: ClassVar[float] = 0.0  # > 0 only where the paper's init is no exact identity
    exact_basis: ClassVar[frozenset[str]] = frozenset()  # kept as computed: `restore` computes other tensors from them
    tensors_version: ClassVar[int] = 1  # raised when the trainable tensors change their meaning: see `converted`

    def __init__(self, layer: Layer, cfg: Any, o: int, i: int) -> None:
        self.layer, self.cfg, self.o, self.i = layer, cfg, o, i
        self.coeff: float = getattr(cfg, "coeff", 1.0)
        self.owner: Variant = self  # the site whose trainable tensors these are: the first of the tied ones
        self.called = False  # whether a forward pass has reached the layer
        self.enabled = True  # False in a `disabled()` block
        self.cache: Cache | None = None  # there in a `frozen()` block only
        self.forward_pass: ForwardPass | None = None  # there while the module that holds all sites runs
        self.casts: list[torch.dtype] = []  # what the base weight was cast to since attach
        self.keeps_basis = False  # the basis cannot be computed again from the weight

    # -- what a variant file writes ------------------------------------------------------------------------------
    @classmethod
    def shapes(cls, cfg: Any, o: int, i: int) -> dict[str, Shape]:
        """Trainable tensors of one (o, i) layer. They start at zero; `init` fills the others."""
        return {}

    @classmethod
    def calibration(cls, cfg: Any) -> Calibration:
        return Calibration.unused

    @classmethod
    def centred(cls, cfg: Any) -> bool:
        """Whether its C is the covariance of the layer's inputs, about their mean, instead of E[xxᵀ]."""
        return False

    @classmethod
    def distribute(
        cls, cfgs: dict[str, Any], shapes: Mapping[str, tuple[int, int]], moments: Moments | None
    ) -> dict[str, Any]:
        """Each layer's config, decided over all layers before any is attached: a rank budget may be shared out here.

        cfgs and shapes (o, i): by module name, ranks already no larger than the layer allows.
        """
        return cfgs

    @classmethod
    def tied(cls, cfg: Any) -> int | None:
        """Layers whose configs give the same number share one set of trainable tensors; None: a layer has its own."""
        return None

    def init(self, generator: torch.Generator, moment: Tensor | None) -> None:
        """Fills the trainable tensors that do not start at zero.

        moment: C (i, i) for calibrated variants; None when a checkpoint's tensors will replace what is filled in.
        """

    def basis(self, W: Float[Tensor, "o i"], moment: Tensor | None) -> dict[str, Tensor]:
        """Frozen tensors computed from the weight (fp64) alone, or also from C (i, i); names start with `basis_`."""
        return {}

    @classmethod
    def stored_basis(cls, cfg: Any, calibrated: bool, o: int, i: int) -> dict[str, Shape]:
        """Basis tensors that every checkpoint holds, because the weight alone does not give them; with their shapes."""
        return {}

    def restore(self, W: Float[Tensor, "o i"], stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """The whole basis, from the weight and what a checkpoint holds: `stored_basis` or all of it."""
        return stored

    def converted(self, tensors: dict[str, Tensor], version: int) -> dict[str, Tensor]:
        """The trainable tensors of a checkpoint with an older `tensors_version`, in today's meaning."""
        return tensors

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """P (o, n), Q (n, i) with Δy = P(Qx), for variants that are linear in x and low-rank; otherwise None."""
        return None

    def project(self) -> None:
        """Puts constrained parameters back into their range after an optimizer step."""

    def forward(self, x: Float[Tensor, "*B i"], y: Float[Tensor, "*B o"]) -> Float[Tensor, "*B o"]:
        raise NotImplementedError

    def forward_input(self, x: Float[Tensor, "*B i"]) -> Float[Tensor, "*B i"]:
        raise NotImplementedError

    # -- what it may use ------------------------------------------------------------------------------------------
    def __getattr__(self, name: str) -> Tensor:
        if name.startswith(("lora_", "basis_")):
            tensor: Tensor = getattr(self.layer, name)
            return tensor
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def scale(self) -> float:
        """s = alpha/r or alpha/√r; alpha None stands for r (s = 1)."""
        alpha: float = self.cfg.r if self.cfg.alpha is None else self.cfg.alpha
        return alpha / (math.sqrt(self.cfg.r) if self.cfg.scaling is Scaling.rslora else self.cfg.r)

    def times_coeff(self, t: Tensor) -> Tensor:
        """c·t, without a kernel for c = 1."""
        return t if self.coeff == 1 else self.coeff * t

    def parameters(self) -> dict[str, nn.Parameter]:
        return {n: getattr(self.layer, n) for n in self.shapes(self.cfg, self.o, self.i)}

    def cached(self, name: str, compute: Callable[[], T]) -> T:
        """`compute()`, a tensor or tensors that do not depend on the input; in a `frozen()` block it is kept.

        With grad enabled nothing is read or kept (a cached graph would break gradient accumulation and checkpointing),
        nor in compiled code.
        """
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or self.cache is None:
            return compute()
        return self.cache.read(name, self.coeff, compute)

    def together(
        self, compute: Callable[..., tuple[Tensor, ...]], dtype: torch.dtype, *names: str
    ) -> tuple[Tensor, ...]:
        """This site's rows of `compute(dtype, *tensors)`: a method of the variant that does not read the input.

        names: of the site's tensors, or of methods that return one. What `compute` gets and returns has a leading axis
        L: all sites that are alike (see `_together`), or this one alone.
        """
        if not torch.compiler.is_compiling() and self.forward_pass is not None and self.forward_pass.serves():
            return self.forward_pass.read(self, compute, dtype, names)
        return self.cached(f"{compute.__name__} {dtype}", lambda: self.alone(compute, dtype, *names))

    def alone(self, compute: Callable[..., tuple[Tensor, ...]], dtype: torch.dtype, *names: str) -> tuple[Tensor, ...]:
        """As `together`, for this site only."""
        values = compute(dtype, *(tensor_of(self, n).unsqueeze(0) for n in names))
        return tuple(t.squeeze(0) for t in values)

    def drop_cache(self) -> None:
        if self.cache is not None:
            self.cache.clear()

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model is outside the blocks its original is in."""
        return vars(self) | {"cache": None, "enabled": True, "forward_pass": None}

    @classmethod
    def changes_input(cls) -> bool:
        return cls.forward_input is not Variant.forward_input


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` of torch.float32."""
    return str(dtype).removeprefix("torch.")


def wide(*dtypes: torch.dtype) -> torch.dtype:
    """The widest of fp32 and `dtypes`: r-dimensional arithmetic costs nothing and must not round small gains away."""
    return functools.reduce(torch.promote_types, dtypes, torch.float32)
