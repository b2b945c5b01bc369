"""The YAML file of a plan, which may say only how it differs from another plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sansref.errors import SettingError
from sansref.presets import preset_file
from sansref.training.hints import checked
from sansref.yaml_json import read_yaml

REMOVABLE = ("methods", "accelerations")
"""What a plan can leave out single entries of."""


def read_plan(path: Path, _above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a plan, on top of those of the plan that it ``extends``.

    Mappings are merged at every depth, and anything else takes the place of what stood there; of accelerations, a list
    says which, and their settings stay. A method or an acceleration whose settings are null is left out; elsewhere null
    is a value, as ``snr: null`` is for no noise.

    Parameters
    ----------
    path
        Of the file. ``extends`` names another one, from the folder of this one, or a packaged comparison.

    Raises
    ------
    SettingError
        If there is no such plan, the plans extend each other in a circle, or one leaves out what the other has not.
    FileError
        If a file is not readable YAML.
    """
    own = read_yaml(path)
    listed = isinstance(own.get("accelerations"), list)
    if "accelerations" in own:
        own["accelerations"] = _accelerations(path, own["accelerations"])
    name = own.pop("extends", None)
    if name is None:
        return own
    if not isinstance(name, str):
        raise SettingError(f"{path}: 'extends' must be the name of another plan, got {name!r}")
    beside = path.parent / name
    try:
        base = beside if beside.is_file() else preset_file(name)
    except SettingError as error:
        raise SettingError(f"{path}: extends: {error}") from None
    above = (*_above, path.resolve())
    if base.resolve() in above:
        raise SettingError(f"{path}: extends {name!r}, which itself builds on this plan: take one 'extends' away")
    below = read_plan(base, above)
    if listed:
        known = below.pop("accelerations", {})
        own["accelerations"] = {value: known.get(value, {}) for value in own["accelerations"]}
    values = _merged(below, own)
    for group in REMOVABLE:
        there = below.get(group)
        for entry in _left_out(own.get(group)):
            if not isinstance(there, Mapping) or entry not in there:
                what = f"{entry:g}" if isinstance(entry, float) else repr(entry)
                raise SettingError(f"{path}: {group}: leaves out {what}, which {base} does not have")
            del values[group][entry]
    return values


def _accelerations(path: Path, given: object) -> dict[float, Mapping[str, Any] | None]:
    if not isinstance(given, list | Mapping):
        raise SettingError(f"{path}: 'accelerations' must be a list such as [4, 8]")
    found = {}
    for value, settings in given.items() if isinstance(given, Mapping) else ((value, {}) for value in given):
        if not (settings is None or isinstance(settings, Mapping)):
            raise SettingError(f"{path}: acceleration {value} must hold settings such as 'center: 0.08'")
        found[float(checked("accelerations", value, float))] = settings
    return found


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in own.items():
        below = base.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = _merged(below, value)
        merged[name] = value
    return merged


def _left_out(group: object) -> list[Any]:
    return [name for name, settings in group.items() if settings is None] if isinstance(group, Mapping) else []
