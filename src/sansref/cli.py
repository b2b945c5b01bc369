"""The command line: options in, one call, a few lines out. Heavy imports wait until a command needs them."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable, Iterable, Sequence
from io import TextIOWrapper
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from sansref import __version__
from sansref.errors import FileError, SansrefError, SettingError, did_you_mean, no_method, options_named, told
from sansref.presets import preset_file
from sansref.settings import HIDDEN, new_parser, parse

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

METHOD_LINES = {
    "idr": "self-supervised, iterative data refinement (undersampled scans alone)",
    "idr_paper": "iterative data refinement exactly as its paper prints it, in two readings",
    "ssdu": "self-supervised via data undersampling (undersampled scans alone)",
    "supervised": "learns from full references; the upper bound",
    "switchable": "switchable ISCL (undersampled scans, and unpaired full scans of other people)",
    "iscl": "the predecessor of switchable, with two generators and two discriminators",
    "cyclegan": "CycleGAN with the same networks and data",
    "supervised_generator": "the same generator, trained with full references; the upper bound of unpaired learning",
}

MAPS_HELP = "coil maps: a file, a folder of files named like the scans, or none; null uses those in the scan's file"

USAGE = f"""sansref {__version__}: MRI reconstruction sans reference

usage: sansref COMMAND [options]

  demo                                   learn from one undersampled slice, and score it
  zeroshot FILE --out DIR                reconstruct one scan by learning from it alone
  train METHOD --data DIR --out RUN      train on a folder of scans; run it again to continue
  reconstruct RUN FILE... --out DIR      reconstruct scans with a trained run
  evaluate RUN --data DIR                score a trained run on subjects that it did not learn from
  compare PLAN --data DIR --out OUT      train and score many methods on equal terms: tables, figures, report
  info FILE|DIR|RUN                      show what a file, a folder of scans or a run holds
  serve RUN                              reconstruct what a scanner sends (MRD streaming protocol)

methods:
{os.linesep.join(f"  {name:<21} {line}" for name, line in METHOD_LINES.items())}

'sansref COMMAND --help' lists the options. --config reads the settings of train from a YAML file.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; leave with 0, with 2 after an error of the user's, or with a traceback after a bug.

    Where nobody reads what is written any more, as behind ``| head``, leave without a word, as other programs do.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        try:
            _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # not at the very end, where nothing can be done about it
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _unread(stream)]
        if not unread:
            raise
        for stream in unread:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for what is still to be flushed
        sys.exit(128 + 13)  # SIGPIPE, which Windows does not have
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            sys.stderr.write(f"sansref: {error.filename}: is too long for a path. Check the arguments.\n")
        elif error.errno in (errno.EACCES, errno.EPERM) and error.filename is not None:
            cure = "Ask for the right to use it, or choose another"
            sys.stderr.write(f"sansref: {error.filename}: cannot be used ({error.strerror}). {cure}.\n")
        elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            # Of what is printed, above all: outputs name their files themselves.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.stderr.write(
                f"sansref: cannot be written ({error.strerror}): free some space, then run the command again\n"
            )
        else:
            raise
        sys.exit(2)


def _unread(stream: TextIO) -> bool:
    """Whether the reader of a pipe has closed it."""
    if sys.platform == "win32":
        return True  # nobody can be asked
    try:
        pipe = select.poll()
        pipe.register(stream, select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0))
    except (OSError, ValueError):  # no file of the system
        return False


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(USAGE)
        return
    if arguments[0] == "--version":
        sys.stdout.write(f"sansref {__version__}\n")
        return
    # Threads that spin while they wait starve each other on busy machines; read when PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    command, *rest = arguments
    try:
        if command not in COMMANDS:
            cure = did_you_mean(command, COMMANDS, f"use one of {', '.join(COMMANDS)}")
            raise SettingError(f"there is no command {command!r}{cure}")
        check_early(command, rest, METHOD_LINES)
        from sansref.machine import keep_freed_memory

        keep_freed_memory()
        COMMANDS[command](rest)
    except SansrefError as error:
        _list_bad(error.skipped)
        one_of_many = isinstance(error, FileError) and error.one_of_many
        way_out = " Or leave such files out: --skip_bad." if one_of_many and command in SKIPPING else ""
        sys.stderr.write(f"sansref: {error}{way_out}\n")
        sys.exit(2)
    except (MemoryError, OSError, RuntimeError) as error:
        from sansref.machine import out_of_memory

        if not out_of_memory(error):
            raise
        sys.stderr.write("sansref: memory ran out. Close other programs, or use a machine with more memory.\n")
        sys.exit(2)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it was" if command in RESUMED else ""
        sys.stderr.write(f"sansref: stopped{goes_on}\n")
        sys.exit(130)


