"""The command line: every command's good way, and errors as one line and an exit code, never a traceback."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from service.cli.console import hours_minutes_seconds
from service.cli.main import app
from service.domain.export import ExportFormat, WeightsFormat
from service.domain.job import JobStatus
from tests.service import tiny
from tests.service.commands import Outcome, Tleg, assert_fits, assert_one_line_error
from tests.service.server import ServerProcess, environment
from tleg_core.description import Method
from tleg_core.dtype import DType
from tleg_core.learngene import Learngene
from tleg_core.recipe import Head

# Commands against a server.


def test_learngenes_lists_them(online: Tleg) -> None:
    """A table, or the API's own JSON."""
    outcome = online("learngenes")
    assert outcome.code == 0
    assert_fits(outcome.out)
    assert re.search(r"tiny-tleg +tleg +1-12 .* 83\.00 %", outcome.out)
    listed = online("learngenes", "--json").json
    assert [item["id"] for item in listed["data"]] == ["large-tleg", "tiny-polynomial", "tiny-stagewise", "tiny-tleg"]


def test_a_model_is_created_shown_and_listed(online: Tleg, http: httpx.Client) -> None:
    """create, get and list agree with each other and with the API."""
    arguments = ("models", "create", "--max-params", "0.1M", "--learngene", "tiny-tleg", "--num-classes", "4")
    created = online(*arguments, "--json").json
    assert created["params"] <= 100_000
    assert created["recipe"]["num_classes"] == 4
    shown = online(*arguments)
    assert created["id"] in shown.out
    assert_fits(shown.out)
    got = online("models", "get", created["id"])
    for text in (created["id"], created["sha256"], f"{created['params']:,}", f"hf-hub:tleg/{created['id']}"):
        assert text in got.out
    assert online("models", "get", created["id"], "--json").json == http.get(f"/models/{created['id']}").json()
    listed = online("models", "list", "--limit", 1, "--json").json
    assert (len(listed["data"]), listed["data"][0]["id"]) == (1, created["id"])
    table = online("models", "list")
    assert created["id"] in table.out
    assert_fits(table.out)


def test_what_was_created_says_its_accuracy_and_what_decided(online: Tleg) -> None:
    """The accuracy is of a member with its own head; where none was measured, size decided. No name is broken."""
    measured = online("models", "create", "--learngene", "tiny-tleg", "--depth", 6)
    assert_fits(measured.out)
    assert re.search(r"^learngene +tiny-tleg \(tleg\) *$", measured.out, re.MULTILINE)
    assert re.search(r"^top-1 +68\.00 % on shapes *$", measured.out, re.MULTILINE)
    assert re.search(r"^selected by +top-1 on shapes: the highest that fits *$", measured.out, re.MULTILINE)
    assert "68.00 %" not in online("models", "create", "--learngene", "tiny-tleg", "--depth", 6, "--num-classes", 4).out
    other = online("models", "create", "--learngene", "tiny-stagewise", "--depth", 6, "--dry-run").out
    assert "top-1" not in other
    assert re.search(r"^selected by +size: the largest that fits *$", other, re.MULTILINE)


def test_models_list_says_how_to_go_on(online: Tleg, http: httpx.Client) -> None:
    """The hint is a cursor that works."""
    for depth in (1, 2):
        http.post("/models", json={"budget": {"depth": depth}, "learngene": "tiny-polynomial", "num_classes": 6})
    page = online("models", "list", "--limit", 1)
    found = re.search(r"--after (m-[0-9a-f]{32})", page.err)
    assert found is not None
    assert online("models", "list", "--limit", 1, "--after", found[1]).out != page.out


