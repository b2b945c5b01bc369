"""Published experiments as configuration files."""

from __future__ import annotations

from pathlib import Path

from sansref.errors import SettingError, did_you_mean

_FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """Names of the packaged configurations of a training."""
    return sorted(name for name in _names() if not _is_comparison(name))


def comparison_names() -> list[str]:
    """Names of the packaged comparisons."""
    return sorted(name for name in _names() if _is_comparison(name))


def _names() -> list[str]:
    return [path.stem for path in _FOLDER.glob("*.yaml")]


def _is_comparison(name: str) -> bool:
    return "\nkind: comparison\n" in (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def preset_file(name: str) -> Path:
    """The YAML file of a preset, or a file of the user's own.

    Raises
    ------
    SettingError
        If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if name in _names():
        return _FOLDER / f"{name}.yaml"
    cure = f"give a YAML file, or one of {', '.join(sorted(_names()))}"
    raise SettingError(f"there is no configuration {name!r}{did_you_mean(name, _names(), cure)}")
