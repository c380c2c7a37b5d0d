"""The table of parts, the settings and what is said before a start."""

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import demo
from lab.output import Exit, errors_as_sentences
from services.settings import Settings, SettingsError, read_settings
from services.stack import checks, control, jars
from services.stack.errors import StackError
from services.stack.home import SUPERVISOR, Home
from services.stack.launch import depth, launch, order_of_start
from services.stack.logfiles import keep_bounded, tail
from services.stack.parts import PARTS, UnknownPart, find, names, of_arms


def test_every_dependency_is_a_part_and_starts_before_what_needs_it() -> None:
    order = order_of_start(PARTS)
    assert sorted(order) == sorted(PARTS)
    for part in PARTS.values():
        assert all(order.index(dependency) < order.index(part.name) for dependency in part.after)


def test_the_default_is_the_outbox_and_every_consumer_arm() -> None:
    others = {name for name, part in PARTS.items() if part.publisher not in ("", "outbox")}
    assert set(order_of_start()) == PARTS.keys() - others
    assert others == {
        "orders.dual_write_after_commit",
        "orders.dual_write_before_commit",
        "orders.cdc",
        "cdc",
        "orders.id_cursor",
        "id_cursor",
    }


def test_arms_are_switched_on_and_off_by_name() -> None:
    named = of_arms(["cdc"], ["at_least_once"])
    assert {"orders.cdc", "cdc", "relay", "provider", "arm.at_least_once", "retry.at_least_once"} <= set(named)
    assert not {"orders", "refunds", "id_cursor", "arm.effectively_once", "retry.effectively_once"} & set(named)
    with pytest.raises(UnknownPart, match=r"unknown arm 'cdcs'; the arms are: outbox, .*id_cursor"):
        of_arms(["cdcs"])
    with pytest.raises(UnknownPart, match="unknown arm 'outbox'; the arms are: at_"):
        of_arms(["outbox"], ["outbox"])


def test_starting_only_some_parts_takes_in_what_they_need() -> None:
    assert set(order_of_start(["provision"])) == {"postgres", "ledger", "kafka", "provision"}


def test_no_two_parts_share_a_port(tmp_path: Path) -> None:
    wanted = [
        offset + replica
        for part in PARTS.values()
        for offset, many in ((part.port, 1), (part.second_port, 1), (part.admin_port, 8 if part.replicable else 1))
        if offset
        for replica in range(many)
    ]
    assert len(wanted) == len(set(wanted))
    assert max(wanted) < 200


@pytest.mark.parametrize("name", ["no-such-process", "relay#x", "orders#1", "relay#", ""])
def test_an_unknown_process_is_named_and_the_known_ones_listed(name: str) -> None:
    with pytest.raises(UnknownPart, match=r"relay#0"):
        find(name)


def test_the_process_names_are_those_of_the_design() -> None:
    assert {"postgres", "ledger", "kafka", "orders", "relay#0", "arm.effectively_once#0", "provider"} <= set(names())


def test_a_service_gets_every_address_and_nothing_of_the_callers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "x")
    monkeypatch.setenv("LAB_CHUNK", "50")
    home = Home(tmp_path, 30_000)
    home.create()
    environment = launch(PARTS["relay"], 1, home, faults=True).environment
    settings = read_settings(environment)
    assert "SECRET_OF_THE_SHELL" not in environment
    assert settings.process == "relay#1"
    assert settings.chunk == 50
    assert settings.admin_port == home.port(PARTS["relay"].admin_port + 1)
    assert settings.faults is True
    assert settings.kafka == "127.0.0.1:30002"


@pytest.mark.parametrize(
    ("environment", "named"), [({"LAB_CHUNK": "many"}, "chunk"), ({"LAB_FAULTS": "maybe"}, "LAB_FAULTS")]
)
def test_a_setting_that_does_not_fit_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read_settings(environment)