def test_a_dry_run_creates_nothing(online: Tleg, http: httpx.Client) -> None:
    """The id is said, and unknown to the server; so is that nothing was made."""
    outcome = online("models", "create", "--depth", 3, "--num-classes", 77, "--dry-run", "--json")
    dry = outcome.json
    assert dry["created_at"] is None
    assert "nothing was made" in outcome.err
    assert http.get(f"/models/{dry['id']}").status_code == 404


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--dtype", "bfloat16"),
        ("--num-classes", 3, "--head", "random", "--seed", 9),
        ("--image-size", 64, "--dtype", "float16"),
        ("--num-classes", 0),
    ],
)
@pytest.mark.parametrize("name", ["tiny-tleg", "tiny-polynomial", "tiny-stagewise"])
def test_expand_writes_what_the_server_sends(
    online: Tleg, learngene_files: list[Path], tmp_path: Path, name: str, options: tuple[object, ...]
) -> None:
    """Byte for byte, from the learngene's file alone."""
    (file,) = [path for path in learngene_files if path.stem == name]
    expanded, downloaded = tmp_path / "expanded.safetensors", tmp_path / "downloaded.safetensors"
    local = online("expand", file, "--depth", 7, "-o", expanded, *options)
    assert local.code == 0, local.err
    created = online("models", "create", "--depth", 7, "--learngene", name, *options, "-o", downloaded, "--json")
    assert created.json["id"] in local.err
    assert expanded.read_bytes() == downloaded.read_bytes()


