"""The container for a console: its label, its entry point with a client, and the archive; docker itself is not run."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import ismrmrd
import numpy as np
import pytest

import sansref
from sansref.serving.options import ServeOptions

jsonschema = pytest.importorskip("jsonschema")

CONTAINER = Path(__file__).parents[2] / "container"
package = SimpleNamespace(**run_path(str(CONTAINER / "package.py"), run_name="package"))
TEXT = json.dumps({"parameters": {"config": "sansref", "customconfig": ""}})  # as consoles send it after the header


@pytest.fixture
def label():
    return package.read_label(CONTAINER / "label.json", CONTAINER / "label.schema.json")


def test_the_label_says_what_the_container_does(label):
    general, reconstruction = label["general"], label["reconstruction"]
    assert general["version"] == general["regulatory_information"]["production_identifier"] == sansref.__version__
    assert "not for diagnostic use" in general["information"]["en"]
    assert "Not a medical device" in general["regulatory_information"]["safety_advices"]
    assert reconstruction["port"] == ServeOptions.port
    assert (reconstruction["emitter"], reconstruction["injector"]) == ("raw", "image")
    assert reconstruction["content_qualification_type"] == "RESEARCH"


WHOLE = {"type": "int", "id": "a", "label": {"en": "A"}, "minimum": 0, "maximum": 9, "default": 1}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("general", "regulatory_information", "gtin"), None, "'gtin' is a required property"),
        (("general", "version"), "0.1", "does not match"),
        (("general", "colour"), "red", "'colour' was unexpected"),
        (("reconstruction", "port"), "9002", "is not of type 'integer'"),
        (("reconstruction", "emitter"), "kspace", "is not one of"),
        (("reconstruction", "transfer_protocol", "version"), "1.5.0", "'1.4.1' was expected"),
        (("reconstruction", "min_count_required_cpu_cores"), 0, "less than the minimum"),
        (("parameters",), [WHOLE | {"id": "two words"}], "not valid under any"),
        (("parameters",), [WHOLE | {"step": 2}], "not valid under any"),
        (("parameters",), [WHOLE | {"id": f"a{n}"} for n in range(15)], "is too long"),
    ],
)
def test_labels_that_a_console_refuses_are_refused(label, tmp_path, place, value, message):
    bad = copy.deepcopy(label)
    *above, last = place
    inside = bad
    for name in above:
        inside = inside[name]
    inside[last] = value
    if value is None:
        del inside[last]
    (tmp_path / "label.json").write_text(json.dumps(bad))
    with pytest.raises(package.PackageError, match=message):
        package.read_label(tmp_path / "label.json", CONTAINER / "label.schema.json")


def test_parameters_of_all_kinds_are_let_through(label, tmp_path):
    named = {"label": {"en": "A"}, "information": {"en": "what it does"}}
    label["parameters"] = [
        WHOLE | {"unit": {"en": "mm"}},
        named | {"type": "double", "id": "b", "minimum": 0, "maximum": 1.5, "default": 0.5},
        named | {"type": "string", "id": "c", "isLargeText": True},
        named | {"type": "boolean", "id": "d", "default": False},
        named | {"type": "choice", "id": "e", "default": "x", "values": [{"id": "x", "name": {"en": "X"}}]},
    ]
    (tmp_path / "label.json").write_text(json.dumps(label))
    assert package.read_label(tmp_path / "label.json", CONTAINER / "label.schema.json") == label


def on_path(folder, line):
    """An environment in which ``sansref`` is a script of one line."""
    (folder / "bin").mkdir()
    (folder / "bin" / "sansref").write_text(f"#!/bin/sh\n{line}\n")
    (folder / "bin" / "sansref").chmod(0o755)
    return os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def test_the_entry_point_serves_on_the_port_of_the_label(label, tmp_path):
    told = subprocess.check_output([CONTAINER / "start.sh"], env=on_path(tmp_path, 'echo "$@"'), text=True)
    assert (
        told.split() == f"serve /opt/run --host 0.0.0.0 --port {label['reconstruction']['port']} --pixel int16".split()
    )


@pytest.mark.slow
def test_a_client_gets_what_a_console_wants_from_the_entry_point(trained, tmp_path, measurement, connect):
    environ = on_path(tmp_path, f'exec "{sys.executable}" -m sansref "$@"') | {"SANSREF_RUN": str(trained.path)}
    # A free port of this machine alone: others may use 9002.
    line = [CONTAINER / "start.sh", "--host", "127.0.0.1", "--port", "0", "--accelerator", "cpu"]
    with subprocess.Popen(line, env=environ, stderr=subprocess.PIPE, text=True) as server:
        try:
            found = next(
                filter(None, (re.search(r"listening on 127\.0\.0\.1 port (\d+)", line) for line in server.stderr))
            )
            at = SimpleNamespace(address=("127.0.0.1", int(found[1])))
            for _ in range(2):  # a console measures again
                sent, client = measurement(slices=2, coils=2, vendor="SIEMENS"), connect(at)
                client.start(sent.header)
                client.serializer.serialize(TEXT)
                client.send(*sent.lines)
                client.end()
                images, texts = client.answers()
                assert texts == []
                assert sorted(image.slice for image in images) == [0, 1]
                for image in images:
                    assert image.data.dtype in (np.int16, np.uint16)
                    assert image.data.shape == (1, 1, 32, 32)
                    assert (image.data.min() >= 0, image.data.max()) == (True, 4095)
                    meta = ismrmrd.Meta.deserialize(image.attribute_string)
                    assert float(meta["RescaleSlope"]) > 0
                    assert "not for diagnostic use" in str(meta["ImageComments"])
            server.send_signal(signal.SIGTERM)  # as docker stop does
            server.stderr.read()
            assert server.wait(20) == 128 + signal.SIGTERM
        finally:
            server.kill()


def saved(path, labels):
    """What docker save writes, as far as it is looked at."""
    config = {"config": {"Labels": labels}}
    files = {"manifest.json": [{"Config": "sha.json", "RepoTags": ["sansref:latest"]}], "sha.json": config}
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            text = json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return path


def test_the_archive_holds_the_image_and_a_guide(label, tmp_path):
    image = saved(tmp_path / "image.tar", {package.LABEL: package.encoded(label)})
    made = package.write_zip(label, image, tmp_path / "out")
    name = f"OpenRecon_sansref_sansref_V{sansref.__version__}"
    assert made == tmp_path / "out" / f"{name}.zip"
    with zipfile.ZipFile(made) as archive:
        assert sorted(archive.namelist()) == [f"{name}.pdf", f"{name}.tar"]
        assert archive.read(f"{name}.tar") == image.read_bytes()
        assert archive.read(f"{name}.pdf").startswith(b"%PDF-")


@pytest.mark.parametrize("labels", [None, {}, {"other": "x"}, "another label"])
def test_an_image_without_the_label_is_refused(label, tmp_path, labels):
    if labels == "another label":
        other = copy.deepcopy(label)
        other["general"]["version"] = "9.9.9"
        labels = {package.LABEL: package.encoded(other)}
    with pytest.raises(package.PackageError, match="does not carry the label"):
        package.write_zip(label, saved(tmp_path / "image.tar", labels), tmp_path / "out")
    (tmp_path / "text.tar").write_text("no archive")
    with pytest.raises(package.PackageError, match="is not an image written by docker save"):
        package.write_zip(label, tmp_path / "text.tar", tmp_path / "out")
