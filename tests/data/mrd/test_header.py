from __future__ import annotations

import time
from typing import Any

import ismrmrd
import pytest

from sansref.data.mrd.header import MrdHeader, StepLimits, parse_header
from sansref.errors import FileError


def text_of(head: Any) -> str:
    return ismrmrd.xsd.ToXML(head)


def test_what_a_header_says(mrd: Any) -> None:
    head = mrd.header(calibration="embedded", average=(0, 2, 0), kspace_encoding_step_1=(0, 11, 4))
    header = parse_header("a.h5", text_of(head))
    assert header == MrdHeader(
        encoded=(32, 16, 1),
        recon=(16, 16, 1),
        encoded_fov=(320.0, 160.0, 4.0),
        recon_fov=(160.0, 160.0, 4.0),
        steps1=StepLimits(0, 11, 4),
        steps2=StepLimits(0, 0, 0),
        averages=3,
        calibration="embedded",
        subject="p7",
        contrast="t1_fl2d",
        lying="HFS",
        fovs=((320.0, 160.0, 4.0),),
    )
    assert (header.pixels, header.spacing) == ((16, 16, 1), (10.0, 10.0, 4.0))
    assert parse_header("a.h5", text_of(head).replace(">HFS<", ">upside down<")).lying is None


def test_the_reconstructed_field_of_view_is_told_by_lengths_not_by_interpolated_sizes(mrd: Any) -> None:
    head = mrd.header(encoded=(512, 96, 1), recon=(512, 512, 1), fov=(500, 300, 5), recon_fov=(250, 250, 5))
    assert parse_header("a.h5", text_of(head)).pixels == (256, 80, 1)
    head = mrd.header(encoded=(64, 64, 1), recon=(64, 64, 1), fov=(200, 200, 5), recon_fov=(400, 1, 5))
    assert parse_header("a.h5", text_of(head)).pixels == (64, 1, 1)


def test_missing_limits_are_those_of_the_grid(mrd: Any) -> None:
    head = mrd.header(encoded=(32, 15, 6))
    head.encoding[0].encodingLimits = ismrmrd.xsd.encodingLimitsType()
    header = parse_header("a.h5", text_of(head))
    assert (header.steps1, header.steps2, header.averages) == (StepLimits(0, 14, 7), StepLimits(0, 5, 3), 1)


def test_the_first_of_several_encodings_is_read_with_a_note(mrd: Any) -> None:
    header = parse_header("a.h5", text_of(mrd.header(encodings=2)))
    assert header.notes == ("The header describes 2 encodings; the first is read.",)


@pytest.mark.parametrize("length", ["1e308", "1e-5", "inf", "-1"])
def test_a_length_that_no_field_of_view_has_is_refused(mrd: Any, length: str) -> None:
    text = text_of(mrd.header())
    first = text[text.index("<fieldOfView_mm>") :].split("<x>")[1].split("</x>")[0]
    with pytest.raises(FileError, match="not a positive length in millimetres"):
        parse_header("a.h5", text.replace(f"<x>{first}</x>", f"<x>{length}</x>", 2))


def test_a_header_of_very_many_encodings_is_refused_at_once() -> None:
    began = time.process_time()
    with pytest.raises(FileError, match=r"with 100000 encodings, more than 64"):
        parse_header("client", f"<ismrmrdHeader>{'<encoding/>' * 100_000}</ismrmrdHeader>")
    assert time.process_time() - began < 5  # looking each of them up would take hours


@pytest.mark.parametrize(("vendor", "sign"), [("SIEMENS", -1), ("Siemens Healthineers", -1), ("GE", 1), (None, 1)])
def test_directions_of_siemens_are_reversed(mrd: Any, vendor: str | None, sign: int) -> None:
    assert parse_header("a.h5", text_of(mrd.header(vendor=vendor))).direction_sign == sign


def test_names_are_one_printable_line(mrd: Any) -> None:
    head = mrd.header()
    head.subjectInformation.patientID = "p\n7\u202e"
    head.measurementInformation.protocolName = "  "
    header = parse_header("a.h5", text_of(head))
    assert (header.subject, header.contrast) == ("p 7", None)


@pytest.mark.parametrize(
    ("found", "put", "message"),
    [
        ("</encoding>", "", "that is not XML"),
        (
            "<ismrmrdHeader",
            '<!DOCTYPE a [<!ENTITY b "c">]><ismrmrdHeader',
            "document type declaration, which is unsafe",
        ),
        ("<x>32</x>", "<x>no</x>", "where encoding/encodedSpace/matrixSize/x is 'no', not a whole number from 1"),
        ("<x>32</x>", "", "without encoding/encodedSpace/matrixSize/x"),
        ("<x>32</x>", "<x>70000</x>", "encodedSpace/matrixSize is 70000 x 16 x 1, more than any scan has"),
        ("<x>320.0</x>", "<x>-1</x>", "fieldOfView_mm/x is '-1', not a positive length in millimetres"),
        ("<x>320.0</x>", "<x>inf</x>", "not a positive length"),
        ("<maximum>15</maximum>", "<maximum>99999</maximum>", "0 to 99999 about 8, which is impossible"),
        ("cartesian", "spiral", "has a trajectory that is 'spiral', not Cartesian"),
        ("cartesian", "epi", "was acquired by echo-planar imaging"),
    ],
)
def test_what_cannot_be_used_is_named(mrd: Any, found: str, put: str, message: str) -> None:
    text = text_of(mrd.header())
    assert found in text
    with pytest.raises(FileError, match=message) as caught:
        parse_header("a.h5", text.replace(found, put, 1))
    assert str(caught.value).startswith("a.h5: ")


def test_a_header_of_megabytes_is_not_parsed() -> None:
    with pytest.raises(FileError, match="more than 4194304"):
        parse_header("client", "x" * (2**22 + 1))