def demo(arguments: list[str]) -> None:
    """Learn from one undersampled in-vivo slice without any reference, then uncover the truth and score."""
    parser = new_parser("sansref demo", demo.__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the report and both runs")
    from sansref.commands.options import DemoOptions

    parser.add_class_arguments(DemoOptions, None)
    options = parse(parser, arguments).as_dict()
    _begin("learning from one undersampled slice")
    from sansref.commands.demo import explained, run_demo
    from sansref.results.render import show

    out = options.pop("out")
    show(run_demo(DemoOptions(**options), out, say=lambda line: print(line, flush=True)).scores())
    print(*explained(), sep="\n")
    print(f"report and figures: {out / 'report.html'}")


def train(arguments: list[str]) -> None:
    """Train a network to reconstruct. Run the same command again to continue; other settings need another --out."""
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write("usage: sansref train METHOD --data DIR --out RUN [options]\n\n")
        sys.stdout.write("".join(f"  {name:<21} {line}\n" for name, line in METHOD_LINES.items()))
        return
    _begin("preparing to train", arguments)
    from dataclasses import fields

    from sansref.methods import Needs
    from sansref.methods.registry import METHODS, find_method
    from sansref.training.config import RunConfig, add_settings

    if not arguments or arguments[0].startswith("-"):
        raise SettingError(f"train needs a method before its options: use one of {', '.join(METHODS)}")
    method, *rest = arguments
    unpaired = find_method(method).needs is Needs.UNPAIRED
    parser = new_parser(f"sansref train {method}", train.__doc__)
    data_help = "folder of scans, or one file; --data for short"
    parser.add_argument("--data.folder", type=Path, default=None, help=data_help)
    if unpaired:
        full_help = "folder of full scans of other people, beside --undersampled, another name of --data; without it, "
        full_help += "half of the training subjects are used"
        parser.add_argument("--data.full", type=Path, default=None, help=full_help)
    parser.add_argument("--out", type=Path, default=None, help="run directory")
    parser.add_argument("--config", action="config", help="YAML file of settings, or the name of a preset")
    parser.add_argument("--skip_bad", action="store_true", help="skip unreadable files and list them at the end")
    dry_help = "report what would be learned from and what it would cost, and write nothing"
    parser.add_argument("--dry_run", action="store_true", help=dry_help)
    add_settings(parser, method)
    of_others = dict.fromkeys(("full", "undersampled"), "methods that learn from unpaired scans")
    of_others |= {entry.name: other for other, one in METHODS.items() for entry in fields(one.options_type)}
    options = parse(parser, rest, of_others, needed=("data.folder", "out")).as_dict()
    if options["method"]["name"] != method:
        raise SettingError(f"the configuration is for method {options['method']['name']!r}, not {method!r}")
    data, full, out = options["data"]["folder"], options["data"].get("full"), options["out"]
    skip_bad = options["skip_bad"]
    config = RunConfig.from_parsed(options)
    if options["dry_run"]:
        from sansref.training.train import dry_run as look

        for row in list(look(config, data, out, skip_bad, full=full)):  # or an error alone
            print(told(row))
        return
    from sansref.training.train import train as run_training

    try:
        outcome = run_training(config, data, out, skip_bad, full=full, say=print)
    finally:
        if unpaired:
            from sansref.results.health_figure import draw_health

            draw_health(out)
    if not outcome.leader:
        return
    print(f"trained: {outcome.run.path} (model.safetensors, metrics.csv, log.txt{', health.png' if unpaired else ''})")
    _list_bad(outcome.bad_files)


def zeroshot(arguments: list[str]) -> None:
    """Reconstruct one undersampled scan with a network that learns from this scan alone.

    Compressed sensing comes first. Its image is kept unless the network predicts unseen acquired samples better. Run
    the same command again to continue.
    """
    _begin("preparing to learn from one scan", arguments)
    from sansref.commands.zero_shot import DEFAULTS, DENOISING, ZeroShotOptions, zero_shot
    from sansref.metrics.error_maps import ErrorMapOptions
    from sansref.training.config import RunConfig, add_settings

    method = _method_of(arguments)
    parser = new_parser("sansref zeroshot", " ".join(str(zeroshot.__doc__).split()))
    parser.add_argument("file", type=Path, help="the scan, in any supported format")
    parser.add_argument("--out", type=Path, required=True, help="folder for images, scores, report and run")
    parser.add_argument("--config", action="config", help="YAML file of settings, or the name of a preset")
    minutes_help = "minutes for training the network; null trains for --epochs"
    parser.add_argument("--minutes", type=float | None, default=10.0, help=minutes_help)
    start_help = "initial weights: shipped (with the package), the folder of a run, none, or auto: the shipped ones if "
    start_help += "they fit the network"
    parser.add_argument("--start", type=str, default="auto", help=start_help)
    _add_formats(parser)
    _add_error_map(parser)
    add_settings(parser, method, version=False)
    parser.set_defaults(DEFAULTS)
    for action in parser._actions:
        if action.dest in OF_MANY:
            action.help = HIDDEN
    options = parse(parser, arguments).as_dict()
    if options["method"].get("denoise"):
        parser.set_defaults({**DEFAULTS, **DENOISING})
        options = parse(parser, arguments).as_dict()
    if options["method"]["name"] != method:
        raise SettingError(f"the configuration is for method {options['method']['name']!r}: give --method as well")
    check_place(options["file"])
    if options["start"] not in ("auto", "shipped", "none"):
        check_run(Path(options["start"]))
    error_map = ErrorMapOptions(options["bound"]) if options["error_map"] else None
    extra = ZeroShotOptions(options["minutes"], options["start"], tuple(options["format"]), error_map)
    config, out = RunConfig.from_parsed(options), options["out"]
    found = zero_shot(config, options["file"], out, extra, say=lambda line: print(line, flush=True))
    place = found.images[0] if len(found.images) == 1 else f"{len(found.images)} files in {out}"
    print(f"{options['file']} -> {place}, by {found.choice.label}")
    print(f"report and scores: {out / 'report.html'}")


OF_MANY = (
    *("data.subject_from", "split.validation", "split.test", "split.folds", "split.fold"),
    *("machine.devices", "machine.num_nodes"),
)
"""Settings that do nothing for a single scan."""


def _method_of(words: Sequence[str]) -> str:
    """The method that is asked for, on which the other options depend."""
    for word, following in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name in ("--method", "--method.name"):
            return value if equals else following
    return "idr"


def reconstruct(arguments: list[str]) -> None:
    """Reconstruct every slice of every file with a trained run. Run the same command again to continue."""
    parser = new_parser("sansref reconstruct", reconstruct.__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("files", type=Path, nargs="+", help="scan files or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the images")
    _add_formats(parser)
    array_help = "name of the array to read from a file that holds several; null uses the run's"
    parser.add_argument("--array", type=str, default=None, help=array_help)
    axes_help = "meaning of each axis of an array, such as coil,row,column; null uses the run's"
    parser.add_argument("--axes", type=str, default=None, help=axes_help)
    parser.add_argument("--maps", type=str, default=None, help=MAPS_HELP)
    parser.add_argument("--skip_bad", action="store_true", help="skip unreadable files and list them at the end")
    accelerator_help = "device for the network; auto uses a GPU if there is one"
    parser.add_argument("--accelerator", type=Literal["auto", "cpu", "gpu"], default="auto", help=accelerator_help)
    ray_help = "address of a Ray cluster, auto or local; all its nodes must see RUN, the files and --out"
    parser.add_argument("--ray", type=str, default=None, help=ray_help)
    _add_error_map(parser)
    _add_trust(parser)
    options = parse(parser, arguments)
    _refuse_swapped("reconstruct", options.run, options.files)
    check_run(options.run, options.files)
    for file in options.files:
        check_place(file)
    _begin(f"reconstructing with {options.run}")
    from sansref.commands.output_files import law_of
    from sansref.commands.reconstruct import Job, reconstruct_files
    from sansref.metrics.contradiction import SEEN
    from sansref.metrics.error_maps import ErrorMapOptions
    from sansref.training.run import RunDirectory

    error_map = ErrorMapOptions(options.bound) if options.error_map else None
    formats, how = tuple(options.format), (options.array, options.axes, options.maps, error_map)
    job = Job(RunDirectory(options.run, options.trust_code), options.out, formats, options.accelerator, *how)
    bad: list[FileError] = []
    earlier, mapped, law, warning = 0, False, "", ""
    idle = {name for names in OF_READING for name in names}
    for done in reconstruct_files(job, options.files, bad.append if options.skip_bad else None, options.ray):
        idle &= {*done.idle}
        if done.earlier:
            earlier += 1
            continue
        if done.emulated and not law:
            law, warning = law_of(job.run)
        if done.kind == "magnitude":
            also = f" and undersampled {law}" if done.emulated else ""
            print(f"{done.path}: magnitude images; their k-space was simulated{also}")
        elif done.emulated:
            print(f"{done.path}: fully sampled k-space; it was undersampled {law}")
        place = done.written[0] if len(done.written) == 1 else f"{len(done.written)} files in {options.out}"
        print(f"{done.path} -> {place}")
        for note in done.notes:
            print(f"  {note}")
        mapped = mapped or error_map is not None
    if warning:
        print(warning)
    if mapped:
        print(f"error maps: {SEEN}")
    if earlier:
        print(f"{earlier} file(s) had been reconstructed before")
    for names, reason in OF_READING.items():
        if without := [name for name in names if name in idle]:
            print(f"{options_named(without)}: no effect, {reason}")
    if options.bound != parser.get_default("bound") and not error_map:
        print(BOUND_ALONE)
    _list_bad(bad)


OF_READING = {
    ("array", "axes"): "the files say themselves what they hold",
    ("maps",): "no file holds k-space of several coils",
}
"""Options of how files are read, and why they may have no effect on any."""

BOUND_ALONE = "--bound: no effect without --error_map"


def evaluate(arguments: list[str]) -> None:
    """Score a trained run, beside the zero-filled image, on subjects that it did not learn from."""
    parser = new_parser("sansref evaluate", evaluate.__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--data", type=Path, required=True, help="folder of scans, or one file")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for scores and figures; RUN/evaluation if left out"
    )
    parser.add_argument(
        "--subjects",
        type=Literal["auto", "test", "all"],
        default="auto",
        help="auto: all that the run did not learn from; test: those that it set aside; all: everyone",
    )
    subject_help = (
        "how to tell whose scan a file is, as for train: folder, file or a regular expression; null uses the run's"
    )
    parser.add_argument("--subject_from", type=str, default=None, help=subject_help)
    parser.add_argument("--skip_bad", action="store_true", help="skip unreadable files and list them at the end")
    _add_trust(parser)
    from sansref.commands.options import ScoreOptions

    parser.add_class_arguments(ScoreOptions, None, skip={"classical"})
    classical_help = "compressed sensing beside the run: l1_wavelet, total_variation, true for both, or false for none"
    names = ("l1_wavelet", "total_variation")
    kinds = Literal["l1_wavelet", "total_variation", True, False]
    parser.add_argument("--classical", type=kinds, nargs="*", default=["total_variation"], help=classical_help)
    options = parse(parser, arguments).as_dict()
    bound_alone = options["bound"] != parser.get_default("bound") and not options["error_map"]
    asked = options["classical"] or [True]
    options["classical"] = tuple(name for name in names if name in asked or True in asked)
    _refuse_swapped("evaluate", options["run"], [options["data"]])
    check_run(options["run"], [options["data"]])
    check_place(options["data"])
    _begin(f"scoring {options['run']} on {options['data']}")
    from sansref.commands.evaluate import evaluate as run_evaluation
    from sansref.results.render import show
    from sansref.training.run import RunDirectory

    run = RunDirectory(options.pop("run"), options.pop("trust_code"))
    out = options.pop("out") or run.path / "evaluation"
    data, subjects, skip_bad, rule = (options.pop(name) for name in ("data", "subjects", "skip_bad", "subject_from"))
    found = run_evaluation(run, data, out, subjects, skip_bad, options=ScoreOptions(**options), subject_from=rule)
    show(found.summary.scores())
    for note in found.notes():
        print(note)
    if bound_alone:
        print(BOUND_ALONE)
    replaced = f" (in place of those of {found.replaced})" if found.replaced else ""
    print(f"report, scores and figures: {out}{replaced}")
    _list_bad(found.bad_files)


def compare(arguments: list[str]) -> None:
    """Train and score methods on the same slices, masks and splits. Run the same command again to continue."""
    from sansref.presets import comparison_names

    parser = new_parser("sansref compare", compare.__doc__)
    known = ", ".join(comparison_names())
    parser.add_argument("plan", help=f"what to compare: a YAML file, or one of {known}")
    parser.add_argument("--data", type=Path, required=True, help="folder of scans")
    full_help = "folder of full scans of other people, for the methods for unpaired scans"
    parser.add_argument("--full", type=Path, default=None, help=full_help)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, tables, figures and the report")
    parser.add_argument(
        "--jobs", type=int, default=1, help="number of trainings at the same time; they share the cores"
    )
    ray_help = "address of a Ray cluster, auto or local; all its nodes must see --data and --out"
    parser.add_argument("--ray", type=str, default=None, help=ray_help)
    from sansref.commands.options import PerceptualOptions

    parser.add_class_arguments(PerceptualOptions, None)
    options = parse(parser, arguments).as_dict()
    preset_file(options["plan"])
    for folder in filter(None, (options["data"], options["full"])):
        check_place(folder)
    _begin(f"comparing methods by {options['plan']}")
    from sansref.commands.compare.compare import compare as run_comparison
    from sansref.commands.compare.plan import load_plan
    from sansref.commands.compare.workplace import Workplace

    place = Workplace(load_plan(options.pop("plan")), *(options.pop(name) for name in ("data", "full", "out")))
    jobs, ray = options.pop("jobs"), options.pop("ray")
    found = run_comparison(place, jobs, ray, PerceptualOptions(**options))
    sys.stdout.write(found.tables)
    if found.missing:
        print(f"without LPIPS: {found.missing}")
    print(
        f"report, tables and figures: {place.out} (report.html, table.md, table.tex, table.csv, scores.csv, figures/)"
    )


def info(arguments: list[str]) -> None:
    """Show what a scan file or a run holds, or what a training would learn from a folder of scans."""
    parser = new_parser("sansref info", info.__doc__)
    parser.add_argument("path", type=Path, help="scan file, folder of scan files, or run directory")
    parser.add_argument(
        "--array", type=str, default=None, help="name of the array to read from a file that holds several"
    )
    axes_help = "meaning of each axis of an array, such as coil,row,column"
    parser.add_argument("--axes", type=str, default=None, help=axes_help)
    _add_trust(parser)
    subject_help = "for a folder, how to tell whose scan a file is, as for train: folder, file or a regular expression"
    parser.add_argument("--subject_from", type=str, default=None, help=subject_help)
    parser.add_argument("--skip_bad", action="store_true", help="for a folder: skip unreadable files")
    parser.add_argument("--maps", type=str, default=None, help=MAPS_HELP)
    options = parse(parser, arguments)
    check_place(options.path)
    from sansref.commands.info import describe
    from sansref.data.readers import ReaderOptions

    reading = ReaderOptions(
        array=options.array, axes=options.axes, maps=options.maps, subject_from=options.subject_from
    )
    for row in list(describe(options.path, reading, options.trust_code, skip_bad=options.skip_bad)):
        print(told(row))


def serve(arguments: list[str]) -> None:
    """Serve a trained run: reconstruct what clients send by the MRD streaming protocol, until Ctrl-C or SIGTERM."""
    parser = new_parser("sansref serve", serve.__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    _add_trust(parser)
    from sansref.serving.options import ServeOptions, ServerLimits

    parser.add_class_arguments(ServeOptions, None)
    parser.add_class_arguments(ServerLimits, None)
    options = parse(parser, arguments).as_dict()
    run, limits = (
        options.pop("run"),
        ServerLimits(**{name: options.pop(name) for name in ServerLimits.__dataclass_fields__}),
    )
    trust_code = options.pop("trust_code")
    check_run(run)
    _begin(f"starting a server with {run}")
    from sansref.serving.serve import serve as run_server

    run_server(run, ServeOptions(**options), limits, trust_code)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": demo,
    "zeroshot": zeroshot,
    "train": train,
    "reconstruct": reconstruct,
    "evaluate": evaluate,
    "compare": compare,
    "info": info,
    "serve": serve,
}

SKIPPING = ("train", "reconstruct", "evaluate", "info")
"""Commands that can leave unreadable files out."""

RESUMED = ("demo", "zeroshot", "train", "reconstruct", "compare")
"""Commands that go on where a killed one was."""


def _add_error_map(parser: ArgumentParser) -> None:
    map_help = "also write where the images may be wrong, without a reference: an error bound and contradictions"
    parser.add_argument("--error_map", action="store_true", help=map_help)
    bound_help = "fraction of the pixels whose error should lie below the bound of --error_map"
    parser.add_argument("--bound", type=float, default=0.9, help=bound_help)


def _add_formats(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        type=Literal["source", "nifti", "hdf5", "png", "dicom", "mrd"],
        nargs="+",
        default=["source"],
        help="format of the images; source is DICOM for DICOM, NIfTI for other volumes, fastMRI's HDF5 for k-space",
    )


def _add_trust(parser: ArgumentParser) -> None:
    trust_help = "let RUN import its method (module:Class); the code in that module is executed"
    parser.add_argument("--trust_code", action="store_true", help=trust_help)


def _refuse_swapped(command: str, run: Path, scans: Sequence[Path]) -> None:
    """Name the order of a command's words where the run stands in the place of the scans."""
    runs = [path for path in scans if (path / "config.yaml").is_file()]
    if runs and not (run / "config.yaml").is_file():
        scan = f"--data {run}" if command == "evaluate" else run
        raise SettingError(
            f"{runs[0]} is a run, and {run} is not: the run comes first, as in 'sansref {command} {runs[0]} {scan}'"
        )


def _begin(what: str, words: Sequence[str] = ()) -> None:
    """Say what a command is about to do, before PyTorch takes its seconds; to people at a terminal alone."""
    if sys.stderr.isatty() and not {"-h", "--help"} & {*words}:
        sys.stderr.write(f"{what} ...\n")


def _list_bad(bad: Sequence[FileError]) -> None:
    for error in bad:
        sys.stderr.write(f"skipped: {error}\n")


#: Options that name something to be read.
PLACES = ("data", "undersampled", "full")
#: Methods that learn from two folders: of undersampled scans, and of full ones of others.
UNPAIRED = ("switchable", "iscl", "cyclegan")


def check_early(command: str, words: Sequence[str], methods: Iterable[str]) -> None:
    """Refuse a path that does not exist, and a preset or method that is not known.

    What passes may still be wrong: the parser of the command looks at everything.

    Parameters
    ----------
    command
        Its name.
    words
        What follows it on the command line.
    methods
        Names of the methods of this package.

    Raises
    ------
    FileError
        If something that is to be read does not exist, or is no run.
    SettingError
        If there is no such preset or method.
    """
    first = list(takewhile(lambda word: not word.startswith("-"), words))  # words behind an option may be its values
    if command == "train" and not first:
        return
    own = command == "train" and ":" in first[0]
    if command == "train" and not own and first[0] not in methods:
        raise no_method(first[0], methods)
    if command == "compare" and first:
        preset_file(first[0])
    if command == "zeroshot" and first:
        check_place(Path(first[0]))
    given = {name: value for name, value in pairwise(words) if not value.startswith("-")}
    given |= {name: value for name, equals, value in (word.partition("=") for word in words) if equals}
    if "--config" in given:
        preset_file(given["--config"])
    options = {name.removeprefix("--") for name in given if name.startswith("--")}
    if command == "evaluate" and not ("data" in options and options <= {*PLACES, "out"}):
        return  # the value of another option may be wrong as well, and comes first
    if command == "train" and not own and first[0] not in UNPAIRED:
        options -= {"undersampled", "full"}  # are none of theirs, which comes first
    for name in options & {*PLACES}:
        if (value := given[f"--{name}"]) != "null":
            check_place(Path(value))
    if command == "evaluate" and first:
        check_run(Path(first[0]), [Path(given["--data"])])


def check_run(run: Path, others: Iterable[Path] = ()) -> None:
    """Refuse a run that is none; not where another path is one, for the two may have changed places.

    Raises
    ------
    FileError
        If it is none.
    """
    if not any((path / "config.yaml").exists() for path in (run, *others)):
        cure = "Give a directory that 'sansref train' wrote"
        raise FileError(run, "is not a run directory (no config.yaml)", cure)


def check_place(place: Path) -> None:
    """Refuse what does not exist.

    Raises
    ------
    FileError
        If there is neither a file nor a folder nor a link.
    """
    if not place.exists() and not place.is_symlink():
        raise FileError(place, "does not exist", "Check the spelling of the path")
