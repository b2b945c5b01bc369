"""Measurements as scanners send them, and a client that is not ours: the (de)serialisers of the package ismrmrd."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field

import ismrmrd
import numpy as np
import pytest

from sansref.serving.engine import Engine
from sansref.serving.options import ServerLimits
from sansref.serving.server import Server

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<acquisitionSystemInformation><systemVendor>{vendor}</systemVendor></acquisitionSystemInformation>
<experimentalConditions><H1resonanceFrequency_Hz>63000000</H1resonanceFrequency_Hz></experimentalConditions>
<encoding>
<encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>400</x><y>200</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{rows}</x><y>{y}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>200</x><y>200</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{center}</center>
</kspace_encoding_step_1></encodingLimits>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def phantom(seed, rows, columns):
    """Smooth complex image, (rows, columns)."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    image = np.zeros((rows, columns), complex)
    for _ in range(5):
        (row, column), size = generator.uniform(-0.5, 0.5, 2), generator.uniform(0.1, 0.4)
        image += generator.uniform(0.3, 1) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / size**2)
    return image * np.exp(0.5j * (x + y))


def to_kspace(image):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=axes), norm="ortho"), axes=axes)


@dataclass
class Measurement:
    """Slices with twofold readout oversampling, every third line acquired and the whole center."""

    slices: int = 1
    coils: int = 1
    size: int = 32
    every: int = 3
    center: int = 8
    order: str = "sequential"
    noise: bool = False
    vendor: str = "Nobody"
    seed: int = 0
    flags: bool = True
    lines: list[ismrmrd.Acquisition] = field(init=False, default_factory=list)

    def __post_init__(self):
        generator = np.random.default_rng(self.seed)
        self.header = HEADER.format(
            vendor=self.vendor,
            x=2 * self.size,
            y=self.size,
            z=1,
            rows=self.size,
            last=self.size - 1,
            center=self.size // 2,
        )
        middle = range(self.size // 2 - self.center // 2, self.size // 2 + self.center // 2)
        steps = sorted({*range(0, self.size, self.every), *middle})
        if self.noise:
            for _ in range(8):
                line = self._line(generator.normal(size=(self.coils, 256, 2)).view(complex)[..., 0] * 0.02, 0, 0)
                line.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
                self.lines.append(line)
        kspace = np.stack([self._slice(index, generator) for index in range(self.slices)])
        places = [(step, index) for index in range(self.slices) for step in steps]
        if self.order == "interleaved":
            places.sort()
        for step, index in places:
            line = self._line(kspace[index, :, :, step], step, index)
            if self.flags and step == steps[-1]:
                line.set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
            self.lines.append(line)
        if self.flags:
            self.lines[-1].set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)

    def _slice(self, index, generator):
        """(coils, 2 * size, size), the object in the middle half of the readout."""
        image = np.zeros((2 * self.size, self.size), complex)
        image[self.size // 2 : -(self.size // 2)] = phantom(self.seed + index, self.size, self.size)
        y, x = np.mgrid[-1 : 1 : 2j * self.size, -1 : 1 : 1j * self.size]
        angles = 2 * np.pi * np.arange(self.coils) / self.coils
        maps = [np.exp(-((y - 0.5 * np.sin(a)) ** 2 + (x - np.cos(a)) ** 2) / 3 + 1j * a) for a in angles]
        kspace = to_kspace(image * (np.stack(maps) if self.coils > 1 else 1))
        kspace = np.broadcast_to(kspace, (self.coils, *image.shape))
        noise = generator.normal(size=(*kspace.shape, 2)).view(complex)[..., 0]
        return (500 * (kspace + 0.01 * noise)).astype(np.complex64)

    def _line(self, data, step, index):
        line = ismrmrd.Acquisition.from_array(
            data.astype(np.complex64),
            measurement_uid=77,
            center_sample=data.shape[1] // 2,
            sample_time_us=5.0,
            position=(1.0, 2.0, 10.0 * index),
            read_dir=(0.0, 1.0, 0.0),
            phase_dir=(1.0, 0.0, 0.0),
            slice_dir=(0.0, 0.0, 1.0),
            acquisition_time_stamp=1000 + step,
        )
        line.idx.kspace_encode_step_1 = step
        line.idx.slice = index
        return line

    def write(self, path):
        """As a file of the reference library."""
        with ismrmrd.Dataset(str(path), "dataset") as file:
            file.write_xml_header(self.header.encode())
            for line in self.lines:
                file.append_acquisition(line)
        return path


class Client:
    """A client made of the package ismrmrd."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=30)
        self._file = self.socket.makefile("rwb", buffering=0)
        self._in = self.socket.makefile("rb")
        self.serializer = ismrmrd.ProtocolSerializer(self)
        self._answers = ismrmrd.ProtocolDeserializer(self._in).deserialize()

    def write(self, data):
        self.socket.sendall(bytes(data))

    def flush(self):
        pass

    def start(self, header):
        self.serializer.serialize(ismrmrd.ConfigFile("default.xml"))
        self.send_header(header)

    def send_header(self, header):
        self.serializer.serialize(ismrmrd.xsd.CreateFromDocument(header.encode()))

    def send(self, *lines):
        for line in lines:
            self.serializer.serialize(line)

    def end(self):
        self.serializer.close()

    def answer(self):
        """The next message, None after CLOSE."""
        return next(self._answers, None)

    def answers(self):
        """Images and texts up to CLOSE."""
        got = list(self._answers)
        texts = [item.rstrip("\0") for item in got if isinstance(item, str)]
        return [item for item in got if isinstance(item, ismrmrd.Image)], texts

    def leave(self):
        self._file.close()
        self._in.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.leave()


@pytest.fixture(scope="session")
def measurement():
    """Makes a measurement: lines to send, and the same as a file."""
    return Measurement


@pytest.fixture(scope="session")
def engine(trained):
    """A trained run, loaded once."""
    engine = Engine(trained, "cpu")
    yield engine
    engine.close()


class Running(Server):
    """A server in a thread."""

    def __init__(self, *given):
        super().__init__(*given)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.serve, args=(self._stopping,), daemon=True)
        self._thread.start()

    def stop(self, grace):
        self._stopping.set()
        self._thread.join(5)
        return super().stop(grace)


@pytest.fixture
def start(engine, monkeypatch):
    """Start a server in a thread: ``server = start(clients=2)``."""
    monkeypatch.setattr("sansref.serving.server.LOOK", 0.02)
    running = []

    def begin(pixel="float32", engine=engine, **limits):
        running.append(Running(engine, ServerLimits(**{"timeout": 20.0, **limits}), "127.0.0.1", 0, pixel))
        return running[-1]

    yield begin
    for server in running:
        server.stop(5)


@pytest.fixture
def connect(start):
    """Connect a client to a server, by default to a new one; all are closed in the end."""
    clients = []

    def begin(server=None):
        clients.append(Client((server or start()).address))
        return clients[-1]

    yield begin
    for client in clients:
        client.leave()


@pytest.fixture(scope="session")
def play():
    """Send a whole measurement and return the images and texts that came back."""

    def run(client, measurement):
        client.start(measurement.header)
        client.send(*measurement.lines)
        client.end()
        return client.answers()

    return run
