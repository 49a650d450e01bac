"""Configuration of feature extraction: DelfConfig in protocol buffers' text form.

Field names, defaults and meanings are those of the published `delf_config.proto`.
"""

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from delg_training.text_format import TextField, TextFormatError, Token, parse_text_format
from utils.paths import require_file

RECORD = "extracted.json"  # in the folder of features: what they were made from
MAX_INT32 = 2**31 - 1
BOOLS = {
    **dict.fromkeys(("true", "True", "t", "1"), True),
    **dict.fromkeys(("false", "False", "f", "0"), False),
}

Message = TypeVar("Message")


@dataclass(frozen=True)
class DelfPcaParameters:
    """Files of a PCA, as DatumProto."""

    mean_path: str = ""  # (D,)
    projection_matrix_path: str = ""  # (D, D), rows are the components
    pca_dim: int = 0  # components that are kept
    use_whitening: bool = False
    pca_variances_path: str = ""  # (D,), with whitening


@dataclass(frozen=True)
class DelfLocalFeatureConfig:
    """Local features."""

    use_pca: bool = True
    layer_name: str = ""  # nothing reads it
    iou_threshold: float = 1.0  # nothing reads it: the exported model holds its own
    max_feature_num: int = 1000
    score_threshold: float = 100.0  # least attention of a feature
    pca_parameters: DelfPcaParameters = field(default_factory=DelfPcaParameters)
    use_resized_coordinates: bool = False  # locations in the resized picture


@dataclass(frozen=True)
class DelfGlobalFeatureConfig:
    """Global descriptors."""

    use_pca: bool = True
    pca_parameters: DelfPcaParameters = field(default_factory=DelfPcaParameters)
    image_scales_ind: tuple[int, ...] = ()  # of image_scales; empty: all


@dataclass(frozen=True)
class DelfConfig:
    """The whole configuration. Floats have the values of float32."""

    model_path: str = ""  # folder of a SavedModel
    image_scales: tuple[float, ...] = ()  # of the image pyramid
    delf_local_config: DelfLocalFeatureConfig = field(default_factory=DelfLocalFeatureConfig)
    max_image_size: int = -1  # longer side, larger pictures are shrunk; -1: no limit
    min_image_size: int = -1  # longer side, smaller pictures are enlarged; -1: no limit
    use_square_images: bool = False
    use_local_features: bool = True
    use_global_features: bool = False
    delf_global_config: DelfGlobalFeatureConfig = field(default_factory=DelfGlobalFeatureConfig)
    is_tf2_exported: bool = False  # False: the published files, exported by TensorFlow 1

    def global_indices(self) -> tuple[int, ...]:
        """Levels with a global descriptor, ascending, each once; none without global features."""
        if not self.use_global_features:
            return ()
        chosen = self.delf_global_config.image_scales_ind or range(len(self.image_scales))
        return tuple(sorted(set(chosen)))

    def check(self) -> None:
        """ValueError for what could only fail later, or give empty features."""
        if not (self.use_local_features or self.use_global_features):
            raise ValueError("use_local_features and use_global_features are both off")
        if not self.model_path:
            raise ValueError("model_path is missing")
        if not self.image_scales or not all(
            math.isfinite(scale) and scale > 0 for scale in self.image_scales
        ):
            raise ValueError(f"image_scales is {list(self.image_scales)}, expected numbers above 0")
        if self.use_local_features and self.delf_local_config.max_feature_num < 1:
            found = self.delf_local_config.max_feature_num
            raise ValueError(f"max_feature_num is {found}, expected 1 or more")
        if any(not 0 <= i < len(self.image_scales) for i in self.global_indices()):
            raise ValueError(
                f"image_scales_ind is {list(self.delf_global_config.image_scales_ind)}, but there "
                f"are {len(self.image_scales)} image_scales, counted from 0"
            )
        for size in ("max_image_size", "min_image_size"):
            if getattr(self, size) == 0:
                raise ValueError(f"{size} is 0, expected a number of pixels, or -1 for no limit")
        if self.use_local_features and self.delf_local_config.use_pca:
            _check_pca(self.delf_local_config.pca_parameters, "delf_local_config")
        if self.use_global_features and self.delf_global_config.use_pca:
            _check_pca(self.delf_global_config.pca_parameters, "delf_global_config")