def test_settings_that_nobody_gave_have_the_designs_defaults() -> None:
    assert read_settings({}) == Settings()
    assert (Settings().session_timeout_s, Settings().chunk, Settings().provider_timeout_s) == (6.0, 500, 2.0)


def test_a_port_in_use_is_said_with_its_purpose_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        base = taken.getsockname()[1] - PARTS["orders"].port
        found = checks.problems(Home(tmp_path, base))
    assert any(f"port {base + 20} (orders) is in use" in text and "LAB_PORT_BASE" in text for text in found)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "FREE_DISK_MB", 10**9)
    assert any("make room" in text for text in checks.problems(Home(tmp_path, 30_000)))


def test_a_cache_without_all_of_kafkas_jars_needs_room_and_one_with_them_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checks, "CACHE_MB", 10**9)
    said = f"MB are free at {tmp_path / 'cache'}: make room, or set LAB_CACHE"
    (tmp_path / "cache" / "jars").mkdir(parents=True)
    assert any(said in text for text in checks.disk(Home(tmp_path, 30_000)))
    for jar in jars.locked():
        (tmp_path / "cache" / "jars" / jar.file_name).touch()
    assert not list(checks.disk(Home(tmp_path, 30_000)))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data"), "the disk is full at /data: make room, or choose"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full: make room, or choose other folders"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), "Permission denied at /data: `lab doctor` looks"),
    ],
)
def test_what_the_machine_refuses_is_a_sentence(error: OSError, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, errors_as_sentences():
        raise error
    assert end.value.code == Exit.FAILED
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_missing_library_and_binaries_that_do_not_run_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho libjli.so: cannot open shared object file >&2; exit 127\n")
    java.chmod(0o755)
    monkeypatch.setattr(checks.postgres, "binaries", lambda: tmp_path)
    monkeypatch.setattr(checks.kafka, "java", lambda: java)
    found = list(checks.problems(Home(tmp_path, 30_000)))
    assert any(f"{tmp_path / 'postgres'} does not run here (No such file or directory)" in text for text in found)
    assert any("java does not run here: libjli.so: cannot open shared object file" in text for text in found)
    monkeypatch.delitem(sys.modules, "faust", raising=False)
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None if name == "faust" else object())
    found = list(checks.problems(Home(tmp_path, 30_000)))
    assert any("the library faust is missing" in text and "make setup" in text for text in found)


def test_a_pid_that_another_process_has_now_is_no_lab(tmp_path: Path) -> None:
    home = Home(tmp_path, 30_000)
    home.create()
    (home.run / "supervisor.json").write_text(json.dumps({"pid": os.getpid()}))
    assert home.read_state() is None


@pytest.mark.parametrize("text", ["", "{", '{"pid": "many"}', "{}", "[]", '{"pid": 4194304}'])
def test_a_state_file_that_says_nothing_counts_as_none(tmp_path: Path, text: str) -> None:
    home = Home(tmp_path, 30_000)
    home.create()
    (home.run / "supervisor.json").write_text(text)
    assert home.read_state() is None