def test_download_gives_the_checked_file(online: Tleg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the id's name if no other is given; no partial file stays."""
    monkeypatch.chdir(tmp_path)
    model = online("models", "create", "--depth", 4, "--learngene", "tiny-tleg", "--json").json
    outcome = online("models", "download", model["id"])
    assert outcome.code == 0
    assert model["sha256"] in outcome.err
    (file,) = tmp_path.iterdir()
    assert file.name == f"{model['id']}.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == model["sha256"]


def test_download_takes_a_partial_file_up(online: Tleg, http: httpx.Client, tmp_path: Path) -> None:
    """What is there is kept: a right beginning is completed; a wrong one shows in the digest, and is thrown away."""
    model = online("models", "create", "--depth", 9, "--learngene", "tiny-tleg", "--json").json
    content = http.get(model["links"]["weights"]).content
    output = tmp_path / "x.safetensors"
    partial = tmp_path / f".x.safetensors.{model['id']}.part"
    for have in (1, len(content) // 2, len(content) - 1, len(content)):
        partial.write_bytes(content[:have])
        assert online("models", "download", model["id"], "-o", output).code == 0
        assert output.read_bytes() == content
        assert not partial.exists()
        output.unlink()
    for wrong in (b"\0" * 1000, content + b"\0"):
        partial.write_bytes(wrong)
        assert_one_line_error(online("models", "download", model["id"], "-o", output), "digest", "thrown away")
        assert list(tmp_path.iterdir()) == []
    assert online("models", "download", model["id"], "-o", output).code == 0


# Commands on files.


def test_budget_shows_every_member_and_the_chosen_one(tleg: Tleg, learngene_files: list[Path]) -> None:
    """As a table and as JSON, which agree."""
    files = [text for path in learngene_files for text in ("--learngene-file", path)]
    arguments = ("budget", *files, "--max-params", "100k", "--learngene", "tiny-tleg")
    rows = tleg(*arguments, "--json").json
    assert [row["member"]["depth"] for row in rows] == list(range(1, 13))
    assert [row["fits"] for row in rows] == [row["params"] <= 100_000 for row in rows]
    (chosen,) = [row for row in rows if row["chosen"]]
    table = tleg(*arguments)
    assert table.code == 0
    assert_fits(table.out + table.err)
    assert re.search(rf"tiny-tleg d{chosen['member']['depth']} .* chosen", table.out)
    assert f"d{chosen['member']['depth']}, the most accurate on shapes that fits" in table.err


def test_budget_says_whose_accuracies_do_not_compare(tleg: Tleg) -> None:
    """Two families of what ships were measured on another data set than the one that decides."""
    shown = tleg("budget", "--max-params", "3M")
    assert_fits(shown.out + shown.err)
    assert "the most accurate on fashion-mnist-test that fits" in " ".join(shown.err.split())
    assert "what was measured on cifar10-test alone does not compare" in " ".join(shown.err.split())


def test_a_file_in_place_of_a_name_is_told_where_it_belongs(tleg: Tleg, learngene_files: list[Path], tmp_path: Path) -> None:
    """However long its path is, and before a server is asked; by the option that takes files it is found."""
    file, *others = learngene_files
    long = tmp_path / ("x" * 100) / file.name
    long.parent.mkdir()
    long.write_bytes(file.read_bytes())
    arguments = ("budget", "--learngene-file", others[0], "--depth", 3)
    create = ("fine-tunes", "create", "--dataset", "ds-1", "--depth", 3)
    for path in (file, long):
        assert_one_line_error(tleg(*arguments, "--learngene", path), f"{path} is a file; give a file by --learngene-file")
        for command in (("models", "create"), create):
            assert_one_line_error(tleg(*command, "--learngene", path), f"{path} is a file; publish it by `tleg publish`")
        assert tleg(*arguments, "--learngene-file", path, "--learngene", file.stem).code == 0


def test_two_learngenes_that_are_the_same_are_named(tleg: Tleg, tmp_path: Path) -> None:
    """One content under two names cannot be served twice: which they are is said."""
    one = tiny.learngene("one")
    one.write(tmp_path / "one.safetensors")
    one.with_description(name="other").write(tmp_path / "other.safetensors")
    files = [text for name in ("one", "other") for text in ("--learngene-file", str(tmp_path / f"{name}.safetensors"))]
    assert_one_line_error(tleg("budget", *files), "two have the digest", "(one, other)")


def test_inspect_shows_what_a_learngene_says_of_itself(tleg: Tleg, learngene_files: list[Path]) -> None:
    """As a table, and as the description in the file."""
    opened = Learngene.open(learngene_files[0])
    assert tleg("inspect", learngene_files[0], "--json").json == json.loads(
        json.dumps(opened.description.to_json(opened.digest))
    )
    shown = tleg("inspect", learngene_files[0])
    assert opened.digest in shown.out
    assert "83.00 %" in shown.out
    assert re.search(r"^measured +on shapes \([\d,]+ images\) *$", shown.out, re.MULTILINE)
    assert_fits(shown.out)


def test_inspect_prints_what_a_file_says_as_text(tleg: Tleg, tmp_path: Path) -> None:
    """Names that look like the markup of the terminal library are printed as they stand."""
    path = tmp_path / "x.safetensors"
    tiny.learngene("xx", accuracy=tiny.measured("[/b]set", {2: 0.5}), class_names=("[red]",) * 10).write(path)
    outcome = tleg("inspect", path)
    assert outcome.code == 0
    assert "[/b]set" in outcome.out
    assert "[red]" in outcome.out
    assert "[/b]set" in tleg("budget", "--learngene-file", path, "--learngene", "xx").err


def test_inspect_fits_a_terminal_with_the_longest_facts(tleg: Tleg, tmp_path: Path) -> None:
    """Long commands, notes and class names are folded."""
    words = "word " * 60
    provenance = tiny.Provenance(data_set=words, ancestry=words, command=words, version="0", licence="MIT", notes="n" * 300)
    path = tmp_path / "wordy.safetensors"
    tiny.learngene("wordy", provenance=provenance).write(path)
    assert_fits(tleg("inspect", path).out)


def every_command() -> Iterator[tuple[str, ...]]:
    """Yield `tleg` itself, each command and each group's."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        yield words
        waiting += [((*words, name), below) for name, below in getattr(command, "commands", {}).items()]


def test_every_command_is_found() -> None:
    """Of every kind: a group's, a group's own, one of each sort of job."""
    expected = {
        (),
        ("serve",),
        ("learngenes",),
        ("ancestry", "logits"),
        ("fine-tunes", "watch"),
        ("trainings", "pause"),
        ("exports", "cancel"),
    }
    assert expected <= set(every_command())


@pytest.mark.parametrize("command", list(every_command()), ids=" ".join)
def test_every_command_has_help_that_fits(tleg: Tleg, command: tuple[str, ...]) -> None:
    """--help of each."""
    outcome = tleg(*command, "--help")
    assert outcome.code == 0
    assert "Usage: tleg" in outcome.out
    assert_fits(outcome.out)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("models", "create"), (*Method, *DType, *Head)),
        (("models", "download"), tuple(WeightsFormat)),
        (("fine-tunes", "list"), tuple(JobStatus)),
        (("trainings", "list"), tuple(JobStatus)),
        (("exports", "list"), tuple(JobStatus)),
        (("exports", "create"), tuple(ExportFormat)),
    ],
)
def test_help_breaks_no_word_that_can_be_given(tleg: Tleg, command: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Of an option that takes one of several."""
    shown = re.split(r"[\s,;.│]+", tleg(*command, "--help").out)
    assert [word for word in words if word not in shown] == []


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0:00:00"), (59.7, "0:01:00"), (3599.6, "1:00:00"), (90061.0, "25:01:01")])
def test_a_duration_has_no_sixty_seconds(seconds: float, text: str) -> None:
    """It is rounded before it is cut into hours, minutes and seconds."""
    assert hours_minutes_seconds(seconds) == text


def test_the_version_is_printed(tleg: Tleg) -> None:
    """`tleg --version`."""
    assert re.fullmatch(r"tleg \d+\.\d+\.\d+\n", tleg("--version").out)


# Errors.


@pytest.mark.parametrize(
    "damage",
    ["missing", "empty", "text", "folder", "cut", "flipped", "header", "not a learngene"],
)
@pytest.mark.parametrize("command", ["inspect", "expand", "budget", "serve"])
def test_a_bad_learngene_is_one_line(
    tleg: Tleg, learngene_files: list[Path], tmp_path: Path, command: str, damage: str
) -> None:
    """The line names the file."""
    path = tmp_path / "bad.safetensors"
    content = bytearray(learngene_files[0].read_bytes())
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("hello")
        case "folder":
            path.mkdir()
        case "cut":
            path.write_bytes(content[:-4])
        case "flipped":
            content[-1] ^= 1
            path.write_bytes(content)
        case "header":
            content[10] ^= 0xFF
            path.write_bytes(content)
        case "not a learngene":
            path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    arguments = {
        "inspect": ("inspect", path),
        "expand": ("expand", path, "--depth", 3, "-o", tmp_path / "out"),
        "budget": ("budget", "--learngene-file", path),
        "serve": ("serve", "--port", 0, "--learngene", path, "--data-dir", tmp_path / "data"),
    }[command]
    assert_one_line_error(tleg(*arguments), "bad.safetensors")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("learngenes",),
        ("learngenes", "show", "tiny-tleg"),
        ("learngenes", "download", "tiny-tleg"),
        ("models", "list"),
        ("models", "get", "m-1"),
        ("models", "create"),
        ("models", "download", "m-1"),
        ("datasets", "list"),
        ("fine-tunes", "watch", "ft-1"),
        ("fine-tunes", "create", "--dataset", "ds-1", "--depth", "2"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1", "", "ftp://x", "http://[::1", "http://nobody.invalid"])
def test_no_server_is_one_line(tleg: Tleg, tmp_path: Path, command: tuple[str, ...], url: str, monkeypatch: Any) -> None:
    """The line names the address."""
    monkeypatch.chdir(tmp_path)
    assert_one_line_error(tleg(*command, "--url", url), url)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_tleg_is_one_line(tleg: Tleg) -> None:
    """Whatever it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answer = "HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello"
        code = "import socket, sys; client, _ = socket.socket(fileno=int(sys.argv[1])).accept(); client.recv(9999); "
        code += f"client.sendall(b'{answer}')"
        handle = listening.fileno()
        process = subprocess.Popen([sys.executable, "-c", code, str(handle)], pass_fds=[handle])
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert_one_line_error(tleg("models", "list", "--url", url), url)
        process.wait(20)


@pytest.mark.parametrize(("kind", "of"), [("fine-tunes", "--dataset"), ("trainings", "--dataset"), ("exports", "--model")])
def test_an_empty_list_says_that_it_is(online: Tleg, kind: str, of: str) -> None:
    """Beside its columns."""
    listed = online(kind, "list", of, "nothing")
    assert (listed.code, listed.err) == (0, "there are none\n")
    assert listed.out.startswith("id ")


@pytest.mark.parametrize("model_id", ["m-" + "0" * 32, "nobody", "../livez", "", "ü", "m 1", "%", "a/b", "?x", "#"])
@pytest.mark.parametrize("command", ["get", "download"])
def test_an_unknown_id_is_one_line(
    online: Tleg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, model_id: str
) -> None:
    """Nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert_one_line_error(online("models", command, model_id))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("train", "--data", "data"), ("scratch", "--like", "tleg-ti-cifar10"), ("import", "data")], ids=" ".join
)
def test_a_file_that_cannot_name_its_learngene_is_told_first(tleg: Tleg, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Before anything is read or written; the line names the option that mends it."""
    outcome = tleg(*arguments, "--out", tmp_path / "My Learngene.safetensors")
    assert_one_line_error(outcome, "error: --name: is needed", "that of --out", "not 'My Learngene'")
    assert_one_line_error(tleg(*arguments, "--out", tmp_path / "x.safetensors", "--name", "No"), "error: name: must be")
    assert list(tmp_path.iterdir()) == []


def test_what_the_system_refuses_is_one_line(tleg: Tleg) -> None:
    """Such as a name that no file can have."""
    assert_one_line_error(tleg("inspect", "x" * 300), "File name too long")


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--data", "x", "--ancestry", "x", "--out", "x.safetensors"),
        ("evaluate", "x", "--data", "x"),
        ("import", "x", "--out", "x.safetensors"),
        ("ancestry", "fit", "--weights", "x", "--data", "x", "--test-data", "x", "--out", "x.safetensors"),
    ],
    ids=lambda command: command[0],
)
def test_training_without_torch_is_one_line(command: tuple[str, ...]) -> None:
    """The line names what is missing."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'timm'))); import service.cli.main as m; m.run()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, env=environment(), check=False
    )
    assert_one_line_error(Outcome(ended.returncode, ended.stdout, ended.stderr), "torch")


@pytest.mark.parametrize("output", ["missing/x.safetensors", ".", "file/x.safetensors"])
def test_an_output_that_cannot_be_written_is_one_line(
    online: Tleg, learngene_files: list[Path], tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For download and expand alike; what stood there stays."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    model = online("models", "create", "--depth", 2, "--learngene", "tiny-tleg", "--json").json
    assert_one_line_error(online("models", "download", model["id"], "-o", output), output)
    assert_one_line_error(online("expand", learngene_files[0], "--depth", 2, "-o", output), output)
    assert_one_line_error(online("card", learngene_files[0], "--out", output), f"error: {output}: ")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--depth", 0), "--depth"),
        (("--depth", 1001), "--depth"),
        (("--max-params", 0), "--max-params"),
        (("--max-params", "1e99"), "--max-params"),
        (("--max-params", "9" * 400), "--max-params"),
        (("--batch-size", 0), "--batch-size"),
        (("--num-classes", -1), "--num-classes"),
        (("--image-size", 99999), "--image-size"),
        (("--image-size", 33), "image_size"),
        (("--learngene", "nobody"), "learngene"),
        (("--num-classes", 3, "--head", "inherit"), "head"),
        (("--max-params", 1), "max_params"),
    ],
)
@pytest.mark.parametrize("command", [("budget",), ("models", "create")], ids=" ".join)
def test_a_value_outside_its_limits_is_one_line(
    online: Tleg, learngene_files: list[Path], command: tuple[str, ...], options: tuple[object, ...], named: str
) -> None:
    """The line names the option or the field."""
    files = ("--learngene-file", learngene_files[0]) if command == ("budget",) else ()
    assert_one_line_error(online(*command, *options, *files), named)


