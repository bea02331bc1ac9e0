"""K1: the ini files of K2EG environments."""

from __future__ import annotations

from pathlib import Path

import pytest

from badger_k2eg.errors import SettingsError
from badger_k2eg.k2eg.environment import (
    FOLDER_VARIABLE,
    K2egEnvironment,
    default_app_name,
    default_environment,
    environment_names,
    load_environment,
)

GOOD = "[DEFAULT]\nkafka_broker_url = one:9092, two:9093\nk2eg_cmd_topic = cmd\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "lcls.ini").write_text(GOOD)
    return tmp_path


def wrong(folder: Path, text: str) -> str:
    (folder / "bad.ini").write_text(text)
    with pytest.raises(ValueError) as caught:
        load_environment("bad")
    assert isinstance(caught.value, SettingsError) and "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "")


def test_what_a_file_says(folder: Path) -> None:
    assert load_environment("lcls") == K2egEnvironment("lcls", "one:9092, two:9093", "cmd")


def test_options_of_librdkafka_are_passed_on_and_never_shown(folder: Path) -> None:
    secret = "100%s3cret;#"
    (folder / "safe.ini").write_text(
        f"{GOOD}reply_topic = answers\nkafka.sasl.password = {secret}\nkafka.security.protocol = SASL_SSL\n"
    )
    environment = load_environment("safe")
    assert environment.kafka == {"sasl.password": secret, "security.protocol": "SASL_SSL"}
    assert environment.reply_topic == "answers"
    assert secret not in repr(environment)


def test_the_folder_is_the_argument_then_the_variable_then_our_own(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "lcls.ini").write_text(GOOD.replace("one", "elsewhere"))
    assert load_environment("lcls", other).broker.startswith("elsewhere")
    assert load_environment("lcls").broker.startswith("one")
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert load_environment("local").broker == "127.0.0.1:9092"
    assert environment_names() == ["local"]
    with pytest.raises(SettingsError, match=f"facet.*environments there are local.*{FOLDER_VARIABLE}"):
        load_environment("facet")


def test_a_misspelt_environment_is_corrected(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'lclss'.*lclss\.ini does not exist; did you mean 'lcls'\?$"):
        load_environment("lclss")


@pytest.mark.parametrize("name", ["", "a/b", "../lcls", "a b", None])
def test_no_name_of_an_environment(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a K2EG environment"):
        load_environment(name)


def test_a_missing_folder_is_named_with_its_source(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(ValueError, match="gone: no such folder .argument folder"):
        load_environment("lcls", gone)
    monkeypatch.setenv(FOLDER_VARIABLE, str(gone))
    with pytest.raises(ValueError, match=f"gone: no such folder .environment variable {FOLDER_VARIABLE}"):
        load_environment("lcls")


def test_what_is_missing_is_named(folder: Path) -> None:
    assert wrong(folder, "[DEFAULT]\nk2eg_cmd_topic = cmd\n").startswith("/bad.ini: kafka_broker_url is missing")
    assert "k2eg_cmd_topic is missing" in wrong(folder, "[DEFAULT]\nkafka_broker_url = a:1\nk2eg_cmd_topic =\n")
    assert "kafka_broker_url is missing" in wrong(folder, GOOD.replace("[DEFAULT]", "[other]"))


def test_a_misspelt_key_is_corrected_and_a_foreign_one_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "no key 'reply_topc'; did you mean 'reply_topic'?" in wrong(folder, GOOD + "reply_topc = x\n")
    (folder / "more.ini").write_text(GOOD + "colour = blue\n")
    load_environment("more")
    assert "ignored the unknown key 'colour'" in caplog.text


def test_wrong_values_are_named(folder: Path) -> None:
    assert "'localhost' is not HOST:PORT" in wrong(folder, GOOD.replace("one:9092, two:9093", "localhost"))
    assert "k2eg_cmd_topic = 'a b'" in wrong(folder, GOOD.replace("cmd\n", "a b\n"))
    assert "/bad.ini:" in wrong(folder, "kafka_broker_url = a:1\n")
    assert "/bad.ini:" in wrong(folder, "[DEFAULT]\nno key\n")


def test_what_is_there_and_cannot_be_read_is_named(folder: Path) -> None:
    assert "line 3: 'k2eg_cmd_topic' appears twice in [DEFAULT]" in wrong(
        folder, GOOD.replace("one:", "x:", 1).replace("kafka_broker_url = x:9092, two:9093", "K2EG_cmd_topic = other")
    )
    (folder / "bad.ini").write_bytes(b"[DEFAULT]\n\xff = 1\n")
    (folder / "folder.ini").mkdir()
    (folder / "link.ini").symlink_to(folder / "nowhere")
    for name, reason in (("bad", "is not UTF-8"), ("folder", "is a folder"), ("link", "nowhere, which does not exist")):
        with pytest.raises(SettingsError, match=rf"{name}\.ini: .*{reason}"):
            load_environment(name)


def test_other_sections_are_left_alone(folder: Path) -> None:
    (folder / "more.ini").write_text(f"[other]\nkafka_broker_url = x:1\n{GOOD}")
    assert load_environment("more").broker == "one:9092, two:9093"


def test_the_reply_topic_is_of_the_application(folder: Path) -> None:
    environment = load_environment("lcls")
    assert environment.reply_topic_of("tuning") == "tuning-reply"
    for name in ("", "  ", None):
        with pytest.raises(ValueError, match="app_name"):
            environment.reply_topic_of(name)
    with pytest.raises(ValueError, match="not a topic name"):
        environment.reply_topic_of("a:b")


def test_defaults_of_those_who_name_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("K2EG_CLI_DEFAULT_ENVIRONMENT", "K2EG_CLI_DEFAULT_APP_NAME"):
        monkeypatch.delenv(variable, raising=False)
    assert (default_environment(), default_app_name()) == ("local", "badger-k2eg")
    monkeypatch.setenv("K2EG_CLI_DEFAULT_ENVIRONMENT", "lcls")
    monkeypatch.setenv("K2EG_CLI_DEFAULT_APP_NAME", "tuning")
    assert (default_environment(), default_app_name()) == ("lcls", "tuning")
