"""Published experiments as configuration files."""

from __future__ import annotations

from pathlib import Path

from sansref.errors import SettingError

_FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """Names of the packaged presets."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


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
    if name in preset_names():
        return _FOLDER / f"{name}.yaml"
    raise SettingError(f"there is no configuration {name!r}: give a YAML file, or one of {', '.join(preset_names())}")
