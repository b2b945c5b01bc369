"""The label of the container for a Siemens console, and the archive that is installed there.

    python container/package.py label                   prints NAME=VALUE for docker build --label
    python container/package.py zip IMAGE.tar OUT       IMAGE.tar: of docker save

The label is ``label.json`` in Base64. It is checked against ``label.schema.json``, or against the vendor's own schema
that is given by ``--schema``. The archive holds the image and a guide as PDF, under the names that the console expects.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tarfile
import tempfile
import textwrap
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LABEL = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"


class PackageError(Exception):
    """What keeps a console from loading the container, as one line."""


def main() -> None:
    """Print the label, or write the archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schema", type=Path, default=HERE / "label.schema.json")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("label")
    archive = commands.add_parser("zip")
    archive.add_argument("image", type=Path)
    archive.add_argument("out", type=Path)
    given = parser.parse_args()
    try:
        label = read_label(HERE / "label.json", given.schema)
        if given.command == "label":
            print(f"{LABEL}={encoded(label)}")
        else:
            print(write_zip(label, given.image, given.out))
    except PackageError as error:
        sys.exit(f"package: {error}")


def read_label(path: Path, schema: Path) -> dict[str, Any]:
    """Read and check the label; raises ``PackageError`` where it breaks the schema."""
    from jsonschema import Draft7Validator

    label: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    faults = Draft7Validator(json.loads(schema.read_text(encoding="utf-8"))).iter_errors(label)
    told = [f"{'.'.join(map(str, fault.absolute_path)) or 'the label'}: {fault.message}" for fault in faults]
    if told:
        raise PackageError(f"{path.name}: {'; '.join(told)}")
    return label


def encoded(label: dict[str, Any]) -> str:
    """The label as the console reads it from the image."""
    return base64.b64encode(json.dumps(label, indent=2).encode()).decode("ascii")


def write_zip(label: dict[str, Any], image: Path, out: Path) -> Path:
    """Write the archive into the folder ``out``; raises ``PackageError`` where the image has another label."""
    if label_of(image) != label:
        raise PackageError(f"{image} does not carry the label of label.json: build it with --label")
    general = label["general"]
    name = f"OpenRecon_{general['vendor']}_{general['name']['en']}_V{general['version']}"
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(out / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as file,
    ):
        guide = Path(folder) / "guide.pdf"
        write_guide(label, guide)
        file.write(image, f"{name}.tar")
        file.write(guide, f"{name}.pdf")
    return out / f"{name}.zip"


def label_of(image: Path) -> object:
    """The label inside an image that docker has saved; None if it has none."""
    try:
        with tarfile.open(image) as archive:
            (entry,) = json.load(_member(archive, "manifest.json"))
            labels = json.load(_member(archive, entry["Config"]))["config"].get("Labels") or {}
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise PackageError(f"{image} is not an image written by docker save ({error})") from None
    return json.loads(base64.b64decode(labels[LABEL])) if LABEL in labels else None


def _member(archive: tarfile.TarFile, name: str) -> Any:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is no file")
    return member


def write_guide(label: dict[str, Any], path: Path) -> None:
    """Write one page that says what the container is, and what it is not."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    general, legal = label["general"], label["general"]["regulatory_information"]
    parts = [
        f"{general['name']['en']} {general['version']}",
        general["information"]["en"],
        legal["safety_advices"],
        legal["special_operating_instructions"],
        legal["additional_relevant_information"],
    ]
    figure = Figure(figsize=(8.27, 11.69))
    figure.text(0.1, 0.92, "\n\n".join(textwrap.fill(part, 76) for part in parts), va="top")
    figure.savefig(path, format="pdf")


if __name__ == "__main__":
    main()
