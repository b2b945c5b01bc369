"""Other systems than Linux, as far as Linux can play them.

A process reads, trains and reconstructs; then it forgets the package, loses all that Python does not have on Windows or
macOS, and does the same again. Third-party libraries stay those of Linux.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PLAYED = """
import contextlib, io, os, pathlib, select, signal, socket, sys, types

system, heads, knee, out = sys.argv[1], *map(pathlib.Path, sys.argv[2:])


def run(*words):
    from sansref.cli import main

    printed = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main([str(word) for word in words])
        except SystemExit as left:
            code = int(left.code or 0)
    return code, printed.getvalue()


SMALL = ["--phases", 1, "--channels", 2, "--epochs", 1, "--threads", 1, "--batch_size", 4, "--accelerator", "cpu"]
JOB = ["train", "ssdu", "--data", heads, "--acceleration", 2, "--crop", "32,32", *SMALL]


def work(out):
    done = [run("info", knee), run(*JOB, "--out", out / "run")]
    for kind in ("nifti", "png", "mrd", "dicom"):
        head = heads / "sub-01_T1w.nii.gz"
        done.append(run("reconstruct", out / "run", head, "--out", out / kind, "--format", kind))
    done.append(run("reconstruct", out / "run", knee, "--out", out / "knee"))
    return done


before = work(out / "linux")
assert [code for code, _ in before] == [0] * len(before), before

for name in [name for name in sys.modules if name.partition(".")[0] == "sansref"]:
    del sys.modules[name]
sys.platform = system
gone = {os: ["sched_getaffinity", "posix_fallocate"], select: ["POLLRDHUP"], socket: ["TCP_KEEPIDLE"]}
sys.modules["resource"] = None
if system == "win32":
    os_too = ["fork", "killpg", "setsid", "getuid", "WIFSIGNALED", "WTERMSIG"]
    gone = {os: gone[os] + os_too, socket: gone[socket], select: ["poll", "POLLIN", "POLLOUT", "POLLERR", "POLLHUP"]}
    gone[signal] = ["SIGKILL", "SIGPIPE", "SIGPROF", "ITIMER_PROF", "setitimer", "pthread_sigmask", "SIG_BLOCK"]
    locks = types.ModuleType("msvcrt")
    locks.LK_NBLCK = 2
    locks.locking = lambda descriptor, mode, size: os.lockf(descriptor, os.F_TLOCK, size)
    sys.modules |= {"fcntl": None, "msvcrt": locks}
for module, names in gone.items():
    for name in names:
        delattr(module, name)

after = work(out / system)
assert [code for code, _ in after] == [0] * len(after), after

import h5py, nibabel, numpy
from sansref.errors import FileError
from sansref.files import locked

ours, theirs = (nibabel.load(out / side / "nifti/sub-01_T1w_recon.nii.gz").get_fdata() for side in ("linux", system))
assert numpy.array_equal(ours, theirs) and ours.any()
ours, theirs = (h5py.File(out / side / "knee/knee.h5")["reconstruction"][()] for side in ("linux", system))
assert numpy.array_equal(ours, theirs) and ours.any()
for folder in ("dicom", "png"):
    assert len(list((out / system).rglob(f"{folder}/**/*.*"))) >= 4

code, said = run("serve", out / system / "run")
assert code == 2 and "needs Linux" in said, said
damaged = out / "damaged.h5"
damaged.write_bytes(knee.read_bytes()[:5000])
code, said = run("info", damaged)
assert code == 2 and "damaged.h5" in said, said
if system == "win32":
    plan = ["compare", "one-table-small", "--data", heads, "--out", out / "table", "--jobs", 2]
    code, said = run(*plan)
    assert code == 2 and "needs Linux or macOS" in said, said

# A lock holds another process off, which reads who has it; and dies with its file.
file = locked(out / "thing")
reader = (
    "import sys, os; sys.path[:0] = %r; file = open(%r, 'a+'); file.seek(0); print(file.read())\\n"
    "try:\\n    os.lseek(file.fileno(), %d, 0); os.lockf(file.fileno(), os.F_TLOCK, 1); print('free')\\n"
    "except OSError:\\n    print('held')\\n" % (sys.path, str(out / "thing.lock"), 1 << 20 if system == "win32" else 0)
)


def other():
    read, write = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", reader], os.environ, file_actions=actions)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as told:
        return told.read().split("\\n")


assert other()[:2] == [f"process {os.getpid()} on {socket.gethostname()}", "held"]
file.close()
assert other()[1] == "free"
print("played", system)
"""


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_the_same_images_come_without_what_only_linux_has(system, heads, write_knee, tmp_path) -> None:
    pytest.importorskip("ismrmrd")
    pytest.importorskip("pydicom")
    knee = write_knee(tmp_path / "knee.h5")
    line = [sys.executable, "-c", PLAYED, system, heads, knee, tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"played {system}\n")