@pytest.mark.parametrize(
    "options",
    [
        ("--depth", "x"),
        ("--max-params", "3X"),
        ("--max-params", "-3"),
        ("--max-params", ""),
        ("--max-params", "nan"),
        ("--dtype", "int8"),
        ("--method", "magic"),
        ("--nonsense",),
    ],
)
@pytest.mark.parametrize("command", [("budget",), ("models", "create")], ids=" ".join)
def test_a_wrong_option_ends_with_code_2(tleg: Tleg, command: tuple[str, ...], options: tuple[str, ...]) -> None:
    """As shells expect of a wrong call; the message names the option."""
    outcome = tleg(*command, *options)
    assert outcome.code == 2
    assert options[0] in outcome.err


def test_expand_refuses_a_depth_outside_the_family(tleg: Tleg, learngene_files: list[Path], tmp_path: Path) -> None:
    """And writes nothing."""
    assert_one_line_error(tleg("expand", learngene_files[0], "--depth", 13, "-o", tmp_path / "x"), "depth", "12")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line(tleg: Tleg, learngene_files: list[Path], tmp_path: Path) -> None:
    """And no Redis is started."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        arguments = ("serve", "--no-shipped", "--learngene", learngene_files[0], "--data-dir", tmp_path / "data")
        assert_one_line_error(tleg(*arguments, "--port", port), str(port), "in use")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 65536), ("127.0.0.1", -1), ("nobody.invalid", 0), ("::1::", 0)])
def test_an_address_that_cannot_be_had_is_one_line(tleg: Tleg, tmp_path: Path, host: str, port: int) -> None:
    """Whatever is wrong with it."""
    outcome = tleg("serve", "--no-shipped", "--host", host, "--port", port, "--data-dir", tmp_path / "data")
    assert outcome.code in (1, 2)
    assert outcome.out == ""
    if outcome.code == 1:
        assert_one_line_error(outcome)


def test_a_data_folder_in_use_is_one_line(server: ServerProcess, tleg: Tleg, learngene_files: list[Path]) -> None:
    """The line names the folder."""
    arguments = ("serve", "--no-shipped", "--learngene", learngene_files[0], "--port", 0)
    assert_one_line_error(tleg(*arguments, "--data-dir", server.data_dir), server.data_dir.name, "another tleg serve")


def test_two_learngenes_of_one_name_are_one_line(tleg: Tleg, learngene_files: list[Path], tmp_path: Path) -> None:
    """Their models would be confused."""
    path = tmp_path / "other.safetensors"
    tiny.learngene("tiny-tleg", tiny.Method.STAGEWISE).write(path)
    arguments = ("--learngene", learngene_files[0], "--learngene", path, "--port", 0, "--data-dir", tmp_path / "data")
    assert_one_line_error(tleg("serve", "--no-shipped", *arguments), "tiny-tleg")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "x"),
        ("LOG_LEVEL", "loud"),
        ("LEARNGENES", "not json"),
        ("MAX_BODY_BYTES", "1"),
        ("DRAIN_TIMEOUT_S", "-1"),
        ("REDIS_URL", "nonsense"),
        ("REDIS_URL", "redis://127.0.0.1:x"),
        ("STORE_URL", "nonsense"),
        ("STORE_URL", "ftp://127.0.0.1/x"),
        ("STORE_URL", "file:///proc/nothing/x"),
    ],
)
def test_a_bad_setting_is_one_line(tleg: Tleg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str) -> None:
    """The line names the variable."""
    monkeypatch.setenv(f"TLEG_{name}", value)
    port = () if name == "PORT" else ("--port", 0)  # an option would win over the variable
    outcome = tleg("serve", "--no-shipped", "--data-dir", tmp_path / "data", *port)
    assert_one_line_error(outcome)
    assert f"TLEG_{name}" in outcome.err


@pytest.mark.slow
def test_the_installed_program_behaves_like_the_module(learngene_files: list[Path], tmp_path: Path) -> None:
    """`tleg` from the environment's bin: the same words, exit codes and streams; a closed pipe is no traceback."""
    tleg = Path(sys.executable).with_name("tleg")

    def call(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=environment(), check=False
        )

    shown = call(f"{tleg} inspect {learngene_files[0]} --json")
    assert (shown.returncode, json.loads(shown.stdout)["name"]) == (0, "tiny-tleg")
    wrong = call(f"{tleg} inspect {tmp_path}/nothing")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1)
    cut = call(f"{tleg} inspect {learngene_files[0]} --json | head -c 10")
    assert "Traceback" not in cut.stderr