def _check_pca(pca: DelfPcaParameters, where: str) -> None:
    needed = {"mean_path": pca.mean_path, "projection_matrix_path": pca.projection_matrix_path}
    if pca.use_whitening:
        needed["pca_variances_path"] = pca.pca_variances_path
    absent = [name for name, value in needed.items() if not value]
    if absent or pca.pca_dim < 1:
        raise ValueError(
            f"{where} has use_pca (its default), but pca_dim {pca.pca_dim} and no "
            f"{', '.join(absent) or 'positive pca_dim'}; DELG's models need use_pca: false"
        )


def load_delf_config(path: str | Path) -> DelfConfig:
    """Read and check a configuration; ValueError names file and line.

    Relative paths in it are those of the working folder, as published, or else of its own folder.
    """
    path = require_file(path, "delg_scripts/ holds the published configurations")
    try:
        text = path.read_text(encoding="utf-8")
        config = parse_delf_config(text)
        config.check()
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is no DelfConfig that can be used: {error}") from error
    return _with_found_paths(config, path.parent)


def parse_delf_config(text: str) -> DelfConfig:
    """The configuration as the text has it, defaults filled in; ValueError names the line."""
    return _bind(DelfConfig, parse_text_format(text), 1)


def _with_found_paths(config: DelfConfig, folder: Path) -> DelfConfig:
    """Relative paths that do not exist in the working folder become those of `folder`, if there."""

    def found(name: str) -> str:
        beside = folder / name
        return str(beside) if name and not Path(name).exists() and beside.exists() else name

    def pca(parameters: DelfPcaParameters) -> DelfPcaParameters:
        return dataclasses.replace(
            parameters,
            mean_path=found(parameters.mean_path),
            projection_matrix_path=found(parameters.projection_matrix_path),
            pca_variances_path=found(parameters.pca_variances_path),
        )

    local, whole = config.delf_local_config, config.delf_global_config
    return dataclasses.replace(
        config,
        model_path=found(config.model_path),
        delf_local_config=dataclasses.replace(local, pca_parameters=pca(local.pca_parameters)),
        delf_global_config=dataclasses.replace(whole, pca_parameters=pca(whole.pca_parameters)),
    )


# ---------------------------------------------------------------------------- fields to values


def _bind(kind: type[Message], fields: list[TextField], line: int) -> Message:
    """A message of the dataclass `kind` from the fields of a text."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for part in fields:
        hint = hints.get(part.name)
        if hint is None:
            near = difflib.get_close_matches(part.name, hints, 1)
            meant = f"did you mean {near[0]}?" if near else f"it has {', '.join(hints)}"
            raise TextFormatError(part.line, f"{kind.__name__} has no field {part.name}; {meant}")
        if typing.get_origin(hint) is tuple:
            element = typing.get_args(hint)[0]
            values[part.name] = (*values.get(part.name, ()), _convert(element, part))
        elif part.name in values:
            raise TextFormatError(part.line, f"{part.name} is given twice")
        else:
            values[part.name] = _convert(hint, part)
    return kind(**values)


def _convert(hint: Any, part: TextField) -> Any:
    if dataclasses.is_dataclass(hint):
        if isinstance(part.value, Token):
            raise TextFormatError(part.line, f"expected '{{' behind {part.name}")
        return _bind(typing.cast(type, hint), part.value, part.line)
    if not isinstance(part.value, Token):
        raise TextFormatError(part.line, f"{part.name} is a {_name(hint)}, not a message")
    try:
        return CONVERTERS[hint](part.value)
    except (ValueError, KeyError, OverflowError):
        raise TextFormatError(
            part.line, f"{part.name} is {part.value.text!r}, expected a {_name(hint)}"
        ) from None


def _name(hint: type) -> str:
    return {str: "string in quotes", bool: "bool (true or false)"}.get(hint, hint.__name__)


def _to_text(token: Token) -> str:
    if token.kind != "text":
        raise ValueError
    return token.text


def _to_int(token: Token) -> int:
    value = int(token.text, 16 if "x" in token.text.lower() else 10)
    if token.kind != "number" or abs(value) > MAX_INT32:
        raise ValueError
    return value


def _to_float(token: Token) -> float:
    if token.kind == "text":
        raise ValueError
    text = token.text.rstrip("fF") if token.kind == "number" else token.text
    return float(np.float32(text))


def _to_bool(token: Token) -> bool:
    if token.kind == "text":
        raise ValueError
    return BOOLS[token.text]


CONVERTERS: types.MappingProxyType[Any, Any] = types.MappingProxyType(
    {str: _to_text, int: _to_int, float: _to_float, bool: _to_bool}
)