def test_a_supervisor_of_another_folder_is_not_this_labs(tmp_path: Path) -> None:
    home = Home(tmp_path, 30_000)
    home.create()
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", SUPERVISOR]
    for place, is_ours in ((tmp_path, True), (tmp_path / "beside", False)):
        with subprocess.Popen(command, env={**os.environ, "LAB_HOME": str(place)}, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            (home.run / "supervisor.json").write_text(json.dumps({"pid": process.pid}))
            state = home.read_state()
            process.kill()
            assert (state is not None) is is_ours


def test_a_running_lab_is_asked_at_its_own_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the default ones there may be another lab."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.delenv("LAB_PORT_BASE", raising=False)
    assert Home.from_environment().port_base == 21_000
    monkeypatch.setattr(Home, "read_state", lambda _: {"pid": 1, "port_base": 22_000})
    assert Home.from_environment().port_base == 22_000
    monkeypatch.setenv("LAB_PORT_BASE", "22000")
    assert Home.from_environment().port_base == 22_000
    monkeypatch.setenv("LAB_PORT_BASE", "23000")
    with pytest.raises(ValueError, match="runs on LAB_PORT_BASE=22000, not on 23000"):
        Home.from_environment()


def test_a_disk_that_is_full_in_a_download_is_no_missing_network(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("the download failed")
    wrapped.__cause__ = full
    assert jars._is_full(wrapped)
    assert not jars._is_full(ConnectionError("no route"))


@pytest.mark.parametrize("interrupted_in", ["the start", "the load", "the report", "the gentle load", "the table"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_demo_that_is_interrupted_leaves_nothing_running(
    interrupted_in: str, as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(name: str) -> Callable[..., None]:
        def reached(*_: Any) -> None:
            if name == interrupted_in:
                raise KeyboardInterrupt

        return reached

    def play(*_: Any) -> Any:
        if interrupted_in == "the start":
            raise SystemExit(Exit.INTERRUPTED)  # what `play` makes of it
        part("the report")()
        return SimpleNamespace(interrupted=interrupted_in == "the load")

    ended: list[Home] = []
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "play", play)
    monkeypatch.setattr(demo, "_load_gently", part("the gentle load"))
    monkeypatch.setattr(demo, "document", part("the table"))
    monkeypatch.setattr(demo, "answer_json", lambda _: None)
    monkeypatch.setattr(demo, "show", part("the table"))
    monkeypatch.setattr(demo.control, "down", lambda home, _: ended.append(home))
    with pytest.raises(SystemExit) as end:
        demo.demo(seed=1, as_json=as_json)
    assert end.value.code == Exit.INTERRUPTED
    assert [home.path for home in ended] == [tmp_path]


def test_a_secret_is_drawn_once_whoever_asks_first(tmp_path: Path) -> None:
    home = Home(tmp_path, 30_000)
    home.create()
    with ThreadPoolExecutor(8) as askers:
        secrets = set(askers.map(lambda _: home.secret("token"), range(64)))
    assert len(secrets) == 1
    assert len(secrets.pop()) == 32
    assert (home.run / "token.secret").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in home.run.iterdir()] == ["token.secret"]


def test_only_a_labs_own_processes_are_swept(tmp_path: Path) -> None:
    home = Home(tmp_path / "lab", 30_000)
    words = {
        "postgres": ["postgres", "-D", f"{home.data}/ledger"],
        "of a lab beside": ["postgres", "-D", f"{home.path}-beside/data/ledger"],
        "in a folder with a longer name": ["java", f"{home.run}s/1/kafka.properties"],
        "an editor": ["vi", f"{home.run}/kafka.properties"],
    }
    for name, line in words.items():
        process = SimpleNamespace(cmdline=lambda line=line: line, environ=dict)
        assert control._belongs_to(process, home) is (name == "postgres"), name  # type: ignore[arg-type]


def test_a_log_over_its_bound_is_moved_aside_and_its_writer_goes_on_at_the_new_end(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    keep_bounded(log, 10)
    with log.open("ab", buffering=0) as writer:
        writer.write(b"0123456789")
        keep_bounded(log, 10)
        assert log.read_bytes() == b"0123456789"
        writer.write(b"!")
        keep_bounded(log, 10)
        writer.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "x.log.1").read_bytes() == b"0123456789!"


@pytest.mark.parametrize(("lines", "shown"), [(1, ["c" * 200_000]), (2, ["b", "c" * 200_000]), (9, ["a", "b"])])
def test_the_last_lines_are_whole_however_long_they_are(tmp_path: Path, lines: int, shown: list[str]) -> None:
    log = tmp_path / "x.log"
    log.write_text("a\nb\n" + "c" * 200_000 + "\n")
    assert list(tail(log, lines))[: len(shown)] == shown
    assert len(list(tail(log, lines))) == min(lines, 3)


def test_who_follows_a_log_sees_what_comes_also_after_it_was_emptied(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("first\n")
    lines = tail(log, 5, follow=True)
    assert next(lines) == "first"
    with log.open("a") as writer:
        writer.write("second\nthi")
        writer.flush()
        assert next(lines) == "second"
        writer.write("rd\n")
    assert next(lines) == "third"
    log.write_text("new\n")
    assert next(lines) == "new"


def test_a_jar_that_is_not_what_the_lock_wants_is_named_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(jar: jars.Jar, downloads: Path, progress: jars.Progress) -> Path:
        downloads.mkdir(exist_ok=True)
        (downloads / jar.file_name).write_text("something else")
        return downloads / jar.file_name

    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(jars, "_download", download)
    first = jars.locked()[0]
    with pytest.raises(
        StackError, match=rf"{first.file_name} came with the SHA-256 .*, jars.lock wants {first.sha256}"
    ):
        jars.install(lambda done, total: None)
    assert list((tmp_path / "jars").iterdir()) == []


def test_an_interrupted_download_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(jar: jars.Jar, downloads: Path, progress: jars.Progress) -> Path:
        if len(asked) == 3:
            raise StackError("offline")
        asked.append(jar.artifact)
        downloads.mkdir(exist_ok=True)
        (downloads / jar.file_name).write_text(jar.artifact)
        return downloads / jar.file_name

    some = [jars.Jar("g", name, "1", hashlib.sha256(name.encode()).hexdigest()) for name in "abcde"]
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(jars, "locked", lambda: some)
    monkeypatch.setattr(jars, "_download", download)
    with pytest.raises(StackError, match="offline"):
        jars.install(lambda done, total: None)
    kept = {file.name for file in (tmp_path / "jars").iterdir()}
    assert kept == {f"{name}-1.jar" for name in asked}
    (tmp_path / "maven").mkdir()
    (tmp_path / "maven" / "half a jar").touch()
    asked.extend(["offline is over"])
    progress: list[tuple[int, int]] = []
    jars.install(lambda done, total: progress.append((done, total)))
    assert progress == [(4, 5), (5, 5)]
    assert not (tmp_path / "maven").exists()
    assert jars.missing(tmp_path / "jars") == []


def test_a_large_download_says_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    came = jars._by_quarters(100, lambda done, total: told.append((done, total)))
    for size in (1, 23, 1, 10, 40, 24, 1):
        came(size)
    assert told == [(25, 100), (75, 100), (100, 100)]


def test_two_labs_do_not_download_into_one_cache_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    waiting, order = threading.Event(), []

    def second() -> None:
        with jars.cache_lock(lambda _: waiting.set()):
            order.append("second")

    with jars.cache_lock(print):
        other = threading.Thread(target=second)
        other.start()
        assert waiting.wait(10)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def test_what_nothing_depends_on_ends_first_and_what_is_alike_together() -> None:
    assert depth("postgres") == depth("kafka") == 0
    assert depth("provision") < depth("provider") < depth("arm.effectively_once")
    assert depth("orders") == depth("relay") == depth("provider")


def test_a_jvm_may_be_more_than_its_heap_and_nothing_else_more_than_its_bound() -> None:
    assert PARTS["kafka"].resident_bound_mb > PARTS["kafka"].memory_mb
    assert PARTS["orders"].resident_bound_mb == PARTS["orders"].memory_mb


def test_the_lock_of_the_jars_holds_one_version_of_each_and_the_clients_of_the_broker() -> None:
    locked = jars.locked()
    assert len({(jar.group, jar.artifact) for jar in locked}) == len(locked)
    versions = {jar.artifact: jar.version for jar in locked}
    assert versions["kafka-clients"] == versions["kafka_2.13"] == "4.3.1"
    assert all(len(jar.sha256) == 64 for jar in locked)
